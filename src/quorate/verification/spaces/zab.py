"""A Zab ensemble as a space to explore: every order of deliveries, writes, crashes and lost links, within bounds.

A state is the members (:mod:`.zab_node`, the production cores), what is under way between them, what has happened so far as
far as the invariants judge by it, and how much of each bound is spent. One step is one event at one member, and everything
it does in consequence at once; deliveries on one link are in order, everything else is in any order.

Links are connections of a learner to a leader. One that ends, by a member's will, a crash or by itself (``disconnects``), ends
for each side at its own time, after all, some or none of what was still under way to it.

Who leads is decided by an oracle, as in the published protocol specification: any member that looks may be elected by any
quorum that looks, whatever their histories, and others may join it; discovery has to sort that out. With ``elections`` the
members' own fast leader election decides, over its own channels.

Members hold numbers for everything met before: a member in a given state, a message, the traffic, a record. A state is seven
or so such numbers, so it is told from others exactly, and what an event does to a member in a given state is computed
once by the real core and looked up afterwards.
"""

import pickle
from collections.abc import Callable, Hashable
from typing import Any, Final

from quorate.consensus.zab.messages import Message
from quorate.errors import QuorateError, UsageError
from quorate.verification.spaces.zab_invariants import Record, broken
from quorate.verification.spaces.zab_node import DOWN, LEADING, LOOKING, Node, View

CLOSE: Final = 0
"""In a queue: the other side is gone, nothing follows."""
GONE: Final = (-1,)
"""For a queue: its receiver is gone, or will never read."""

MEMBERS_MAX: Final = 7
BOUND_MAX: Final = 255

Queue = tuple[int, ...]
Link = tuple[int, Queue, Queue]
"""(number, messages to the leader, messages to the learner); with a positive number an election channel and (queue, GONE)."""
Net = tuple[Link, ...]
World = tuple[int, ...]
"""Numbers: of each member's state, of the record, of the net, of the spent bounds; and 1 behind them if a core broke down."""
Event = tuple[Any, ...]
Action = tuple[Any, ...]
"""What happens, by its name and where: see ``ZabSpace.successors``."""

CRASHES, DISCONNECTS, ELECTIONS = 0, 8, 16
"""Where the counters of what is spent are in their number, in bits."""


class Bounds:
    """How much may happen. ``window``: committed entries a member keeps for learners, beyond which it sends its state."""

    __slots__ = ("crashes", "disconnects", "elections", "epochs", "members", "transactions", "window")

    def __init__(
        self,
        members: int = 3,
        transactions: int = 1,
        crashes: int = 0,
        disconnects: int = 0,
        epochs: int = 2,
        window: int = 500,
        elections: bool = False,
    ) -> None:
        """``epochs``: how often a leader may be elected. Raises UsageError for what cannot be explored."""
        for name, value, least, most in (
            ("members", members, 1, MEMBERS_MAX),
            ("transactions", transactions, 0, BOUND_MAX),
            ("crashes", crashes, 0, BOUND_MAX),
            ("disconnects", disconnects, 0, BOUND_MAX),
            ("epochs", epochs, 1, BOUND_MAX),
        ):
            if not least <= value <= most:
                raise UsageError(f"the number of {name} must be from {least} to {most}, not {value}")
        self.members = members
        self.transactions = transactions
        self.crashes = crashes
        self.disconnects = disconnects
        self.epochs = epochs
        self.window = window
        self.elections = elections


class Outcome:
    """What an event does to a member: its new state, and what leaves it."""

    __slots__ = ("closes", "error", "node", "sends")

    def __init__(self, node: int, sends: tuple[tuple[int, Queue], ...], closes: tuple[int, ...], error: str) -> None:
        self.node = node
        self.sends = sends
        self.closes = closes
        self.error = error


class _Step:
    """A state being changed into another."""

    __slots__ = ("error", "net", "nodes", "record", "spent")

    def __init__(self, nodes: list[int], record: Record, net: dict[int, tuple[Queue, Queue]], spent: int) -> None:
        self.nodes = nodes
        self.record = record
        self.net = net
        self.spent = spent
        self.error = ""


class ZabSpace:
    """See the module's text. ``quorate.verification.explorer.Space`` of World and Action."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.count = bounds.members
        self.sids = tuple(range(1, bounds.members + 1))
        self.quorum = bounds.members // 2 + 1
        self.messages: list[Message] = [Message()]
        """By number; 0 is CLOSE."""
        self.nets: list[Net] = []
        self.records: list[Record] = []
        self.views: list[View] = []
        """By the number of a member's state."""
        self.local_steps = 0
        """How many times a core was really run."""
        self._frozen: list[bytes] = []
        self._nodes: dict[Hashable, int] = {}
        self._facts: dict[Hashable, int] = {}
        self._facts_of: list[int] = []
        self._message_numbers: dict[Message, int] = {}
        self._net_numbers: dict[Net, int] = {}
        self._record_numbers: dict[Hashable, int] = {}
        self._outcomes: dict[tuple[int, Event], Outcome] = {}
        self._errors: dict[World, str] = {}
        self._judged: dict[tuple[int, ...], str] = {}
        self._start = self._first()

    # ---- the space

    def initial(self) -> list[World]:
        return [self._start]

    def key(self, state: World) -> World:
        return state

    def violation(self, state: World) -> str:
        if len(state) > self.count + 3:
            return self._errors[state]
        count = self.count
        facts = self._facts_of
        case = (*[facts[node] for node in state[:count]], state[count])
        verdict = self._judged.get(case)
        if verdict is None:
            verdict = broken([self.views[node] for node in state[:count]], self.records[state[count]])
            self._judged[case] = verdict
        return verdict

    def successors(self, state: World) -> list[tuple[Action, World]]:
        count = self.count
        if len(state) > count + 3:
            return []
        found: list[tuple[Action, World]] = []
        views = [self.views[node] for node in state[:count]]
        for index, view in enumerate(views):
            if view.role == DOWN:
                self._add(found, state, ("restart", index))
            else:
                self._happen_at(found, state, views, index, view)
        disconnects = self._spent(state, DISCONNECTS) < self.bounds.disconnects
        for link in self.nets[state[count + 1]]:
            self._happen_on(found, state, link, disconnects)
        return found

    def _happen_at(
        self, found: list[tuple[Action, World]], state: World, views: list[View], index: int, view: View
    ) -> None:
        bounds = self.bounds
        if view.writes:
            self._add(found, state, ("write", index))
        if self._spent(state, CRASHES) < bounds.crashes:
            for torn in range(view.torn + 1):
                self._add(found, state, ("crash", index, torn))
        if view.role == LOOKING:
            if bounds.elections:
                if view.waiting:
                    self._add(found, state, ("settle", index))
            else:
                self._elect(found, state, views, index)
        elif view.dialling > 0:
            leader = views[view.dialling - 1]
            self._add(found, state, ("connect" if leader.role == LEADING else "give up", index))
        elif view.role == LEADING:
            if view.established:
                if len(self.records[state[self.count]].proposed) < bounds.transactions:
                    self._add(found, state, ("propose", index))
            else:
                # without enough followers it can only wait for the end of initLimit, so that costs nothing
                following = sum(other.following == index + 1 for other in views)
                if following + 1 < self.quorum:
                    self._add(found, state, ("give up", index))
            if self._spent(state, DISCONNECTS) < bounds.disconnects:
                self._add(found, state, ("time out", index))

    def _elect(self, found: list[tuple[Action, World]], state: World, views: list[View], index: int) -> None:
        """The oracle: join a leader, or be elected by a quorum that looks."""
        for other, leader in enumerate(views):
            if leader.role == LEADING:
                self._add(found, state, ("follow", index, other))
        if self._spent(state, ELECTIONS) >= self.bounds.epochs:
            return
        if state == self._start:
            # sids mean nothing to the oracle: all first elections are this one, renamed
            if index == 0:
                self._add(found, state, ("elect", index, tuple(range(1, self.quorum))))
            return
        looking = [other for other, view in enumerate(views) if view.role == LOOKING and other != index]
        for electors in _choices(looking, self.quorum - 1):
            self._add(found, state, ("elect", index, electors))

    def _happen_on(self, found: list[tuple[Action, World]], state: World, link: Link, disconnects: bool) -> None:
        number, up, down = link
        if number > 0:
            self._add(found, state, ("notify", number))
            return
        for way, queue in ((0, up), (1, down)):
            if queue is GONE or not queue or queue == GONE:
                continue
            if queue[0] != CLOSE:
                self._add(found, state, ("receive", number, way))
            if queue[-1] == CLOSE:
                self._add(found, state, ("close", number, way))
        if disconnects and _open(up) and _open(down):
            self._add(found, state, ("break", number))

    # ---- one step

    def _add(self, found: list[tuple[Action, World]], state: World, action: Action) -> None:
        count = self.count
        step = _Step(
            list(state[:count]),
            self.records[state[count]],
            {number: (up, down) for number, up, down in self.nets[state[count + 1]]},
            state[count + 2],
        )
        _ACTIONS[action[0]](self, step, *action[1:])
        if (step.spent >> ELECTIONS) & 0xFF > self.bounds.epochs:
            return
        net = tuple([(number, *step.net[number]) for number in sorted(step.net)])
        world: World = (*step.nodes, self._record(step.record), self._net(net), step.spent)
        if step.error:
            world = (*world, 1)
            self._errors[world] = step.error
        found.append((action, world))

    def _spent(self, state: World, what: int) -> int:
        return (state[self.count + 2] >> what) & 0xFF

    def _event(self, step: _Step, index: int, *event: Any) -> None:
        """Something happens at a member; everything that comes of it follows."""
        before = step.nodes[index]
        outcome = self._outcome(before, event)
        step.nodes[index] = outcome.node
        view = self.views[outcome.node]
        step.record = step.record.after(index + 1, view)
        if view.role == LEADING and self.views[before].role != LEADING:
            step.spent += 1 << ELECTIONS
        if outcome.error:
            step.error = step.error or f"NoError: at member {index + 1}: {outcome.error}"
        for channel, queue in outcome.sends:
            self._send(step, index, channel, queue)
        for link in outcome.closes:
            self._close(step, index, link)

    def _send(self, step: _Step, index: int, channel: int, queue: Queue) -> None:
        if channel >= 0:
            if self.views[step.nodes[channel - 1]].role != DOWN:
                number = 1 + index * self.count + channel - 1
                step.net[number] = (step.net.get(number, ((), GONE))[0] + queue, GONE)
            return
        up, down = step.net.get(channel, (GONE, GONE))
        if self.learner_of(channel) == index:
            if _open(up):
                step.net[channel] = (up + queue, down)
        elif _open(down):
            step.net[channel] = (up, down + queue)

    def _close(self, step: _Step, index: int, link: int) -> None:
        """A member is done with a link: it reads no more of it, and the other side will see its end."""
        up, down = step.net.get(link, (GONE, GONE))
        if self.learner_of(link) == index:
            up, down = _ended(up), GONE
        else:
            up, down = GONE, _ended(down)
        if up == GONE and down == GONE:
            step.net.pop(link, None)
        else:
            step.net[link] = up, down

    def learner_of(self, link: int) -> int:
        """Index of the learner that a link's number stands for; the rest of the number are the leader and a count."""
        return (-link - 1) % (self.count * self.count) // self.count

    def leader_of(self, link: int) -> int:
        return (-link - 1) % self.count

    def _connect(self, step: _Step, learner: int) -> None:
        """A dialling learner reaches its leader, if that leads."""
        leader = self.views[step.nodes[learner]].dialling - 1
        if leader < 0 or self.views[step.nodes[leader]].role != LEADING:
            return
        link = -(1 + learner * self.count + leader)
        while link in step.net:
            link -= self.count * self.count
        step.net[link] = ((), ())
        self._event(step, leader, "accepted", link)
        self._event(step, learner, "connected", link)

    # ---- the actions

    def _restart(self, step: _Step, index: int) -> None:
        running = [other for other, node in enumerate(step.nodes) if self.views[node].role != DOWN or other == index]
        for other in running:
            self._event(step, other, *self._reach(running, other, start=other == index))

    def _reach(self, running: list[int], index: int, start: bool = False) -> Event:
        """An oracle hides who can be reached, which serves elections alone."""
        reached = running if self.bounds.elections else range(self.count)
        return "start" if start else "reachable", tuple([other + 1 for other in reached if other != index])

    def _write(self, step: _Step, index: int) -> None:
        self._event(step, index, "write")

    def _crash(self, step: _Step, index: int, torn: int) -> None:
        step.spent += 1 << CRASHES
        links = [n for n in step.net if n < 0 and index in (self.learner_of(n), self.leader_of(n))]
        self._event(step, index, "crash", torn)
        for link in links:
            self._close(step, index, link)
        if self.bounds.elections:
            for number in [n for n in step.net if n > 0 and index in divmod(n - 1, self.count)]:
                del step.net[number]
            running = [other for other, node in enumerate(step.nodes) if self.views[node].role != DOWN]
            for other in running:
                self._event(step, other, *self._reach(running, other))

    def _elected(self, step: _Step, index: int, electors: tuple[int, ...]) -> None:
        self._event(step, index, "elect", index + 1)
        for elector in electors:
            self._follow(step, elector, index)

    def _follow(self, step: _Step, index: int, leader: int) -> None:
        self._event(step, index, "elect", leader + 1)
        self._connect(step, index)

    def _propose(self, step: _Step, index: int) -> None:
        record = step.record
        payload = b"t%d" % (len(record.proposed) + 1)
        self._event(step, index, "propose", payload)
        zxid = self.views[step.nodes[index]].history[-1].zxid
        record = step.record
        step.record = Record(record.agreed, record.leaders, (*record.proposed, (zxid, payload, index + 1)))

    def _give_up(self, step: _Step, index: int) -> None:
        self._event(step, index, "time_out")

    def _time_out(self, step: _Step, index: int) -> None:
        step.spent += 1 << DISCONNECTS
        self._event(step, index, "time_out")

    def _settle(self, step: _Step, index: int) -> None:
        self._event(step, index, "settle")

    def _notify(self, step: _Step, number: int) -> None:
        queue = step.net[number][0]
        if len(queue) > 1:
            step.net[number] = queue[1:], GONE
        else:
            del step.net[number]
        sender, receiver = divmod(number - 1, self.count)
        self._event(step, receiver, "receive", sender + 1, queue[0])

    def _receive(self, step: _Step, link: int, way: int) -> None:
        up, down = step.net[link]
        message = (down if way else up)[0]
        step.net[link] = (up, down[1:]) if way else (up[1:], down)
        self._event(step, self.learner_of(link) if way else self.leader_of(link), "receive", link, message)

    def _closed(self, step: _Step, link: int, way: int) -> None:
        index = self.learner_of(link) if way else self.leader_of(link)
        self._close(step, index, link)
        self._event(step, index, "disconnected", link)

    def _break(self, step: _Step, link: int) -> None:
        step.spent += 1 << DISCONNECTS
        up, down = step.net[link]
        step.net[link] = (*up, CLOSE), (*down, CLOSE)

    # ---- what a member does, once for each state of it

    def _outcome(self, number: int, event: Event) -> Outcome:
        outcome = self._outcomes.get((number, event))
        if outcome is None:
            outcome = self._outcomes[number, event] = self.run(self._frozen[number], event)
        return outcome

    def run(self, frozen: bytes, event: Event) -> Outcome:
        """Let an event happen to a member as it was frozen."""
        self.local_steps += 1
        node: Node = pickle.loads(frozen)
        error = ""
        try:
            _happen(node, self.messages, event)
            messages, closes = node.take()
        except (QuorateError, AssertionError) as failure:
            error = f"{type(failure).__name__}: {failure}"
            messages, closes = {}, []
        sends = tuple([(channel, tuple(map(self._message, messages[channel]))) for channel in sorted(messages)])
        return Outcome(self.intern(node), sends, tuple(closes), error)

    def intern(self, node: Node) -> int:
        """The number of a member's state."""
        state = node.sid, node.state()
        number = self._nodes.get(state)
        if number is None:
            number = self._nodes[state] = len(self._frozen)
            self._frozen.append(freeze(node))
            view = View(node)
            self.views.append(view)
            self._facts_of.append(self._facts.setdefault(view.facts(), len(self._facts)))
        return number

    def node(self, number: int) -> Node:
        """A member as it was when its state was first met; the caller's own."""
        node: Node = pickle.loads(self._frozen[number])
        return node

    def _message(self, message: Message) -> int:
        number = self._message_numbers.get(message)
        if number is None:
            number = self._message_numbers[message] = len(self.messages)
            self.messages.append(message)
        return number

    def _net(self, net: Net) -> int:
        number = self._net_numbers.get(net)
        if number is None:
            number = self._net_numbers[net] = len(self.nets)
            self.nets.append(net)
        return number

    def _record(self, record: Record) -> int:
        state = record.state()
        number = self._record_numbers.get(state)
        if number is None:
            number = self._record_numbers[state] = len(self.records)
            self.records.append(record)
        return number

    def _first(self) -> World:
        """All members start at once, on empty disks."""
        nodes = [self.intern(Node(sid, self.sids, self.bounds.window, not self.bounds.elections)) for sid in self.sids]
        step = _Step(nodes, Record(), {}, 0)
        for index in range(self.count):
            self._event(step, index, "start", ())
        for index in range(self.count):
            self._event(step, index, *self._reach(list(range(self.count)), index))
        net = tuple([(number, *step.net[number]) for number in sorted(step.net)])
        return (*step.nodes, self._record(step.record), self._net(net), step.spent)


_ACTIONS: dict[str, Callable[..., None]] = {
    "restart": ZabSpace._restart,
    "write": ZabSpace._write,
    "crash": ZabSpace._crash,
    "elect": ZabSpace._elected,
    "follow": ZabSpace._follow,
    "connect": ZabSpace._connect,
    "propose": ZabSpace._propose,
    "give up": ZabSpace._give_up,
    "time out": ZabSpace._time_out,
    "settle": ZabSpace._settle,
    "notify": ZabSpace._notify,
    "receive": ZabSpace._receive,
    "close": ZabSpace._closed,
    "break": ZabSpace._break,
}


def freeze(node: Node) -> bytes:
    """A member for keeps. By pickling, not by a copy written out by hand, which would forget the first new field of a core."""
    return pickle.dumps(node, pickle.HIGHEST_PROTOCOL)


def _happen(node: Node, messages: list[Message], event: Event) -> None:
    what, *arguments = event
    if what == "receive":
        channel, number = arguments
        message: Any = messages[number]
        node.receive(channel, message)
    elif what in ("start", "reachable"):
        getattr(node, what)(frozenset(arguments[0]))
    else:
        getattr(node, what)(*arguments)


def _open(queue: Queue) -> bool:
    return queue != GONE and not (queue and queue[-1] == CLOSE)


def _ended(queue: Queue) -> Queue:
    return (*queue, CLOSE) if _open(queue) else queue


def _choices(items: list[int], size: int) -> list[tuple[int, ...]]:
    if size == 0:
        return [()]
    return [(item, *rest) for at, item in enumerate(items) for rest in _choices(items[at + 1 :], size - 1)]
