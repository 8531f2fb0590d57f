"""The kit that tests a participant of one's own: every rule that the protocol relies on, each with its why.

    from quorate.transactions.conformance import Conformance, Harness

    class Mine(Harness):
        def participant(self, name): ...
        def work(self, participant, branch, key): ...
        def seen(self, key): ...
        def restart(self): ...

    class TestMine(Conformance):
        harness = Mine

    class TestMineOnAnEventLoop(TestMine):
        asynchronous = True

pytest finds a test for each rule in it. Without pytest, ``broken(Mine)`` gives what is broken. A rule that needs what the harness does not offer, or an optional method that the
participant does not have, is skipped (``unittest.SkipTest``).

``harness``
    what the author of a system tells the kit;
``rules``
    the rules;
``checking``
    how they ask.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar
from unittest import SkipTest

from quorate.errors import UsageError
from quorate.transactions.conformance.checking import Broken, Check, Finding
from quorate.transactions.conformance.harness import Harness
from quorate.transactions.conformance.rules import RULES, Rule

__all__ = ["RULES", "Broken", "Conformance", "Harness", "Rule", "broken", "hold"]


def hold(rule: Rule, make: Callable[[], Harness], asynchronous: bool = False) -> None:
    """Try one rule, on a system of its own. Raises Broken, and SkipTest if it cannot be tried."""
    harness = make()
    if lacking := rule.lacking(type(harness)):
        raise SkipTest(f"the harness has no {', '.join(lacking)}")
    check = Check(harness, asynchronous)
    try:
        try:
            check.do("open")
            rule.check(check)
        finally:
            check.close()
    except SkipTest:
        raise
    except Finding as found:
        raise Broken(rule.name, str(found), rule.why) from found.__cause__
    except Exception as error:
        raise Broken(rule.name, f"{type(error).__name__}: {error}", rule.why) from error


def broken(make: Callable[[], Harness], asynchronous: bool = False) -> dict[str, Broken]:
    """The rules that do not hold, by name."""
    found = {}
    for rule in RULES:
        try:
            hold(rule, make, asynchronous)
        except Broken as error:
            found[rule.name] = error
        except SkipTest:
            continue
    return found


class Conformance:
    """For a test suite: subclass it, and set ``harness`` to a Harness's class, or to anything that is called for one, once for each test."""

    harness: ClassVar[Callable[[], Harness]]
    asynchronous: ClassVar[bool] = False
    without: ClassVar[Sequence[str]] = ()
    """Rules that are not to be tried, by name: there are no tests for them, not even skipped ones."""

    def __init_subclass__(cls) -> None:
        for name in cls.without:
            if not hasattr(Conformance, f"test_{name}"):
                raise UsageError(f"{cls.__name__}: there is no rule {name!r}")
            setattr(cls, f"test_{name}", None)

    def make(self) -> Harness:
        """Override it where a harness is made by more than its class."""
        return type(self).harness()


def _test(rule: Rule) -> Callable[[Conformance], None]:
    def test(self: Conformance) -> None:
        hold(rule, self.make, type(self).asynchronous)

    test.__name__ = f"test_{rule.name}"
    test.__qualname__ = f"Conformance.{test.__name__}"
    test.__doc__ = rule.why
    return test


for _rule in RULES:
    setattr(Conformance, f"test_{_rule.name}", _test(_rule))
