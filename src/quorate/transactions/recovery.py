"""Recovery: what every participant lists as prepared, held against the decision log.

A branch whose transaction is decided follows the decision. One that is undecided and whose time is up is aborted *by a decision*: ABORT is written
by the same compare-and-set as COMMIT before anything is rolled back, so that a coordinator that slept and comes back loses. Then whoever still works for the
branch is fenced, it is rolled back, and the participant is asked again, for a slow prepare may have landed in between.

Then the other way round: every COMMIT whose branches are not all known to have followed is asked after, so that none is lost that a participant lost; and
before an ABORT is closed everybody is asked whether somebody has committed a branch of it by hand.

What is safe and what is only timely: a transaction's outcome hangs on the compare-and-set and on the horizon alone. Clocks decide when somebody tries to abort, and
for how long records are kept: one that is wrong makes for transactions that are aborted early or late, not for any that are split.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from quorate.errors import RemoteProtocolError
from quorate.kv.decisions import GRACE_SECONDS
from quorate.transactions.commit import Part, against, decide, finish_once
from quorate.transactions.flow import Done, Failed, Flow, ask, now, side_by_side
from quorate.transactions.gtid import Gtid
from quorate.transactions.log import TOO_LATE, DecisionLog
from quorate.transactions.participant import Branch, Outcome, Prepared
from quorate.transactions.records import Decision, Record, amended

KEEP_SECONDS = 60.0
"""How long after its deadline a finished decision is kept."""
RESOLVED_KEEP_SECONDS = 7 * 86400.0
"""How long a decision is kept after an operator has acknowledged that a branch ended otherwise."""
ASK_SECONDS = 30.0
"""For one participant's part of a sweep."""
ROUNDS = 3
AHEAD_SECONDS = 60.0
"""A transaction that began later than that from now on began by a clock that was wrong: it is late, or it would stay prepared until its clock's time has come."""


class Report:
    """What a sweep found and did. Lists of (gtid, participant): ``committed``, ``aborted``, ``in_doubt`` (prepared, and not ended yet; with their age in
    seconds). ``foreign``: (participant, name) of what is not ours. ``heuristic``: (gtid, participant, what). ``unreachable``: participant → why.
    ``unknown``: (gtid, participant) where it cannot be told, or not yet, whether the participant has followed the decision. ``unreadable``: keys of the log's
    that hold no records. ``unresolved``: of recorded heuristic outcomes, old ones too, those that no operator has acknowledged, as in ``heuristic``."""

    def __init__(self) -> None:
        self.committed: list[tuple[str, str]] = []
        self.aborted: list[tuple[str, str]] = []
        self.in_doubt: list[tuple[str, str, float]] = []
        self.foreign: list[tuple[str, str]] = []
        self.heuristic: list[tuple[str, str, str]] = []
        self.unreachable: dict[str, str] = {}
        self.unknown: list[tuple[str, str]] = []
        self.unreadable: list[str] = []
        self.unresolved: list[tuple[str, str, str]] = []
        self.forgotten = 0

    def tell_heuristic(self, gtid: Gtid, participant: str, what: str) -> None:
        if (gtid.text, participant, what) not in self.heuristic:
            self.heuristic.append((gtid.text, participant, what))


def sweep(
    participants: Mapping[str, Any], log: DecisionLog, space: str, by: str, *, keep: float = KEEP_SECONDS
) -> Flow[Report]:
    """One round over all participants and all decisions. Raises QuorateError if the log cannot be had."""
    report = Report()
    known: dict[Gtid, Record] = {
        record.gtid: record for record in (yield from ask("sweep log: records", log, "records"))
    }
    report.unreadable = list(getattr(log, "unreadable", ()))
    results = yield from side_by_side(
        [_sweep_one(participant, log, space, by, known, report) for participant in participants.values()], ASK_SECONDS
    )
    listed: dict[str, set[Gtid]] = {}
    for name, result in zip(participants, results, strict=True):
        if isinstance(result, Failed):
            report.unreachable[name] = str(result.error) or type(result.error).__name__
        else:
            listed[name] = result.value
    yield from _ask_after(participants, log, known, listed, report)
    report.unresolved = [
        (record.gtid.text, participant, what)
        for record in known.values()
        if record.waits_for_operator
        for participant, what in record.heuristic.items()
    ]
    yield from _forget(participants, log, space, known, report, keep)
    return report


def _sweep_one(
    participant: Any, log: DecisionLog, space: str, by: str, known: dict[Gtid, Record], report: Report
) -> Flow[set[Gtid]]:
    """What is still prepared at the end, for whatever reason."""
    name = participant.name
    for again in range(ROUNDS):
        found: Sequence[Prepared] = yield from ask(f"sweep {name}: recover", participant, "recover")
        time = yield from now()
        ended = 0
        left: set[Gtid] = set()
        in_doubt: list[tuple[str, str, float]] = []
        for prepared in found:
            branch = prepared.branch
            if branch is None or branch.gtid.space != space:
                if not again:
                    report.foreign.append((name, prepared.name))
                continue
            if (yield from _end(Part(branch, participant), prepared, log, by, known, report, time)):
                ended += 1
            else:
                left.add(branch.gtid)
                in_doubt.append((branch.gtid.text, name, max(0.0, time - branch.gtid.began)))
        if not ended:
            break
    report.in_doubt += in_doubt
    return left


def _is_late(gtid: Gtid, time: float, age: float | None = None) -> bool:
    """By the clock; or it has been prepared (``age``) for longer than it was to last; or it began by a clock that was wrong."""
    lasts = gtid.deadline - gtid.began
    return (
        time > gtid.deadline + GRACE_SECONDS
        or (age is not None and age > lasts + GRACE_SECONDS)
        or gtid.began > time + AHEAD_SECONDS
    )


def _end(
    part: Part,
    prepared: Prepared,
    log: DecisionLog,
    by: str,
    known: dict[Gtid, Record],
    report: Report,
    time: float,
) -> Flow[bool]:
    """Whether the branch is ended now."""
    gtid = part.branch.gtid
    record = known.get(gtid)
    late = _is_late(gtid, time, prepared.age)
    try:
        if record is None:
            # the list may be older than the decision
            record = yield from ask("sweep log: read", log, "read", gtid)
        if record is None:
            if not late:
                return False
            abort = Record(gtid, Decision.ABORT, [part.branch], time, by, "undecided, and its time is up")
            record = yield from decide(log, abort, None, time)
    except RemoteProtocolError as error:
        # its record cannot be read: others' can
        report.unreachable[part.name] = str(error)
        return False
    known[gtid] = record
    if prepared.live and not late:
        # its coordinator is about to tell it
        return False
    kept = record.branch(part.name)
    if kept is not None:
        part.branch.token = kept.token or part.branch.token
    elif record.decision is Decision.COMMIT:
        yield from _against(record, part.name, "prepared, though the decision does not name it", known, log, report)
        return False
    try:
        if record.reason == TOO_LATE:
            # whatever it was, everybody had followed it: this list is old, or the branch came later or came back
            if (
                yield from ask(f"sweep {part.name}: outcome", part.participant, "outcome", part.branch)
            ) is Outcome.COMMITTED:
                return True
        elif kept is None or kept.token != part.branch.token:
            # so that it can be asked for if it turns out not to be there
            record = known[gtid] = amended(known[gtid], branches=[part.branch])
            yield from ask("sweep log: amend", log, "amend", [record])
        yield from ask(f"sweep {part.name}: fence", part.participant, "fence", part.branch)
        outcome = yield from finish_once(record.decision, part)
    except Exception as error:
        report.unreachable[part.name] = str(error) or type(error).__name__
        return False
    yield from _note(record, part.branch, outcome, known, log, report)
    return True


def _note(
    record: Record, branch: Branch, outcome: Outcome, known: dict[Gtid, Record], log: DecisionLog, report: Report
) -> Flow[None]:
    """Count what was done, and write down what should not be."""
    expected = Outcome.COMMITTED if record.decision is Decision.COMMIT else Outcome.ABORTED
    if outcome is not expected:
        yield from _against(record, branch.participant, outcome.value, known, log, report)
        return
    ended = (record.gtid.text, branch.participant)
    (report.committed if expected is Outcome.COMMITTED else report.aborted).append(ended)


def _against(
    record: Record, participant: str, what: str, known: dict[Gtid, Record], log: DecisionLog, report: Report
) -> Flow[None]:
    """Report what is against the decision, and write it down if that is new."""
    if not (yield from against(record, {participant: what}, log)):
        return
    report.tell_heuristic(record.gtid, participant, what)
    stands = known[record.gtid]
    if stands.heuristic.get(participant) != what:
        change = amended(stands, heuristic={participant: what})
        yield from ask("sweep log: amend", log, "amend", [change])
        known[record.gtid] = change


def _ask_after(
    participants: Mapping[str, Any],
    log: DecisionLog,
    known: dict[Gtid, Record],
    listed: Mapping[str, set[Gtid]],
    report: Report,
) -> Flow[None]:
    """Close the decisions that all have followed, and find those that one has not."""
    time = yield from now()
    closed: list[Record] = []
    for record in list(known.values()):
        if record.done or record.reason == TOO_LATE or not _is_late(record.gtid, time):
            continue
        followed = yield from (_all_committed if record.decision is Decision.COMMIT else _none_committed)(
            record, participants, log, known, listed, report
        )
        if followed:
            known[record.gtid] = amended(known[record.gtid], done=True)
            closed.append(known[record.gtid])
    if closed:
        yield from ask("sweep log: amend", log, "amend", closed)


def _all_committed(
    record: Record,
    participants: Mapping[str, Any],
    log: DecisionLog,
    known: dict[Gtid, Record],
    listed: Mapping[str, set[Gtid]],
    report: Report,
) -> Flow[bool]:
    followed = True
    for branch in record.branches:
        participant = participants.get(branch.participant)
        if participant is None:
            # somebody who knows it has to ask
            report.unknown.append((record.gtid.text, branch.participant))
        if participant is None or branch.participant not in listed or record.gtid in listed[branch.participant]:
            followed = False
            continue
        if branch.participant in record.heuristic:
            report.tell_heuristic(record.gtid, branch.participant, record.heuristic[branch.participant])
            continue
        outcome = yield from _outcome(participant, branch)
        if outcome is Outcome.ABORTED:
            yield from _note(record, branch, outcome, known, log, report)
        elif outcome is not Outcome.COMMITTED:
            followed = False
            report.unknown.append((record.gtid.text, branch.participant))
    return followed


def _none_committed(
    record: Record,
    participants: Mapping[str, Any],
    log: DecisionLog,
    known: dict[Gtid, Record],
    listed: Mapping[str, set[Gtid]],
    report: Report,
) -> Flow[bool]:
    """Everybody is asked, for who took part in what was aborted is not written down. Who cannot tell without a token, and has left none, is believed:
    nobody who looked has seen its branch prepared."""
    if len(listed) != len(participants) or any(record.gtid in left for left in listed.values()):
        return False
    followed = True
    for name, participant in participants.items():
        if name in record.heuristic:
            report.tell_heuristic(record.gtid, name, record.heuristic[name])
            continue
        kept = record.branch(name)
        outcome = yield from _outcome(participant, kept or Branch(record.gtid, name))
        if outcome is Outcome.COMMITTED:
            yield from _note(record, kept or Branch(record.gtid, name), outcome, known, log, report)
        elif outcome is not Outcome.ABORTED and kept is not None and kept.token:
            followed = False
            report.unknown.append((record.gtid.text, name))
    return followed


def _outcome(participant: Any, branch: Branch) -> Flow[Outcome]:
    (result,) = yield from side_by_side(
        [ask(f"sweep {participant.name}: outcome", participant, "outcome", branch)], ASK_SECONDS
    )
    found: Outcome = result.value if isinstance(result, Done) else Outcome.UNKNOWN
    return found


def _forget(
    participants: Mapping[str, Any],
    log: DecisionLog,
    space: str,
    known: Mapping[Gtid, Record],
    report: Report,
    keep: float,
) -> Flow[None]:
    """What is finished and old. What an operator has to see stays until it is resolved."""
    time = yield from now()
    before = time - keep
    old = [
        record.gtid
        for record in known.values()
        if record.done and record.gtid.deadline < before and not _seen_by_operators(record, time)
    ]
    horizon = 0.0
    if old:
        # no higher than it must be: all that is undecided below it is aborted, and a clock may be wrong
        horizon = max(gtid.deadline for gtid in old) + 0.001
        yield from ask("sweep log: forget", log, "forget", old, horizon)
        report.forgotten = len(old)
    # what cannot be read may be a decision that is not finished
    tidying = [one for one in participants.values() if hasattr(one, "tidy") and not report.unreadable]
    if old and tidying:
        # What a participant keeps to tell outcomes by is asked for as long as a decision is not finished. Below the horizon there are no new ones now;
        # a coordinator whose clock is slow may have taken one since the sweep began.
        records: Sequence[Record] = yield from ask("sweep log: records again", log, "records")
        horizon = min([horizon, *[record.gtid.deadline for record in records if not record.done]])
    for participant in tidying:
        (tidied,) = yield from side_by_side(
            [ask(f"sweep {participant.name}: tidy", participant, "tidy", horizon, space)], ASK_SECONDS
        )
        if isinstance(tidied, Failed):
            why = str(tidied.error) or type(tidied.error).__name__
            report.unreachable.setdefault(
                participant.name, f"what it kept of old transactions cannot be deleted: {why}"
            )


def _seen_by_operators(record: Record, time: float) -> bool:
    """Whether they still have to see it, or may want to see who closed it."""
    return record.waits_for_operator or (
        record.resolved is not None and time < record.resolved.at + RESOLVED_KEEP_SECONDS
    )
