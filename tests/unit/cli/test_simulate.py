"""``quorate simulate`` as users type it: what it prints, its exit status, and that a seed gives the same run everywhere."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.unit.simulation.lockservice import LOCATION, SIMULATION

from quorate.cli import main as program
from quorate.cli.simulate import parse_seeds
from quorate.errors import UsageError
from quorate.simulation.protocols import PROTOCOLS
from quorate.simulation.zookeeper.run import SIMULATION as ZAB

SLICE = "1..60"
BROKEN = ("--mutation", "acknowledge-before-durable")
"""A bug that shows in nearly every run."""


@pytest.fixture(autouse=True)
def lock_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The small protocol of the tests is one that the command knows; files go to a folder of their own."""
    monkeypatch.setitem(PROTOCOLS, "lock", LOCATION)
    monkeypatch.chdir(tmp_path)


def simulate(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capfd.readouterr()
    status = program.main(["simulate", *words])
    out, err = capfd.readouterr()
    return status, out, err


def first_failing(mutation: str = "forgetful") -> int:
    with SIMULATION.mutations[mutation].applied():
        return next(seed for seed in range(1, 61) if SIMULATION.run(seed).failure)


# ---- many runs


def test_seeds_that_pass_are_summed_up(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = simulate(capfd, "lock", "--seeds", SLICE, "--workers", "2")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(r"60 seeds, 0 failed, in [\d.]+ s with 2 workers", lines[0])
    events = sum(SIMULATION.run(seed).events for seed in range(1, 61))
    assert lines[1].startswith(f"{events:,} events, ")
    operations = sum(SIMULATION.run(seed).operations for seed in range(1, 61))
    assert lines[2] == f"{operations:,} operations, {operations:,} commits"
    assert re.fullmatch(r"longest recovery 0.0 virtual seconds, seed \d+", lines[3])
    assert len(lines) == 4


def test_each_failure_is_one_line_and_the_status_1(capfd: pytest.CaptureFixture[str]) -> None:
    with SIMULATION.mutations["forgetful"].applied():
        expected = {
            f"seed {seed} failed: {result.failure}" for seed in range(1, 61) if (result := SIMULATION.run(seed)).failure
        }
    status, out, _ = simulate(capfd, "lock", "--seeds", SLICE, "--workers", "2", "--mutation", "forgetful")
    assert status == 1
    assert {line for line in out.splitlines() if line.startswith("seed ")} == expected
    assert f"60 seeds, {len(expected)} failed" in out


def test_a_breakdown_of_the_simulation_is_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = simulate(capfd, "lock", "--seeds", "4..6", "--mutation", "exploding")
    assert status == 1
    assert "seed 5 failed: the simulator broke down: ZeroDivisionError: the simulator itself is wrong\n" in out
    assert "3 seeds, 1 failed" in out


def test_it_stops_after_so_many_failures(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("--seeds", "1..100000", "--mutation", "forgetful", "--stop-after", "1")
    status, out, _ = simulate(capfd, "lock", *words, "--workers", "1")
    assert status == 1
    assert out.startswith(f"seed {first_failing()} failed: mutual exclusion")


def test_the_time_budget_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = simulate(capfd, "lock", "--seeds", "1..100000000", "--time-budget", "1s", "--workers", "1")
    assert status == 0
    assert " with 1 worker\n" in out


def test_verbose_lists_what_came_about(capfd: pytest.CaptureFixture[str]) -> None:
    crashes = [SIMULATION.run(seed).probes["crash"] for seed in range(1, 11)]
    _, out, _ = simulate(capfd, "lock", "--seeds", "1..10", "--verbose")
    assert re.search(rf"^ *{sum(crashes)} times in +{sum(map(bool, crashes))} runs  crash$", out, re.MULTILINE)


def test_fresh_seeds_are_named_so_that_they_can_be_repeated(capfd: pytest.CaptureFixture[str]) -> None:
    words = ("--mutation", "forgetful", "--workers", "1")
    _, out, _ = simulate(capfd, "lock", "--seeds", "random:40", *words)
    seeds = re.match(r"seeds (\d+\.\.\d+)\n", out)
    assert seeds is not None
    _, again, _ = simulate(capfd, "lock", "--seeds", seeds[1], *words)

    def failures(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("seed ")]

    assert failures(out) == failures(again)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", [7]), ("1..4", [1, 2, 3, 4]), ("1..2,9,4..5", [1, 2, 9, 4, 5]), ("0..0", [0])],
)
def test_seeds_as_they_are_written(text: str, seeds: list[int]) -> None:
    found: tuple[Iterable[int], int] = parse_seeds(text)
    assert (list(found[0]), found[1]) == (seeds, len(seeds))


@pytest.mark.parametrize(
    "text", ["", "1..", "5..1", "a", "1...3", "1,,2", "-1", "random:0", "random:x", "1..9999999999999999"]
)
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def test_progress_goes_to_a_terminal_alone(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quorate", "simulate", "zab", "--seeds", "1..6", "--workers", "1"],
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=120,
            check=True,
        )
        os.close(theirs)
        theirs = -1
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:
            pass  # the end of a terminal that nobody writes to any more
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
    assert b"/6 seeds, 0 failed" in shown
    assert b"\x1b" not in done.stdout
    assert done.stdout.startswith(b"6 seeds, 0 failed")


def test_what_was_run_is_summed_up_when_it_is_interrupted() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "quorate", "simulate", "zab", "--seeds", "1..1000000", "--workers", "1", *BROKEN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert first.startswith(b"seed ")
    assert re.search(rb"^\d+ seeds, \d+ failed, ", out, re.MULTILINE)
    assert err == b""
    assert process.returncode == program.INTERRUPTED


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["locks"], "unknown protocol 'locks': expected lock"),
        (["lock", "--seeds", "9..1"], "--seeds '9..1': 9..1 ends before it begins"),
        (["lock", "--workers", "-1"], "--workers must not be negative"),
        (["lock", "--stop-after", "-1"], "--stop-after must not be negative"),
        (["lock", "--seed", "-1"], "--seed must not be negative"),
        (["lock", "--seed", "1", "--seeds", "1..2"], "--seed is one run and --seeds many"),
        (["lock", "--time-budget", "soon"], "--time-budget 'soon' is not a time"),
        (["lock", "--trace", "a.html"], "--trace is for one run: name it with --seed"),
        (["lock", "--trace-json", "a.jsonl"], "--trace-json is for one run: name it with --seed"),
        (["lock", "--shrink"], "--shrink is for one run: name it with --seed"),
        (["lock", "--option", "clients"], "--option 'clients': expected NAME=VALUE"),
        (["lock", "--option", "clients=two"], "--option 'clients=two': the value is not JSON"),
        (
            ["lock", "--seeds", "1", "--option", "client=2"],
            "unknown simulation option 'client': expected one of clients",
        ),
        (
            ["lock", "--seed", "1", "--option", "client=2"],
            "unknown simulation option 'client': expected one of clients",
        ),
        (["lock", "--seeds", "1", "--option", "clients=0"], "simulation option clients: at least one is needed"),
        (
            ["lock", "--seeds", "1", "--mutation", "forgetfull"],
            "unknown mutation 'forgetfull': expected one of forgetful",
        ),
        (
            ["lock", "--seed", "1", "--mutation", "forgetfull"],
            "unknown mutation 'forgetfull': expected one of forgetful",
        ),
        (["lock", "--seed", "1", "--options", "none.json"], "none.json: "),
        (["zab", "--seed", "1", "--option", "voters=0"], "simulation option voters: at least one is needed"),
        (["zab", "--seed", "1", "--option", "schedule=[[5]]"], "simulation option schedule"),
        (["zab", "--seed", "1", "--option", 'schedule=[[5,"storm"]]'], "simulation option schedule"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = simulate(capfd, *words)
    assert (status, out) == (2, "")
    assert err.startswith("quorate: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("text", ["[1, 2]", "{", "\ufffd", "3"])
def test_a_file_without_options_is_named(text: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(text)
    status, _, err = simulate(capfd, "lock", "--seed", "1", "--options", "options.json")
    assert status == 2
    assert "options.json: " in err


# ---- one run


def digest(out: str) -> str:
    match = re.search(r"digest ([0-9a-f]{8})$", out, re.MULTILINE)
    assert match is not None, out
    return match[1]


def test_one_seed_is_told_with_its_digest(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = simulate(capfd, "lock", "--seed", "3")
    assert status == 0
    assert digest(out) == f"{SIMULATION.run(3).digest:08x}"


def test_a_failing_seed_is_drawn_and_shrunk_and_repeated(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    seed = str(first_failing())
    (tmp_path / "drawn").mkdir()
    words = ("--seed", seed, "--mutation", "forgetful")
    status, whole, _ = simulate(capfd, "lock", *words, "--trace", "whole.html")
    assert status == 1
    assert whole.startswith(f"seed {seed} failed: mutual exclusion: ")
    status, out, err = simulate(
        capfd, "lock", *words, "--shrink", "--trace", "drawn/out.html", "--trace-json", "out.jsonl"
    )
    assert status == 1
    assert f"seed {seed} failed: mutual exclusion: " in out
    assert "still fails: " in err
    assert re.search(r"^faults that struck: \d+ -> \d+$", out, re.MULTILINE)
    assert "drawn in drawn/out.html\n" in out
    assert "written to out.jsonl\n" in out
    assert (tmp_path / "drawn" / "out.html").stat().st_size < (tmp_path / "whole.html").stat().st_size
    assert f"digest {digest(out)}" in (tmp_path / "drawn" / "out.html").read_text()
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["digest"] == digest(out)

    repeat = re.search(r"^repeat: quorate simulate (.+)$", out, re.MULTILINE)
    assert repeat is not None
    assert repeat[1] == f"lock --seed {seed} --mutation forgetful --options drawn/lock-{seed}.json"
    status, again, _ = simulate(capfd, *repeat[1].split())
    assert status == 1
    assert digest(again) == digest(out)


def test_a_run_that_passes_is_not_shrunk(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = simulate(capfd, "lock", "--seed", "3", "--shrink")
    assert (status, err) == (0, "")
    assert "seed 3 did not fail: there is nothing to shrink\n" in out
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_breaks_down_is_told_with_its_traceback(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = simulate(capfd, "lock", "--seed", "5", "--mutation", "exploding", "--trace", "out.html")
    assert status == 1
    assert out.startswith("seed 5 failed: the simulator broke down: ZeroDivisionError: the simulator itself is wrong\n")
    assert err.startswith("Traceback")
    assert list(tmp_path.iterdir()) == []


def test_mutations_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = simulate(capfd, "lock", "--list-mutations")
    assert status == 0
    assert "forgetful: the server's memory of the holder is lost in a crash\n" in out
    status, out, _ = simulate(capfd, "zab", "--list-mutations")
    assert status == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == list(ZAB.mutations)
    assert len(ZAB.mutations) >= 20


# ---- the same run everywhere


def elsewhere(folder: Path, hash_seed: str, *words: str) -> tuple[str, bytes]:
    """What another interpreter says, and the trace that it writes."""
    file = folder / f"{hash_seed}.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "quorate", "simulate", *words, "--trace-json", str(file)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    return done.stdout.replace(file.name, ""), file.read_bytes()


@pytest.mark.parametrize("seed", ["1", "2", "6", "7"])
def test_a_seed_gives_the_same_trace_whatever_the_hash_seed(seed: str, tmp_path: Path) -> None:
    first = elsewhere(tmp_path, "1", "zab", "--seed", seed)
    assert first == elsewhere(tmp_path, "2", "zab", "--seed", seed)
    assert first == elsewhere(tmp_path, "random", "zab", "--seed", seed)
    assert len(first[1].splitlines()) > 1000


def test_a_run_does_not_depend_on_the_runs_before_it(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("before", "after"):
        simulate(capfd, "zab", "--seed", "3", "--trace-json", f"{name}.jsonl")
        simulate(capfd, "zab", "--seed", "4")
    assert (tmp_path / "before.jsonl").read_bytes() == (tmp_path / "after.jsonl").read_bytes()
