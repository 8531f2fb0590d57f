"""What a mutation is: a deliberate bug, patched into the production code at run time and taken out again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple


class Patch(NamedTuple):
    """``attribute`` of ``owner``, a class or a module that has it itself, becomes ``replacement``."""

    owner: Any
    attribute: str
    replacement: Any


class Mutation:
    """One bug. A simulation that does not notice it proves little."""

    __slots__ = ("_draw", "faults", "issue", "name", "options", "patches", "what")

    def __init__(
        self,
        draw: Callable[[int], dict[str, Any]],
        name: str,
        what: str,
        *patches: Patch,
        issue: str = "",
        faults: tuple[str, ...] = (),
        options: Mapping[str, object] | None = None,
    ) -> None:
        """``draw`` gives a seed's options. ``issue``: the real bug, or the literature's, that it resembles. ``faults`` are switched on in every run
        beside those that the seed draws, and ``options`` replace what the seed draws: the bug shows only with them."""
        self._draw = draw
        self.name = name
        self.what = what
        self.patches = patches
        self.issue = issue
        self.faults = faults
        self.options = dict(options or {})

    def draw(self, seed: int) -> dict[str, Any]:
        """The options of a run of this seed with this mutation."""
        drawn = self._draw(seed)
        drawn.update(self.options)
        drawn["enabled"] = [*drawn["enabled"], *[fault for fault in self.faults if fault not in drawn["enabled"]]]
        return drawn

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Patch the code of this process; it is as before when the block ends, however it ends."""
        originals = [(owner, name, vars(owner)[name]) for owner, name, _ in self.patches]
        try:
            for owner, name, replacement in self.patches:
                setattr(owner, name, replacement)
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)
