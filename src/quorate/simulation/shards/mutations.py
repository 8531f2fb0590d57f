"""Deliberate bugs in what carries transactions over shards: each must be noticed, or what the simulation finds in good code means nothing."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from quorate.kv import commands, decisions, intents, resolving
from quorate.kv import service as services
from quorate.kv.intents import Intent, Locks, Outcomes
from quorate.kv.machine import Machine
from quorate.kv.resolving import Work
from quorate.kv.results import Locker
from quorate.kv.snapshot import snapshot
from quorate.simulation.mutation import Mutation, Patch
from quorate.simulation.scheduler import MILLISECOND
from quorate.simulation.shards import options as swarm
from quorate.transactions.flow import Failed, Flow, side_by_side
from quorate.transactions.kv import Kv
from quorate.transactions.participant import Branch, Vote

_intent = Intent.__init__
_finish = Machine._finish
_prepare = Machine._prepare
_commit_one = Machine._commit_one
_finished = Machine._finished
_against = Locks.against


def _without_intents(machine: Machine) -> Iterator[bytes]:
    locks, machine.locks = machine.locks, Locks()
    pieces = list(snapshot(machine))
    machine.locks = locks
    return iter(pieces)


def _without_outcomes(machine: Machine) -> Iterator[bytes]:
    outcomes, machine.outcomes = machine.outcomes, Outcomes()
    pieces = list(snapshot(machine))
    machine.outcomes = outcomes
    return iter(pieces)


def _settle_none(lockers: Sequence[Locker], group: int, by: str) -> Work[list[Locker]]:
    yield from ()
    return list(lockers)


def _lock_only_writes(self: Intent, *arguments: Any) -> None:
    _intent(self, *arguments)
    self.shared, self.ranges = [], []


def _lock_only_reads(self: Locks, start: bytes, end: bytes | None) -> list[Intent]:
    return []


def _finish_twice(self: Machine, body: bytes) -> bytes:
    id_, commit, until_ms = commands.finish_of(body)
    kept: dict[bytes, Intent] = self.__dict__.setdefault("_kept", {})
    intent = self.locks.intents.get(id_) or kept.get(id_)
    result = _finish(self, body)
    if commit and intent is not None:
        if id_ in kept:
            return _finished(self, id_, intent.writes, until_ms)
        kept[id_] = intent
    return result


def _prepare_whatever_was(self: Machine, body: bytes) -> bytes:
    outcome = self.outcomes.of.get(commands.prepare_of(body)[0])
    if outcome is not None and outcome.kind == commands.ABORTED:
        outcomes, self.outcomes = self.outcomes, Outcomes()
        result = _prepare(self, body)
        self.outcomes = outcomes
        return result
    return _prepare(self, body)


def _prepare_on_no_conditions(self: Machine, body: bytes) -> bytes:
    id_, decision, deadline_ms, at_once, commit = commands.prepare_of(body)
    _, writes, _ = intents.parts_of(commit)
    return _prepare(self, commands.prepare_body(id_, decision, deadline_ms, commands.commit_body([], writes), at_once))


def _quickly(self: Machine, body: bytes) -> bytes:
    locks, self.locks = self.locks, Locks()
    result = _commit_one(self, body)
    self.locks = locks
    return result


def _not_remembered(self: Machine, id_: bytes, writes: Any, until_ms: int) -> bytes:
    result = _finished(self, id_, writes, until_ms)
    del self.outcomes.of[id_]
    for ids in self.outcomes._by_minute.values():
        ids.pop(id_, None)
    return result


def _abort_alone(place: decisions.Place, deadline: float, by: str) -> Work[bool | None]:
    record = yield from resolving._look(place.key)
    if record is not None:
        return decisions.is_commit(record)
    time = yield from resolving._clock()
    return False if time > deadline + decisions.GRACE_SECONDS else None


def _prepared_is_committed(place: decisions.Place, deadline: float, by: str) -> Work[bool | None]:
    record = yield from resolving._look(place.key)
    return record is None or decisions.is_commit(record)


def _readers_drop_out(self: Kv, branch: Branch) -> Flow[Vote]:
    """Where nothing is written, what was read is only looked at."""
    work = yield from self._of(branch)
    assert work.shards is not None
    work.asked = True
    writing = {group: parts for group, parts in work.shards.items() if parts[1]}
    found = yield from side_by_side(
        [
            self._prepare(branch, group, *parts, False) if group in writing else self._call("look", "commit", *parts)
            for group, parts in work.shards.items()
        ]
    )
    for result in found:
        if isinstance(result, Failed):
            raise result.error
    branch.token = ",".join(str(group) for group in sorted(writing))
    return Vote.YES if writing else Vote.READ_ONLY


def _mutation(name: str, what: str, *patches: Patch, **more: Any) -> Mutation:
    return Mutation(swarm.draw, name, what, *patches, **more)


_BUSY: Final = {
    "keys": 1,
    "groups": 2,
    "processes": 4,
    "think": MILLISECOND,
    "requests": 40,
    "duration": 3000 * MILLISECOND,
}
_DYING: Final = {**_BUSY, "die_rate": 0.2, "timeout": 300 * MILLISECOND}
_LATE: Final = {
    **_DYING,
    "groups": 3,
    "die_rate": 0.5,
    "late_rate": 0.5,
    "sweep_every": 500 * MILLISECOND,
    "duration": 8000 * MILLISECOND,
}
_SNAPSHOTS: Final = {"snapshot_entries": 5, "kept_entries": 0}

_ALL: Final = (
    _mutation("intents-not-in-snapshots", "what is prepared is not in snapshots", Patch(services, "snapshot", _without_intents), faults=("crash", "power"), options={**_DYING, **_SNAPSHOTS}),
    _mutation("outcomes-not-in-snapshots", "what became of it is not in snapshots", Patch(services, "snapshot", _without_outcomes), faults=("crash", "power"), options={**_DYING, **_SNAPSHOTS}),
    _mutation("decided-is-not-in-force", "who meets an intent does not ask what was decided", Patch(resolving, "settle_all", _settle_none), options={**_BUSY, "early": 1.0, "single": 0.5}),
    _mutation("reads-not-locked", "what was read is not locked after the prepare", Patch(Intent, "__init__", _lock_only_writes), options=_BUSY),
    _mutation("writes-not-locked", "what is written is not locked after the prepare", Patch(Locks, "changing", _lock_only_reads), options=_BUSY),
    _mutation("quick-way-unlocked", "the quick way of single puts sees no locks", Patch(Machine, "_commit_one", _quickly), options={**_BUSY, "single": 0.5}),
    _mutation("finished-twice", "what was finished is carried out again when it is asked for again", Patch(Machine, "_finish", _finish_twice), options={**_BUSY, "late_rate": 0.2}),
    _mutation("no-fence", "what was aborted can be prepared", Patch(Machine, "_prepare", _prepare_whatever_was), options=_LATE),
    _mutation("conditions-not-looked-at", "conditions are not looked at by the prepare", Patch(Machine, "_prepare", _prepare_on_no_conditions), options=_BUSY),
    _mutation("outcome-not-remembered", "what was committed is not remembered", Patch(Machine, "_finished", _not_remembered), options=_LATE),
    _mutation("aborted-without-decision", "who waits too long aborts without a decision", Patch(resolving, "_decision", _abort_alone), options={**_BUSY, "timeout": 300 * MILLISECOND, "sleep_rate": 0.2, "skew": 2000 * MILLISECOND}),
    _mutation("prepared-is-committed", "what is prepared and not decided is taken for committed", Patch(resolving, "_decision", _prepared_is_committed), options=_BUSY),
    _mutation("readers-drop-out", "a shard where nothing is written drops out at its vote", Patch(Kv, "prepare", _readers_drop_out), options=_BUSY),
)  # fmt: skip

MUTATIONS: Final[dict[str, Mutation]] = {mutation.name: mutation for mutation in _ALL}
