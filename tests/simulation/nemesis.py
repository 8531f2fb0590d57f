"""What goes wrong in a run, and the end of it: crashes, broken connections, partitions of either or both directions, pauses,
slow disks and networks, local snapshots at bad moments; and a sniper that hits members and links in the middle of
discovery and synchronisation, where chance alone seldom does.
"""

from tests.simulation.network import End
from tests.simulation.scheduler import MILLISECOND, Stream
from tests.simulation.world import Sniper, World

from quorate.consensus.zab.messages import AckEpoch, Acks, Diff, LeaderInfo, Message, NewLeader, Snap, Trunc, UpToDate
from quorate.consensus.zab.replica import Append, WriteRequest

DELICATE = (AckEpoch, LeaderInfo, Diff, Trunc, Snap, NewLeader, UpToDate)


class Nemesis(Sniper):
    def __init__(self, world: World) -> None:
        self._world = world
        self._stream = Stream(world.seed, "nemesis")
        self._options = world.options
        self._active = True
        self._kinds = [kind for kind in world.options.enabled if kind not in ("sniper", "snapshot")]
        self._snapshots = Stream(world.seed, "snapshots")

    def start(self) -> None:
        if "sniper" in self._options.enabled:
            self._world.sniper = self
        if self._kinds:
            self._next()
        if "snapshot" in self._options.enabled:
            self._next_snapshot()

    def _next(self) -> None:
        self._world.scheduler.after(self._stream.around(self._options.duration // self._options.faults), self._strike)

    def _strike(self) -> None:
        if not self._active:
            return
        kind = self._stream.choice(self._kinds)
        self._world.probe(f"fault: {kind}")
        getattr(self, f"_{kind}")()
        self._next()

    # ---- faults

    def _member(self) -> int:
        sid: int = self._stream.choice(self._world.members)
        return sid

    def _crash(self) -> None:
        """One member, the leader, or several at once."""
        world, stream = self._world, self._stream
        leader = world.leader()
        if leader is not None and stream.chance(0.4):
            victims = [leader.sid]
        else:
            victims = stream.shuffled(world.members)[: stream.choice((1, 1, 1, 2, 3))]
        for sid in victims:
            self._kill(sid)

    def _kill(self, sid: int) -> None:
        self._world.crash(sid)
        delay = self._stream.spread(MILLISECOND, 10 * self._options.tick)
        self._world.scheduler.after(delay, self._restart, sid)

    def _restart(self, sid: int) -> None:
        if self._active:
            self._world.start(sid)

    def _reset(self) -> None:
        ends = [end for end in self._world.network.ends if end.open]
        if ends:
            self._world.network.reset(self._stream.choice(ends))

    def _partition(self) -> None:
        """Two sides, or one member from some of the others (so that the connectivity is partial)."""
        stream = self._stream
        members = stream.shuffled(self._world.members)
        size = stream.between(1, len(members) - 1)
        one, other = members[:size], members[size:]
        if stream.chance(0.3):
            one, other = one[:1], other[: stream.between(1, len(other))]
        pairs = [(a, b) for a in one for b in other]
        self._block(pairs + [(b, a) for a, b in pairs])

    def _oneway(self) -> None:
        """Some members hear, or are heard, but not both."""
        stream = self._stream
        members = stream.shuffled(self._world.members)
        size = stream.between(1, len(members) - 1)
        pairs = [(a, b) for a in members[:size] for b in members[size:]]
        self._block([(b, a) for a, b in pairs] if stream.chance(0.5) else pairs)

    def _block(self, pairs: list[tuple[int, int]]) -> None:
        network, scheduler, stream = self._world.network, self._world.scheduler, self._stream
        duration = stream.spread(5 * MILLISECOND, 20 * self._options.tick)
        for source, target in pairs:
            network.block(source, target)
            scheduler.after(duration + stream.between(0, 3) * MILLISECOND, network.unblock, source, target)
        for end in network.ends:
            # TCP gives up on some of the connections
            if end.open and (end.other.node, end.node) in pairs and stream.chance(0.3):
                scheduler.after(stream.between(0, duration), network.reset, end)

    def _pause(self) -> None:
        sid = self._member()
        if self._world.alive(sid):
            duration = self._stream.spread(MILLISECOND, 10 * self._options.tick)
            self._world.processes[sid].pause(self._world.scheduler.now + duration)

    def _slow_disk(self) -> None:
        disk = self._world.disks[self._member()]
        disk.slowdown = self._stream.choice((1, 10, 100, 1000))

    def _slow_network(self) -> None:
        self._world.network.conditions.slowdown = self._stream.choice((1, 1, 5, 50))

    # ---- the sniper

    def sent(self, sid: int, end: End, messages: list[Message]) -> None:
        if not self._active:
            return
        for message in messages:
            delicate = isinstance(message, DELICATE) or (isinstance(message, Acks) and not message.last & 0xFFFFFFFF)
            if delicate and self._stream.chance(self._options.sniper):
                delay = self._stream.around(4 * max(self._options.delay, self._options.latency))
                target = self._stream.choice((sid, end.other.node, 0))
                self._world.probe("fault: sniper")
                self._world.scheduler.after(delay, self._shoot, target, end)

    def carried(self, sid: int, write: WriteRequest) -> None:
        """A crash right after a write that others should have gone before, or that others should follow."""
        if self._active and not isinstance(write, Append) and self._stream.chance(self._options.sniper):
            self._world.probe("fault: sniper at the disk")
            self._world.scheduler.after(0, self._shoot, sid, None)

    def _shoot(self, target: int, end: End | None) -> None:
        if not self._active:
            return
        if target:
            self._kill(target)
        elif end is not None:
            self._world.network.reset(end)

    # ---- local snapshots

    def _next_snapshot(self) -> None:
        self._world.scheduler.after(self._snapshots.around(self._options.duration // 20), self._snapshot)

    def _snapshot(self) -> None:
        world, stream = self._world, self._snapshots
        sid = stream.choice(world.members)
        if self._active and world.alive(sid):
            world.processes[sid].snapshot(stream.chance(0.5), stream.around(5 * self._options.latency))
            world.probe("local snapshot")
        if self._active:
            self._next_snapshot()

    # ---- the end of it

    def stop(self, members: tuple[int, ...]) -> None:
        """No more faults; these members are up, all others down."""
        self._active = False
        world = self._world
        world.faulty = False
        world.network.heal()
        world.network.conditions.slowdown = 1
        for sid in world.members:
            world.disks[sid].hurry()
            if sid not in members:
                world.crash(sid)
            elif world.alive(sid):
                world.processes[sid].pause(world.scheduler.now)
        for sid in members:
            world.start(sid)
