"""A new member for every group, at the end of a run, when all is calm: whoever leads by then and whatever happened before, it can be added."""

from quorate.consensus.paxos.host import Host
from quorate.consensus.paxos.joining import Ended
from quorate.errors import QuorateError
from quorate.simulation.paxos.world import World

_PATIENCE = 20
"""Election timeouts that it may take to catch up, before it is asked for again."""


class Growth:
    """An operator who asks for one new member, and again if that came to nothing."""

    def __init__(self, world: World, sid: int) -> None:
        self.sid = sid
        self._world = world
        self._asked: dict[int, Host] = {}
        """Who was asked to add it to a group and has not answered yet."""

    def begin(self) -> None:
        """Start it; its file names the members that the groups began with."""
        self._world.started.add(self.sid)
        self._world.start(self.sid)

    def done(self) -> bool:
        """Whether it is a member of every group; asks for what is lacking."""
        added = [self._added(group) for group in self._world.groups]
        return all(added)

    def _added(self, group: int) -> bool:
        world = self._world
        leader = world.leader(group)
        host = world.host(leader)
        if host is None:
            return False
        log = host.groups[group].peer.acceptor.log
        if self.sid in log.sids:
            return log.members_at <= log.decided
        if self._asked.get(group) is not host:
            self._asked[group] = host
            patience = _PATIENCE * world.options["election_timeout"]
            world.enter(leader, host.add_member, group, world.member(self.sid), patience, self._answered(group))
        return False

    def _answered(self, group: int) -> Ended:
        def answered(error: QuorateError | None) -> None:
            self._world.probe(f"grown: {error is None}")
            self._asked.pop(group, None)

        return answered
