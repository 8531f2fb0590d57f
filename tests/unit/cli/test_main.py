"""The program as a user types it: exit statuses, one-sentence errors, what is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

import quorate


def run(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "quorate", *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout, done.stderr


def test_version() -> None:
    assert run("--version") == (0, f"quorate {quorate.__version__}\n", "")


def test_help_names_every_command() -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(name in out for name in ("up", "zookeeper", "status"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND"),
        (["nope"], "invalid choice: 'nope'"),
        (["up", "--nodes", "2"], "invalid choice: 2"),
        (["up", "--services", "kafka"], "there is no service 'kafka'; the services are: zookeeper"),
        (["up", "--port-base", "65530"], "--port-base must be from 1 to"),
        (["up", "--data-dir", "/dev/null"], "/dev/null cannot be the data folder: it is a file"),
        (["up", "--data-dir", "/dev/null/data"], "the data folder /dev/null/data cannot be used: not a directory"),
        (["up", "--data-dir", "/usr"], "the data folder /usr is not empty and was not made by quorate"),
        (["zookeeper"], "ZOO.CFG"),
        (["zookeeper", "/dev/null/zoo.cfg"], "/dev/null/zoo.cfg: the file cannot be read (Not a directory)"),
        (["txn"], "ACTION"),
        (["txn", "list"], "no configuration: name a file with --config or in $QUORATE_TXN"),
        (["txn", "list", "--config", "/nowhere.toml"], "/nowhere.toml: cannot be read: no such file or directory"),
        (["txn", "resolve", "x", "--config", "x"], "one of the arguments --abort --commit --acknowledge is required"),
        (["status"], "HOST:PORT"),
        (["status", "localhost:x"], "'localhost:x' is not an address, expected HOST:PORT"),
        (["status", "localhost:1:2"], "is not an address"),
        (["status", "localhost:1", "--timeout", "0"], "the timeout must be"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(words: list[str], message: str) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith("quorate: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_mistake_in_a_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "zoo.cfg"
    path.write_text("dataDir=/data\nticktime=5\n")
    assert run("zookeeper", str(path)) == (
        2,
        "",
        f"quorate: {path}:2: ticktime is not a setting of ZooKeeper; did you mean tickTime?\n",
    )


def imported(*words: str) -> set[str]:
    """The modules loaded once the command ended in a user's mistake."""
    code = "import sys; from quorate.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return set(done.stdout.split())


def test_a_command_loads_no_other_command() -> None:
    """Start-up time: a member must not pay for what it does not use."""
    member = imported("zookeeper", "/dev/null/zoo.cfg")
    assert "quorate.zookeeper.zoocfg" in member
    assert not member & {"quorate.cli.up", "quorate.cli.status", "ctypes", "subprocess", "json", "difflib"}
    status = imported("status", "localhost:x")
    assert "quorate.cli.status" in status
    assert not status & {"quorate.cli.up", "quorate.cli.zookeeper", "asyncio", "uvloop"}
