"""Transactions as they are shown: the tables to the letter, and the JSON by its keys."""

import pytest

from quorate.cli import txnviews
from quorate.transactions.gtid import Gtid, parse
from quorate.transactions.operate import NOT_CONFIGURED, Carried, Examined, Found
from quorate.transactions.participant import Blocking, Branch, Outcome, Prepared, Waiter
from quorate.transactions.records import Decision, Record, Resolution, unpack
from quorate.transactions.recovery import RESOLVED_KEEP_SECONDS, Report
from quorate.transactions.survey import Entry, Foreign, Survey, why_foreign_name

TEXT = "q.shop.01kbn5x0000000000000000000.1e8"
DEADLINE_AFTER = 1.48


def gtid() -> Gtid:
    found = parse(TEXT)
    assert found is not None
    return found


def record(decision: Decision, **more: object) -> Record:
    branches = [Branch(gtid(), "orders", "741"), Branch(gtid(), "stock")]
    return Record(gtid(), decision, branches, gtid().began + 1, "web1:17:ab", **more)  # type: ignore[arg-type]  # what each test gives


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0s"), (0.9, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (7860, "2h11m"), (86400, "1d00h"), (400000, "4d15h")],
)  # fmt: skip
def test_ages(seconds: float, shown: str) -> None:
    assert txnviews.age(seconds) == shown


def entries() -> Survey:
    survey = Survey(gtid().began + 125)
    survey.entries = [
        Entry(gtid(), None),
        Entry(gtid(), record(Decision.COMMIT, heuristic={"orders": "rolled back"}, done=True)),
    ]
    survey.entries[0].prepared = {"stock": Prepared("x", None, live=True), "orders": Prepared("x", None)}
    survey.entries.append(Entry(gtid(), record(Decision.ABORT, done=True)))
    return survey


def test_the_list() -> None:
    survey = entries()
    survey.foreign = [Foreign("orders", Prepared("theirs", None, 61.0, "bob"), "not ours")]
    survey.unreachable = {"gone": "connection refused"}
    assert txnviews.survey_text(survey, False) == (
        "transaction                            age    decision   decided    by          prepared at                state\n"
        f"{TEXT}  2m05s  undecided  -          -           orders, stock (connected)  undecided, its time is up\n"
        f"{TEXT}  2m05s  commit     2m04s ago  web1:17:ab  -                          heuristic: orders rolled back\n"
        "\n"
        "foreign branch  participant  age    owner  left alone, for it is\n"
        "theirs          orders       1m01s  bob    not ours\n"
        "\n"
        "unreachable  why\n"
        "gone         connection refused\n"
    )
    assert txnviews.survey_text(survey, True).splitlines()[3].endswith("finished")
    found = txnviews.survey_json(survey, True)
    assert [one["state"] for one in found["transactions"]] == [
        "undecided, its time is up",
        "heuristic: orders rolled back",
        "finished",
    ]
    assert found["transactions"][1]["heuristic"] == {"orders": "rolled back"}
    assert found["foreign"] == [
        {"participant": "orders", "name": "theirs", "age_seconds": 61.0, "owner": "bob", "why": "not ours"}
    ]


def test_without_the_log_no_decision_is_known() -> None:
    survey = entries()
    survey.log_error = "the store does not answer"
    text = txnviews.survey_text(survey, False)
    assert "  unknown   -          -  " in text
    assert "undecided" not in text
    assert text.endswith("the decision log cannot be read, so no decision is known: the store does not answer\n")
    assert txnviews.survey_json(survey, False)["transactions"][0]["decision"] == "unknown"


def test_states() -> None:
    began, deadline = gtid().began, gtid().deadline
    assert deadline == pytest.approx(began + DEADLINE_AFTER)
    entry = Entry(gtid(), None)
    assert entry.state(deadline + 1) == "undecided, in its time"
    assert entry.state(deadline + 3) == "undecided, its time is up"
    states = []
    for decision in Decision:
        entry = Entry(gtid(), record(decision))
        states.append(entry.state(deadline))
        entry.prepared["orders"] = Prepared("x", None)
        states.append(entry.state(deadline))
    assert states == ["not confirmed everywhere", "to be committed", "not confirmed everywhere", "to be rolled back"]
    entry = Entry(
        gtid(),
        record(Decision.COMMIT, done=True, heuristic={"orders": "rolled back"}, resolved=Resolution("bob", 1.0, "x")),
    )
    assert (entry.state(deadline), entry.unfinished) == ("acknowledged", False)


def test_one_in_full() -> None:
    examined = Examined(gtid(), record(Decision.COMMIT, heuristic={"stock": "rolled back"}), gtid().began + 125)
    orders, stock = Found("orders", Branch(gtid(), "orders", "741")), Found("stock", Branch(gtid(), "stock"))
    orders.prepared, orders.outcome = Prepared("x", None, 120.0, "app"), Outcome.PREPARED
    orders.blocking = Blocking(
        ["accounts RowExclusiveLock"], [Waiter("99 (bob)", 65.0, "a row", "update accounts")], "mostly"
    )
    stock.outcome = Outcome.ABORTED
    gone = Found("gone", None)
    gone.error = NOT_CONFIGURED
    examined.branches = [orders, stock, gone]
    examined.unreachable = {"other": "refused"}
    text = txnviews.examined_text(examined)
    assert f"transaction  {TEXT}\nspace        shop\n" in text
    assert "decision     commit\n" in text
    assert "by           web1:17:ab\nreason       -\nfollowed     not known everywhere\n" in text
    assert "heuristic    stock rolled back, against the decision\n" in text
    assert "orders     prepared" in text
    assert "741    2m00s ago       app\n" in text
    assert "gone       cannot be asked: there is no such participant in the configuration" in text
    assert "locks at orders (mostly): accounts RowExclusiveLock\n" in text
    assert "waiting session  for    on     statement\n99 (bob)         1m05s  a row  update accounts\n" in text
    assert "unreachable  why\nother        refused\n" in text
    found = txnviews.examined_json(examined)
    assert found["branches"][0]["blocking"]["waiters"][0]["seconds"] == 65.0
    assert [one["outcome"] for one in found["branches"]] == ["prepared", "rolled back", None]


def test_what_was_carried_out() -> None:
    carried = Carried(record(Decision.COMMIT))
    assert txnviews.carried_text(carried).endswith("nothing is prepared anywhere\n")
    carried.ended = {"orders": Outcome.COMMITTED, "stock": Outcome.ABORTED}
    carried.waiting = {"gone": "refused"}
    assert carried.against() == {"stock": "rolled back"}
    assert txnviews.carried_text(carried) == (
        f"transaction {TEXT} is decided: commit, by web1:17:ab\n"
        "participant  its branch\n"
        "orders       committed\n"
        "stock        rolled back\n"
        "gone         not ended yet: refused\n"
    )


def test_a_report() -> None:
    report = Report()
    assert txnviews.report_text(report) == "nothing to do\n"
    report.committed = [("g", "orders")]
    report.heuristic = [("h", "stock", "rolled back")]
    report.unresolved = [("h", "stock", "rolled back"), ("i", "stock", "committed")]
    report.foreign = [("orders", "theirs")]
    report.forgotten = 3
    assert txnviews.report_text(report) == (
        "what                              transaction  participant\n"
        "committed                         g            orders\n"
        "rolled back against its decision  h            stock\n"
        "committed against its decision    i            stock\n"
        "foreign, left alone               theirs       orders\n"
        "\n"
        "3 finished decisions were forgotten\n"
    )
    assert len(txnviews.report_json(report)["heuristic"]) == 2


def test_whose_a_branch_is() -> None:
    participants = {"orders": None, "stock": None}
    assert why_foreign_name("theirs", participants, "shop") == "not ours"
    assert why_foreign_name(f"{TEXT}/orders", participants, "shop") is None
    assert why_foreign_name(f"{TEXT}/orders", participants, "else") == "of the space shop"
    assert why_foreign_name(f"{TEXT}/gone", participants, "shop") == "of this space, and there is no participant 'gone'"


def test_an_acknowledgement_is_kept_in_the_record() -> None:
    closed = record(
        Decision.COMMIT, heuristic={"orders": "rolled back"}, done=True, resolved=Resolution("bob", 12.5, "mended")
    )
    found = unpack(closed.pack()).resolved
    assert found is not None
    assert (found.by, found.at, found.reason) == ("bob", 12.5, "mended")
    assert not closed.waits_for_operator
    assert record(Decision.COMMIT, heuristic={"orders": "rolled back"}).waits_for_operator
    assert RESOLVED_KEEP_SECONDS > 86400
