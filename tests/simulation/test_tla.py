"""The specification of Zab in spec/: TLC finds nothing wrong with it, finds what is planted in it, and takes the traces of the
simulated production members for behaviours of it, but not traces that were tampered with.
"""

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quorate.errors import UsageError
from quorate.simulation.zookeeper import mutations
from quorate.simulation.zookeeper import options as swarm
from quorate.simulation.zookeeper.run import SIMULATION
from quorate.simulation.zookeeper.spec_trace import record
from quorate.verification import tlc, zab_trace
from quorate.verification.zab_trace import Step, Verdict

SPEC = Path(__file__).parents[2] / "spec"
STEPS = 250
"""Of each trace: a beginning of a behaviour is a behaviour, and TLC needs more than linear time."""


@pytest.fixture(scope="module", autouse=True)
def _tlc() -> None:
    try:
        tlc.find_tlc()
    except tlc.TlcMissing as error:
        pytest.skip(str(error))


# ---- the specification


def explore(folder: Path, *replacements: tuple[str, str], invariant: str = "") -> tlc.Outcome:
    """Two epochs and one transaction, with the specification's text changed, and only this invariant if one is given."""
    for name in ("Zab.tla", "MCZab.tla", "MCZab.cfg"):
        shutil.copy(SPEC / name, folder)
    text = (folder / "Zab.tla").read_text()
    for old, new in replacements:
        assert text.count(old) == 1, f"{old!r} is not in the specification once"
        text = text.replace(old, new)
    (folder / "Zab.tla").write_text(text)
    config = (folder / "MCZab.cfg").read_text().replace("MaxTxns = 2", "MaxTxns = 1")
    if invariant:
        config = config[: config.index("INVARIANTS")] + f"INVARIANT {invariant}\n"
    (folder / "MCZab.cfg").write_text(config)
    return tlc.run(folder / "MCZab.tla", folder / "MCZab.cfg")


def test_all_states_within_the_bounds_are_safe(tmp_path: Path) -> None:
    outcome = explore(tmp_path)
    assert outcome.violated == ""
    assert (outcome.distinct, outcome.depth) == (109_308, 26)


@pytest.mark.parametrize(
    ("old", "new", "invariants"),
    [
        pytest.param(
            "2 * Cardinality(servers) > Cardinality(Server)",
            "2 * Cardinality(servers) >= Cardinality(Server) - 1",
            {"Leadership"},
            id="a minority is enough",
        ),
        pytest.param(
            "(* A server accepts another's epoch, if it has not accepted that epoch or a newer one before. *)\n"
            "AcceptEpoch(s, leader, e) ==\n    /\\ e > acceptedEpoch[s]",
            "AcceptEpoch(s, leader, e) ==\n    /\\ e >= acceptedEpoch[s]",
            {"Leadership"},
            id="an epoch is accepted twice",
        ),
        pytest.param(
            "/\\ n.epoch = e /\\ AsRecent(s, n)",
            "/\\ n.epoch = e",
            {"LeaderCompleteness"},
            id="a leader ignores a more recent history",
        ),
        pytest.param(
            "/\\ Len(h) >= Shared(history[s], Whole(e))",
            "/\\ TRUE",
            {"Durability"},
            id="synchronisation gives up what is shared",
        ),
        pytest.param(
            "/\\ IsQuorum(Acknowledged(e, n))\n",
            "",
            {"Durability"},
            id="a leader commits what nobody acknowledged",
        ),
    ],
)
def test_a_planted_bug_is_found(tmp_path: Path, old: str, new: str, invariants: set[str]) -> None:
    outcome = explore(tmp_path, (old, new))
    assert outcome.violated in invariants
    assert len(outcome.counterexample) == outcome.depth > 3


def test_the_bounds_reach_a_commit_after_a_change_of_leader(tmp_path: Path) -> None:
    """Otherwise the invariants would hold of nothing."""
    unreached = "Unreached == ~(committed[2] = 0 /\\ Initial(2) # <<>>)\n"
    outcome = explore(tmp_path, ("Safety ==", unreached + "\nSafety =="), invariant="Unreached")
    assert outcome.violated == "Unreached"


def test_a_specification_that_does_not_parse_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(tlc.TlcError, match=r"line \d+"):
        explore(tmp_path, ("Safety ==", "Safety == /\\"))


# ---- traces


SEED = 1


def honest(seed: int) -> dict[str, Any]:
    """The seed's options without the faults that take from a disk what it held, which the specification does not know."""
    options = swarm.complete(seed, None)
    options["enabled"] = [fault for fault in options["enabled"] if fault not in ("wipe", "bit_flip")]
    return options


@cache
def trace(seed: int) -> tuple[int, tuple[Step, ...]]:
    options = honest(seed)
    result, recorder = record(seed, options)
    assert not result.failure
    assert SIMULATION.run(seed, options).digest == result.digest, "a recorded run is the same run"
    return options["voters"], tuple(recorder.steps[:STEPS])


def judge(voters: int, steps: Sequence[Step]) -> Verdict:
    return zab_trace.validate(SPEC, voters, steps)


@pytest.mark.parametrize("seed", [1, 2, 6])
def test_simulated_members_do_what_the_specification_says(seed: int) -> None:
    voters, steps = trace(seed)
    verdict = judge(voters, steps)
    assert verdict.accepted, str(verdict)
    assert {event for event, *_ in steps} == set(zab_trace.EVENTS)


@pytest.mark.parametrize(
    ("bug", "event"),
    [
        ("acknowledge-before-durable", "begun"),
        ("epoch-before-history", "entered"),
        ("leader-counts-itself", "applied"),
        ("minority-commits", "applied"),
    ],
)
def test_members_with_a_bug_do_not(bug: str, event: str) -> None:
    """Most of these runs end well: the bug does no harm in them."""
    with mutations.mutated(bug):
        _, recorder = record(SEED, honest(SEED))
    verdict = judge(len(recorder.voters), recorder.steps[:STEPS])
    assert verdict.step is not None, f"{bug}: {verdict}"
    assert verdict.step[0] == event, str(verdict)


def test_a_commit_without_a_quorum_is_refused() -> None:
    """The acknowledgements of the followers for the first transaction are taken out of the trace."""
    voters, steps = trace(SEED)
    commit = next(n for n, (event, _, _, counter) in enumerate(steps) if event == "applied" and counter)
    _, leader, epoch, _ = steps[commit]
    tampered = [s for s in steps[:commit] if s[:3] != ("history", leader, epoch)]
    tampered = [s for s in tampered if s[0] != "history" or s[2] != epoch]
    line = len(tampered)
    verdict = judge(voters, [*tampered, *steps[commit:]])
    assert (verdict.line, verdict.step, verdict.violated) == (line, steps[commit], "")


def test_a_step_that_is_left_out_is_missed() -> None:
    voters, steps = trace(SEED)
    begun = next(n for n, step in enumerate(steps) if step[0] == "begun")
    tampered = [*steps[:begun], *steps[begun + 1 :]]
    verdict = judge(voters, tampered)
    assert not verdict.accepted
    assert tampered[verdict.line][0] == "entered"


def test_a_durable_loss_is_refused() -> None:
    """A member comes back without what it had acknowledged."""
    voters, steps = trace(SEED)
    logged = max(n for n, (event, _, _, counter) in enumerate(steps) if event == "history" and counter > 1)
    _, member, epoch, counter = steps[logged]
    lost: Step = ("history", member, epoch, counter - 1)
    verdict = judge(voters, [*steps[: logged + 1], ("looking", member, 0, 0), lost])
    assert (verdict.line, verdict.step) == (logged + 2, lost)


def test_an_epoch_accepted_twice_is_refused() -> None:
    voters, steps = trace(SEED)
    accepted = next(n for n, step in enumerate(steps) if step[0] == "accepted")
    verdict = judge(voters, [*steps[: accepted + 1], steps[accepted]])
    assert (verdict.line, verdict.step) == (accepted + 1, steps[accepted])


# ---- the file


def test_a_trace_is_written_and_read(tmp_path: Path) -> None:
    voters, steps = trace(SEED)
    zab_trace.write(tmp_path / "trace", voters, steps)
    assert zab_trace.read(tmp_path / "trace") == (voters, list(steps))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", ":1: "),
        ('{"voters": 0}\n', ":1: "),
        ('{"voters": 3}\n["looking", 4, 0, 0]\n', ":2: "),
        ('{"voters": 3}\n["looking", 1, 0, 0]\n["slept", 1, 0, 0]\n', ":3: "),
        ('{"voters": 3}\n["looking", 1, 0]\n', ":2: "),
        ('{"voters": 3}\n' + "[" * 300, ":2: "),
        ('{"voters": 3}\n' + "[" * 150 + "\n", ":2: "),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(UsageError, match=where):
        zab_trace.read(path)
