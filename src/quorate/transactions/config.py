"""The file that tells who takes part in transactions and where their decisions lie (TOML): programs load a coordinator from it, and
``quorate txn`` looks after the same transactions.

    [transactions]
    space = "shop"                               # the same for all who share these databases
    decisions = "10.0.0.1:7002,10.0.0.2:7002"    # members of our store; or "zookeeper://host:2181,…"; or the path of a file, such as "./decisions"
    timeout = 5.0                                # seconds, of a transaction
    acknowledge = "applied"                      # or "decided"
    sweep_every = 10.0                           # seconds between rounds of recovery
    keep = 60.0                                  # seconds that a finished decision is kept

    [[participants]]
    name = "orders"
    kind = "postgres"
    conninfo = "host=db1 dbname=shop user=app"   # as libpq takes it; passwords may be in its passfile
    prepare_statements = true                    # false behind a PgBouncer that pools transactions

    [[participants]]
    name = "stock"
    kind = "mariadb"
    host = "db2"
    port = 3306
    database = "shop"
    user = "app"
    password_file = "stock.password"             # or password = "…"
    ignore_tables = ["counters"]                 # known to have no transactions

    [[participants]]
    name = "inventory"
    kind = "kv"                                  # a store of ours other than the one that the decisions lie in
    addresses = "10.0.1.1:7002,10.0.1.2:7002"

Paths are relative to the file. Only space, decisions and the participants have to be there.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quorate import toml
from quorate.errors import ConfigError, UsageError
from quorate.toml import Table, is_address
from quorate.transactions.gtid import TIMEOUT_MAX, check_name, check_space

ACKNOWLEDGE = ("applied", "decided")
SECONDS_MAX = 365 * 86400.0
_SCHEME = re.compile(r"[a-z]+://")
_PASSWORD_MAX = 4096


class Config:
    """``decisions``: as a coordinator takes it. ``specifications``: makes one participant each, in the file's order."""

    __slots__ = ("acknowledge", "decisions", "file", "keep", "space", "specifications", "sweep_every", "timeout")

    def __init__(
        self,
        file: str,
        space: str,
        decisions: str | Path,
        specifications: Mapping[str, Callable[[], Any]],
        timeout: float,
        acknowledge: str,
        sweep_every: float,
        keep: float,
    ) -> None:
        self.file = file
        self.space = space
        self.decisions = decisions
        self.specifications = dict(specifications)
        self.timeout = timeout
        self.acknowledge = acknowledge
        self.sweep_every = sweep_every
        self.keep = keep

    def participants(self) -> list[Any]:
        """New ones, for one coordinator. Raises ConfigError."""
        made = []
        for name, make in self.specifications.items():
            try:
                made.append(make())
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"the participant {name!r} needs {error.name}, which is not installed", self.file
                ) from None
            except ConfigError:
                raise
            except UsageError as error:
                raise ConfigError(str(error), self.file) from None
        return made

    def options(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """What a coordinator is made with; ``changed`` stands instead of what the file says. Raises ConfigError."""
        return {
            "decisions": self.decisions, "participants": self.participants(), "space": self.space, "timeout": self.timeout,
            "acknowledge": self.acknowledge, "sweep_every": self.sweep_every, "keep": self.keep, **changed,
        }  # fmt: skip


def load(file: str | Path) -> Config:
    """Raises ConfigError, which names the file and the key."""
    name = str(file)
    # with the engine come the drivers' sessions: not before the file is right
    from quorate.transactions.engine import SWEEP_SECONDS
    from quorate.transactions.recovery import KEEP_SECONDS

    top = toml.read(name)
    general = top.table("transactions")
    config = Config(
        name,
        _checked(general, "space", check_space),
        _decisions(general),
        _participants(top),
        general.seconds("timeout", 0.001, TIMEOUT_MAX, 5.0),
        general.one_of("acknowledge", ACKNOWLEDGE, "applied"),
        general.seconds("sweep_every", 0.1, SECONDS_MAX, SWEEP_SECONDS),
        general.seconds("keep", 0.0, SECONDS_MAX, KEEP_SECONDS),
    )
    top.nothing_else()
    general.nothing_else()
    return config


def _checked(table: Table, key: str, check: Callable[[str], str]) -> str:
    text = table.text(key)
    try:
        return check(text)
    except UsageError as error:
        raise ConfigError(f"{table.key(key)}: {error}", table.file) from None


def _near(table: Table, path: str) -> Path:
    return Path(os.path.abspath(table.file)).parent / path


def _decisions(table: Table) -> str | Path:
    text = table.text("decisions")
    if _SCHEME.match(text) or all(is_address(part) for part in text.split(",")):
        return text
    # a forgotten port must not make a file
    if text.startswith(("/", "./", "../")):
        return _near(table, text)
    raise ConfigError(
        f'{table.key("decisions")}: expected "host:port" or several of them with commas between, "zookeeper://host:port", '
        f'or the path of a file, which begins with / or ./, found {text!r}',
        table.file,
    )  # fmt: skip


def _participants(top: Table) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for table in top.tables("participants"):
        name = _checked(table, "name", check_name)
        if name in found:
            raise ConfigError(f"{table.key('name')}: there are two participants named {name!r}", table.file)
        kind = table.one_of("kind", tuple(KINDS))
        found[name] = KINDS[kind](name, table)
        table.nothing_else()
    return found


def _postgres(name: str, table: Table) -> Callable[[], Any]:
    conninfo = table.text("conninfo")
    options: dict[str, Any] = {}
    if not table.truth("prepare_statements", True):
        options["prepare_threshold"] = None

    def make() -> Any:
        from quorate.transactions.databases import Postgres

        return Postgres(name, conninfo, **options)

    return make


def _mariadb(name: str, table: Table) -> Callable[[], Any]:
    options: dict[str, Any] = {"database": table.text("database"), "ignore_tables": table.texts("ignore_tables", [])}
    options["host"] = table.text("host", "127.0.0.1")
    options["port"] = table.number("port", 1, 65535, 3306)
    if table.has("user"):
        options["user"] = table.text("user")
    if table.has("password") and table.has("password_file"):
        raise ConfigError(f"{table.key('password')}: a password_file is given too, expected one of them", table.file)
    if table.has("password"):
        options["password"] = table.text("password")
    if table.has("password_file"):
        options["password"] = _password(table)

    def make() -> Any:
        from quorate.transactions.databases import MariaDB

        return MariaDB(name, **options)

    return make


def _password(table: Table) -> str:
    """The first line of the file."""
    path = _near(table, table.text("password_file"))
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline(_PASSWORD_MAX).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        told = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{table.key('password_file')}: {path} cannot be read: {told}", table.file) from None


def _kv(name: str, table: Table) -> Callable[[], Any]:
    addresses = table.text("addresses")
    if not all(is_address(part) for part in addresses.split(",")):
        raise ConfigError(
            f'{table.key("addresses")}: expected "host:port" or several of them with commas between, found {addresses!r}',
            table.file,
        )

    def make() -> Any:
        from quorate.transactions.kv import Kv

        return Kv(name, addresses)

    return make


KINDS: dict[str, Callable[[str, Table], Callable[[], Any]]] = {"postgres": _postgres, "mariadb": _mariadb, "kv": _kv}
"""Of each kind, what reads its table and gives what makes the participant."""
