"""Work that waits, written once: a generator that yields what it waits for. A shell (``shells``) carries it out: on an event loop, in a thread
that blocks, or in the simulator.

    def prepared(session: Session) -> Flow[bool]:
        answer = yield from call("orders: PREPARE TRANSACTION", session.execute, "PREPARE …")
        return answer.tag == "PREPARE TRANSACTION"
"""

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
Flow = Generator["Step", Any, Value]


class Call:
    """One thing to do. ``point`` names it, for whoever watches (faults, traces). ``function`` answers at once, or gives what has to be waited for: an
    awaitable, a flow, or a request under way (``sql.session.Request``). ``blocks``: it may keep its thread waiting."""

    __slots__ = ("blocks", "function", "point")

    def __init__(self, point: str, function: Callable[[], Any], blocks: bool = False) -> None:
        self.point = point
        self.function = function
        self.blocks = blocks


class All:
    """Several flows side by side, ``seconds`` long at most (None: as long as it takes). Answers with a Done or Failed for each."""

    __slots__ = ("flows", "seconds")

    def __init__(self, flows: Sequence[Flow[Any]], seconds: float | None = None) -> None:
        self.flows = flows
        self.seconds = seconds


class Sleep:
    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Now:
    """Answers with the time, in seconds since 1970."""

    __slots__ = ()


Step = Call | All | Sleep | Now


class Done(Generic[Value]):
    __slots__ = ("value",)

    def __init__(self, value: Value) -> None:
        self.value = value


class Failed:
    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


NOW = Now()


def call(point: str, function: Callable[..., Any], *arguments: Any, blocks: bool = False) -> Flow[Any]:
    """What comes of it in the end; raises what it raises."""
    return (yield Call(point, partial(function, *arguments) if arguments else function, blocks))


def ask(point: str, owner: Any, method: str, *arguments: Any) -> Flow[Any]:
    """A method of a participant or a log. ``owner.blocks``: its methods may keep their thread waiting."""
    return (yield Call(point, partial(getattr(owner, method), *arguments), getattr(owner, "blocks", False)))


def now() -> Flow[float]:
    found: float = yield NOW
    return found


def sleep(seconds: float) -> Flow[None]:
    yield Sleep(seconds)


def side_by_side(flows: Sequence[Flow[Any]], seconds: float | None = None) -> Flow[list[Done[Any] | Failed]]:
    """In the order of ``flows``. One that took too long fails with TimeUp."""
    found: list[Done[Any] | Failed] = yield All(flows, seconds)
    return found
