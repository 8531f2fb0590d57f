"""The disks of one member: one folder for everything, or one for the log and one for the data, as zoo.cfg allows."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from quorate.errors import QuorateError
from quorate.simulation.disk.device import VirtualDisk
from quorate.simulation.disk.files import Flip, VirtualFiles
from quorate.simulation.machine import SimulatedEnvironment
from quorate.simulation.scheduler import Stream
from quorate.zookeeper.recovery import Recovery
from quorate.zookeeper.txnlog import FOLDER, LOG_PREFIX, SNAPSHOT_PREFIX, zxid_of

if TYPE_CHECKING:
    from quorate.simulation.zookeeper.world import World


class MemberDisks:
    """``failing``: a fault made the disk fail, now or for its next sync; the member is right to stop. ``trusted``: no flipped bit waits in a file."""

    def __init__(self, world: "World", sid: int) -> None:
        options = world.options
        count = 2 if options["two_disks"] else 1
        self._volumes = [VirtualFiles(Stream(world.seed, f"volume {number} of {sid}")) for number in range(count)]
        self._disks = [
            VirtualDisk(
                world.scheduler,
                Stream(world.seed, f"{name} disk of {sid}"),
                self._volumes[number % count],
                options["disk_latency"],
            )
            for number, name in enumerate(("log", "data"))
        ]
        self._machine = world.machines[sid]
        self.failing = False
        self.trusted = True
        self._flips: list[tuple[VirtualFiles, Flip]] = []
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
        return self._disks[0], self._disks[1]

    def crash(self, power_lost: bool) -> None:
        """The process is gone, and with it, if the power was lost, what was not synced."""
        self._crash = None
        for disk in self._disks:
            disk.crash()
        if power_lost:
            for volume in self._volumes:
                volume.lose_power()

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
        for volume in self._volumes:
            volume.full = True

    def free(self) -> None:
        for volume in self._volumes:
            volume.full = False

    def fail_next_sync(self) -> None:
        self.failing = True
        self._volumes[0].syncs_to_fail = 1

    def flip_bit(self, stream: Stream) -> str:
        """Flip some bit of a log or snapshot; what it did, "" if there is no file.

        The epochs' files are spared: Apache's format has no checksum for them.
        """
        paths = [
            (volume, f"{FOLDER}/{name}")
            for volume in self._volumes
            for name in (volume.list(FOLDER) if volume.exists(FOLDER) else ())
            if max(zxid_of(name, LOG_PREFIX), zxid_of(name, SNAPSHOT_PREFIX)) >= 0
        ]
        if not paths:
            return ""
        volume, path = stream.choice(paths)
        flip = volume.flip_bit(stream, path)
        if flip is None:
            return ""
        self.trusted = False
        self._flips.append((volume, flip))
        return str(flip)

    def repair(self) -> None:
        """Take back every flip whose file is still there."""
        for volume, flip in self._flips:
            volume.flip_back(flip)
        self._flips.clear()
        self.trusted = True

    def wipe(self) -> None:
        self.trusted = True
        self._flips.clear()
        for volume in self._volumes:
            volume.wipe()

    def heal(self) -> None:
        """All is well with the disks again."""
        self._crash = None
        self.free()
        for volume in self._volumes:
            volume.syncs_to_fail = 0
        for disk in self._disks:
            disk.hurry()

    # ---- for the judge

    def durable(self) -> tuple[int, set[int], int] | None:
        """What a loss of power now would surely leave: the last zxid, the zxids after the snapshot, the accepted epoch.

        None if the member would not start.
        """
        log, data = self._volumes[0].durable(), self._volumes[-1].durable()
        try:
            found = Recovery(log, data, "", "", False)
        except QuorateError:
            return None
        return (
            found.last_zxid,
            {max(found.snapshot_zxid, 0), *[entry.zxid for entry in found.tail]},
            found.accepted_epoch,
        )
