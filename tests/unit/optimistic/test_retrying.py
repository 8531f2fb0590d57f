"""Retries without waiting: time, sleep and chance are the test's."""

import asyncio
from collections.abc import Iterator

import pytest
from kazoo.exceptions import BadVersionError, NoNodeError

from quorate.errors import UsageError
from quorate.kv.client import Conflict
from quorate.optimistic import GaveUp, Retry, is_conflict, retry
from quorate.transactions import VotedNo


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


def retrying(time: Time, **settings: float | int | None) -> Retry:
    return Retry(
        clock=time.clock,
        sleep=time.sleep,
        async_sleep=time.async_sleep,
        chance=lambda: 1.0,
        **settings,  # type: ignore[arg-type]  # any of its numbers
    )


class Loses:
    """Meets so many conflicts first."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left = times
        self.calls = 0
        self.error = error or Conflict([])

    def __call__(self) -> str:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return "done"

    async def later(self) -> str:
        await asyncio.sleep(0)
        return self()


def test_it_is_done_again_after_pauses_that_double() -> None:
    time, seen = Time(), []
    retry_ = Retry(
        clock=time.clock,
        sleep=time.sleep,
        chance=lambda: 0.5,
        first_pause=0.01,
        longest_pause=0.05,
        on_conflict=lambda attempt, error, pause: seen.append((attempt, type(error), pause)),
    )
    loses = Loses(5)
    assert retry_.call(loses) == "done"
    assert loses.calls == 6
    assert time.pauses == [0.005, 0.01, 0.02, 0.025, 0.025]
    assert seen == [(number, Conflict, pause) for number, pause in enumerate(time.pauses, 1)]
    metrics = retry_.metrics
    assert (metrics.calls, metrics.conflicts, metrics.given_up, metrics.successes[6]) == (1, 5, 0, 1)
    assert metrics.retries_per_success() == 5


def test_it_ends_at_the_deadline_with_the_last_conflict() -> None:
    time = Time()
    retry_ = retrying(time, deadline=1.0, first_pause=0.3, longest_pause=0.3)
    with pytest.raises(
        GaveUp, match=r"^Loses: gave up|gave up after 5 attempts in 1 s, each of which met a conflict$"
    ) as caught:
        retry_.call(Loses(100))
    assert isinstance(caught.value.__cause__, Conflict)
    assert time.pauses == pytest.approx([0.3, 0.3, 0.3, 0.1])
    assert retry_.metrics.given_up == 1


def test_it_ends_after_so_many_attempts() -> None:
    loses = Loses(100)
    with pytest.raises(GaveUp) as caught:
        retrying(Time(), attempts=3).call(loses)
    assert (loses.calls, caught.value.attempts) == (3, 3)


def test_what_is_no_conflict_passes_through_at_once() -> None:
    loses = Loses(1, KeyError("of the user's"))
    with pytest.raises(KeyError, match="of the user's"):
        retrying(Time()).call(loses)
    assert loses.calls == 1


def test_coroutines_are_awaited_and_cancellations_pass_through() -> None:
    time = Time()
    loses = Loses(2)
    assert asyncio.run(retrying(time).acall(loses.later)) == "done"
    assert len(time.pauses) == 2

    @retrying(time)
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert len(time.pauses) == 2


def test_as_a_decorator_it_keeps_what_the_function_is() -> None:
    attempts = []

    @retry
    def plain(number: int, *, by: int = 1) -> int:
        """It adds."""
        attempts.append(number)
        if len(attempts) < 3:
            raise Conflict([])
        return number + by

    assert (plain(1, by=2), plain.__name__, plain.__doc__) == (3, "plain", "It adds.")
    assert attempts == [1, 1, 1]

    @retry(attempts=2)
    async def awaited() -> str:
        return "done"

    assert asyncio.run(awaited()) == "done"


def test_generators_and_impossible_settings_are_refused() -> None:
    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="is a generator, which cannot be done again as a whole"):
        retry(generator)
    with pytest.raises(UsageError, match="expected at least 0 and 1"):
        Retry(attempts=0)
    with pytest.raises(UsageError, match="no less than the first"):
        Retry(first_pause=2, longest_pause=1)


def of(module: str, name: str, *arguments: object, **attributes: object) -> Exception:
    """An exception as a driver that is not installed here makes it."""
    error: Exception = type(name, (Exception,), {"__module__": module})(*arguments)
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Conflict([]), True),
        (BadVersionError(), True),
        (NoNodeError(), False),
        (of("sqlalchemy.orm.exc", "StaleDataError"), True),
        (of("psycopg.errors", "SerializationFailure", sqlstate="40001"), True),
        (of("psycopg.errors", "DeadlockDetected", sqlstate="40P01"), True),
        (of("psycopg.errors", "UniqueViolation", sqlstate="23505"), False),
        (of("psycopg2.errors", "SerializationFailure", pgcode="40001"), True),
        (of("pymysql.err", "OperationalError", 1213, "Deadlock found"), True),
        (of("pymysql.err", "OperationalError", 1020, "Record has changed"), True),
        (of("pymysql.err", "OperationalError", 1205, "Lock wait timeout"), False),
        (of("mysql.connector.errors", "InternalError", errno=1213), True),
        (of("elsewhere", "OperationalError", 1213), False),
        (VotedNo("could not serialize access (40001)", "40001"), True),
        (VotedNo("MariaDB rolled the branch back (1213)", "1213"), True),
        (VotedNo("MariaDB waited for a lock (1205)", "1205"), False),
        (VotedNo("a statement failed, and so did the transaction with it"), False),
        (of("sqlalchemy.exc", "OperationalError", orig=of("psycopg.errors", "SerializationFailure", sqlstate="40001")), True),
        (ExceptionGroup("several", [KeyError(), Conflict([])]), True),
        (ValueError(), False),
    ],
)  # fmt: skip
def test_conflicts_are_known_by_what_they_are_called(error: Exception, expected: bool) -> None:
    assert is_conflict(error) is expected


def test_a_lock_that_was_waited_for_in_vain_is_one_if_asked_for() -> None:
    assert is_conflict(of("pymysql.err", "OperationalError", 1205, "Lock wait timeout"), lock_wait_timeout=True)


def test_what_it_was_raised_for_counts() -> None:
    error = RuntimeError("the user's own")
    error.__cause__ = Conflict([])
    assert is_conflict(error)
