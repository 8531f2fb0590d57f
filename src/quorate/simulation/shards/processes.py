"""Programs on the store: they append to lists and read them in transactions over shards by the production flow, in single commits, and without any; and they sweep."""

import json
from typing import Any, cast

from quorate.errors import QuorateError
from quorate.kv.client.errors import Conflict, DeadlineExceeded, OutcomeUnknown
from quorate.kv.client.records import modified_at, put
from quorate.simulation import trace as kinds
from quorate.simulation.paxos.world import World
from quorate.simulation.scheduler import SECOND, Stream
from quorate.simulation.shards.client import SimKv
from quorate.simulation.transactions.shell import Shell
from quorate.transactions import gtid as gtids
from quorate.transactions.commit import Ended, Part, apply, commit
from quorate.transactions.engine import finished
from quorate.transactions.errors import Aborted, HeuristicOutcome, InDoubt, NotYetApplied
from quorate.transactions.flow import Done, Failed, Flow, ask, sleep
from quorate.transactions.kv import STORE, Kv
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.participant import Branch
from quorate.transactions.recovery import Report, sweep
from quorate.transactions.riding import Rider
from quorate.verification.history import History, Operation

SPACE = "sim"
EPOCH = 1_700_000_000.0
"""Seconds since 1970 at the beginning of a run."""
_STEPS_MAX = 4
Steps = list[list[Any]]


class Process:
    def __init__(self, world: World, history: History, number: int) -> None:
        self.world = world
        self.name = f"p{number}"
        self.stream = Stream(world.seed, f"process {number}")
        skew = world.options["skew"] / SECOND
        self.skew = (self.stream.between(0, 2000) / 1000 - 1) * skew
        self.shell = Shell(world.scheduler, self._clock, self._at_point)
        self.kv = SimKv(world, self.stream, self.name, lambda: self.shell.alive)
        self.log = KvLog(cast(Any, self.kv), SPACE)
        self.store = Kv(STORE, cast(Any, self.kv), self.log)
        self.armed: list[Any] | None = None
        """[points until it strikes, nanoseconds of sleep, or 0 to die, a word that the points have in their name]."""
        self.active = True
        self.working = False
        self.acknowledged = 0
        self.reports: list[Report] = []
        self._history = history
        self._elements = 0
        keys = range(world.options["keys"])
        self._keys = [f"{f'k{group}' if group > 1 else 'r'}/{at}" for group in world.groups for at in keys]

    def _clock(self) -> float:
        return float(EPOCH + self.world.scheduler.now / SECOND + self.skew)

    # ---- faults

    def _at_point(self, when: str, point: str) -> int | None:
        if self.armed is None or self.armed[2] not in point:
            return 0
        self.armed[0] -= 1
        if self.armed[0] > 0:
            return 0
        duration = int(self.armed[1])
        self.armed = None
        world = self.world
        if not duration:
            world.probe(f"dies {when} {point.rpartition(': ')[0] or point}")
            world.trace.note(world.scheduler.now, kinds.CRASH, "", text=f"{self.name} dies {when} {point}")
            self.shell.alive = False
            return None
        world.probe("sleeps")
        world.trace.note(world.scheduler.now, kinds.PAUSE, "", text=f"{self.name} sleeps {when} {point}")
        self.shell.asleep_until = world.scheduler.now + duration
        return duration

    def _arm(self, stream: Stream) -> None:
        options = self.world.options
        if stream.chance(options["die_rate"]):
            self.armed = self._somewhere(stream, 0)
        elif stream.chance(options["sleep_rate"]):
            self.armed = self._somewhere(stream, stream.spread(SECOND // 10, 8 * SECOND))

    def _somewhere(self, stream: Stream, duration: int) -> list[Any]:
        """Anywhere, or where it matters most."""
        word = stream.choice(("", "prepare", "log: commit", "finish"))
        return [stream.between(1, 5 if word else 60), duration, word]

    # ---- work

    def start(self) -> None:
        if not self.working and self.shell.alive:
            self.working = True
            self.shell.start(self._work(), self._worked)

    def start_sweeping(self) -> None:
        self.shell.start(self._sweep_always(), self._worked)

    def _worked(self, result: Done[Any] | Failed) -> None:
        if isinstance(result, Failed):
            raise result.error

    def _work(self) -> Flow[None]:
        while self.active and not self.world.failure:
            yield from sleep(self.stream.around(self.world.options["think"]) / SECOND)
            self._arm(self.stream)
            if self.stream.chance(self.world.options["single"]):
                yield from self._single()
            else:
                yield from self._transact()
        self.working = False

    def _drawn(self, keys: list[str]) -> Steps:
        stream = self.stream
        reads_only = stream.chance(self.world.options["read_only"])
        steps: Steps = []
        for _ in range(stream.between(1, _STEPS_MAX)):
            key = stream.choice(keys)
            if reads_only or stream.chance(0.4):
                steps.append(["r", key, None])
            else:
                self._elements += 1
                steps.append(["append", key, f"{self.name}.{self._elements}"])
        return steps

    def _invoke(self, steps: Steps) -> Operation:
        return self._history.invoke(self.name, "txn", None, steps)

    def _end(self, operation: Operation, outcome: Any, result: Steps | None = None) -> None:
        self._history.end(operation, outcome, result)
        self.world.probe(f"{'single' if result is None else 'txn'} {outcome}" if outcome == "ok" else f"told {outcome}")
        self.acknowledged += outcome == "ok"

    def _transact(self) -> Flow[None]:
        """Over shards, as ``tx.kv`` does it."""
        stream, options = self.stream, self.world.options
        steps = self._drawn(self._keys)
        operation = self._invoke(steps)
        gtid = gtids.new(SPACE, self._clock(), options["timeout"] / SECOND, stream.between(0, (1 << 80) - 1))
        rider = Rider()
        lists: dict[str, list[str]] = {}
        seen: Steps = []
        try:
            for kind, key, element in steps:
                if key not in lists:
                    item = yield from self.kv.get(key)
                    rider.saw(key, item)
                    lists[key] = [] if item is None else json.loads(item.value)
                if kind == "r":
                    seen.append([kind, key, list(lists[key])])
                else:
                    lists[key].append(element)
                    rider.put(key, json.dumps(lists[key]).encode(), None)
                    seen.append([kind, key, element])
        except QuorateError:
            self._end(operation, "fail")
            return
        ended = yield from self._commit(gtid, rider, operation, seen)
        if ended is not None and ended.decided is not None:
            try:
                if not ended.applied:
                    yield from apply(ended.decided, ended.parts)
                yield from ask("log: amend", self.log, "amend", [finished(ended.decided)])
            except HeuristicOutcome as error:
                self.world.violate(f"heuristic: {error}")
            except QuorateError:
                self.world.probe("left to others")
        self.store.let_go(Branch(gtid, STORE))

    def _commit(self, gtid: gtids.Gtid, rider: Rider, operation: Operation, seen: Steps) -> Flow[Ended | None]:
        early = self.stream.chance(self.world.options["early"])
        branch = Branch(gtid, STORE)
        try:
            riding, more = yield from ask("shards", self.store, "ride", branch, rider)
            parts = [Part(branch, self.store)] if more else []
            ended: Ended = yield from commit(gtid, parts, self.log, self.name, riding, early)
            self._end(operation, "ok", seen)
            return ended
        except Aborted:
            self._end(operation, "fail")
        except HeuristicOutcome as error:
            self.world.violate(f"heuristic: {error}")
        except NotYetApplied:
            self._end(operation, "ok", seen)
        except InDoubt:
            self._end(operation, "unknown")
        return None

    def _single(self) -> Flow[None]:
        """Of one shard: a get, a list of all its keys, or a commit on the condition of what was read."""
        stream = self.stream
        group = stream.choice(self.world.groups)
        keys = [key for key in self._keys if self.kv.group_of(key.encode()) == group]
        way = stream.between(0, 3)
        steps: Steps = [["r", stream.choice(keys), None]] if not way else [["r", key, None] for key in keys]
        if way > 1:
            steps = self._drawn(keys)
        operation = self._invoke(steps)
        try:
            if way == 1:
                prefix = keys[0].partition("/")[0] + "/"
                found = {item.key: json.loads(item.value) for item in (yield from self.kv.list(prefix))}
                self._end(operation, "ok", [["r", key, found.get(key, [])] for _, key, _ in steps])
                return
            seen: Steps = []
            lists: dict[str, list[str]] = {}
            conditions, writes = {}, {}
            for kind, key, element in steps:
                if key not in lists:
                    item = yield from self.kv.get(key)
                    lists[key] = [] if item is None else json.loads(item.value)
                    conditions[key] = modified_at(key, 0 if item is None else item.modified)
                if kind == "r":
                    seen.append([kind, key, list(lists[key])])
                else:
                    lists[key].append(element)
                    writes[key] = put(key, json.dumps(lists[key]).encode())
                    seen.append([kind, key, element])
        except QuorateError:
            self._end(operation, "fail")
            return
        try:
            if way:
                yield from self.kv.commit(list(conditions.values()), list(writes.values()))
            self._end(operation, "ok", seen)
        except (DeadlineExceeded, OutcomeUnknown) as error:
            done = getattr(error, "maybe_done", True)
            self._end(operation, "unknown" if done else "fail")
        except Conflict:
            self._end(operation, "fail")

    def look(self) -> Flow[None]:
        """At all there is, at the end."""
        for key in self._keys:
            operation = self._invoke([["r", key, None]])
            item = yield from self.kv.get(key)
            self._end(operation, "ok", [["r", key, [] if item is None else json.loads(item.value)]])

    # ---- recovery

    def _sweep_always(self) -> Flow[None]:
        every = self.world.options["sweep_every"] / SECOND
        while self.active and not self.world.failure:
            yield from sleep(every)
            try:
                if (yield from ask("sweep log: claim", self.log, "claim_sweep", self.name, self._clock(), every)):
                    yield from self.sweep()
            except QuorateError:
                continue

    def sweep(self) -> Flow[Report]:
        keep = self.world.options["keep"] / SECOND
        report = yield from sweep({STORE: self.store}, self.log, SPACE, self.name, keep=keep)
        self.world.probe("swept")
        for name, found in (("committed", report.committed), ("aborted", report.aborted)):
            if found:
                self.world.probe(f"recovery {name}")
        if report.forgotten:
            self.world.probe("forgotten")
        if report.heuristic:
            self.world.violate(f"heuristic: {report.heuristic}")
        self.reports.append(report)
        return report
