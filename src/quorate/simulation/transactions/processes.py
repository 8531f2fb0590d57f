"""Coordinators: programs that make transactions and sweep, with the production code, on connections to the simulated servers."""

from typing import Any, cast

from quorate.errors import QuorateError
from quorate.kv.client.records import put
from quorate.simulation import trace as kinds
from quorate.simulation.scheduler import SECOND, Stream
from quorate.simulation.transactions.servers import Server, SimPostgres, SimSession
from quorate.simulation.transactions.shell import Shell, Waiting
from quorate.simulation.transactions.world import SPACE, World
from quorate.transactions import gtid as gtids
from quorate.transactions.commit import Ended, Part, abort, apply, commit
from quorate.transactions.engine import finished
from quorate.transactions.errors import Aborted, HeuristicOutcome, InDoubt, NotYetApplied
from quorate.transactions.flow import Done, Failed, Flow, ask, call, sleep
from quorate.transactions.logs.kv import KvLog, Riding
from quorate.transactions.participant import Branch
from quorate.transactions.recovery import Report, sweep
from quorate.transactions.sql.habit import STREAK
from quorate.transactions.sql.mariadb import MariaDBParticipant
from quorate.transactions.sql.pool import Pool
from quorate.transactions.sql.postgres import PostgresParticipant


class Process:
    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.name = f"p{number}"
        self.stream = Stream(world.seed, f"process {number}")
        self.connections: list[SimSession] = []
        self.participants: dict[str, Any] = {}
        habits = Stream(world.seed, f"habits {number}")
        for server in world.servers:
            kind = PostgresParticipant if isinstance(server, SimPostgres) else MariaDBParticipant
            pool = Pool(server.name, cast(Any, lambda server=server: self._connect(server)))
            participant = kind(server.name, pool, (server.name, 1, "db"))
            if habits.chance(0.5):
                # as after some transactions that wrote
                for _ in range(STREAK):
                    participant.habit.wrote()
            self.participants[server.name] = participant
        self.log = KvLog(cast(Any, world.store), SPACE)
        skew = world.options["skew"] / SECOND if "skew" in world.options["enabled"] else 0.0
        self.skew = (self.stream.between(0, 2000) / 1000 - 1) * skew
        self.shell = Shell(world.scheduler, lambda: world.seconds() + self.skew, self._at_point)
        self.armed: list[Any] | None = None
        """[points until it strikes, "die" or "sleep", nanoseconds of sleep]."""
        self.idle = 0
        self.reports: list[Report] = []

    def _connect(self, server: Server) -> Waiting:
        waiting = server.connect()
        made = Waiting()

        def told(result: Done[Any] | Failed) -> None:
            if isinstance(result, Done):
                if not self.shell.alive:
                    server.hung_up(result.value)
                    return
                self.connections.append(result.value)
            made.tell(result)

        waiting.listen(told)
        return made

    # ---- faults

    def _at_point(self, when: str, point: str) -> int | None:
        # a new connection is looked at before any work is done on it: what strikes there finds nothing to be finished
        if self.armed is None or point.partition(": ")[2].startswith("check"):
            return 0
        self.armed[0] -= 1
        if self.armed[0] > 0:
            return 0
        _, what, duration = self.armed
        self.armed = None
        self.world.probes[f"{what} {when} {point.partition(': ')[2] or point}"] += 1
        if what == "die":
            self.die(f"{when} {point}")
            return None
        self.world.trace.note(self.world.scheduler.now, kinds.PAUSE, self.name, text=f"{when} {point}")
        self.shell.asleep_until = self.world.scheduler.now + int(duration)
        return int(duration)

    def die(self, why: str) -> None:
        self.world.trace.note(self.world.scheduler.now, kinds.CRASH, self.name, text=why)
        self.shell.alive = False
        for session in self.connections:
            if not session.broken:
                session.broken = True
                session.server.hung_up(session)

    # ---- work

    def start(self, strands: int, transactions: int, until: int) -> None:
        for number in range(strands):
            stream = Stream(self.world.seed, f"work {self.number} {number}")
            self.shell.start(self._work(stream, transactions, until), self._worked)
        self.shell.start(self._sweep_always(until), self._worked)

    def _worked(self, result: Done[Any] | Failed) -> None:
        if isinstance(result, Failed):
            raise result.error
        self.idle += 1

    def _work(self, stream: Stream, transactions: int, until: int) -> Flow[None]:
        options = self.world.options
        for _ in range(transactions):
            yield from sleep(stream.around(options["think"]) / SECOND)
            if self.world.scheduler.now >= until:
                return
            yield from self._transact(stream)

    def _transact(self, stream: Stream) -> Flow[None]:
        world, options = self.world, self.world.options
        moment = world.seconds() + self.skew
        gtid = gtids.new(SPACE, moment, options["timeout"] / SECOND, stream.between(0, (1 << 80) - 1))
        parts: list[Part] = []
        wrote: list[str] = []
        sessions: list[SimSession] = []
        try:
            for server in stream.shuffled(world.servers):
                session: SimSession = yield from call(f"{server.name}: open", self._connect, server)
                sessions.append(session)
                participant = self.participants[server.name]
                branch = Branch(gtid, server.name)
                yield from participant.begin(branch, session, 1.0)
                parts.append(Part(branch, participant))
                if not stream.chance(options["read_only"]):
                    yield from call(f"{server.name}: write", session.execute, "write")
                    wrote.append(server.name)
        except QuorateError:
            yield from self._give_up(parts, sessions)
            return
        world.wrote[gtid.text] = wrote
        if "votes_no" in options["enabled"] and stream.chance(options["no_rate"]):
            try:
                yield from call("fail", sessions[0].execute, "fail")
            except QuorateError:
                """It is the transaction that may have failed by it."""
        riding = None
        if stream.chance(options["riding"]):
            world.ridden.add(gtid.text)
            riding = Riding([], [put(f"ride/{gtid.text}", b"")])
        world.note(self.name, f"commit {gtid.text}")
        yield from self._commit(gtid, parts, riding, stream.chance(options["early"]))
        for session in sessions:
            session.hang_up()

    def _give_up(self, parts: list[Part], sessions: list[SimSession]) -> Flow[None]:
        yield from abort(parts)
        for part in parts:
            part.participant.let_go(part.branch)
        for session in sessions:
            session.hang_up()

    def _commit(self, gtid: gtids.Gtid, parts: list[Part], riding: Riding | None, early: bool) -> Flow[None]:
        world = self.world
        told = "doubt"
        ended: Ended | None = None
        try:
            ended = yield from commit(gtid, parts, self.log, self.name, riding, early)
            told = "committed"
        except Aborted:
            told = "aborted"
        except HeuristicOutcome as error:
            self._heuristic(gtid.text, str(error))
            told = "heuristic"
        except NotYetApplied:
            told = "committed"
        except InDoubt:
            world.probes["in doubt"] += 1
        world.told[gtid.text] = told
        world.probes[f"told {told}"] += 1
        world.note(self.name, f"told {told} {gtid.text}")
        try:
            if ended is not None and ended.decided is not None:
                if not ended.applied:
                    yield from apply(ended.decided, ended.parts, self.log)
                yield from ask("log: amend", self.log, "amend", [finished(ended.decided)])
        except HeuristicOutcome as error:
            self._heuristic(gtid.text, str(error))
        except QuorateError:
            world.probes["left to recovery"] += 1
        finally:
            for part in parts:
                part.participant.let_go(part.branch)

    def _heuristic(self, gtid: str, told: str) -> None:
        if not self.world.touched(gtid):
            self.world.violate(f"heuristic: {gtid}: {told}")

    # ---- recovery

    def _sweep_always(self, until: int) -> Flow[None]:
        every = self.world.options["sweep_every"] / SECOND
        while self.world.scheduler.now < until:
            yield from sleep(every)
            try:
                claimed = yield from ask(
                    "sweep log: claim", self.log, "claim_sweep", self.name, self.world.seconds() + self.skew, every
                )
                if claimed:
                    yield from self.sweep()
            except QuorateError:
                continue

    def sweep(self) -> Flow[Report]:
        keep = self.world.options["keep"] / SECOND
        report = yield from sweep(self.participants, self.log, SPACE, self.name, keep=keep)
        self.world.probes["swept"] += 1
        self.world.probes["recovery committed"] += len(report.committed)
        self.world.probes["recovery aborted"] += len(report.aborted)
        self.world.probes["forgotten"] += report.forgotten
        for gtid, participant, what in report.heuristic:
            self._heuristic(gtid, f"{participant} {what}")
        self.reports.append(report)
        return report
