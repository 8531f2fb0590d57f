"""A participant for a system of one's own: files in a folder, several of which are written or deleted together or not at all, also with databases.

    Folder.create("/var/reports")            # once
    reports = Folder("reports", "/var/reports")
    with Coordinator("127.0.0.1:7002", [orders, reports]) as coordinator, coordinator.transaction() as tx:
        tx.enlist(orders).execute("insert into orders …")
        tx.enlist(reports).write("2026/7.json", b"…")

What a branch writes lies in ``.quorate/staged/<branch>`` until it is committed. Its state is one file, ``.quorate/states/<branch>``, which is never changed but replaced:

    (none) ──link──▶ prepared ──rename──▶ committing ──rename──▶ committed
       └────link──────▶ aborted ◀──rename──┘

- To prepare is to make everything durable, and then to give the state its name by a hard link, which fails if there is one. A fence is the same link with
  ``aborted`` in it: whoever is first wins, across processes, without a lock.
- From ``committing`` on there is no way back: whoever comes next carries the list of changes out to its end. So a crash in the middle of the renames is no half commit, though
  readers can see some of the files before the others.
- Who carries out holds a lock, and carries out what was left unfinished first, so that old changes do not come over newer ones.
- Files that two transactions write are not locked: the one that commits last stays.

Rename, link and fsync as POSIX has them, on one local file system.
"""

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from quorate.errors import UsageError
from quorate.transactions import (
    Branch,
    ConnectionBroken,
    Outcome,
    ParticipantError,
    Prepared,
    UnknownBranch,
    Vote,
    VotedNo,
)
from quorate.transactions.gtid import check_name, parse

PREPARED, COMMITTING, COMMITTED, ABORTED = "prepared", "committing", "committed", "aborted"
_OUTCOMES = {
    PREPARED: Outcome.PREPARED,
    COMMITTING: Outcome.COMMITTED,
    COMMITTED: Outcome.COMMITTED,
    ABORTED: Outcome.ABORTED,
}
_OURS = ".quorate"


class Files:
    """What a transaction writes. Nothing of it is seen before the commit."""

    def __init__(self, folder: Path, staged: Path) -> None:
        self._folder = folder
        self.staged = staged
        self.changes: dict[str, str | None] = {}
        """Path → name of the staged file, None to delete it."""
        self._count = 0

    def write(self, path: str, data: bytes) -> None:
        """``path``: relative to the folder. Raises UsageError."""
        path = _checked(path)
        self._count += 1
        name = str(self._count)
        (self.staged / name).write_bytes(data)
        self.changes[path] = name

    def delete(self, path: str) -> None:
        self.changes[_checked(path)] = None

    def read(self, path: str) -> bytes | None:
        """With this transaction's own changes; None if there is no such file."""
        path = _checked(path)
        name = self.changes.get(path, "")
        if name is None:
            return None
        try:
            return (self.staged / name if name else self._folder / path).read_bytes()
        except FileNotFoundError:
            return None


def _checked(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or parts[0] == _OURS or "\0" in path:
        raise UsageError(f"{path!r} is no path of a file in the folder")
    return "/".join(parts)


class Folder:
    blocks = True
    """Its methods wait for the disk: coordinators call them in threads where something else is under way."""

    def __init__(self, name: str, path: str | Path) -> None:
        self.name = check_name(name)
        self.path = Path(path)
        self.states = self.path / _OURS / "states"
        self.staged = self.path / _OURS / "staged"
        self._works: dict[str, Files] = {}
        self._guard = threading.Lock()

    @staticmethod
    def create(path: str | Path) -> None:
        """Make a folder ready to take part, once. A folder that is not is refused, for it may be one whose disk is not mounted."""
        for folder in (Path(path) / _OURS / "states", Path(path) / _OURS / "staged"):
            folder.mkdir(parents=True, exist_ok=True)
        for made in (Path(path) / _OURS, Path(path), Path(path).parent):
            _sync(made)

    # ---- work

    def begin(self, branch: Branch) -> Files:
        staged = self.staged / _name(branch)
        try:
            staged.mkdir()
        except FileNotFoundError:
            raise UsageError(f"{self.name}: {self.path} is not set up (Folder.create), or not mounted") from None
        work = Files(self.path, staged)
        with self._guard:
            self._works[_name(branch)] = work
        return work

    def prepare(self, branch: Branch) -> Vote:
        work = self._work(branch)
        if not work.changes:
            self._clear(branch)
            return Vote.READ_ONLY
        self._publish(branch, work, PREPARED)
        return Vote.YES

    def commit_one_phase(self, branch: Branch) -> None:
        work = self._work(branch)
        if work.changes:
            self._publish(branch, work, COMMITTING)
            try:
                _sync(self.states)
                with self._turn():
                    pass
            except OSError as error:
                raise ConnectionBroken(f"it is committed, and not carried out yet: {error}") from error
        self._clear(branch)

    def _work(self, branch: Branch) -> Files:
        with self._guard:
            work = self._works.get(_name(branch))
        if work is None:
            raise VotedNo("nobody works for this branch here")
        return work

    def _publish(self, branch: Branch, work: Files, state: str) -> None:
        """Make durable what was written, and give the branch its state, if it has none. Raises VotedNo."""
        for path, name in work.changes.items():
            target = self.path / path
            if target.is_dir() or any(folder.is_file() for folder in target.parents):
                raise VotedNo(f"{path} cannot be a file: it is a folder, or a file is in its way")
            if name is not None:
                _sync(work.staged / name)
        changes = [[name, path] for path, name in work.changes.items()]
        self._write(work.staged / "state", state, changes)
        _sync(work.staged)
        _sync(self.staged)
        if not self._link(work.staged / "state", branch):
            raise VotedNo("somebody has fenced the branch off")
        if state == PREPARED:
            _sync(self.states)

    # ---- the end

    def commit(self, branch: Branch) -> None:
        with self._turn():
            found = self._read(_name(branch))
            if found is None or found[0] == ABORTED:
                raise UnknownBranch("there is no such branch")
            if found[0] == PREPARED:
                self._replace(_name(branch), COMMITTING, found[1])
                self._carry_out(_name(branch), found[1])
        self._clear(branch)

    def rollback(self, branch: Branch) -> None:
        self._abort_unless_there_is_a_state(branch)
        with self._turn():
            found = self._read(_name(branch))
            if found is not None and found[0] == COMMITTED:
                raise UnknownBranch("the branch is committed")
            if found is not None and found[0] == PREPARED:
                self._replace(_name(branch), ABORTED, [])
        self._clear(branch)

    def fence(self, branch: Branch) -> None:
        self._abort_unless_there_is_a_state(branch)

    def outcome(self, branch: Branch) -> Outcome:
        found = self._read(_name(branch))
        if found is not None:
            if found[0] == COMMITTING:
                # whoever hears that it is committed wants to see it
                with self._turn():
                    pass
            return _OUTCOMES[found[0]]
        if (self.staged / _name(branch)).exists():
            # somebody may still work for it
            return Outcome.UNKNOWN
        found = self._read(_name(branch))
        return Outcome.ABORTED if found is None else _OUTCOMES[found[0]]

    def recover(self) -> Sequence[Prepared]:
        listed = []
        with self._turn():
            for name in self._names():
                found = self._read(name)
                if found is None or found[0] != PREPARED:
                    continue
                text, _, participant = name.rpartition("@")
                gtid = parse(text)
                branch = Branch(gtid, self.name) if gtid is not None and participant == self.name else None
                listed.append(Prepared(name, branch, max(0.0, time.time() - (self.states / name).stat().st_mtime)))
        return listed

    def tidy(self, before: float, space: str) -> None:
        """Forget the ends of the space's transactions whose deadline was before that, and what died unprepared."""
        for name in {*self._names(), *os.listdir(self.staged)}:
            gtid = parse(name.rpartition("@")[0])
            if gtid is None or gtid.space != space or gtid.deadline >= before:
                continue
            found = self._read(name)
            if found is None:
                # who still works for it can prepare no more, even if it is a second time round
                self._abort_unless_there_is_a_state(Branch(gtid, name.rpartition("@")[2]))
                shutil.rmtree(self.staged / name, ignore_errors=True)
            elif found[0] in (COMMITTED, ABORTED):
                shutil.rmtree(self.staged / name, ignore_errors=True)
                (self.states / name).unlink(missing_ok=True)

    def let_go(self, branch: Branch) -> None:
        with self._guard:
            self._works.pop(_name(branch), None)

    # ---- states

    def _names(self) -> list[str]:
        """Of all branches that have a state. Raises ParticipantError if they cannot be had now, which is not the same as that there are none."""
        try:
            return sorted(name for name in os.listdir(self.states) if not name.startswith("."))
        except FileNotFoundError:
            raise ParticipantError(f"{self.path} is not set up, or not mounted") from None

    def _read(self, name: str) -> tuple[str, list[Any]] | None:
        try:
            found = json.loads((self.states / name).read_text())
        except FileNotFoundError:
            if not self.states.is_dir():
                raise ParticipantError(f"{self.path} is not set up, or not mounted") from None
            return None
        return found["state"], found["changes"]

    def _write(self, path: Path, state: str, changes: list[Any]) -> None:
        path.write_text(json.dumps({"state": state, "changes": changes}))
        _sync(path)

    def _link(self, written: Path, branch: Branch) -> bool:
        """Whether the branch had no state before."""
        try:
            os.link(written, self.states / _name(branch))
        except FileExistsError:
            return False
        return True

    def _replace(self, name: str, state: str, changes: list[Any]) -> None:
        new = self.states / f".{name}"
        self._write(new, state, changes)
        os.replace(new, self.states / name)
        _sync(self.states)

    def _abort_unless_there_is_a_state(self, branch: Branch) -> None:
        if self._read(_name(branch)) is not None:
            return
        tombstone = self.states / f".{_name(branch)}.{os.getpid()}.{threading.get_ident()}"
        self._write(tombstone, ABORTED, [])
        try:
            self._link(tombstone, branch)
        finally:
            tombstone.unlink()
        _sync(self.states)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time, of all processes. What somebody left unfinished is carried out first."""
        names = self._names()
        descriptor = os.open(self.states, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for name in names:
                found = self._read(name)
                if found is not None and found[0] == COMMITTING:
                    self._carry_out(name, found[1])
            yield
        finally:
            os.close(descriptor)

    def _carry_out(self, name: str, changes: list[Any]) -> None:
        """Can be done again, from any point at which it was left."""
        touched = set()
        for staged, path in changes:
            target = self.path / path
            if staged is None:
                target.unlink(missing_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                # what is not there any more was put in its place before
                with suppress(FileNotFoundError):
                    os.replace(self.staged / name / staged, target)
            touched |= {folder for folder in target.parents if folder.is_relative_to(self.path)}
        for folder in touched:
            if folder.is_dir():
                _sync(folder)
        self._replace(name, COMMITTED, [])
        shutil.rmtree(self.staged / name, ignore_errors=True)

    def _clear(self, branch: Branch) -> None:
        self.let_go(branch)
        shutil.rmtree(self.staged / _name(branch), ignore_errors=True)


def _name(branch: Branch) -> str:
    return f"{branch.gtid.text}@{branch.participant}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
