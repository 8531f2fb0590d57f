"""A program that moves money between the two halves of the bank, and dies at one point of the commit.

    python -m tests.chaos.txn_worker '{"postgres": …, "mariadb": {…}, "decisions": …, "account": 1, "strike": ["before", "log: decide"]}'

With ``znodes``, the path of a znode, the money goes from PostgreSQL to a child of it; with ``zope`` the transaction is one of Zope's. Without ``strike`` it moves 1 between random accounts, on and on, and tells of each on a line: ``<outcome> <account>``.
"""

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from quorate import transactions
from quorate.transactions.errors import Aborted, InDoubt, NotYetApplied, ParticipantError
from quorate.transactions.sync import Coordinator

AMOUNT = 7


def coordinator_of(task: dict[str, Any], watch: Callable[[str, str], None] = lambda when, point: None) -> Coordinator:
    participants: list[Any] = [transactions.Postgres("orders", task["postgres"])]
    if "mariadb" in task:
        participants.append(transactions.MariaDB("stock", **task["mariadb"]))
    decisions = task["decisions"]
    chosen = Path(decisions) if decisions.startswith("/") else decisions
    return Coordinator(
        chosen, participants, timeout=task.get("timeout", 2.0), sweep_every=task.get("sweep_every"), watch=watch
    )


def move(coordinator: Coordinator, account: int, amount: int, early: bool = False) -> str:
    """The outcome, as the user is told."""
    try:
        with coordinator.transaction(acknowledge="decided" if early else None) as tx:
            pg = tx.enlist("orders")
            pg.execute("update accounts set balance = balance - %s where id = %s", (amount, account))
            with tx.enlist("stock").cursor() as cursor:
                cursor.execute("update accounts set balance = balance + %s where id = %s", (amount, account))
    except Aborted:
        return "aborted"
    except NotYetApplied:
        return "committed"
    except InDoubt:
        return "doubt"
    except (psycopg.Error, pymysql.Error, ParticipantError, OSError):
        return "aborted"
    return "committed"


class Bystander:
    """Another data manager of a transaction of Zope's, so that ours has somebody to wait for."""

    transaction_manager = None

    def _nothing(self, transaction: Any) -> None:
        return

    abort = tpc_begin = commit = tpc_vote = tpc_finish = tpc_abort = _nothing

    def sortKey(self) -> str:  # noqa: N802  # as IDataManager has it
        return "bystander"


def move_by_zope(coordinator: Coordinator, account: int, amount: int) -> None:
    import transaction

    from quorate.transactions.zope import join

    with transaction.manager as zopes:
        zopes.join(Bystander())
        ours = join(coordinator)
        ours.enlist("orders").execute("update accounts set balance = balance - %s where id = %s", (amount, account))
        with ours.enlist("stock").cursor() as cursor:
            cursor.execute("update accounts set balance = balance + %s where id = %s", (amount, account))


def move_to_znode(coordinator: Coordinator, znodes: str, account: int, amount: int) -> None:
    """From PostgreSQL to the account's znode below ``znodes``."""
    path = f"{znodes}/{account}"
    with coordinator.transaction() as tx:
        pg = tx.enlist("orders")
        pg.execute("update accounts set balance = balance - %s where id = %s", (amount, account))
        balance = int(tx.znodes.get(path) or b"0")
        tx.znodes.set(path, b"%d" % (balance + amount))


def warm_up(coordinator: Coordinator, *names: str) -> None:
    """Connections are opened and looked at, for that takes its time, and the time of a transaction that is to be struck is short."""
    first = coordinator.transaction(timeout=60.0)
    for name in names or ("orders", "stock"):
        first.enlist(name)
    first.rollback()


def die(task: dict[str, Any]) -> None:
    when, point = task["strike"]
    armed = False

    def watch(at: str, where: str) -> None:
        if armed and at == when and where == point:
            os.kill(os.getpid(), signal.SIGKILL)

    coordinator = coordinator_of(task, watch)
    warm_up(coordinator, *(["orders"] if "znodes" in task else []))
    armed = True
    if "znodes" in task:
        move_to_znode(coordinator, task["znodes"], task["account"], AMOUNT)
    elif "zope" in task:
        move_by_zope(coordinator, task["account"], AMOUNT)
    else:
        move(coordinator, task["account"], AMOUNT)
    sys.stdout.write("survived\n")


def work(task: dict[str, Any]) -> None:
    """``threads`` at once, on one coordinator, until standard input ends."""
    coordinator = coordinator_of(task)
    coordinator.start()
    ended = threading.Event()
    output = threading.Lock()

    def one(number: int) -> None:
        stream = random.Random(task["seed"] * 100 + number)
        while not ended.is_set():
            account = stream.randint(1, task["accounts"])
            outcome = move(coordinator, account, 1, early=stream.random() < 0.3)
            with output:
                sys.stdout.write(f"{outcome} {account}\n")
                sys.stdout.flush()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(task["threads"])]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    coordinator.close()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    (die if "strike" in given else work)(given)
