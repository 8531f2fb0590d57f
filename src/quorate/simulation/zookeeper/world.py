"""What the members and clients of one run share: time, network, machines, disks, the judge and the trace; and their lives."""

import logging
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from quorate.consensus.zab.messages import Message, State
from quorate.consensus.zab.replica import WriteRequest
from quorate.errors import QuorateError
from quorate.simulation import trace as kinds
from quorate.simulation import world
from quorate.simulation.describing import Describer, Kind
from quorate.simulation.machine import Machine
from quorate.simulation.network import Conditions, Network
from quorate.simulation.result import Violation
from quorate.simulation.scheduler import Stream
from quorate.simulation.zookeeper.disks import MemberDisks
from quorate.simulation.zookeeper.member import CLIENT_PORT, ELECTION_PORT, QUORUM_PORT, Life, Promises, address_of
from quorate.verification.agreement import BrokenPromise, LogAgreement
from quorate.zookeeper.tree import DataTree

if TYPE_CHECKING:
    from quorate.simulation.zookeeper.spec_trace import SpecTrace
    from quorate.zookeeper.member import Member

_SPOKEN: Final[dict[int, Kind]] = {CLIENT_PORT: "client", QUORUM_PORT: "quorum", ELECTION_PORT: "election"}


class Sniper(Protocol):
    """Told of everything a member sends on its quorum port or writes."""

    def sent(self, sid: int, channel: int, messages: list[Message]) -> None: ...

    def written(self, sid: int, write: WriteRequest) -> None: ...


class World(world.World):
    """Implements machine.Watcher."""

    def __init__(self, seed: int, options: dict[str, Any], keep_trace: bool) -> None:
        super().__init__(seed, options, keep_trace)
        conditions = Conditions(options["delay"], options["split"], 0.0)
        self.network = Network(self.scheduler, Stream(seed, "network"), conditions, self.trace)
        if keep_trace:
            self.network.describe = lambda port, toward_server: Describer(_SPOKEN[port], toward_server)
        voters, observers = options["voters"], options["observers"]
        self.voters = tuple(range(1, voters + 1))
        self.members = tuple(range(1, voters + observers + 1))
        self.wanted: tuple[int, ...] = ()
        """Members that are started again whenever they stop by themselves: those that must recover in the end."""
        self.faulty = True
        """Whether faults may still strike."""
        self.sniper: Sniper | None = None
        self.spec: SpecTrace | None = None
        """Records the members' steps in the terms of the specification, if asked to."""
        self.judge = LogAgreement(self.voters)
        self.promises = {sid: Promises() for sid in self.members}
        self.damaged: set[int] = set()
        """Members whose disk does not hold what it should, through no fault of theirs."""
        self.client_machines: list[Machine] = []
        self.lives: dict[int, Life] = {}
        """The running process of each member that runs."""
        self._names: dict[Machine, int] = {}
        self.machines: dict[int, Machine] = {}
        self.disks: dict[int, MemberDisks] = {}
        self._lives = 0
        drift = Stream(seed, "drift")
        for sid in self.members:
            machine = self._machine(f"m{sid}", address_of(sid))
            machine.change_clock(0, drift.between(-options["drift_ppm"], options["drift_ppm"]))
            self.machines[sid] = machine
            self._names[machine] = sid
            self.disks[sid] = MemberDisks(self, sid)

    def _machine(self, name: str, address: str) -> Machine:
        stream = Stream(self.seed, f"machine {name}")
        machine = Machine(name, address, self.scheduler, self.network, stream, self)
        machine.batching = self.options["batching"]
        return machine

    def client_machine(self, number: int) -> Machine:
        machine = self._machine(f"c{number}", f"10.0.1.{number}")
        machine.batching = 0.0
        self.client_machines.append(machine)
        return machine

    # ---- lives

    def start(self, sid: int) -> None:
        """Start the member if it does not run."""
        if sid in self.lives or self.failure:
            return
        self.note(kinds.START, sid)
        self.probe("start")
        self._lives += 1
        self.disks[sid].open()
        life = self.lives[sid] = Life(self, self.machines[sid], sid, self._lives)
        life.machine.enter(life.env, self._begin, life)

    def _begin(self, life: Life) -> None:
        try:
            life.begin()
        except QuorateError as error:
            self._refused(life, error)

    def _refused(self, life: Life, error: QuorateError) -> None:
        """The member does not start. Right if its disk was damaged: then the operator empties it."""
        sid = life.sid
        if sid not in self.damaged:
            self.violate(f"recovery: member {sid} does not start: {error}")
            return
        self.probe("refused to start on a damaged disk")
        self.kill(sid, power=True, why=f"does not start: {error}")
        if self.spare(sid):
            self.wipe(sid)
        else:
            # what it holds is held by too few others: an operator would get it back from the disk, whatever that takes
            self.probe("the only copy is repaired")
            self.disks[sid].repair()
        self.scheduler.after(self.options["tick"], self.start, sid)

    def kill(self, sid: int, power: bool, why: str = "killed") -> None:
        """End the process; with it the machine, unless ``power``."""
        life = self.lives.pop(sid, None)
        if life is None:
            return
        self.note(kinds.CRASH, sid, why if power else "power lost")
        life.machine.end(power)
        self.disks[sid].crash(power_lost=not power)

    def wipe(self, sid: int) -> None:
        """The member comes back empty."""
        assert sid not in self.lives
        self.note(kinds.FAULT, sid, "emptied")
        self.disks[sid].wipe()
        self.promises[sid].forget()
        self.damaged.add(sid)

    def served(self, life: Life) -> None:
        """It has everything again that was committed before."""
        if life.sid in self.damaged and self.disks[life.sid].trusted:
            self.damaged.discard(life.sid)

    def member_failed(self, life: Life, reason: str) -> None:
        """The member stops by itself, because of its disk."""
        if not self.disks[life.sid].failing and life.sid not in self.damaged:
            self.violate(f"member {life.sid} stops: {reason}")
            return
        self.probe("stopped by its disk")
        self.scheduler.after(0, self._stop, life, reason)

    def _stop(self, life: Life, reason: str) -> None:
        """A supervisor starts it again; if its disk is damaged it says so at the latest then."""
        if self.lives.get(life.sid) is life:
            self.kill(life.sid, power=True, why=reason)
            self.scheduler.after(self.options["tick"], self.start, life.sid)

    def spare(self, sid: int) -> bool:
        """Whether the member's disk may be emptied: enough other voters surely hold all that it holds or ever promised."""
        if sid not in self.voters:
            return True
        promises = self.promises[sid]
        last, accepted = max(promises.zxid, promises.written), promises.accepted_epoch
        member = self.member(sid)
        mine = self.disks[sid].durable()
        if mine is not None:
            last, accepted = max(last, mine[0]), max(accepted, mine[2])
        if member is not None:
            last = max(last, member.store.last_zxid)
            if member.peer is not None:
                accepted = max(accepted, member.peer.replica.accepted_epoch)
        holders = 0
        for other in self.voters:
            if other != sid and other not in self.damaged:
                durable = self.disks[other].durable()
                # an entry below another's snapshot is committed, and so is everything before it
                if durable is not None and durable[2] >= accepted and (last in durable[1] or last < min(durable[1])):
                    holders += 1
        return holders > len(self.voters) - (len(self.voters) // 2 + 1)

    # ---- machine.Watcher

    def crashed(self, machine: Machine) -> None:
        self.kill(self._names[machine], power=True, why="killed in the middle of an event")

    def failed(self, machine: Machine, error: Exception) -> None:
        self.violate(str(error) if isinstance(error, Violation | BrokenPromise) else f"{machine.name}: {_told(error)}")
        self.error = error

    def stepped(self, machine: Machine) -> None:
        """Nothing is looked at after every event; see ``member`` for what is watched."""

    # ---- what happened

    def note(self, kind: str, sid: int, text: str = "") -> None:
        self.trace.note(self.scheduler.now, kind, self.machines[sid].name, "", text)

    def applied(self, sid: int, zxid: int, tree: DataTree) -> None:
        self.commits += 1
        self.note(kinds.COMMIT, sid, f"{zxid:#x}")

    def commits_first(self, sid: int, zxid: int) -> None:
        """Nobody has applied this entry before. It must be on the disks of a quorum; a damaged one may have lost it since."""
        holders = sum(voter in self.damaged or self.promises[voter].holds(zxid) for voter in self.voters)
        if holders <= len(self.voters) // 2:
            self.violate(
                f"durability: member {sid} applies {zxid:#x}, which {holders} of {len(self.voters)} voters have on disk"
            )

    def looking(self, reason: str) -> None:
        self.probe(f"looking: {re.sub('[0-9]+.*', '', reason)}")

    def logged(self, record: logging.LogRecord) -> None:
        """The production code says that something is wrong with itself."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, BrokenPromise):
            self.violate(str(error))
        elif isinstance(error, Exception):
            self.violate(f"{record.getMessage()}: {_told(error)}")
            self.error = error
        elif "Digests are not matching" in record.getMessage():
            self.violate(record.getMessage())

    # ---- the state of the ensemble

    def member(self, sid: int) -> "Member | None":
        life = self.lives.get(sid)
        return None if life is None else life.member

    def leader(self) -> int:
        """The member that leads a live quorum which serves; 0 if there is none."""
        for sid in self.voters:
            member = self.member(sid)
            if (
                member is None
                or member.role.state != State.LEADING
                or not member.role.serving
                or not member.core.leading
            ):
                continue
            epoch = member.role.epoch
            followers = 0
            for other in self.voters:
                peer = self.member(other)
                followers += peer is not None and peer.role.serving and peer.role.epoch == epoch
            if followers > len(self.voters) // 2:
                return sid
        if len(self.voters) == 1 and (alone := self.member(1)) is not None and alone.server.serving:
            return 1
        return 0

    def converged(self, sids: tuple[int, ...]) -> bool:
        """All of these serve, under one leader, and have applied the same history, which is all of it."""
        leader = self.leader()
        if not leader:
            return False
        first = self.member(leader)
        assert first is not None
        last = first.store.last_zxid
        for sid in sids:
            member = self.member(sid)
            if member is None or not member.server.serving or member.role.epoch != first.role.epoch:
                return False
            if member.server.tree.last_zxid != last or member.store.last_zxid != last:
                return False
        return True

    def compare_trees(self, sids: tuple[int, ...]) -> None:
        """Members that applied the same history hold the same tree and the same sessions."""
        trees = [(sid, member.server.tree) for sid in sids if (member := self.member(sid)) is not None]
        first, tree = trees[0]
        for sid, other in trees[1:]:
            if other.digest != tree.digest or sorted(other.nodes) != sorted(tree.nodes):
                self.violate(f"state agreement: members {first} and {sid} differ at {tree.last_zxid:#x}")
            elif other.sessions != tree.sessions:
                self.violate(f"state agreement: members {first} and {sid} know other sessions at {tree.last_zxid:#x}")


def _told(error: Exception) -> str:
    """An exception as the failure of a run: what, and where in our code."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f" ({frame.tb_frame.f_code.co_qualname})"
    return f"{type(error).__name__}: {error}{where}"
