"""Recovery: what every participant lists as prepared, held against the decision log.

A branch whose transaction is decided follows the decision. One that is undecided and whose time is up is aborted *by a decision*: ABORT is written
by the same compare-and-set as COMMIT before anything is rolled back, so that a coordinator that slept and comes back loses. Then whoever still works for the
branch is fenced, it is rolled back, and the participant is asked again, for a slow prepare may have landed in between.

Then the other way round: every COMMIT whose branches are not all known to have followed is asked after, so that none is lost that a participant lost.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from quorate.kv.decisions import GRACE_SECONDS
from quorate.transactions.commit import Part, decide, finish_once
from quorate.transactions.flow import Done, Failed, Flow, ask, now, side_by_side
from quorate.transactions.gtid import Gtid
from quorate.transactions.log import TOO_LATE, DecisionLog
from quorate.transactions.participant import Branch, Outcome, Prepared
from quorate.transactions.records import Decision, Record

KEEP_SECONDS = 60.0
"""How long after its deadline a finished decision is kept."""
ASK_SECONDS = 30.0
"""For one participant's part of a sweep."""
ROUNDS = 3


class Report:
    """What a sweep found and did. Lists of (gtid, participant): ``committed``, ``aborted``, ``in_doubt`` (prepared, and not ended yet; with their age in
    seconds). ``foreign``: (participant, name) of what is not ours. ``heuristic``: (gtid, participant, what). ``unreachable``: participant → why.
    ``unknown``: (gtid, participant) where a COMMIT may have been lost by its participant, or cannot be told yet."""

    def __init__(self) -> None:
        self.committed: list[tuple[str, str]] = []
        self.aborted: list[tuple[str, str]] = []
        self.in_doubt: list[tuple[str, str, float]] = []
        self.foreign: list[tuple[str, str]] = []
        self.heuristic: list[tuple[str, str, str]] = []
        self.unreachable: dict[str, str] = {}
        self.unknown: list[tuple[str, str]] = []
        self.forgotten = 0


def sweep(
    participants: Mapping[str, Any], log: DecisionLog, space: str, by: str, *, keep: float = KEEP_SECONDS
) -> Flow[Report]:
    """One round over all participants and all decisions. Raises QuorateError if the log cannot be had."""
    report = Report()
    known: dict[Gtid, Record] = {
        record.gtid: record for record in (yield from ask("sweep log: records", log, "records"))
    }
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
    late = time > gtid.deadline + GRACE_SECONDS
    if record is None:
        # the list may be older than the decision
        record = yield from ask("sweep log: read", log, "read", gtid)
    if record is None:
        if not late:
            return False
        abort = Record(gtid, Decision.ABORT, [part.branch], time, by, "undecided, and its time is up")
        record = yield from decide(log, abort, None, time)
    known[gtid] = record
    if prepared.live and not late:
        # its coordinator is about to tell it
        return False
    kept = record.branch(part.name)
    if kept is not None:
        part.branch.token = kept.token or part.branch.token
    elif record.decision is Decision.COMMIT:
        report.heuristic.append((gtid.text, part.name, "prepared, though the decision does not name it"))
        return False
    try:
        yield from ask(f"sweep {part.name}: fence", part.participant, "fence", part.branch)
        outcome = yield from finish_once(record.decision, part)
    except Exception as error:
        report.unreachable[part.name] = str(error) or type(error).__name__
        return False
    if record.reason == TOO_LATE and outcome is not Outcome.ABORTED:
        # an old list: what is forgotten was finished
        return True
    yield from _note(record, part.branch, outcome, log, report)
    return True


def _note(record: Record, branch: Branch, outcome: Outcome, log: DecisionLog, report: Report) -> Flow[None]:
    """Count what was done, and write down what should not be."""
    expected = Outcome.COMMITTED if record.decision is Decision.COMMIT else Outcome.ABORTED
    ended = (record.gtid.text, branch.participant)
    if outcome is expected:
        (report.committed if expected is Outcome.COMMITTED else report.aborted).append(ended)
        return
    report.heuristic.append((*ended, outcome.value))
    if record.heuristic.get(branch.participant) != outcome.value:
        record.heuristic[branch.participant] = outcome.value
        yield from ask("sweep log: amend", log, "amend", [record])


def _ask_after(
    participants: Mapping[str, Any],
    log: DecisionLog,
    known: Mapping[Gtid, Record],
    listed: Mapping[str, set[Gtid]],
    report: Report,
) -> Flow[None]:
    """Close the COMMITs that all have followed, and find those that one has not."""
    time = yield from now()
    closed: list[Record] = []
    for record in known.values():
        if record.done or time <= record.gtid.deadline + GRACE_SECONDS:
            continue
        if record.decision is Decision.ABORT:
            if all(record.gtid not in left for left in listed.values()) and len(listed) == len(participants):
                record.done = True
                closed.append(record)
            continue
        followed = True
        for branch in record.branches:
            participant = participants.get(branch.participant)
            if participant is None or branch.participant not in listed or record.gtid in listed[branch.participant]:
                followed = False
                continue
            if branch.participant in record.heuristic:
                report.heuristic.append((record.gtid.text, branch.participant, record.heuristic[branch.participant]))
                continue
            (result,) = yield from side_by_side(
                [ask(f"sweep {participant.name}: outcome", participant, "outcome", branch)], ASK_SECONDS
            )
            outcome = result.value if isinstance(result, Done) else Outcome.UNKNOWN
            if outcome is Outcome.ABORTED:
                yield from _note(record, branch, outcome, log, report)
            elif outcome is not Outcome.COMMITTED:
                followed = False
                report.unknown.append((record.gtid.text, branch.participant))
        if followed:
            record.done = True
            closed.append(record)
    if closed:
        yield from ask("sweep log: amend", log, "amend", closed)


def _forget(
    participants: Mapping[str, Any],
    log: DecisionLog,
    space: str,
    known: Mapping[Gtid, Record],
    report: Report,
    keep: float,
) -> Flow[None]:
    """What is finished and old. What an operator has to see stays until it is resolved."""
    horizon = (yield from now()) - keep
    old = [
        record.gtid
        for record in known.values()
        if record.done and not record.heuristic and record.gtid.deadline < horizon
    ]
    if old:
        yield from ask("sweep log: forget", log, "forget", old, horizon)
        report.forgotten = len(old)
    # what a participant keeps to tell outcomes by is asked for as long as a decision is not finished
    before = min([horizon, *[record.gtid.deadline for record in known.values() if not record.done]])
    for participant in participants.values():
        if hasattr(participant, "tidy"):
            yield from side_by_side(
                [ask(f"sweep {participant.name}: tidy", participant, "tidy", before, space)], ASK_SECONDS
            )
