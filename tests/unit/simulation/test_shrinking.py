"""A smaller run that fails in the same way: what is left out, what must stay, and when the search ends."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.unit.simulation.lockservice import SIMULATION

from quorate.simulation.guarded import Guarded
from quorate.simulation.result import Result
from quorate.simulation.shrinking import differences, kind_of, shrink


class Bench:
    """A simulation whose failure is a function of the faults that struck and of a size; it counts its runs."""

    def __init__(self, needed: set[int], strikes: int = 40) -> None:
        self.needed = needed
        self.strikes = strikes
        self.runs = 0

    def options(self, seed: int) -> dict[str, object]:
        return {"size": 64, "schedule": None}

    def smaller(self, options: Mapping[str, Any]) -> list[tuple[str, dict[str, object]]]:
        return [("half the size", {**options, "size": options["size"] // 2})] if options["size"] > 1 else []

    def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
        self.runs += 1
        complete: dict[str, Any] = {**self.options(seed), **(options or {})}
        schedule = complete["schedule"]
        if schedule is None:
            schedule = [[time, "fault", time] for time in range(self.strikes)]
        result = Result(seed, {**complete, "schedule": schedule})
        struck = {strike[2] for strike in schedule}
        if complete["size"] < 8:
            result.failure = f"too small: {complete['size']}"
        elif self.needed <= struck:
            result.failure = f"broken: {len(schedule)} faults struck"
        return result


def faults(result: Result) -> set[int]:
    schedule = result.options["schedule"]
    assert isinstance(schedule, list)
    return {strike[2] for strike in schedule}


@pytest.mark.parametrize("needed", [set[int](), {0}, {39}, {3, 4}, {0, 17, 39}, set(range(0, 40, 5)), set(range(40))])
def test_exactly_the_faults_that_it_takes_stay(needed: set[int]) -> None:
    bench = Bench(needed)
    smallest, _ = shrink(bench, bench.run(1), None)
    assert faults(smallest) == needed
    assert smallest.failure == f"broken: {len(needed)} faults struck"


def test_a_given_schedule_is_not_drawn_again() -> None:
    bench = Bench({3})
    given = {"size": 64, "schedule": [[1, "fault", 1], [3, "fault", 3], [4, "fault", 4]]}
    _, options = shrink(bench, bench.run(1, given), given)
    assert options["schedule"] == [[3, "fault", 3]]


def test_a_schedule_that_does_not_fail_when_given_is_looked_for_further_back() -> None:
    class Fickle(Bench):
        """Fails with a drawn schedule, and with a given one only while it is large."""

        def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
            result = super().run(seed, options)
            size = result.options["size"]
            assert isinstance(size, int)
            if options is not None and options["schedule"] is not None and size < 32:
                result.failure = ""
            return result

    bench = Fickle({5})
    smallest, options = shrink(bench, bench.run(1), None)
    assert options == {"size": 32, "schedule": [[5, "fault", 5]]}
    assert bench.run(1, options).failure == smallest.failure == "broken: 1 faults struck"


def test_another_kind_of_failure_does_not_count() -> None:
    """Below 8 the run fails as well, but otherwise."""
    bench = Bench({1})
    smallest, options = shrink(bench, bench.run(1), None)
    assert smallest.options["size"] == options["size"] == 8


def test_faults_that_can_go_only_after_others_went_are_found() -> None:
    class Chained(Bench):
        """Fault n can go only when n + 1 is gone."""

        def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
            result = super().run(seed, options)
            struck = sorted(faults(result))
            result.failure = "broken: chained" if struck == list(range(len(struck))) and struck else ""
            return result

    bench = Chained(set(), strikes=7)
    assert faults(shrink(bench, bench.run(1), None)[0]) == {0}


def test_the_number_of_runs_is_bounded() -> None:
    bench = Bench({0, 20})
    first = bench.run(1)
    smallest, _ = shrink(bench, first, None, runs_max=5)
    assert bench.runs == 6
    assert kind_of(smallest.failure) == kind_of(first.failure)


def test_a_time_budget_that_is_over_leaves_the_run_as_it_is() -> None:
    bench = Bench({0})
    first = bench.run(1)
    assert shrink(bench, first, None, time_budget=1e-9) == (first, bench.options(1))
    assert bench.runs == 1


@pytest.fixture
def forgetful() -> Iterator[None]:
    with SIMULATION.mutations["forgetful"].applied():
        yield


@pytest.mark.usefixtures("forgetful")
def test_real_runs_shrink_to_crashes_alone_none_to_spare() -> None:
    failing = [result for seed in range(1, 61) if (result := SIMULATION.run(seed)).failure]
    assert failing
    for result in failing:
        told: list[str] = []
        smallest, options = shrink(SIMULATION, result, None, tell=told.append)
        again = SIMULATION.run(result.seed, options)
        assert (again.failure, again.digest) == (smallest.failure, smallest.digest)
        assert kind_of(again.failure) == "mutual exclusion"
        schedule = options["schedule"]
        assert isinstance(schedule, list)
        assert {strike[1] for strike in schedule} == {"crash"}
        assert not any(SIMULATION.run(result.seed, less).failure for _, less in SIMULATION.smaller(options))
        fewer = [schedule[:place] + schedule[place + 1 :] for place in range(len(schedule))]
        assert not any(SIMULATION.run(result.seed, {**options, "schedule": rest}).failure for rest in fewer)
        assert told


def test_breakdowns_shrink_too() -> None:
    with SIMULATION.mutations["exploding"].applied():
        guarded = Guarded(SIMULATION)
        first = guarded.run(5)
        assert first.failure == "the simulator broke down: ZeroDivisionError: the simulator itself is wrong"
        assert "lockservice.py" in guarded.crash
        smallest, _ = shrink(guarded, first, None)
    assert smallest.options["clients"] == 1
    assert smallest.options["requests"] == 1
    assert guarded.run(5).failure == ""
    assert guarded.crash == ""


def test_differences_tell_what_changed_alone() -> None:
    before = {"voters": 5, "tick": 50, "enabled": ["crash", "loss"], "schedule": [[1, "crash"], [2, "loss"]]}
    after = {"voters": 3, "tick": 50, "enabled": ["crash"], "schedule": [[1, "crash"]]}
    assert differences(before, after) == [
        "voters: 5 -> 3",
        'enabled: ["crash", "loss"] -> ["crash"]',
        "faults that struck: 2 -> 1",
    ]
