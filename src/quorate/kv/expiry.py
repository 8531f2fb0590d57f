"""When leases and sessions end, and locks can be taken again: on the leader, by its clock.

A member that begins to lead gives everything its full time again, for it does not know when the last leader heard of it. So nothing ever ends
before its time, and what should end does so at most its own time late for each change of leaders.
"""

from heapq import heappop, heappush

from quorate.kv import commands
from quorate.kv.machine import Machine

_MS = 1_000_000
LEASE, SESSION, DELAY = range(3)
Item = tuple[int, int | bytes]
"""Kind, and id or key."""


class Expiry:
    """Times are nanoseconds."""

    __slots__ = ("_deadlines", "_heap", "_machine", "_proposed", "_seen")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._deadlines: dict[Item, int] = {}
        self._heap: list[tuple[int, Item]] = []
        self._seen = -1
        self._proposed: dict[Item, None] = {}
        """Whose end is proposed and not applied yet."""

    def begin(self, now: int) -> None:
        """This member leads from now on."""
        self.end()
        self.look(now)

    def end(self) -> None:
        self._seen = -1
        self._deadlines.clear()
        self._heap.clear()
        self._proposed.clear()

    def look(self, now: int) -> None:
        """Something was applied: begin what is new, forget what is gone."""
        machine, known = self._machine, self._deadlines
        if machine.timed == self._seen:
            return
        self._seen = machine.timed
        there: dict[Item, int] = {}
        for lease in machine.leases.values():
            there[LEASE, lease.id] = lease.ttl_ms
        for session in machine.sessions.values():
            there[SESSION, session.id] = session.ttl_ms
        for key, ms in machine.delays.items():
            there[DELAY, key] = ms
        for gone in [item for item in known if item not in there]:
            del known[gone]
            self._proposed.pop(gone, None)
        for item, ms in there.items():
            if item not in known and ms:
                self._set(item, now + ms * _MS)

    def _set(self, item: Item, deadline: int) -> None:
        self._deadlines[item] = deadline
        heappush(self._heap, (deadline, item))

    def keep_alive(self, now: int, id_: int) -> bool:
        """Whether there is such a lease or session; it has its full time again."""
        machine = self._machine
        for kind, found in ((LEASE, machine.leases.get(id_)), (SESSION, machine.sessions.get(id_))):
            if found is not None:
                item = (kind, id_)
                if item in self._proposed:
                    return False
                if found.ttl_ms:
                    self._deadlines[item] = now + found.ttl_ms * _MS
                return True
        return False

    def deadline(self) -> int:
        """When something may be due; -1 for never."""
        return self._heap[0][0] if self._heap else -1

    def due(self, now: int) -> list[bytes]:
        """The commands that end what is over."""
        ended: dict[int, list[int | bytes]] = {LEASE: [], SESSION: [], DELAY: []}
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, item = heappop(heap)
            deadline = self._deadlines.get(item)
            if deadline is None or item in self._proposed:
                continue
            if deadline > now:
                heappush(heap, (deadline, item))
                continue
            self._proposed[item] = None
            ended[item[0]].append(item[1])
        found: list[bytes] = []
        leases = [id_ for id_ in ended[LEASE] if isinstance(id_, int)]
        sessions = [id_ for id_ in ended[SESSION] if isinstance(id_, int)]
        delays = [key for key in ended[DELAY] if isinstance(key, bytes)]
        if leases:
            found.append(commands.pack_command(commands.REVOKE_LEASES, commands.numbers_body(leases)))
        if sessions:
            found.append(commands.pack_command(commands.CLOSE_SESSIONS, commands.numbers_body(sessions)))
        if delays:
            found.append(commands.pack_command(commands.END_DELAYS, commands.keys_body(delays)))
        return found
