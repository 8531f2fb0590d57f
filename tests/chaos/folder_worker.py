"""A program that writes a file and a row in one transaction, and dies at one point of the commit.

python -m tests.chaos.folder_worker '{"postgres": …, "folder": …, "decisions": …, "key": "7", "strike": ["before", "log: decide"]}'
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.folder import Folder

from quorate import transactions
from quorate.transactions.sync import Coordinator


def coordinator_of(task: dict[str, Any], watch: Callable[[str, str], None] = lambda when, point: None) -> Coordinator:
    participants = [transactions.Postgres("orders", task["postgres"]), Folder("reports", task["folder"])]
    return Coordinator(
        Path(task["decisions"]), participants, timeout=task.get("timeout", 5.0), sweep_every=None, watch=watch
    )


def write(coordinator: Coordinator, key: str) -> None:
    with coordinator.transaction() as tx:
        tx.enlist("orders").execute("insert into reports values (%s)", (key,))
        files = tx.enlist("reports")
        files.write(f"{key}/one", b"1")
        files.write(f"{key}/other", b"2")


def die(task: dict[str, Any]) -> None:
    def watch(at: str, where: str) -> None:
        if [at, where] == task["strike"]:
            os.kill(os.getpid(), signal.SIGKILL)

    write(coordinator_of(task, watch), task["key"])
    sys.stdout.write("survived\n")


if __name__ == "__main__":
    die(json.loads(sys.argv[1]))
