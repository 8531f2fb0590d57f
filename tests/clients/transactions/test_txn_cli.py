"""`quorate txn` on real databases: transactions whose coordinator was killed, branches that operators ended by hand, branches of strangers."""

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.bank import INNODB_SECONDS, Bank, until
from tests.support.kvcluster import KvCluster
from tests.support.processes import free_ports

from quorate.cli.main import main
from quorate.cli.txn import needs_somebody
from quorate.transactions.flow import side_by_side
from quorate.transactions.gtid import parse
from quorate.transactions.recovery import Report
from quorate.transactions.sync import Coordinator

ROOT = Path(__file__).parents[3]
AMOUNT = 7
"""What tests/chaos/txn_worker.py moves."""


class Desk:
    """An operator's: a configuration file, and the program."""

    def __init__(
        self, bank: Bank, folder: Path, capture: pytest.CaptureFixture[str], decisions: str = "./decisions"
    ) -> None:
        self.bank = bank
        self.folder = folder
        self.decisions = decisions
        self._capture = capture
        self.file = folder / "transactions.toml"
        self.write()

    def write(
        self,
        postgres: str = "",
        mariadb_port: int = 0,
        space: str = "default",
        keep: float = 60.0,
        sweep_every: float = 10.0,
    ) -> None:
        self.file.write_text(
            f"""
            [transactions]
            space = "{space}"
            decisions = "{self.decisions}"
            keep = {keep}
            sweep_every = {sweep_every}

            [[participants]]
            name = "orders"
            kind = "postgres"
            conninfo = "{postgres or self.bank.postgres.conninfo}"

            [[participants]]
            name = "stock"
            kind = "mariadb"
            port = {mariadb_port or self.bank.mariadb.port}
            user = "tester"
            database = "test"
            """
        )

    def run(self, action: str, *words: str) -> tuple[int, str, str]:
        status = main(["txn", action, "--config", str(self.file), *words])
        out, err = self._capture.readouterr()
        return status, out, err

    def json(self, action: str, *words: str) -> tuple[int, Any]:
        status, out, err = self.run(action, *words, "--json")
        assert err == ""
        return status, json.loads(out)

    def refused(self, action: str, *words: str, status: int = 2) -> str:
        """The one sentence."""
        found, out, err = self.run(action, *words)
        assert (found, out) == (status, ""), err
        assert err.startswith("quorate: ")
        assert err.count("\n") == 1
        return err.removeprefix("quorate: ").rstrip("\n")

    def killed(self, when: str, point: str, account: int = 1, timeout: float = 2.0) -> str:
        """A transaction whose coordinator was killed there; its name."""
        log = str(self.folder / self.decisions) if self.decisions.startswith(".") else self.decisions
        task: dict[str, Any] = {
            "postgres": self.bank.postgres.conninfo, "mariadb": self.bank.mariadb.parameters, "decisions": log,
            "account": account, "strike": [when, point],
        }  # fmt: skip
        known = self._known()
        while True:
            words = [sys.executable, "-m", "tests.chaos.txn_worker", json.dumps({**task, "timeout": timeout})]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
            if (done.returncode, done.stdout) != (0, "survived\n"):
                break
            # the machine is too busy for that: the transaction was aborted before it came to the point
            assert self._known() == known
            timeout *= 2
            assert timeout < 60, done
        assert done.returncode == -9, done
        (name,) = self._known() - known
        return name

    def _known(self) -> set[str]:
        found = {str(name).rpartition("/")[0] for (name,) in self.bank.pg_run("select gid from pg_prepared_xacts")}
        for _, size, _, data in self.bank.my_run("xa recover"):
            found.add(data[: int(size)] if isinstance(data, str) else data[: int(size)].decode())
        return found

    def mariadb_has_let_go(self) -> None:
        """Only then can another session end the branch."""
        until(
            lambda: self.bank.my_run("select count(*) from information_schema.innodb_trx where trx_mysql_thread_id = 0")[0][0],
            "the branch is detached", pause=INNODB_SECONDS,
        )  # fmt: skip


@pytest.fixture
def desk(bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(bank, tmp_path, capsys)


def test_an_undecided_transaction_is_listed_shown_and_aborted(desk: Desk) -> None:
    gtid = desk.killed("before", "log: decide", timeout=600)
    status, found = desk.json("list")
    (one,) = found["transactions"]
    assert status == 0
    assert (one["gtid"], one["decision"], one["state"]) == (gtid, "undecided", "undecided, in its time")
    assert one["prepared"] == ["orders", "stock"]
    assert not one["overdue"]
    assert 0 <= one["age_seconds"] < 300
    assert one["deadline"] == pytest.approx(one["began"] + 600)
    assert (found["foreign"], found["unreachable"], found["log_error"]) == ([], {}, None)
    status, out, _ = desk.run("list")
    heads, row = out.splitlines()
    assert status == 0
    assert heads.split()[:3] == ["transaction", "age", "decision"]
    assert row.split()[0] == gtid
    assert "undecided, in its time" in row
    assert "orders, stock" in row
    status, shown = desk.json("show", gtid)
    assert status == 0
    assert [(branch["participant"], branch["outcome"]) for branch in shown["branches"]] == [
        ("orders", "prepared"),
        ("stock", "prepared"),
    ]
    assert "max_prepared" not in desk.refused("resolve", gtid, "--abort")
    assert "needs a --reason" in desk.refused("resolve", gtid, "--abort")
    assert "cannot be committed by hand" in desk.refused("resolve", gtid, "--commit", "--reason", "I know better")
    status, resolved = desk.json("resolve", gtid, "--abort", "--reason", "its host is gone")
    assert status == 0
    assert (resolved["decision"], resolved["reason"]) == ("abort", "its host is gone")
    assert resolved["decided_by"].startswith("operator ")
    assert resolved["ended"] == {"orders": "rolled back", "stock": "rolled back"}
    desk.bank.check(moved=0)
    assert desk.run("list") == (0, "nothing is unfinished\n", "")
    status, found = desk.json("list", "--all")
    assert [(one["gtid"], one["decision"]) for one in found["transactions"]] == [(gtid, "abort")]
    # again, and against it
    status, resolved = desk.json("resolve", gtid, "--abort", "--reason", "again")
    assert (status, resolved["reason"], resolved["waiting"]) == (0, "its host is gone", {})
    assert "is decided: it was aborted by operator" in desk.refused("resolve", gtid, "--commit", "--reason", "x")


def test_a_decided_one_is_carried_out_and_not_otherwise(desk: Desk) -> None:
    gtid = desk.killed("before", "orders: commit", timeout=600)
    _, found = desk.json("list")
    (one,) = found["transactions"]
    assert (one["decision"], one["state"]) == ("commit", "to be committed")
    assert one["decided_by"].split(":")[0]
    assert "was committed by" in desk.refused("resolve", gtid, "--abort", "--reason", "no")
    status, out, _ = desk.run("resolve", gtid, "--commit")
    assert status == 0, out
    assert "orders       committed" in out
    assert "stock        committed" in out
    desk.bank.check(moved=AMOUNT)
    assert desk.run("list")[1] == "nothing is unfinished\n"
    status, out, _ = desk.run("show", gtid)
    assert status == 0
    assert "decision     commit" in out
    assert "followed     everywhere\n" in out
    assert out.count("committed") == 2


def test_what_it_locks_and_who_waits(desk: Desk) -> None:
    gtid = desk.killed("before", "log: decide", account=3, timeout=600)
    desk.mariadb_has_let_go()
    waiting = [
        threading.Thread(target=run, args=(desk.bank,)) for run in (_update_postgres, _update_postgres, _update_mariadb)
    ]
    for thread in waiting:
        thread.start()
    try:

        def shown() -> dict[str, Any]:
            _, found = desk.json("show", gtid)
            return {branch["participant"]: branch["blocking"] for branch in found["branches"]}

        def waiters() -> dict[str, int]:
            return {name: len(found["waiters"]) for name, found in shown().items()}

        until(lambda: waiters() == {"orders": 2, "stock": 1}, "all wait", pause=INNODB_SECONDS)
        found = shown()
        assert "accounts RowExclusiveLock" in found["orders"]["locks"]
        for waiter in found["orders"]["waiters"]:
            assert waiter["statement"] == "update accounts set balance = balance + 0 where id = 3"
            assert waiter["seconds"] >= 0
            assert "postgres" in waiter["session"]
        (waiter,) = found["stock"]["waiters"]
        assert waiter["statement"] == "update accounts set balance = balance - 0 where id = 3"
        assert "accounts" in waiter["lock"]
        assert found["stock"]["locks"][0].endswith("tables")
        _, out, _ = desk.run("show", gtid)
        assert "update accounts set balance = balance + 0 where id = 3" in out
        assert "locks at stock" in out
    finally:
        status, _, _ = desk.run("resolve", gtid, "--abort", "--reason", "others wait")
        for thread in waiting:
            thread.join()
    assert status == 0
    desk.bank.check(moved=0)


def _update_postgres(bank: Bank) -> None:
    bank.pg_run("update accounts set balance = balance + 0 where id = 3")


def _update_mariadb(bank: Bank) -> None:
    bank.my_run("update accounts set balance = balance - 0 where id = 3")


def test_the_waiters_of_another_are_not_this_ones(desk: Desk) -> None:
    mine, other = (desk.killed("before", "log: decide", account=account, timeout=600) for account in (3, 4))
    thread = threading.Thread(target=_update_postgres, args=(desk.bank,))
    thread.start()
    try:

        def waiters(gtid: str) -> int:
            _, found = desk.json("show", gtid)
            return sum(len(b["blocking"]["waiters"]) for b in found["branches"] if b["participant"] == "orders")

        until(lambda: waiters(mine) == 1, "it waits")
        assert waiters(other) == 0
        # InnoDB does not tell them apart, and that is said
        _, found = desk.json("show", other)
        (note,) = (
            b["blocking"]["note"] for b in found["branches"] if b["participant"] == "stock" and not b["connected"]
        )
        assert "does not tell them apart" in note
    finally:
        for gtid in (mine, other):
            assert desk.run("resolve", gtid, "--abort", "--reason", "test")[0] == 0
        thread.join()


def test_sweep_ends_what_can_be_ended(desk: Desk) -> None:
    committed = desk.killed("before", "orders: commit", account=1, timeout=0.5)
    undecided = desk.killed("before", "log: decide", account=2, timeout=0.5)
    young = desk.killed("before", "log: decide", account=3, timeout=600)
    reports: list[Any] = []

    def ended() -> bool:
        status, report = desk.json("sweep")
        reports.append(report)
        assert not report["unreachable"]
        assert any(one["gtid"] == young for one in report["in_doubt"])
        found = {
            kind: {one["gtid"] for report in reports for one in report[kind]} for kind in ("committed", "rolled_back")
        }
        return status == 0 and found == {"committed": {committed}, "rolled_back": {undecided}}

    until(ended, "both are ended")
    status, out, _ = desk.run("sweep")
    assert status == 0
    assert out.splitlines()[0].split() == ["what", "transaction", "participant"]
    assert f"{young}  orders" in out
    assert desk.run("resolve", young, "--abort", "--reason", "test")[0] == 0
    desk.bank.check(moved=AMOUNT)
    assert desk.run("list")[1] == "nothing is unfinished\n"


def test_what_needs_somebody() -> None:
    gtid = parse("q.s.01kbn5x0000000000000000000.1e8")
    assert gtid is not None
    report = Report()
    assert not needs_somebody(report, gtid.deadline)
    report.in_doubt.append((gtid.text, "orders", 1.0))
    assert not needs_somebody(report, gtid.deadline + 1)
    assert needs_somebody(report, gtid.deadline + 3)
    for attribute, value in (
        ("unknown", [(gtid.text, "orders")]),
        ("unreachable", {"orders": "gone"}),
        ("heuristic", [(gtid.text, "orders", "rolled back")]),
        ("unresolved", [(gtid.text, "orders", "rolled back")]),
    ):
        report = Report()
        report.foreign.append(("orders", "x"))
        assert not needs_somebody(report, gtid.deadline)
        setattr(report, attribute, value)
        assert needs_somebody(report, gtid.deadline)


def test_an_operator_who_went_his_own_way_is_found_and_acknowledged(desk: Desk) -> None:
    gtid = desk.killed("before", "orders: commit", account=5, timeout=0.5)
    desk.bank.pg_run(f"rollback prepared '{gtid}/orders'")
    assert "prepared" in desk.refused("resolve", gtid, "--acknowledge", "--reason", "mended")

    def reported() -> Any:
        _, report = desk.json("sweep")
        return [one for one in report["heuristic"] if one["gtid"] == gtid]

    until(reported, "it is found")
    assert reported() == [{"gtid": gtid, "participant": "orders", "outcome": "rolled back"}]
    assert desk.run("sweep")[0] == 1
    _, found = desk.json("list")
    (one,) = found["transactions"]
    assert one["state"] == "heuristic: orders rolled back"
    assert one["heuristic"] == {"orders": "rolled back"}
    status, out, _ = desk.run("show", gtid)
    assert status == 0
    assert "orders rolled back, against the decision" in out
    assert "followed     everywhere else\n" in out
    status, carried = desk.json("resolve", gtid, "--commit")
    assert (status, carried["against"]) == (1, {"orders": "rolled back"})
    assert "needs a --reason" in desk.refused("resolve", gtid, "--acknowledge")
    # it stays until somebody has seen to it, however old it gets
    desk.write(keep=0.0)
    assert desk.run("sweep")[0] == 1
    assert reported()
    desk.bank.pg_run(f"update accounts set balance = balance - {AMOUNT} where id = 5")
    status, out, _ = desk.run("resolve", gtid, "--acknowledge", "--reason", "moved it by hand, ticket 12")
    assert status == 0
    assert "acknowledged by operator " in out
    assert desk.run("sweep")[0] == 0
    assert desk.run("list")[1] == "nothing is unfinished\n"
    _, found = desk.json("list", "--all")
    (one,) = found["transactions"]
    assert one["state"] == "acknowledged"
    assert one["acknowledged"]["reason"] == "moved it by hand, ticket 12"
    assert one["acknowledged"]["by"].startswith("operator ")
    assert "was acknowledged by operator" in desk.refused("resolve", gtid, "--acknowledge", "--reason", "twice")
    _, out, _ = desk.run("show", gtid)
    assert "ticket 12" in out
    desk.bank.check(moved=AMOUNT)


def test_there_is_nothing_to_acknowledge_where_all_followed(desk: Desk) -> None:
    gtid = desk.killed("before", "orders: commit", timeout=600)
    assert desk.run("resolve", gtid, "--commit")[0] == 0
    assert "there is nothing to acknowledge" in desk.refused("resolve", gtid, "--acknowledge", "--reason", "x")


def test_a_branch_that_cannot_be_asked_for_keeps_the_record_open(desk: Desk) -> None:
    gtid = desk.killed("before", "orders: commit", account=6, timeout=600)
    desk.bank.pg_run(f"rollback prepared '{gtid}/orders'")
    assert desk.run("resolve", gtid, "--commit")[0] == 1
    desk.write(mariadb_port=1)
    assert "stock cannot be asked" in desk.refused("resolve", gtid, "--acknowledge", "--reason", "x", status=1)
    desk.write()
    assert desk.run("resolve", gtid, "--acknowledge", "--reason", "x")[0] == 0


def test_strangers_are_told_and_left_alone(desk: Desk) -> None:
    (desk.folder / "decisions").touch()
    with psycopg.connect(desk.bank.postgres.conninfo, autocommit=True) as connection:
        connection.execute("begin; update accounts set balance = balance where id = 9; prepare transaction 'theirs'")
    other = "q.elsewhere.01kbn5x0000000000000000000.1e8"
    with desk.bank.my() as connection2, connection2.cursor() as cursor:
        cursor.execute(f"xa start '{other}','stock',0x51524154")
        cursor.execute("update accounts set balance = balance + 0 where id = 9")
        cursor.execute("insert into accounts values (1000, 0)")
        cursor.execute(f"xa end '{other}','stock',0x51524154")
        cursor.execute(f"xa prepare '{other}','stock',0x51524154")
    try:
        status, found = desk.json("list")
        assert (status, found["transactions"]) == (0, [])
        assert [(one["participant"], one["name"], one["why"]) for one in found["foreign"]] == [
            ("orders", "theirs", "not ours"),
            ("stock", f"{other}/stock", "of the space elsewhere"),
        ]
        assert found["foreign"][0]["owner"] == "postgres"
        status, out, _ = desk.run("list")
        assert out.startswith("nothing is unfinished\n")
        assert "theirs" in out
        status, report = desk.json("sweep")
        assert (status, len(report["foreign"])) == (0, 2)
        assert "never touched" in desk.refused("resolve", "theirs", "--abort", "--reason", "x")
        assert "of the space 'elsewhere'" in desk.refused("resolve", other, "--abort", "--reason", "x")
        assert "of the space 'elsewhere'" in desk.refused("show", other)
        assert len(desk.bank.prepared()) >= 2
    finally:
        desk.bank.pg_run("rollback prepared 'theirs'")
        desk.mariadb_has_let_go()
        desk.bank.my_run(f"xa rollback '{other}','stock',0x51524154")


def test_one_who_cannot_be_reached_is_told_and_the_rest_is_shown(desk: Desk) -> None:
    gtid = desk.killed("before", "log: decide", timeout=600)
    desk.write(mariadb_port=1)
    status, found = desk.json("list")
    assert status == 1
    assert list(found["unreachable"]) == ["stock"]
    assert [(one["gtid"], one["prepared"]) for one in found["transactions"]] == [(gtid, ["orders"])]
    status, out, _ = desk.run("list")
    assert status == 1
    assert "unreachable  why" in out
    status, shown = desk.json("show", gtid)
    assert (status, list(shown["unreachable"])) == (1, ["stock"])
    assert desk.run("show", gtid)[0] == 1
    status, resolved = desk.json("resolve", gtid, "--abort", "--reason", "test")
    assert (status, list(resolved["ended"]), list(resolved["waiting"])) == (1, ["orders"], ["stock"])
    status, report = desk.json("sweep")
    assert (status, list(report["unreachable"])) == (1, ["stock"])
    desk.write()
    status, resolved = desk.json("resolve", gtid, "--abort")
    # PostgreSQL tells by the transaction's number, which is kept with the decision
    assert (status, resolved["ended"]) == (0, {"orders": "rolled back", "stock": "rolled back"})
    desk.bank.check(moved=0)


def test_what_nobody_knows(desk: Desk) -> None:
    (desk.folder / "decisions").touch()
    gtid = "q.default.01kbn5x0000000000000000000.1e8"
    for words in (["--abort"], ["--commit"], ["--acknowledge"]):
        assert "nobody knows" in desk.refused("resolve", gtid, *words, "--reason", "x")
    assert "nobody knows" in desk.refused("show", gtid, status=1)
    assert desk.run("list") == (0, "nothing is unfinished\n", "")
    assert desk.run("list", "--all") == (0, "no transactions\n", "")
    assert desk.run("sweep") == (0, "nothing to do\n", "")


def test_a_log_that_is_not_there_is_not_made(desk: Desk) -> None:
    for words in (["list"], ["sweep"], ["serve"]):
        assert "there is no decision log at" in desk.refused(*words)
    assert not (desk.folder / "decisions").exists()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KvCluster]:
    folder = tmp_path / "store"
    folder.mkdir()
    with KvCluster(folder, 1) as cluster:
        yield cluster


def test_decisions_in_the_store(
    bank: Bank, store: KvCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(bank, tmp_path, capsys, decisions=",".join(store.addresses))
    gtid = desk.killed("before", "orders: commit", timeout=600)
    undecided = desk.killed("before", "log: decide", account=2, timeout=600)
    monkeypatch.setenv("QUORATE_TXN", str(desk.file))
    _, found = desk.json("list")
    assert [(one["gtid"], one["decision"]) for one in found["transactions"]] == [
        (gtid, "commit"),
        (undecided, "undecided"),
    ]
    assert desk.json("resolve", undecided, "--abort", "--reason", "test")[1]["ended"] == {
        "orders": "rolled back", "stock": "rolled back",
    }  # fmt: skip
    assert desk.json("resolve", gtid, "--commit")[0] == 0
    bank.check(moved=AMOUNT)
    store.close()
    status, found = desk.json("list")
    assert status == 1
    assert found["log_error"]


class Served:
    """`quorate txn serve`, as a user runs it."""

    def __init__(self, desk: Desk) -> None:
        (self.port,) = free_ports(1)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "quorate", "txn", "serve", "--config", str(desk.file), "--http", f"127.0.0.1:{self.port}"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def values(self) -> dict[tuple[str, str], float]:
        """Of the metrics by participant; by name and participant."""
        return {
            (sample.name.removeprefix("quorate_transactions_"), sample.labels["participant"]): sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
            if "participant" in sample.labels
        }

    def end(self) -> str:
        self.process.terminate()
        _, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        return err


def test_one_who_looks_after_them_where_no_coordinator_runs(desk: Desk) -> None:
    committed = desk.killed("before", "orders: commit", account=1, timeout=0.5)
    undecided = desk.killed("before", "log: decide", account=2, timeout=0.5)
    young = desk.killed("before", "log: decide", account=3, timeout=600)
    mine = desk.killed("before", "orders: commit", account=4, timeout=0.5)
    desk.bank.pg_run(f"rollback prepared '{mine}/orders'")
    desk.write(sweep_every=0.2)
    served = Served(desk)
    try:
        until(lambda: served.get("/health")[0] == 200, "it is healthy")

        def settled() -> bool:
            values = served.values()
            return (values["in_doubt", "orders"], values["in_doubt", "stock"], values["unresolved", "orders"]) == (
                1,
                1,
                1,
            )

        until(settled, "all but one are ended")
        values = served.values()
        assert values["oldest_in_doubt_seconds", "orders"] > 0
        assert values["unreachable", "stock"] == 0
        assert (values["prepared_slots_used", "orders"], values["prepared_slots_max", "orders"]) == (1, 64)
        assert values["oldest_prepared_age_transactions", "orders"] >= 1
        assert (values["lost_branches", "stock"], values["prepared_branches", "stock"]) == (0, 1)
        assert values["heuristic_total", "orders"] == 1
        health = json.loads(served.get("/health")[1])
        assert (health["healthy"], health["error"], health["in_doubt"], health["unresolved"]) == (True, None, 2, 1)
        assert served.get("/else")[0] == 404
        assert desk.run("resolve", mine, "--acknowledge", "--reason", "test")[0] == 0
        assert desk.run("resolve", young, "--abort", "--reason", "test")[0] == 0
        until(
            lambda: {v for (name, _), v in served.values().items() if name in ("in_doubt", "unresolved")} == {0},
            "it sees",
        )
    finally:
        told = served.end()
    assert f"recovery committed {committed} at " in told
    assert f"recovery rolled {undecided} back at " in told
    assert f"{mine} was rolled back at orders, against its decision" in told
    assert "Traceback" not in told


def test_a_branch_that_the_server_does_not_list_is_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    gtid = desk.killed("before", "log: decide", timeout=600)
    desk.mariadb_has_let_go()
    with Coordinator.from_file(desk.file, sweep_every=None) as coordinator:
        stock = coordinator.engine.participants["stock"]
        assert coordinator.shell.run(stock.measure()) == {"lost_branches": 0, "prepared_branches": 1}
        # what a server says that has lost one: it is too rare to be had on demand
        monkeypatch.setattr(stock, "recover", lambda: side_by_side([]))
        assert coordinator.shell.run(stock.measure()) == {"lost_branches": 1, "prepared_branches": 0}
    assert desk.run("resolve", gtid, "--abort", "--reason", "test")[0] == 0


def test_a_branch_that_was_ended_just_before_is_not_lost(desk: Desk) -> None:
    """InnoDB tells of it for another 0.1 s, to whoever asks while somebody does."""
    gtid = desk.killed("before", "log: decide", timeout=600)
    desk.mariadb_has_let_go()
    with Coordinator.from_file(desk.file, sweep_every=None) as coordinator:
        stock = coordinator.engine.participants["stock"]
        assert coordinator.shell.run(stock.measure()) == {"lost_branches": 0, "prepared_branches": 1}
        looks = "select count(*) from information_schema.innodb_trx where trx_mysql_thread_id = 0"
        assert desk.bank.my_run(looks) == [(1,)]
        ((form, size, _, name),) = desk.bank.my_run("xa recover")
        raw = name if isinstance(name, bytes) else str(name).encode()
        desk.bank.my_run(f"xa rollback X'{raw[:size].hex()}', X'{raw[size:].hex()}', {form}")
        assert coordinator.shell.run(stock.measure()) == {"lost_branches": 0, "prepared_branches": 0}
    assert desk.run("resolve", gtid, "--abort", "--reason", "test")[0] == 0


def test_who_may_not_ask_for_locks_is_told_and_sees_the_rest(desk: Desk) -> None:
    gtid = desk.killed("before", "log: decide", timeout=600)
    _as_root(desk.bank, "create or replace user plain@'%'", "grant all on test.* to plain@'%'")
    desk.file.write_text(desk.file.read_text().replace('user = "tester"', 'user = "plain"'))
    status, shown = desk.json("show", gtid)
    assert status == 0
    (stock,) = (branch for branch in shown["branches"] if branch["participant"] == "stock")
    assert (stock["outcome"], stock["blocking"]) == ("prepared", None)
    assert "PROCESS" in stock["blocking_error"]
    assert "what it locks at stock cannot be asked" in desk.run("show", gtid)[1]
    with Coordinator.from_file(desk.file, sweep_every=None) as coordinator:
        assert coordinator.shell.run(coordinator.engine.participants["stock"].measure()) == {}
    desk.write()
    assert desk.run("resolve", gtid, "--abort", "--reason", "test")[0] == 0
    _as_root(desk.bank, "drop user plain@'%'")


def _as_root(bank: Bank, *statements: str) -> None:
    with (
        pymysql.connect(unix_socket=str(bank.mariadb.folder / "socket"), user="root") as connection,
        connection.cursor() as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)


def test_it_says_when_it_cannot_work(bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    desk = Desk(bank, tmp_path, capsys, decisions=f"127.0.0.1:{port}")
    desk.write(sweep_every=0.2)
    served = Served(desk)
    try:
        until(
            lambda: "error" in served.get("/health")[1] and json.loads(served.get("/health")[1])["error"], "it says why"
        )
        status, text = served.get("/health")
        assert (status, json.loads(text)["healthy"]) == (503, False)
        assert 'quorate_transactions_sweeps_total{result="failed"}' in served.get("/metrics")[1]
    finally:
        told = served.end()
    assert "no recovery this time" in told


def test_mistakes_of_serving(desk: Desk) -> None:
    (desk.folder / "decisions").touch()
    assert "is not an address" in desk.refused("serve", "--http", "9100")
