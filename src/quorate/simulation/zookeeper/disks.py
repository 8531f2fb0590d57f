"""The disks of one member: one folder for everything, or one for the log and one for the data, as zoo.cfg allows."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from quorate.errors import QuorateError
from quorate.simulation.disk import VirtualDisk
from quorate.simulation.machine import SimulatedEnvironment
from quorate.simulation.scheduler import Stream
from quorate.zookeeper.recovery import Recovery

if TYPE_CHECKING:
    from quorate.simulation.zookeeper.world import World


class MemberDisks:
    """``failing``: a fault made the disk fail, now or for its next sync; the member is right to stop. ``trusted``: no flipped bit waits in a file."""

    def __init__(self, world: "World", sid: int) -> None:
        options = world.options
        names = ("log", "data") if options["two_disks"] else ("disk",)
        self._disks = [
            VirtualDisk(world.scheduler, Stream(world.seed, f"{name} {sid}"), options["disk_latency"]) for name in names
        ]
        self._machine = world.machines[sid]
        self.failing = False
        self.trusted = True
        self._steps_left = -1
        self._crash: Callable[[], None] | None = None
        for disk in self._disks:
            disk.on_step = self._stepped

    # ---- the process

    def open(self) -> None:
        """A process is about to start."""
        self._crash = None

    def handles(self, env: SimulatedEnvironment) -> tuple[VirtualDisk, VirtualDisk]:
        """The log's disk and the data's, for the process of ``env``."""
        machine = self._machine

        def post(call: Callable[[], None]) -> None:
            machine.enter(env, call)

        for disk in self._disks:
            disk.open(post)
        return self._disks[0], self._disks[-1]

    def crash(self, power_lost: bool) -> None:
        self._crash = None
        for disk in self._disks:
            disk.crash(power=power_lost)

    # ---- faults

    def crash_after(self, operations: int, crash: Callable[[], None]) -> None:
        """Call ``crash`` in the midst of the disks' next operation but ``operations``."""
        self._steps_left = operations
        self._crash = crash

    def _stepped(self, step: str) -> None:
        crash = self._crash
        if crash is None:
            return
        self._steps_left -= 1
        if self._steps_left < 0:
            self._crash = None
            crash()

    def slow(self, factor: int) -> None:
        for disk in self._disks:
            disk.slowdown = factor

    def fill(self) -> None:
        self.failing = True
        for disk in self._disks:
            disk.fill()

    def free(self) -> None:
        for disk in self._disks:
            disk.drain()

    def fail_next_sync(self) -> None:
        self.failing = True
        for disk in self._disks:
            disk.fail_next_sync()

    def flip_bit(self, stream: Stream) -> str:
        """Flip some bit of some file; what it did, "" if there is no file."""
        what = stream.choice(self._disks).flip_bit(stream)
        if what:
            self.trusted = False
        return what

    def wipe(self) -> None:
        self.trusted = True
        for disk in self._disks:
            disk.wipe()

    def heal(self) -> None:
        """All is well with the disks again."""
        self._crash = None
        self.free()
        for disk in self._disks:
            disk.hurry()

    # ---- for the judge

    def durable(self) -> tuple[int, set[int], int] | None:
        """What a loss of power now would surely leave: the last zxid, the zxids after the snapshot, the accepted epoch.

        None if the member would not start.
        """
        log, data = self._disks[0].durable_view(), self._disks[-1].durable_view()
        try:
            found = Recovery(log, data, "", "", False)
        except QuorateError:
            return None
        return (
            found.last_zxid,
            {max(found.snapshot_zxid, 0), *[entry.zxid for entry in found.tail]},
            found.accepted_epoch,
        )
