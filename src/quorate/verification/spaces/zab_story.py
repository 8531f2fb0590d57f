"""A trace of a Zab ensemble, told for people: what each step did, in the words of the Zab papers and of ZooKeeper's packets."""

from quorate.consensus.zab.messages import (
    AckEpoch,
    Acks,
    Commits,
    Diff,
    FollowerInfo,
    LeaderInfo,
    Message,
    NewLeader,
    Notification,
    Ping,
    Proposals,
    Snap,
    State,
    Trunc,
    UpToDate,
)
from quorate.consensus.zab.replica import (
    Append,
    InstallSnapshot,
    StoreAcceptedEpoch,
    StoreCurrentEpoch,
    Truncate,
    WriteRequest,
)
from quorate.verification.counterexample import Counterexample, Row
from quorate.verification.explorer import Trace
from quorate.verification.spaces.zab import CLOSE, GONE, Action, Queue, World, ZabSpace
from quorate.verification.spaces.zab_invariants import text
from quorate.verification.spaces.zab_node import DOWN, View

Traffic = dict[tuple[int, int], Queue]
"""By a link's number and way (0 to the leader, 1 to the learner), what is under way."""

_STATES = {
    State.LOOKING: "looking",
    State.FOLLOWING: "following",
    State.LEADING: "leading",
    State.OBSERVING: "observing",
}


def tell(space: ZabSpace, trace: Trace[World, Action], violation: str) -> Counterexample:
    """Draw a trace of ``space`` that ends in a violation."""
    story = _Story(space, trace.initial)
    for action, world in trace.steps:
        story.add(action, world)
    return Counterexample(violation, [f"member {sid}" for sid in space.sids], story.rows)


class _Story:
    def __init__(self, space: ZabSpace, initial: World) -> None:
        self.rows: list[Row] = []
        self._space = space
        self._world = initial
        self._traffic = self._under_way(initial)
        self._sent = {way: [-1] * len(queue) for way, queue in self._traffic.items()}
        """Parallel to the traffic: the row in which each message was sent, -1 before the first."""

    def _under_way(self, world: World) -> Traffic:
        traffic: Traffic = {}
        for number, up, down in self._space.nets[world[self._space.count + 1]]:
            traffic[number, 0] = () if up == GONE else up
            traffic[number, 1] = () if down == GONE else down
        return traffic

    def _ends(self, number: int, way: int) -> tuple[int, int]:
        """Indices of the sender and the receiver."""
        space = self._space
        if number > 0:
            sender, receiver = divmod(number - 1, space.count)
            return sender, receiver
        learner, leader = space.learner_of(number), space.leader_of(number)
        return (leader, learner) if way else (learner, leader)

    def add(self, action: Action, world: World) -> None:
        row = Row()
        self.rows.append(row)
        self._cause(row, action)
        for index in range(self._space.count):
            before, after = self._world[index], world[index]
            if before != after:
                self._changes(row, index, self._space.views[before], self._space.views[after])
        self._follow_traffic(row, action, self._under_way(world))
        self._world = world

    def _cause(self, row: Row, action: Action) -> None:
        space = self._space
        what, where = action[0], action[1]
        if what in ("receive", "notify", "close"):
            way = action[2] if what != "notify" else 0
            sender, receiver = self._ends(where, way)
            queue = self._traffic[where, way]
            if what == "close":
                lost = len(queue) - 1
                row.say(
                    receiver, f"sees the link of {sender + 1} end" + (f", {lost} messages are lost" if lost else "")
                )
            else:
                row.say(receiver, f"<- {sender + 1}: {describe(space.messages[queue[0]])}")
                source = self._sent[where, way][0]
                if source >= 0:
                    row.arrows.append((source, sender, receiver))
        elif what == "break":
            learner, leader = self._ends(where, 0)
            row.say(learner, f"the link to {leader + 1} breaks")
            row.say(leader, f"the link to {learner + 1} breaks")
        elif what == "write":
            row.say(where, f"on disk: {_write(space.node(self._world[where]).writes[0])}")
        elif what == "elect":
            for elector in action[2]:
                row.say(elector, f"elects {where + 1}")
            row.say(where, f"is elected by {', '.join(str(elector + 1) for elector in action[2]) or 'itself'}")
        elif what == "follow":
            row.say(where, f"joins {action[2] + 1}")
        elif what == "crash":
            torn = action[2]
            row.say(where, "CRASHES" + (f", with {torn} entries of the append on disk" if torn else ""))
        else:
            row.say(where, _SAID[what])

    def _changes(self, row: Row, index: int, before: View, after: View) -> None:
        if before.role != after.role:
            row.say(index, after.role + (f" {after.following}" if after.following > 0 else ""))
        if after.established and not before.established:
            row.say(index, f"epoch {after.epoch} is established")
        if after.serving and not before.serving:
            row.say(index, f"serves in epoch {after.epoch}")
        if after.applied != before.applied and after.role != DOWN:
            row.say(index, f"applied: {text(after.applied)}")
        if after.history != before.history and after.role != DOWN:
            row.say(index, f"history: {text(after.history)}")

    def _follow_traffic(self, row: Row, action: Action, traffic: Traffic) -> None:
        """Say what was sent, and remember in which row."""
        here = len(self.rows) - 1
        sent: dict[tuple[int, int], list[int]] = {}
        for way, queue in traffic.items():
            rows = self._sent.get(way, [])
            if action[0] in ("receive", "notify") and way == (action[1], action[2] if action[0] == "receive" else 0):
                rows = rows[1:]
            rows = rows[: len(queue)]
            sender, receiver = self._ends(*way)
            for number in queue[len(rows) :]:
                if number != CLOSE:
                    row.say(sender, f"-> {receiver + 1}: {describe(self._space.messages[number])}")
            sent[way] = rows + [here] * (len(queue) - len(rows))
        self._traffic, self._sent = traffic, sent


_SAID = {
    "restart": "starts again from its disk",
    "connect": "reaches the leader",
    "propose": "proposes a transaction",
    "give up": "gives up waiting",
    "time out": "runs out of patience",
    "settle": "waits no longer for a better vote",
}


def _zxid(zxid: int) -> str:
    return f"{zxid >> 32}.{zxid & 0xFFFFFFFF}"


def _run(first: int, last: int) -> str:
    return _zxid(first) if first == last else f"{_zxid(first)} to {_zxid(last)}"


def describe(message: Message) -> str:
    """A message in a few words; zxids as ``epoch.counter``."""
    if isinstance(message, Notification):
        vote = message.vote
        return (
            f"{_STATES[message.state]}, votes {vote.leader} (epoch {vote.epoch}, last {_zxid(vote.zxid)}),"
            f" round {message.round}"
        )
    if isinstance(message, FollowerInfo):
        return f"FOLLOWERINFO accepted epoch {message.accepted_epoch}"
    if isinstance(message, LeaderInfo):
        return f"LEADERINFO epoch {message.epoch}"
    if isinstance(message, AckEpoch):
        return f"ACKEPOCH current epoch {message.current_epoch}, last {_zxid(message.last_zxid)}"
    if isinstance(message, Diff | Trunc | Snap | NewLeader):
        return f"{type(message).__name__.upper()} {_zxid(message.zxid)}"
    if isinstance(message, UpToDate):
        return "UPTODATE"
    if isinstance(message, Ping):
        return "PING"
    if isinstance(message, Proposals):
        return f"PROPOSAL {text(message.entries)}"
    if isinstance(message, Acks | Commits):
        return f"{'ACK' if isinstance(message, Acks) else 'COMMIT'} {_run(message.first, message.last)}"
    return repr(message)


def _write(write: WriteRequest) -> str:
    if isinstance(write, Append):
        return f"entries {text(write.entries)}"
    if isinstance(write, Truncate):
        return f"cut after {_zxid(write.zxid)}"
    if isinstance(write, StoreAcceptedEpoch):
        return f"accepted epoch {write.epoch}"
    if isinstance(write, StoreCurrentEpoch):
        return f"current epoch {write.epoch}"
    assert isinstance(write, InstallSnapshot)
    after = f" and {text(write.entries)}" if write.entries else ""
    return f"snapshot as of {_zxid(write.zxid)}{after}, in place of all before"
