"""What must hold of the clients' history, judged by the log that the members have on disk, and of the tree they are left with."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.ensembles import Ensemble
from tests.support.trees import Tree

from quorate.simulation.zookeeper.requests import unpack_stat
from quorate.storage.disk import Done, Operation
from quorate.verification import zookeeper
from quorate.verification.history import History
from quorate.zookeeper.txnlog import LogReader, log_files
from quorate.zookeeper.txns import unpack_txn


class _Folder:
    """A member's data folder, to be read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def exists(self, path: str) -> bool:
        return (self.root / path).exists()

    def make_folder(self, folder: str) -> None:
        raise AssertionError("only for reading")

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        raise AssertionError("only for reading")

    def size(self, path: str) -> int:
        return (self.root / path).stat().st_size

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        with (self.root / path).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    # last, because its name is that of the type
    def list(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.root / folder).iterdir())


def read_log(folder: Path) -> zookeeper.Log:
    """Every transaction in the log files of a folder, in order."""
    disk = _Folder(folder)
    entries = [entry for _, path in log_files(disk) for entry in LogReader(disk, path)]
    return [(entry.zxid, unpack_txn(entry.payload)) for entry in entries]


def committed_log(ensemble: Ensemble) -> zookeeper.Log | None:
    """The log of a member that has all of it, because it was never emptied or sent a snapshot; None if there is none. Nobody may be
    writing: all that is logged is committed then."""
    for member in ensemble.members:
        snapshots = [path.name for path in (member.folder / "version-2").glob("snapshot.*")]
        if snapshots == ["snapshot.0"]:
            return read_log(member.folder)
    return None


def findings(history: History, log: zookeeper.Log | None, tree: Tree) -> list[str]:
    """What is wrong, a sentence each: with what clients saw, and with the tree that is left (without /zookeeper)."""
    left_behind = [f"ephemerals: {path} is left behind" for path, node in tree.items() if node.owner]
    if log is None:
        return [*zookeeper.check(history), *left_behind]
    replay = zookeeper.Replay(history, log)
    shown = {path: (node.data or b"", unpack_stat(node.stat)) for path, node in tree.items()}
    left = [
        finding for finding in zookeeper.differences(replay.tree, shown) if not finding.startswith("state: /zookeeper")
    ]
    return [*zookeeper.check(history, replay), *left, *left_behind]
