"""Runs the members of a platform: one process each, started again when they die, ended together.

Event driven over one selector: signals (also the one for a child's end) arrive on a wake-up socket, four-letter replies on
theirs. Members cannot outlive this process: on Linux the kernel kills them with it (PR_SET_PDEATHSIG), which their storage
survives as it survives any crash.
"""

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from quorate.cli.fourletter import Asker
from quorate.cli.table import table
from quorate.errors import QuorateError

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_SECONDS = 10.0
"""Members that have not ended so long after SIGTERM are killed."""
_START_POLL_SECONDS = 0.005
_WATCH_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_FIRST_BACKOFF = 0.1
_LAST_BACKOFF = 10.0
_HEALTHY_SECONDS = 30.0
"""A member that ran so long is started again without a growing delay."""
_START_TRIES = 5
"""Deaths before the first `ready` after which it is given up."""
_SETTLE_SECONDS = 0.2
"""Changes that come so close together are shown as one."""
_QUIET_START_SECONDS = 3.0
"""A start that takes longer shows the members before all of them serve, so that one can see who does not."""
_PR_SET_PDEATHSIG = 1
_USER_MISTAKE = 2

STARTING, ELECTING, SILENT, DOWN = "starting", "electing", "not answering", "down"
NOT_SERVING = frozenset((STARTING, ELECTING, SILENT, DOWN))


class Probe:
    """How a member is asked what it does: ``word`` is sent to ``address``, and ``role_of`` tells its role by the answer."""

    __slots__ = ("address", "role_of", "word")

    def __init__(self, address: tuple[str, int], word: str, role_of: Callable[[str], str]) -> None:
        self.address = address
        self.word = word
        self.role_of = role_of


class Member:
    """One process of the platform and what is known of it."""

    __slots__ = (
        "address", "admin", "asking", "backoff", "command", "deaths", "log", "name", "next_poll", "probe", "process",
        "restart_at", "role", "started_at",
    )  # fmt: skip

    def __init__(
        self, name: str, address: tuple[str, int], probe: "Probe", admin: str, command: list[str], log: str
    ) -> None:
        self.name = name
        self.address = address
        self.probe = probe
        self.admin = admin
        self.command = command
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.role = DOWN
        self.asking = False
        self.next_poll = 0.0
        self.started_at = 0.0
        self.restart_at = 0.0
        self.backoff = _FIRST_BACKOFF
        self.deaths = 0


class Supervisor:
    """Starts ``members`` and keeps them running until a signal to stop; ``ready`` is called once, when all serve."""

    def __init__(
        self,
        title: str,
        members: list[Member],
        lock: int,
        ready: Callable[[], None],
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """``lock`` is a file descriptor that members inherit, so that its lock outlives this process if they do."""
        self._title = title
        self._members = members
        self._lock = lock
        self._ready: Callable[[], None] | None = ready
        self._selector = selectors.DefaultSelector()
        self._asker = Asker(self._selector)
        self._stop_seconds = stop_seconds
        self._stopping = False
        self._show_at: float | None = None
        self._started_at = time.monotonic()
        self._adopt_death = _adopt_death()

    def run(self) -> int:
        """Returns the exit status: 0 after a signal to stop. Raises QuorateError if the members cannot be started."""
        wake, waker = socket.socketpair()
        wake.setblocking(False)
        waker.setblocking(False)
        self._selector.register(wake, selectors.EVENT_READ, lambda _: _empty(wake))
        previous = {number: signal.signal(number, self._on_stop) for number in _STOP_SIGNALS}
        # a child's end must interrupt the wait, which an ignored signal would not
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        old_waker = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            for member in self._members:
                self._start(member)
            while not self._stopping:
                self._turn()
            return 0
        finally:
            self._end_members()
            signal.set_wakeup_fd(old_waker)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._asker.close()
            self._selector.close()
            wake.close()
            waker.close()

    def _on_stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _turn(self) -> None:
        self._wait(self._next_deadline())
        now = time.monotonic()
        for member in self._members:
            process = member.process
            if process is None:
                if member.restart_at <= now:
                    self._start(member)
            elif process.poll() is not None:
                if not self._stopping:
                    self._died(member, process.returncode)
            elif not member.asking and member.next_poll <= now:
                member.asking = True
                self._asker.ask(
                    *member.probe.address, member.probe.word, _ANSWER_SECONDS, partial(self._answered, member, process)
                )
        if self._ready is not None and all(member.role not in NOT_SERVING for member in self._members):
            ready, self._ready = self._ready, None
            self._show()
            ready()
        elif self._show_at is not None and self._show_due(self._show_at) <= now:
            self._show()

    def _show_due(self, changed: float) -> float:
        return changed if self._ready is None else max(changed, self._started_at + _QUIET_START_SECONDS)

    def _wait(self, deadline: float) -> None:
        for key, events in self._selector.select(max(0.0, deadline - time.monotonic())):
            key.data(events)
        self._asker.expire()

    def _next_deadline(self) -> float:
        times = [time.monotonic() + _WATCH_SECONDS]
        for member in self._members:
            if member.process is None:
                times.append(member.restart_at)
            elif not member.asking:
                times.append(member.next_poll)
        asked = self._asker.next_deadline()
        if asked is not None:
            times.append(asked)
        if self._show_at is not None:
            times.append(self._show_due(self._show_at))
        return min(times)

    def _start(self, member: Member) -> None:
        with open(member.log, "ab") as log:
            try:
                member.process = subprocess.Popen(
                    member.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(self._lock,),
                    preexec_fn=self._adopt_death,
                    # Ctrl-C is for this process alone, which then asks each member once to end
                    process_group=0,
                )
            except OSError as error:
                raise QuorateError(f"{member.name} cannot be started: {error.strerror}") from None
        member.started_at = time.monotonic()
        member.next_poll = member.started_at
        self._set_role(member, STARTING)

    def _answered(self, member: Member, process: subprocess.Popen[bytes], text: str | None, reason: str) -> None:
        member.asking = False
        now = time.monotonic()
        if member.process is not process:
            return
        if text is not None:
            self._set_role(member, member.probe.role_of(text))
        elif member.role != STARTING:
            self._set_role(member, SILENT)
        starting = self._ready is not None or member.role == STARTING
        member.next_poll = now + (_START_POLL_SECONDS if starting and member.role in NOT_SERVING else _WATCH_SECONDS)

    def _set_role(self, member: Member, role: str) -> None:
        if member.role != role:
            member.role = role
            if self._show_at is None:
                self._show_at = time.monotonic() + _SETTLE_SECONDS

    def _died(self, member: Member, status: int) -> None:
        now = time.monotonic()
        last = _last_line(member.log)
        member.process = None
        member.deaths += 1
        if self._ready is not None and (status == _USER_MISTAKE or member.deaths >= _START_TRIES):
            raise QuorateError(f"{member.name} does not start; its log {member.log} ends with: {last}")
        if now - member.started_at >= _HEALTHY_SECONDS:
            member.backoff = _FIRST_BACKOFF
        member.restart_at = now + member.backoff
        self._set_role(member, DOWN)
        _say(f"{member.name} {_fate(status)} and starts again in {member.backoff:g} s; its log ends with: {last}\n")
        member.backoff = min(member.backoff * 2, _LAST_BACKOFF)

    def _show(self) -> None:
        self._show_at = None
        rows = [("member", "pid", "role", "client", "admin", "log")]
        for member in self._members:
            pid = str(member.process.pid) if member.process is not None else "-"
            host, port = member.address
            rows.append((member.name, pid, member.role, f"{host}:{port}", member.admin, member.log))
        serving = sum(member.role not in NOT_SERVING for member in self._members)
        _say(f"{self._title}: {serving} of {len(self._members)} serve\n{table(rows)}")

    def _end_members(self) -> None:
        deadline = time.monotonic() + self._stop_seconds
        running = [member for member in self._members if member.process is not None]
        for member in running:
            _signal(member, signal.SIGTERM)
        while any(member.process is not None and member.process.poll() is None for member in running):
            if time.monotonic() >= deadline:
                break
            self._wait(deadline)
        for member in running:
            process = member.process
            if process is not None and process.poll() is None:
                _say(f"{member.name} did not end within {self._stop_seconds:g} s and is killed\n")
                _signal(member, signal.SIGKILL)
                process.wait()


def _adopt_death() -> Callable[[], None] | None:
    """What a child runs before its program so that it dies with this process; None where the system cannot do that."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def adopt() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # the parent may have died before the call above
        if os.getppid() != parent:
            os._exit(1)

    return adopt


def _signal(member: Member, number: signal.Signals) -> None:
    if member.process is not None:
        # Popen checks first that the process was not reaped, so the number cannot be another's
        member.process.send_signal(number)


def _fate(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _last_line(path: str) -> str:
    """The last line of a log that says anything."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError as error:
        return f"({error.strerror})"
    return lines[-1] if lines else "(nothing)"


def _empty(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        return


def _say(text: str) -> None:
    """Tell the user; that nobody listens any more is no reason to stop the members."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        return
