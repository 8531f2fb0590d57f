"""Transactions as ``quorate txn`` shows them: tables for people, and the same as JSON."""

import datetime
from collections.abc import Mapping
from typing import Any

from quorate.cli.table import table
from quorate.transactions.gtid import Gtid
from quorate.transactions.operate import Carried, Examined, Found
from quorate.transactions.participant import Blocking
from quorate.transactions.records import Record
from quorate.transactions.recovery import Report
from quorate.transactions.survey import Entry, Foreign, Survey

NOTHING = "-"


def age(seconds: float) -> str:
    """Two units at most: ``12s``, ``3m05s``, ``2h10m``, ``3d04h``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def clock(seconds: float) -> str:
    """UTC, to the second."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


# ---- list


def survey_text(survey: Survey, everything: bool) -> str:
    entries = _chosen(survey, everything)
    parts = []
    if entries:
        rows: list[tuple[str, ...]] = [("transaction", "age", "decision", "decided", "by", "prepared at", "state")]
        rows += [_row(entry, survey) for entry in entries]
        parts.append(table(rows))
    else:
        parts.append("no transactions\n" if everything else "nothing is unfinished\n")
    if survey.foreign:
        foreign: list[tuple[str, ...]] = [("foreign branch", "participant", "age", "owner", "left alone, for it is")]
        foreign += [
            (one.name, one.participant, NOTHING if one.age is None else age(one.age), one.owner or NOTHING, one.why)
            for one in survey.foreign
        ]
        parts.append(table(foreign))
    if survey.unreachable:
        parts.append(_unreachable(survey.unreachable))
    if survey.log_error:
        parts.append(f"the decision log cannot be read, so no decision is known: {survey.log_error}\n")
    return "\n".join(parts)


def _chosen(survey: Survey, everything: bool) -> list[Entry]:
    return [entry for entry in survey.entries if everything or entry.unfinished]


def _row(entry: Entry, survey: Survey) -> tuple[str, ...]:
    record = entry.record
    if record is None:
        decision, at, by = ("unknown" if survey.log_error else "undecided"), NOTHING, NOTHING
    else:
        decision, at, by = record.decision.value, f"{age(survey.time - record.at)} ago", record.by
    where = ", ".join(f"{name}{' (connected)' if one.live else ''}" for name, one in sorted(entry.prepared.items()))
    state = "unknown" if record is None and survey.log_error else entry.state(survey.time)
    return (entry.gtid.text, age(survey.time - entry.gtid.began), decision, at, by, where or NOTHING, state)


def _unreachable(participants: Mapping[str, str]) -> str:
    return table([("unreachable", "why"), *sorted(participants.items())])


def survey_json(survey: Survey, everything: bool) -> dict[str, Any]:
    return {
        "transactions": [
            {
                **_times(entry.gtid, survey.time),
                **_decision(entry.record, bool(survey.log_error)),
                "prepared": sorted(entry.prepared),
                "state": "unknown" if entry.record is None and survey.log_error else entry.state(survey.time),
                "overdue": entry.overdue(survey.time),
            }
            for entry in _chosen(survey, everything)
        ],
        "foreign": [_foreign(one) for one in survey.foreign],
        "unreachable": survey.unreachable,
        "log_error": survey.log_error or None,
    }


def _foreign(one: Foreign) -> dict[str, Any]:
    return {
        "participant": one.participant,
        "name": one.name,
        "age_seconds": one.age,
        "owner": one.owner or None,
        "why": one.why,
    }


def _times(gtid: Gtid, time: float) -> dict[str, Any]:
    return {
        "gtid": gtid.text,
        "began": round(gtid.began, 3),
        "deadline": round(gtid.deadline, 3),
        "age_seconds": round(time - gtid.began, 3),
    }


def _decision(record: Record | None, unknown: bool = False) -> dict[str, Any]:
    if record is None:
        return {"decision": "unknown" if unknown else "undecided"}
    resolved = record.resolved
    return {
        "decision": record.decision.value,
        "decided_at": round(record.at, 3),
        "decided_by": record.by,
        "reason": record.reason or None,
        "done": record.done,
        "heuristic": record.heuristic,
        "acknowledged": None if resolved is None else {"by": resolved.by, "at": resolved.at, "reason": resolved.reason},
    }


# ---- show


def examined_text(examined: Examined) -> str:
    gtid, record, time = examined.gtid, examined.record, examined.time
    left = gtid.deadline - time
    lines = [
        ("transaction", gtid.text),
        ("space", gtid.space),
        ("began", f"{clock(gtid.began)} ({age(time - gtid.began)} ago)"),
        ("deadline", f"{clock(gtid.deadline)} ({f'in {age(left)}' if left > 0 else f'{age(-left)} ago'})"),
    ]
    if record is None:
        lines.append(("decision", "undecided"))
    elif examined.forgotten:
        lines.append(
            ("decision", "none is kept: what is still prepared was aborted, or never decided, and is rolled back")
        )
    else:
        lines.append(("decision", record.decision.value))
        lines.append(("decided", f"{clock(record.at)} ({age(time - record.at)} ago)"))
        lines.append(("by", record.by))
        lines.append(("reason", record.reason or NOTHING))
        everywhere = "everywhere else" if record.heuristic else "everywhere"
        lines.append(("followed", everywhere if record.done else "not known everywhere"))
        for name, what in sorted(record.heuristic.items()):
            lines.append(("heuristic", f"{name} {what}, against the decision"))
        if record.resolved is not None:
            resolved = record.resolved
            lines.append(("acknowledged", f"{clock(resolved.at)} by {resolved.by}: {resolved.reason}"))
    parts = [table([*lines])]
    if examined.branches:
        rows: list[tuple[str, ...]] = [("branch at", "outcome", "token", "prepared since", "owner")]
        rows += [_branch(found) for found in examined.branches]
        parts.append(table(rows))
    parts += [_blocking(found) for found in examined.branches if found.blocking is not None or found.blocking_error]
    if examined.unreachable:
        parts.append(_unreachable(examined.unreachable))
    return "\n".join(parts)


def _branch(found: Found) -> tuple[str, ...]:
    prepared = found.prepared
    outcome = f"cannot be asked: {found.error}" if found.error else found.outcome.value if found.outcome else NOTHING
    if prepared is not None and prepared.live:
        outcome += ", and its connection is there"
    since = NOTHING if prepared is None or prepared.age is None else f"{age(prepared.age)} ago"
    token = found.branch.token if found.branch is not None else ""
    return (found.participant, outcome, token or NOTHING, since, (prepared.owner if prepared else "") or NOTHING)


def _blocking(found: Found) -> str:
    if found.blocking is None:
        return f"what it locks at {found.participant} cannot be asked: {found.blocking_error}\n"
    blocking = found.blocking
    note = f" ({blocking.note})" if blocking.note else ""
    text = f"locks at {found.participant}{note}: {', '.join(blocking.locks) or 'none'}\n"
    if not blocking.waiters:
        return text + f"nobody at {found.participant} waits for it\n"
    rows = [("waiting session", "for", "on", "statement")]
    rows += [
        (
            one.session,
            NOTHING if one.seconds is None else age(one.seconds),
            one.lock or NOTHING,
            one.statement or NOTHING,
        )
        for one in blocking.waiters
    ]
    return text + table(rows)


def examined_json(examined: Examined) -> dict[str, Any]:
    return {
        **_times(examined.gtid, examined.time),
        "space": examined.gtid.space,
        **_decision(None if examined.forgotten else examined.record),
        "forgotten": examined.forgotten,
        "branches": [_branch_json(found) for found in examined.branches],
        "unreachable": examined.unreachable,
    }


def _branch_json(found: Found) -> dict[str, Any]:
    prepared = found.prepared
    return {
        "participant": found.participant,
        "outcome": None if found.outcome is None else found.outcome.value,
        "token": (found.branch.token if found.branch is not None else "") or None,
        "prepared_seconds": None if prepared is None else prepared.age,
        "connected": prepared is not None and prepared.live,
        "owner": None if prepared is None else prepared.owner or None,
        "error": found.error or None,
        "blocking": None if found.blocking is None else _blocking_json(found.blocking),
        "blocking_error": found.blocking_error or None,
    }


def _blocking_json(blocking: Blocking) -> dict[str, Any]:
    return {
        "locks": blocking.locks,
        "note": blocking.note or None,
        "waiters": [
            {"session": one.session, "seconds": one.seconds, "lock": one.lock, "statement": one.statement}
            for one in blocking.waiters
        ],
    }


# ---- resolve


def carried_text(carried: Carried) -> str:
    record = carried.record
    text = f"transaction {record.gtid} is decided: {record.decision.value}, by {record.by}\n"
    rows = [("participant", "its branch")]
    rows += [(name, outcome.value) for name, outcome in sorted(carried.ended.items())]
    rows += [(name, f"not ended yet: {why}") for name, why in sorted(carried.waiting.items())]
    if len(rows) == 1:
        return text + "nothing is prepared anywhere\n"
    return text + table(rows)


def carried_json(carried: Carried) -> dict[str, Any]:
    return {
        "gtid": carried.record.gtid.text,
        **_decision(carried.record),
        "ended": {name: outcome.value for name, outcome in carried.ended.items()},
        "waiting": carried.waiting,
        "against": carried.against(),
    }


def acknowledged_json(record: Record) -> dict[str, Any]:
    return {"gtid": record.gtid.text, **_decision(record)}


# ---- sweep


def report_rows(report: Report) -> list[tuple[str, str, str]]:
    """What was done or found, transaction and participant of each."""
    return [
        *[("committed", gtid, name) for gtid, name in report.committed],
        *[("rolled back", gtid, name) for gtid, name in report.aborted],
        *[(f"prepared for {age(old)}", gtid, name) for gtid, name, old in report.in_doubt],
        *[(f"{what} against its decision", gtid, name) for gtid, name, what in heuristics(report)],
        *[("decided, and cannot be told whether it is done here", gtid, name) for gtid, name in report.unknown],
        *[("foreign, left alone", what, name) for name, what in report.foreign],
    ]


def heuristics(report: Report) -> list[tuple[str, str, str]]:
    """Each once: those that were found now are recorded too, most of them."""
    return list(dict.fromkeys([*report.heuristic, *report.unresolved]))


def report_text(report: Report) -> str:
    rows = report_rows(report)
    parts = [table([("what", "transaction", "participant"), *rows])] if rows else ["nothing to do\n"]
    if report.unreachable:
        parts.append(_unreachable(report.unreachable))
    if report.forgotten:
        parts.append(f"{report.forgotten} finished decisions were forgotten\n")
    return "\n".join(parts)


def report_json(report: Report) -> dict[str, Any]:
    def pairs(found: list[tuple[str, str]]) -> list[dict[str, str]]:
        return [{"gtid": gtid, "participant": name} for gtid, name in found]

    return {
        "committed": pairs(report.committed),
        "rolled_back": pairs(report.aborted),
        "in_doubt": [
            {"gtid": g, "participant": name, "age_seconds": round(old, 3)} for g, name, old in report.in_doubt
        ],
        "heuristic": [{"gtid": gtid, "participant": name, "outcome": what} for gtid, name, what in heuristics(report)],
        "unknown": pairs(report.unknown),
        "foreign": [{"participant": name, "name": what} for name, what in report.foreign],
        "unreachable": report.unreachable,
        "forgotten": report.forgotten,
    }
