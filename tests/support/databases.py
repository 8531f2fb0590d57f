"""Real PostgreSQL and MariaDB servers for tests: in a folder of the test's, on a free port, ended by id.

    with Postgres(tmp_path / "postgres") as server:
        psycopg.connect(server.conninfo)

Neither server runs as root, so under root they are given an account of their own.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import pymysql
from tests.support.processes import free_ports

PATIENCE = 60.0


def _find(name: str, *places: str) -> str:
    for place in sorted(str(found) for pattern in places for found in Path("/").glob(pattern.lstrip("/"))):
        if os.access(place, os.X_OK):
            return place
    return shutil.which(name) or ""


def why_no_postgres() -> str:
    return "" if Postgres.program("postgres") and Postgres.program("initdb") else "PostgreSQL is not installed"


def why_no_mariadb() -> str:
    return "" if MariaDB.program("mariadbd") and MariaDB.program("mariadb-install-db") else "MariaDB is not installed"


def why_no_pgbouncer() -> str:
    return "" if PgBouncer.program() else "PgBouncer is not installed"


class Server:
    """``settings``: what differs from the defaults of a test server, which syncs as one in production does."""

    account = "nobody"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.settings = dict(settings or {})
        (self.port,) = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            # the account has to get there, and pytest closes its own folder to others whenever it starts anew
            self.folder = Path(tempfile.mkdtemp(prefix="quorate-"))
            shutil.chown(self.folder, self._account())
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        else:
            folder.mkdir(parents=True)
        self.create()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _account(self) -> str:
        try:
            pwd.getpwnam(self.account)
        except KeyError:
            return "nobody"
        return self.account

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    # ---- of each kind

    def create(self) -> None:
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def ping(self) -> None:
        """Raises OSError or the driver's error."""
        raise NotImplementedError

    # ---- life

    def spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        account = self._account() if os.geteuid() == 0 else None
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, user=account,
                group=None if account is None else pwd.getpwnam(account).pw_gid, extra_groups=None if account is None else [],
            )  # fmt: skip

    def run(self, command: Sequence[str]) -> None:
        process = self.spawn(command)
        if process.wait(PATIENCE):
            raise AssertionError(f"{command[0]}: {self.log.read_text()[-2000:]}")

    def start(self) -> None:
        self.process = self.spawn(self.command())
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.ping()
            except (OSError, psycopg.Error, pymysql.Error) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"does not serve: {error}; {self.log.read_text()[-2000:]}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Postgres(Server):
    account = "postgres"

    @staticmethod
    def program(name: str) -> str:
        return _find(name, f"/usr/lib/postgresql/*/bin/{name}")

    @property
    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        data = str(self.folder / "data")
        self.run(
            [
                self.program("initdb"),
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "--no-sync",
                "--locale=C",
                "-E",
                "UTF8",
            ]
        )

    def command(self) -> Sequence[str]:
        settings = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        settings |= {"max_prepared_transactions": "64", "jit": "off"} | self.settings
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.program("postgres"), "-D", str(self.folder / "data"), *options]

    def ping(self) -> None:
        psycopg.connect(self.conninfo, connect_timeout=2).close()

    def stop(self) -> None:
        # SIGTERM would wait for clients to leave
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Every process of the server: those of sessions end only when they notice that the first one is gone."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.process.kill()
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._end(signal.SIGKILL)


class PgBouncer(Server):
    """In front of ``postgres``; ``mode``: session, transaction or statement."""

    account = "postgres"

    def __init__(self, folder: Path, postgres: Postgres, mode: str) -> None:
        self._postgres = postgres
        self._mode = mode
        super().__init__(folder)

    @staticmethod
    def program() -> str:
        return _find("pgbouncer", "/usr/sbin/pgbouncer")

    @property
    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    def create(self) -> None:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": self._mode,
        }
        lines = ["[databases]", f"postgres = {self._postgres.conninfo}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        (self.folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")

    def command(self) -> Sequence[str]:
        return [self.program(), "-q", str(self.folder / "pgbouncer.ini")]

    def ping(self) -> None:
        psycopg.connect(self.conninfo, connect_timeout=2).close()

    def stop(self) -> None:
        # SIGINT would wait for clients to leave
        self._end(signal.SIGTERM)


class MariaDB(Server):
    account = "mysql"

    @staticmethod
    def program(name: str) -> str:
        return _find(name, f"/usr/sbin/{name}", f"/usr/bin/{name}")

    @property
    def parameters(self) -> dict[str, object]:
        """For PyMySQL."""
        return {"host": "127.0.0.1", "port": self.port, "user": "tester", "database": "test"}

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"mysql+pymysql://tester@127.0.0.1:{self.port}/test"

    def create(self) -> None:
        data = self.folder / "data"
        self.run(
            [self.program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db",
             f"--tmpdir={self.folder}"]
        )  # fmt: skip
        file = self.folder / "init.sql"
        file.write_text(
            "CREATE DATABASE IF NOT EXISTS test;\n"
            "CREATE USER IF NOT EXISTS tester@'%';\n"
            "GRANT ALL ON *.* TO tester@'%';\n"
        )

    def command(self) -> Sequence[str]:
        settings = {
            "datadir": str(self.folder / "data"),
            # a server that starts deletes the temporary tables that it finds, also those of another that lives
            "tmpdir": str(self.folder),
            "port": str(self.port),
            "bind-address": "127.0.0.1",
            "socket": str(self.folder / "socket"),
            "pid-file": str(self.folder / "pid"),
            "init-file": str(self.folder / "init.sql"),
            "innodb-buffer-pool-size": "32M",
            "skip-name-resolve": "ON",
        } | self.settings
        return [self.program("mariadbd"), "--no-defaults", *[f"--{name}={value}" for name, value in settings.items()]]

    def ping(self) -> None:
        pymysql.connect(host="127.0.0.1", port=self.port, user="tester", database="test", connect_timeout=2).close()
