"""One ZooKeeper member as a process: its disks, the member, and its ports for clients, peers, reports and metrics."""

import logging
from collections.abc import Callable

from quorate.errors import UsageError
from quorate.runtime import loop
from quorate.runtime.environment import Listener
from quorate.runtime.files import FileDisk, SyncStatistics
from quorate.runtime.http import HttpServer, Request, Response
from quorate.runtime.network import AsyncioEnvironment
from quorate.zookeeper import properties
from quorate.zookeeper.admin import AdminCommands
from quorate.zookeeper.config import MemberConfig
from quorate.zookeeper.fourletter import answer
from quorate.zookeeper.member import Member
from quorate.zookeeper.metrics import MetricsEndpoint
from quorate.zookeeper.purge import Purger
from quorate.zookeeper.report import MemberReport
from quorate.zookeeper.stats import Histogram
from quorate.zookeeper.store import Store, StoreSettings

log = logging.getLogger(__name__)


def run(config: MemberConfig) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises UsageError, StorageError, CorruptionError."""
    return loop.run(lambda env: MemberProcess(env, config).stop)


class MemberProcess:
    """Everything the process owns. Started by its construction."""

    def __init__(self, env: AsyncioEnvironment, config: MemberConfig) -> None:
        self._env = env
        self._config = config
        self._listeners: list[Listener] = []
        self._disks = self._open_disks()
        log_disk, data_disk = self._disks[-1], self._disks[0]
        settings = StoreSettings(
            preallocate=config.preallocate,
            snap_count=config.snap_count,
            snap_size=config.snap_size_limit,
            log_folder=config.data_log_dir,
            data_folder=config.data_dir,
        )
        store = Store(log_disk, data_disk, env, settings)
        initial = _initial(config.file)
        report = MemberReport(config, initial, _properties(initial, config.file))
        self.member = Member(
            env,
            config,
            store,
            lambda word, argument: answer(word, report, config.four_letter_words, argument),
            self._fail,
        )
        report.attach(self.member)
        self._purger = Purger(log_disk, data_disk, env, config.purge_snapshots_kept, config.purge_interval)
        log_disk.syncs = _SyncTimes(self.member.server.stats.fsynctime)
        try:
            self.member.start()
            self._purger.start()
            if config.admin_enabled:
                self._serve_http(
                    config.admin_address.bind_host,
                    config.admin_address.port,
                    AdminCommands(report, config.admin_command_url),
                )
            if config.metrics_address is not None:
                self._serve_http(config.metrics_address.bind_host, config.metrics_address.port, MetricsEndpoint(report))
        except BaseException:
            self.stop(lambda: None)
            raise

    def _open_disks(self) -> list[FileDisk]:
        """The disk of dataDir, and that of dataLogDir: two even if the folder is one, so that snapshots do not delay the log."""
        config, loop_ = self._config, self._env.loop
        slow = config.fsync_warning_threshold
        disks: list[FileDisk] = []
        try:
            for folder in (config.data_dir, config.data_log_dir):
                disk = FileDisk(folder, loop_, sync=config.force_sync, slow_sync_ms=slow)
                if folder not in [other.root for other in disks]:
                    disk.lock()
                disks.append(disk)
        except UsageError:
            for disk in disks:
                disk.close()
            raise
        if not config.force_sync:
            log.warning("forceSync is off: what is acknowledged may be lost when the machine stops")
        return disks

    def _serve_http(self, host: str, port: int, router: Callable[[Request], Response]) -> None:
        self._listeners.append(
            self._env.listen(host, port, HttpServer(self._env, router, idle_ms=self._config.admin_idle_timeout).accept)
        )

    def _fail(self, reason: str) -> None:
        log.error("%s", reason)
        self._env.end(1)

    def stop(self, stopped: Callable[[], None]) -> None:
        for listener in self._listeners:
            listener.close()
        self._purger.stop()
        self.member.stop()
        for disk in self._disks:
            disk.close()
        stopped()


class _SyncTimes(SyncStatistics):
    """Also fills the metric that Apache calls fsynctime."""

    __slots__ = ("_histogram",)

    def __init__(self, histogram: Histogram) -> None:
        super().__init__()
        self._histogram = histogram

    def add(self, ms: float) -> None:
        super().add(ms)
        self._histogram.record(int(ms * 1_000_000))


def _initial(file: str) -> str:
    """The configuration file's text, for reports."""
    try:
        with open(file, "rb") as source:
            return properties.decode(source.read(), file)
    except OSError:
        return ""


def _properties(text: str, file: str) -> dict[str, str]:
    """The file's settings under the names that Java properties have for them."""
    return {
        key if key.startswith("zookeeper.") else f"zookeeper.{key}": value
        for key, value, _ in properties.parse(text, file)
    }
