"""A data folder on the real disk for tests: stores over it, transactions to put in, and power cuts."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from quorate.consensus.zab.messages import Entry
from quorate.errors import StorageError
from quorate.runtime.files import FileDisk
from quorate.runtime.network import AsyncioEnvironment
from quorate.storage.disk import Disk, Done, Operation
from quorate.zookeeper.acl import OPEN_ACL
from quorate.zookeeper.constants import Op
from quorate.zookeeper.store import Recovered, Store, StoreSettings
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import Create, SetData, Txn, unpack_txn

FOLDER = "version-2"


def create(zxid: int, data: bytes = b"data") -> Entry:
    """Creates /n<zxid>."""
    record = Create(Op.CREATE2, f"/n{zxid:x}", data, OPEN_ACL, False, -1)
    return Entry(zxid, Txn(0x77, zxid & 0xFFFF, zxid, 1_700_000_000_000, record).pack())


def set_data(zxid: int, path: str, data: bytes, version: int) -> Entry:
    return Entry(zxid, Txn(0x77, zxid & 0xFFFF, zxid, 1_700_000_000_000, SetData(path, data, version)).pack())


def zxids(entries: Sequence[Entry]) -> list[int]:
    return [entry.zxid for entry in entries]


def apply(tree: DataTree, entries: Sequence[Entry]) -> DataTree:
    for entry in entries:
        tree.apply(unpack_txn(entry.payload))
    return tree


class Power:
    """How many operations are still carried out before the power goes; -1 = it stays."""

    def __init__(self, operations: int = -1) -> None:
        self.left = operations
        self.used = 0


class CutOffDisk:
    """A FileDisk on whose power it depends whether anything happens. Without power nothing is ever reported."""

    def __init__(self, disk: FileDisk, power: Power) -> None:
        self.disk = disk
        self.power = power
        self.list = disk.list
        self.exists = disk.exists
        self.size = disk.size
        self.read = disk.read
        self.make_folder = disk.make_folder

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        power = self.power
        power.used += len(operations)
        if power.left < 0:
            self.disk.submit(operations, done)
        elif power.left >= len(operations) and power.left > 0:
            power.left -= len(operations)
            self.disk.submit(operations, done)
        else:
            kept = list(operations[: power.left])
            power.left = 0
            self.disk.submit(kept, lambda error: None)


class Session:
    """One process's life over the folder: a loop, two disks, a store."""

    def __init__(self, path: Path, settings: StoreSettings | None = None, power: Power | None = None) -> None:
        self.path = path
        self.loop = asyncio.new_event_loop()
        self.env = AsyncioEnvironment(self.loop)
        self.disks = [FileDisk(str(path), self.loop), FileDisk(str(path), self.loop)]
        self.power = power or Power()
        log: Disk = CutOffDisk(self.disks[0], self.power)
        data: Disk = CutOffDisk(self.disks[1], self.power)
        self.log_disk, self.data_disk = log, data
        self.store = Store(log, data, self.env, settings or small())

    def recover(self) -> Recovered:
        return self.store.recover()

    def wait(self, *calls: Callable[[Done], None]) -> list[StorageError | None]:
        """Make the calls one right after the other; what each ended with."""
        ends: list[asyncio.Future[StorageError | None]] = []
        for call in calls:
            future = self.loop.create_future()
            ends.append(future)
            call(_setter(future))

        async def gather() -> list[StorageError | None]:
            return await asyncio.wait_for(asyncio.gather(*ends), 30)

        return self.loop.run_until_complete(gather())

    def do(self, *calls: Callable[[Done], None]) -> None:
        """The same; all must succeed."""
        for error in self.wait(*calls):
            assert error is None, error

    def append(self, *entries: Entry) -> None:
        self.do(lambda done: self.store.append(entries, done))

    def settle(self) -> None:
        """Let everything that still can happen happen: until the disks are idle and say nothing new."""
        quiet = 0
        for _ in range(200):
            used = self.power.used
            futures: list[asyncio.Future[None]] = []
            for disk in self.disks:
                future = self.loop.create_future()
                futures.append(future)
                disk.submit([], lambda error, future=future: future.set_result(None))  # type: ignore[misc]  # lambda default
            self.loop.run_until_complete(asyncio.wait_for(asyncio.gather(*futures), 30))
            self.loop.run_until_complete(asyncio.sleep(0))
            quiet = quiet + 1 if self.power.used == used and not self.store.snapshotting else 0
            if quiet == 5:
                return

    def close(self) -> None:
        for disk in self.disks:
            disk.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def files(self) -> list[str]:
        return sorted(entry.name for entry in (self.path / FOLDER).iterdir())

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _setter(future: "asyncio.Future[StorageError | None]") -> Done:
    def done(error: StorageError | None) -> None:
        future.set_result(error)

    return done


def small(**changes: int) -> StoreSettings:
    """Settings for small files."""
    return StoreSettings(preallocate=changes.pop("preallocate", 64 << 10), snap_count=changes.pop("snap_count", 1000))


def write_log(path: Path, *entries: Entry) -> Path:
    """A folder with an empty snapshot and one log; the log's path."""
    with Session(path) as session:
        session.recover()
        session.append(*entries)
    return path / FOLDER / f"log.{entries[0].zxid:x}"


def recover(path: Path) -> Recovered:
    """What a new process finds, repairs carried out."""
    with Session(path) as session:
        found = session.recover()
        session.do(lambda done: session.store.append([], done))
        return found
