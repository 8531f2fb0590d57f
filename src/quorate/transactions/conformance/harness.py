"""What a system's author tells the conformance kit: how to get a participant, how to work, and how to do harm."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from quorate.transactions.participant import Branch


class Harness:
    """One system, with nothing in it; each test has one of its own. Methods may be plain, coroutine functions or flows, as a participant's.

    The first group has to be there. What of the second is left out leaves out the rules that need it, each of which is then reported as skipped.
    """

    asynchronous = False
    """The test runs on an event loop: participants and connections may be asynchronous. Set by the kit."""
    patience = 10.0
    """Seconds in which the system notices that a connection broke."""

    def open(self) -> Any:
        """Make the system."""

    def close(self) -> Any:
        """End it, and what is left of connections."""

    def participant(self, name: str) -> Any:
        """A new Participant of the system, as another process would have: it shares no memory with those before. Two of different names take part separately."""
        raise NotImplementedError

    def work(self, participant: Any, branch: Branch, key: str) -> Any:
        """Write something that can be found under ``key``, in the branch, which is begun if it was not yet."""
        raise NotImplementedError

    def seen(self, key: str) -> Any:
        """How often what was written under ``key`` can be seen by everybody: 0 or 1, if all is well."""
        raise NotImplementedError

    def restart(self) -> Any:
        """The system ends as if the power failed, and starts again. Participants made before are of no use any more."""
        raise NotImplementedError

    # ---- if it can be done

    def look(self, participant: Any, branch: Branch) -> Any:
        """Begin the branch, and only read in it."""
        raise NotImplementedError

    def spoil(self, participant: Any, branch: Branch) -> Any:
        """Do something in the branch, where work was done, after which it cannot be committed, and hide the error."""
        raise NotImplementedError

    def leave(self, participant: Any, branch: Branch) -> Any:
        """The process that works for the branch dies: its connection breaks, and it tells nobody anything."""
        raise NotImplementedError

    def foreign(self) -> Any:
        """Have something prepared that no coordinator of ours knows; its name, as ``recover`` should list it. ``close`` has to end it."""
        raise NotImplementedError

    def lose_answer(self, participant: Any, method: str) -> AbstractContextManager[Any]:
        """Within it, what the participant asks of the system for ``method`` (``prepare``, ``commit`` or ``commit_one_phase``) is done, and the answer is lost."""
        raise NotImplementedError

    def down(self) -> AbstractContextManager[Any]:
        """Within it the system cannot be reached."""
        raise NotImplementedError


def offers(harness: type[Harness], method: str) -> bool:
    inherited: Callable[..., Any] = getattr(Harness, method)
    return getattr(harness, method) is not inherited
