"""Where to send what: the members, one connection to each, the shards and who leads them; and retries until a deadline.

A request that cannot have an effect twice (a read, or a write that its session names) is sent again until it is answered: to the
leader that a member names, or to the next member if one does not answer.
"""

import asyncio
import json
import random
from bisect import bisect_right
from collections.abc import Sequence

from quorate.errors import UsageError
from quorate.kv import wire
from quorate.kv.client.connection import GREETING, Channel, ConnectionLost
from quorate.kv.client.errors import Compacted, DeadlineExceeded, Refused

CONNECT_SECONDS = 2.0
CONNECT_AGAIN_SECONDS = 0.25
"""To an address that did not answer just now."""
_JUST_NOW_SECONDS = 10.0
_PAUSE = 0.005
_PAUSE_MAX = 0.2


class Shard:
    """``leader``: the member that leads as far as we know, 0 if we don't."""

    __slots__ = ("group", "leader", "start")

    def __init__(self, start: bytes, group: int, leader: int) -> None:
        self.start = start
        self.group = group
        self.leader = leader


def parse_addresses(addresses: str | Sequence[str]) -> list[tuple[str, int]]:
    """``host:port``, several with commas between or as a sequence. Raises UsageError."""
    texts = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    found = []
    for text in texts:
        host, _, port = text.strip().rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise UsageError(f"{text!r} is no address of a member, expected host:port")
        found.append((host.strip("[]"), int(port)))
    return found


class Router:
    def __init__(self, addresses: list[tuple[str, int]]) -> None:
        self._seeds = addresses
        self.members: dict[int, tuple[str, int]] = {}
        self.shards: list[Shard] = []
        self._starts: list[bytes] = []
        self._groups: dict[int, Shard] = {}
        self._channels: dict[tuple[str, int], Channel] = {}
        self._connecting: dict[tuple[str, int], asyncio.Task[Channel]] = {}
        self._failed: dict[tuple[str, int], float] = {}
        """When a connection to an address was lost or not to be had, in the loop's time; until there is one again."""
        self._turn = 0
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        for task in self._connecting.values():
            task.cancel()
        for channel in self._channels.values():
            channel.close()
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)

    # ---- connections

    async def channel(self, address: tuple[str, int]) -> Channel:
        """A connection to this address that has been greeted. Raises ConnectionLost, Refused."""
        found = self._channels.get(address)
        if found is not None and found.open:
            return found
        task = self._connecting.get(address)
        if task is None:
            task = self._connecting[address] = asyncio.create_task(self._connect(address))
            task.add_done_callback(lambda done: self._connecting.pop(address, None))
        return await asyncio.shield(task)

    async def _connect(self, address: tuple[str, int]) -> Channel:
        if self._closed:
            raise Refused("this client is closed")
        loop = asyncio.get_running_loop()
        failed = self._failed.get(address)
        again = failed is not None and loop.time() - failed < _JUST_NOW_SECONDS
        seconds = CONNECT_AGAIN_SECONDS if again else CONNECT_SECONDS
        channel: Channel | None = None
        try:
            async with asyncio.timeout(seconds):
                _, channel = await loop.create_connection(lambda: Channel(lambda: self._lost(address)), *address)
                status, body = await channel.request(wire.HELLO, GREETING, loop.time() + seconds)
        except (OSError, TimeoutError, ConnectionLost) as error:
            self._failed[address] = loop.time()
            if channel is not None:
                channel.close()
            raise ConnectionLost(f"{address[0]}:{address[1]}: {str(error) or 'no answer'}") from None
        if status != wire.DONE:
            channel.close()
            raise Refused(body.decode("utf-8", "replace"))
        self._learn(json.loads(body))
        self._channels[address] = channel
        self._failed.pop(address, None)
        return channel

    def _lost(self, address: tuple[str, int]) -> None:
        """There was a connection. Whoever leads may be another one now: somebody else is asked first."""
        self._failed[address] = asyncio.get_running_loop().time()
        for shard in self.shards:
            if self.members.get(shard.leader) == address:
                shard.leader = 0

    def _learn(self, told: dict[str, list[dict[str, object]]]) -> None:
        members: dict[int, tuple[str, int]] = {}
        for member in told["members"]:
            address = member.get("client")
            if isinstance(address, str):
                members[int(str(member["id"]))] = parse_addresses(address)[0]
        self.members = members
        known = {shard.group: shard.leader for shard in self.shards}
        self.shards = [
            Shard(
                bytes.fromhex(str(shard["start"])),
                int(str(shard["group"])),
                int(str(shard["leader"])) or known.get(int(str(shard["group"])), 0),
            )
            for shard in told["shards"]
        ]
        self._starts = [shard.start for shard in self.shards]
        self._groups = {shard.group: shard for shard in self.shards}

    def _candidate(self) -> tuple[str, int]:
        """Whom to ask next: each in its turn, but first those that have not just failed."""
        found = list(dict.fromkeys([*self.members.values(), *self._seeds]))
        self._turn += 1
        turn = self._turn % len(found)
        return min([*found[turn:], *found[:turn]], key=lambda address: self._failed.get(address, 0.0))

    async def _any(self) -> Channel:
        """A connection to any member: the one we have, or the next that can be had. Raises ConnectionLost."""
        for channel in self._channels.values():
            if channel.open:
                return channel
        return await self.channel(self._candidate())

    # ---- shards

    async def ready(self, deadline: float) -> None:
        """The shards are known."""
        pause = _PAUSE
        reason = ""
        while not self.shards:
            try:
                await self._any()
            except ConnectionLost as error:
                reason = str(error)
                if asyncio.get_running_loop().time() >= deadline:
                    raise DeadlineExceeded("no member can be reached", 0, False, reason) from None
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSE_MAX)

    def shard_of(self, key: bytes) -> Shard:
        """``ready`` came before."""
        shards = self.shards
        return shards[0] if len(shards) == 1 else shards[bisect_right(self._starts, key) - 1]

    def shard_end(self, shard: Shard) -> bytes:
        at = self.shards.index(shard) + 1
        return self.shards[at].start if at < len(self.shards) else b""

    def current(self, group: int) -> Shard:
        return self._groups[group]

    # ---- requests

    def leading(self, shard: Shard) -> Channel | None:
        """The open connection to the shard's leader, if there is one."""
        address = self.members.get(shard.leader)
        channel = None if address is None else self._channels.get(address)
        return channel if channel is not None and channel.open else None

    async def leader(self, shard: Shard) -> Channel:
        """A connection to the shard's leader, or to somebody who may know better. Raises ConnectionLost."""
        channel = self.leading(shard)
        if channel is not None:
            return channel
        address = self.members.get(shard.leader)
        if address is not None:
            try:
                return await self.channel(address)
            except ConnectionLost:
                shard.leader = 0
                raise
        return await self.channel(self._candidate())

    async def call(
        self,
        what: str,
        group: int,
        op: int,
        body: bytes,
        deadline: float,
        seconds: float,
        *,
        write: bool,
        leader: bool = True,
        sent: bool = False,
    ) -> tuple[int, bytes]:
        """Ask until it is answered with DONE (or a status that the caller knows). ``write``: if the time is up it may be done all the same,
        once it was sent; ``sent``: it was before.

        Raises DeadlineExceeded, Refused, Compacted.
        """
        pause = _PAUSE
        reason = ""
        while True:
            shard = self.current(group)
            status, answer = wire.UNAVAILABLE, b""
            try:
                channel = await (self.leader(shard) if leader else self._any())
                waiting = channel.request(op, body, deadline)
                sent = True
                status, answer = await waiting
            except ConnectionLost as error:
                reason = str(error) or "the connection was lost"
            except TimeoutError:
                raise DeadlineExceeded(what, seconds, write, "no answer") from None
            if status == wire.DONE:
                return status, answer
            if status == wire.REFUSED:
                raise Refused(answer.decode("utf-8", "replace"))
            if status == wire.COMPACTED:
                raise Compacted(wire.U64.unpack(answer)[0])
            if status == wire.NOT_LEADER:
                before, shard.leader = shard.leader, wire.U16.unpack(answer)[0]
                reason = "nobody leads"
                if shard.leader and shard.leader != before:
                    if shard.leader not in self.members:
                        await self._refresh()
                    continue
            elif status in (wire.UNKNOWN, wire.BUSY):
                reason = "the leader changed" if status == wire.UNKNOWN else "too much is under way"
            if asyncio.get_running_loop().time() + pause >= deadline:
                raise DeadlineExceeded(what, seconds, write and sent, reason)
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(pause * 2, _PAUSE_MAX)

    async def _refresh(self) -> None:
        """Learn the members anew."""
        for channel in self._channels.values():
            if channel.open:
                try:
                    status, body = await channel.request(
                        wire.HELLO, GREETING, asyncio.get_running_loop().time() + CONNECT_SECONDS
                    )
                except (ConnectionLost, TimeoutError):
                    continue
                if status == wire.DONE:
                    self._learn(json.loads(body))
                return
