"""The floors of docs/architecture.md: a module imports only from floors below its own, and only the shells do I/O."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import quorate

ROOT = Path(quorate.__file__).parent

FLOORS = {
    "errors": 0,
    "binary": 0,
    "toml": 0,
    "storage": 1,
    "runtime": 1,
    "consensus": 2,
    "zookeeper": 3,
    "kv": 3,
    "optimistic": 3,
    "transactions": 3,
    "node": 4,
    "verification": 4,
    "simulation": 4,
    "cli": 5,
    "__main__": 6,
}
BESIDE_ALLOWED = {
    ("runtime", "storage"),
    ("binary", "errors"),
    ("toml", "errors"),
    ("simulation", "verification"),
    ("transactions", "kv"),
    ("transactions", "optimistic"),
}
"""Parts of one floor of which the first may use the second (the files of the running system are a disk of storage's kind; transactions, a library
like the store's client, keep their decisions with that client, and ask what is a conflict)."""

SANS_IO = ("binary", "storage", "consensus", "zookeeper", "kv", "transactions")
CLIENTS = (
    "kv/client",
    *(
        f"transactions/{name}"
        for name in (
            "aio.py",
            "conformance",
            "databases.py",
            "drivers",
            "engine.py",
            "logs/local.py",
            "metrics.py",
            "observing.py",
            "shells",
            "sync.py",
            "zope.py",
        )
    ),
)
"""Client libraries run in the user's program, on its event loop: they are no part of a server."""
WORLD = {
    "asyncio", "concurrent", "multiprocessing", "secrets", "select", "selectors", "signal", "socket", "ssl", "subprocess",
    "threading", "time", "uvloop",
}  # fmt: skip
"""Modules through which the world comes in; code without I/O takes what it needs of them as arguments."""

TYPES = {"random": "Random", "uuid": "UUID"}
"""Modules of which the type may be named, but nothing that draws by itself."""

LOGGING_ALLOWED = ("zookeeper", "kv")
"""Services may log (why a connection was closed, what a member became); replication cores, codecs and storage may not."""
LOGGING_DRIVERS = (
    "consensus/zab/election_links.py",
    "consensus/zab/quorum_links.py",
    "consensus/paxos/links.py",
    "consensus/paxos/transfer.py",
    "consensus/paxos/group.py",
    "consensus/paxos/host.py",
)
"""What in consensus is no core but drives one: it says why a connection was closed and what a member became."""

MODULES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    """The top-level part a file belongs to: ``consensus`` for consensus/zab/leader.py, ``errors`` for errors.py."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> list[str]:
    parts = ["quorate", *path.relative_to(ROOT).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that ``path`` imports, wherever in the file, with its line."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "quorate":
                yield from ((f"quorate.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    """The parts of quorate that ``path`` imports. ``from quorate import __version__`` names no part."""
    for module, line in imports(path):
        names = module.split(".")
        if names[0] == "quorate" and len(names) > 1 and not (names[1].startswith("__") and names[1] != "__main__"):
            yield names[1], line


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    mine = part_of(path)
    if mine == "__init__":
        assert list(own_imports(path)) == []
        return
    assert mine in FLOORS, f"{mine} has no floor yet; give it one here and in docs/architecture.md"
    for part, line in own_imports(path):
        assert part in FLOORS, f"{path}:{line} imports {part}, which has no floor"
        allowed = part == mine or FLOORS[part] < FLOORS[mine] or (mine, part) in BESIDE_ALLOWED
        assert allowed, f"{path}:{line}: {mine} (floor {FLOORS[mine]}) imports {part} (floor {FLOORS[part]})"


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if part_of(path) in SANS_IO and not name_of(path).startswith(CLIENTS)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_cores_do_no_io(path: Path) -> None:
    may_log = part_of(path) in LOGGING_ALLOWED or name_of(path) in LOGGING_DRIVERS
    for module, line in imports(path):
        top = module.split(".")[0]
        assert top not in WORLD, f"{path}:{line} imports {module}; the world comes in as an argument"
        assert top not in TYPES or names_only(path, line, TYPES[top]), (
            f"{path}:{line}: what is random comes in as an argument"
        )
        assert top != "logging" or may_log, f"{path}:{line}: what is to be logged goes out as data"
    assert list(clock_reads(path)) == []


def clock_reads(path: Path) -> Iterator[str]:
    """Calls that ask ``datetime`` for the time instead of formatting one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("now", "today", "utcnow")
            and "date" in ast.unparse(node.value)
        ):
            yield f"{path}:{node.lineno}: {ast.unparse(node)}"


def names_only(path: Path, line: int, name: str) -> bool:
    """Whether the import in ``line`` is ``from … import name`` and no more."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.lineno == line:
            return [alias.name for alias in node.names] == [name]
    return False


def test_the_checks_see_every_form_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "consensus" / "zab"
    folder.mkdir(parents=True)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = folder / "core.py"
    path.write_text(
        "import quorate.cli.main\nfrom quorate import node, __version__\nfrom .. import contract\n"
        "from ...zookeeper.wire import x\ndef f():\n    import socket.inner\n"
    )
    assert list(imports(path)) == [
        ("quorate.cli.main", 1),
        ("quorate.node", 2),
        ("quorate.__version__", 2),
        ("quorate.consensus", 3),
        ("quorate.zookeeper.wire", 4),
        ("socket.inner", 6),
    ]
    assert [part for part, _ in own_imports(path)] == ["cli", "node", "consensus", "zookeeper"]
