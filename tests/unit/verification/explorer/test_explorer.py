"""The explorer itself: against TLC's counts, and on spaces small enough to know."""

from tests.unit.verification.explorer.paxos import Paxos

from quorate.verification.explorer import Explorer


class Grid:
    """Steps right and up from (0, 0); ``bad`` is the state that must not be."""

    def __init__(self, size: int, bad: tuple[int, int] | None = None) -> None:
        self._size = size
        self._bad = bad

    def initial(self) -> list[tuple[int, int]]:
        return [(0, 0)]

    def key(self, state: tuple[int, int]) -> tuple[int, int]:
        return state

    def successors(self, state: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
        x, y = state
        steps = [("right", (x + 1, y)), ("up", (x, y + 1))]
        return [(name, (a, b)) for name, (a, b) in steps if a < self._size and b < self._size]

    def violation(self, state: tuple[int, int]) -> str:
        return "Bad" if state == self._bad else ""


class Jugs:
    """Of 3 and 5 litres: how to have 4."""

    def initial(self) -> list[tuple[int, int]]:
        return [(0, 0)]

    def key(self, state: tuple[int, int]) -> int:
        return state[0] * 10 + state[1]

    def successors(self, state: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
        small, big = state
        to_big, to_small = min(small, 5 - big), min(big, 3 - small)
        return [
            ("fill small", (3, big)),
            ("fill big", (small, 5)),
            ("empty small", (0, big)),
            ("empty big", (small, 0)),
            ("small to big", (small - to_big, big + to_big)),
            ("big to small", (small + to_small, big - to_small)),
        ]

    def violation(self, state: tuple[int, int]) -> str:
        return "NotFour" if state[1] == 4 else ""


def test_lamports_paxos_has_the_states_that_tlc_counts() -> None:
    """3 acceptors, 2 values, ballots 0 to 2; TLC 2.15 on the published Paxos.tla: 1361380, 185369, 25."""
    found = Explorer(Paxos()).run()
    assert (found.end, found.generated, found.distinct, found.depth) == ("complete", 1_361_380, 185_369, 25)


def test_quorums_that_do_not_meet_are_found_by_a_shortest_trace() -> None:
    found = Explorer(Paxos(quorum=1)).run()
    assert (found.end, found.violation) == ("violation", "Agreement: [0, 1] are chosen")
    assert found.trace is not None
    # two ballots of four steps each: 1a, 1b, 2a, 2b
    assert sorted(str(action[0]) for action, _ in found.trace.steps) == sorted(
        ["Phase1a", "Phase1b", "Phase2a", "Phase2b"] * 2
    )


def test_levels_are_the_distances_from_the_start() -> None:
    found = Explorer(Grid(4)).run()
    assert found.levels == [1, 2, 3, 4, 3, 2, 1]
    assert (found.distinct, found.depth, found.generated) == (16, 7, 1 + 2 * 3 * 4)
    assert (found.end, found.violation, found.trace) == ("complete", "", None)


def test_the_shortest_way_is_found_and_can_be_walked() -> None:
    found = Explorer(Jugs()).run()
    assert found.violation == "NotFour"
    assert found.trace is not None
    assert len(found.trace.steps) == 6
    assert found.trace.last[1] == 4
    state = found.trace.initial
    for action, reached in found.trace.steps:
        assert (action, reached) in Jugs().successors(state)
        state = reached


def test_a_start_that_must_not_be_is_found_at_once() -> None:
    found = Explorer(Grid(3, bad=(0, 0))).run()
    assert (found.violation, found.depth, found.distinct) == ("Bad", 1, 1)
    assert found.trace is not None
    assert found.trace.steps == []
    assert found.trace.last == (0, 0)


def test_nothing_beyond_the_depth_is_visited() -> None:
    found = Explorer(Grid(4, bad=(3, 3)), max_depth=6).run()
    assert (found.end, found.levels) == ("depth", [1, 2, 3, 4, 3, 2])
    assert Explorer(Grid(4, bad=(3, 3)), max_depth=7).run().end == "violation"


def test_the_number_of_states_is_bounded() -> None:
    found = Explorer(Grid(100), max_states=50).run()
    assert found.end == "states"
    assert 50 <= found.distinct <= 51


def test_the_time_budget_ends_it() -> None:
    clock = iter(range(1_000_000))
    found = Explorer(Grid(100), time_budget=20, clock=lambda: float(next(clock))).run()
    assert found.end == "time"
    assert 0 < found.distinct < 10_000


def test_progress_is_told_after_each_level() -> None:
    told: list[tuple[int, int, int]] = []
    Explorer(Grid(3), progress=lambda *level: told.append(level)).run()
    assert told == [(1, 1, 1), (2, 3, 2), (3, 6, 3), (4, 8, 2), (5, 9, 1)]


class Twice(Grid):
    """Several starts, one of them twice."""

    def initial(self) -> list[tuple[int, int]]:
        return [(0, 0), (0, 0), (2, 0)]


def test_several_starts() -> None:
    found = Explorer(Twice(3, bad=(2, 1))).run()
    assert found.trace is not None
    assert (found.trace.initial, found.trace.steps) == ((2, 0), [("up", (2, 1))])
