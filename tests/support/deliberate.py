"""Deliberate bugs and the simulations that must notice them: looked for by running seeds until one fails, several bugs at once, each in a process of its own.

@pytest.fixture(scope="module")
def search(request):
    with Search("txn", 80).of(request) as begun:
        yield begun

@pytest.mark.parametrize("name", MUTATIONS)
def test_a_deliberate_bug_is_noticed(search, name):
    search.judge(name)
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Any

import pytest

from quorate.simulation.protocols import load


def seek(protocol: str, name: str, first: int, most: int) -> tuple[int, str] | None:
    """The first seed that fails, and how it fails without the bug, which it must not; None if none of so many does. An exception of the production code, which ends the
    run, counts as noticed."""
    simulation: Any = load(protocol)
    mutation = simulation.mutations[name]
    with mutation.applied():
        for seed in range(first, first + most):
            try:
                if simulation.run(seed, mutation.draw(seed)).failure:
                    break
            except Exception:
                break
        else:
            return None
    return seed, simulation.run(seed, mutation.draw(seed)).failure


class Search:
    """``most``: so many runs may be needed; ``first``: with which seed to begin, for what is noticed late."""

    def __init__(self, protocol: str, most: int, first: Mapping[str, int] | None = None) -> None:
        self._protocol = protocol
        self._most = most
        self._first = first or {}
        self._found: dict[str, Future[tuple[int, str] | None]] = {}
        self._pool = ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn"))

    def of(self, request: pytest.FixtureRequest) -> "Search":
        """Begin with what was selected of the module's tests that ask for it."""
        selected: list[Any] = [item for item in request.session.items if item.path == request.path]
        self.begin(item.callspec.params["name"] for item in selected if request.fixturename in item.fixturenames)
        return self

    def begin(self, names: Iterable[str]) -> None:
        for name in names:
            arguments = (self._protocol, name, self._first.get(name, 1), self._most)
            self._found[name] = self._pool.submit(seek, *arguments)

    def judge(self, name: str) -> None:
        """Fails the test if the bug is not noticed, or its run fails without it."""
        found = self._found[name].result()
        simulation: Any = load(self._protocol)
        what = simulation.mutations[name].what
        assert found is not None, f"not noticed in {self._most} runs: {what}"
        seed, without = found
        assert not without, f"seed {seed} fails without the bug as well: {without}"

    def __enter__(self) -> "Search":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
