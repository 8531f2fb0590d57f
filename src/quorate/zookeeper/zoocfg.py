"""Reads Apache ZooKeeper's own configuration file, zoo.cfg, into a :class:`MemberConfig`.

Promises the syntax, units, defaults and validations of Apache ZooKeeper 3.8 (QuorumPeerConfig.java,
QuorumPeer.QuorumServer). Every key falls in one of three classes: done (the table at the end), known to Apache but not done
here (a warning that says what happens instead, or an error where doing without would be unsafe: ``apache_keys``), and known
to nobody (an error). A key may carry the prefix ``zookeeper.`` of the Java property it stands for. Errors name file and line.

:func:`load` reads the files; :func:`parse` is the same without touching any, for files that are given as bytes.
"""

import os
from collections.abc import Callable
from typing import NoReturn

from quorate.errors import ConfigError
from quorate.zookeeper import properties
from quorate.zookeeper.apache_keys import REFUSE, UNDONE, Undone, undone
from quorate.zookeeper.config import FOUR_LETTER_WORDS, WILDCARD, Address, MemberConfig, PeerType, ServerSpec, Warned
from quorate.zookeeper.properties import Property

_PROMETHEUS_PROVIDER = "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider"
_QUIET_PROVIDERS = (
    "org.apache.zookeeper.metrics.impl.DefaultMetricsProvider",
    "org.apache.zookeeper.metrics.impl.NullMetricsProvider",
)
_NEXT_DYNAMIC_SUFFIX = ".dynamic.next"
_MIN_SNAPSHOTS_KEPT = 3
_MIN_COMMIT_LOG = 500
_MAX_SERVER_ID = 255
_INT_MAX = (1 << 31) - 1


def load(path: str) -> MemberConfig:
    """Read zoo.cfg at ``path``, its dynamic file and its ``myid``. Raises ConfigError."""
    return parse(_read(path), path, _read, os.path.exists)


def parse(data: bytes, file: str, read: Callable[[str], bytes], exists: Callable[[str], bool]) -> MemberConfig:
    """The configuration that ``data``, the content of ``file``, stands for.

    ``read`` and ``exists`` give the other files it names (dynamicConfigFile, myid). Raises ConfigError.
    """
    return _Parser(file, read, exists).parse(data)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(properties.MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the file cannot be read ({error.strerror})", path) from None
    except ValueError:
        raise ConfigError("the file's name is not possible", repr(path)) from None


def parse_address(text: str) -> list[str]:
    """Split ``host:port[:more]``; the host may be an IPv6 address in brackets. Raises ValueError."""
    if not text.startswith("["):
        return text.split(":")
    host, bracket, rest = text[1:].partition("]")
    if not bracket:
        raise ValueError("the bracket '[' is not closed")
    if rest and not rest.startswith(":"):
        raise ValueError("expected ':' after ']'")
    return [host, *rest[1:].split(":")] if rest else [host]


class _Parser:
    """One reading of one file. Methods raise ConfigError through :meth:`fail`, which knows the line."""

    def __init__(self, file: str, read: Callable[[str], bytes], exists: Callable[[str], bool]) -> None:
        self.file = file
        self.read = read
        self.exists = exists
        self.config = MemberConfig(file)
        self.at = Property("", "", 0)
        self.seen: dict[str, Property] = {}
        self.servers: dict[int, ServerSpec] = {}
        self.server_lines: dict[int, tuple[str, int]] = {}
        self.client_host: str | None = None
        self.client_port: int | None = None
        self.dynamic_file: str | None = None
        self.admin_host = WILDCARD
        self.admin_port = 8080
        self.metrics_provider = ""
        self.metrics_host = WILDCARD
        self.metrics_port = 7000

    # The file

    def parse(self, data: bytes) -> MemberConfig:
        settings = self.settings(data)
        self.seen = {setting.key: setting for setting in settings}
        for setting in settings:
            self.dispatch(setting)
        if self.dynamic_file is not None:
            self.parse_dynamic(self.dynamic_file)
        self.finish()
        return self.config

    def settings(self, data: bytes) -> list[Property]:
        """The file's settings, the last of each key, prefixes taken off."""
        last: dict[str, Property] = {}
        for key, value, line in properties.parse(properties.decode(data, self.file), self.file):
            key = key.removeprefix("zookeeper.")
            if not key:
                raise ConfigError("a key is missing before the separator", self.file, line)
            if key in last:
                self.warn(f"{key} was already set in line {last[key].line}; this line counts", line)
                del last[key]
            last[key] = Property(key, value, line)
        return list(last.values())

    def dispatch(self, setting: Property) -> None:
        self.at = setting
        key, value, _ = setting
        done = _DONE.get(key)
        if done is not None:
            done(self, value)
            return
        instead = undone(key)
        if instead is not None:
            self.set_undone(instead)
        elif key.startswith("server."):
            if "dynamicConfigFile" in self.seen:
                self.fail(f"{key} must stand in the file that dynamicConfigFile names")
            self.set_server(key.removeprefix("server."), value)
        else:
            self.fail(f"{key} is not a setting of ZooKeeper{self.suggestion(key)}")

    def set_undone(self, instead: Undone) -> None:
        key, value, _ = self.at
        if value.lower() in instead.harmless:
            return
        if instead.action == REFUSE:
            self.fail(f"{key} is refused: {instead.instead}")
        self.warn(f"{key} has no effect: {instead.instead}")

    def suggestion(self, key: str) -> str:
        from difflib import get_close_matches  # only a user's mistake pays for this import

        lowered = {known.lower(): known for known in [*UNDONE, *_DONE]}
        close = get_close_matches(key.lower(), lowered, n=1, cutoff=0.7)
        return f"; did you mean {lowered[close[0]]}?" if close else ""

    def parse_dynamic(self, path: str) -> None:
        """The member list in a file of its own (written by Apache's reconfig); its version is the file's suffix."""
        static_file, self.file = self.file, path
        try:
            for setting in self.settings(self.read(path)):
                self.at = setting
                if setting.key == "version":
                    self.fail("version does not belong inside a dynamic file; the end of its name says it")
                elif setting.key.startswith(("group.", "weight.")):
                    self.dispatch(setting)
                elif setting.key.startswith("server."):
                    self.set_server(setting.key.removeprefix("server."), setting.value)
                else:
                    self.fail(f"{setting.key} does not belong in a dynamic file, which holds server.N lines only")
        finally:
            self.file = static_file
        _, dot, suffix = os.path.basename(path).rpartition(".")
        if dot and 1 <= len(suffix) <= 16 and all(digit in "0123456789abcdefABCDEF" for digit in suffix):
            self.config.config_version = int(suffix, 16)
        if self.exists(static_file + _NEXT_DYNAMIC_SUFFIX):
            raise ConfigError(
                "a reconfiguration is not finished; let Apache ZooKeeper finish it before this member takes over",
                static_file + _NEXT_DYNAMIC_SUFFIX,
            )

    # Errors and values

    def fail(self, message: str) -> NoReturn:
        raise ConfigError(message, self.file, self.at.line)

    def warn(self, message: str, line: int | None = None) -> None:
        self.config.warnings.append(Warned(message, self.file, self.at.line if line is None else line))

    def note(self, message: str) -> None:
        """A warning that no single line is to blame for."""
        self.config.warnings.append(Warned(message, self.file))

    def integer(self, value: str, low: int, high: int = _INT_MAX) -> int:
        digits = value[1:] if value[:1] in ("+", "-") else value
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20) or not low <= int(value) <= high:
            hint = "; a comment needs a line of its own" if "#" in value else ""
            self.fail(f"{self.at.key} is {value!r}, expected a whole number from {low} to {high}{hint}")
        return int(value)

    def strict_boolean(self, value: str) -> bool:
        if value.lower() not in ("true", "false"):
            self.fail(f"{self.at.key} is {value!r}, expected true or false")
        return value.lower() == "true"

    def boolean(self, value: str) -> bool:
        """A Java property's boolean: Apache takes whatever is not ``true`` as false, without a word."""
        if value.lower() not in ("true", "false"):
            self.warn(f"{self.at.key} is {value!r}, which Apache takes as false, and so is it taken here")
        return value.lower() == "true"

    def yes(self, value: str, otherwise: bool) -> bool:
        """Apache's ``yes`` and ``no`` properties: whatever is neither is ``otherwise``."""
        if value not in ("yes", "no"):
            taken = "yes" if otherwise else "no"
            self.warn(f"{self.at.key} is {value!r}, which Apache takes as {taken}, and so is it taken here")
            return otherwise
        return value == "yes"

    def port(self, text: str, low: int = 1) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and low <= int(text) <= 65535):
            self.fail(f"{self.at.key}: {text!r} is not a port, expected a number from {low} to 65535")
        return int(text)

    # Keys that need more than one line

    def set_server(self, number: str, value: str) -> None:
        digits = number.isascii() and number.isdigit() and len(number) <= 19
        if not digits or int(number) > _MAX_SERVER_ID:
            self.fail(f"server.{number}: the server's number must be a whole number from 0 to {_MAX_SERVER_ID}")
        server = int(number)
        self.server_lines[server] = (self.file, self.at.line)
        quorum_part, *client_parts = value.split(";")
        if len(client_parts) > 2:
            self.fail_server(value)
        if len(client_parts) == 2 and client_parts[1]:
            self.fail(f"server.{number}: a secure client port is refused: TLS is not supported yet")
        if "|" in quorum_part:
            self.fail(f"server.{number}: several addresses for one server are refused: a member has one address")
        parts = self.split_address(quorum_part)
        if not 3 <= len(parts) <= 4 or not parts[0]:
            self.fail_server(value)
        quorum, election = self.port(parts[1]), self.port(parts[2])
        if quorum == election:
            self.fail(f"server.{number}: the quorum port and the election port must differ, both are {quorum}")
        peer_type = self.peer_type(parts[3]) if len(parts) == 4 else PeerType.PARTICIPANT
        client = None
        if client_parts and client_parts[0]:
            where = self.split_address(client_parts[0].strip())
            if len(where) > 2 or not where[0]:
                self.fail_server(value)
            client = Address(where[0] if len(where) == 2 else WILDCARD, self.port(where[-1]))
        host = parts[0]
        self.servers[server] = ServerSpec(server, Address(host, quorum), Address(host, election), peer_type, client)

    def split_address(self, text: str) -> list[str]:
        try:
            return parse_address(text.strip())
        except ValueError as error:
            self.fail(f"{self.at.key} is {text!r}: {error}")

    def fail_server(self, value: str) -> NoReturn:
        self.fail(
            f"{self.at.key} is {value!r}, expected host:quorumPort:electionPort[:participant|observer]"
            "[;[clientHost:]clientPort]"
        )

    def peer_type(self, value: str) -> PeerType:
        if value.strip().lower() not in ("participant", "observer"):
            self.fail(f"{self.at.key}: {value!r} is not a role, expected participant or observer")
        return PeerType(value.strip().lower())

    def set_purge_interval(self, value: str) -> None:
        """A bare number is hours; 3.9 also takes a unit."""
        for suffix, unit in (("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)):
            if value.lower().endswith(suffix):
                self.config.purge_interval = max(0, self.integer(value[: -len(suffix)], -1)) * unit
                return
        self.config.purge_interval = max(0, self.integer(value, -1)) * 3_600_000

    def set_four_letter_words(self, value: str) -> None:
        asked = [word.strip() for word in value.split(",") if word.strip()]
        if "*" in asked:
            self.config.four_letter_words = FOUR_LETTER_WORDS
            return
        for word in asked:
            if word not in FOUR_LETTER_WORDS:
                self.warn(f"{self.at.key}: {word!r} is not a four-letter command and is left out")
        # Apache's own scripts depend on srvr, so it is always allowed
        self.config.four_letter_words = FOUR_LETTER_WORDS.intersection(["srvr", *asked])

    def set_super_digest(self, value: str) -> None:
        if not value.startswith("super:") or value == "super:":
            self.fail(f"{self.at.key} must be super: and the digest of its password")
        self.config.super_digest = value

    def set_commit_log_count(self, value: str) -> None:
        count = self.integer(value, 0)
        if count < _MIN_COMMIT_LOG:
            self.warn(f"{self.at.key} is raised from {count} to {_MIN_COMMIT_LOG}")
        self.config.commit_log_count = max(count, _MIN_COMMIT_LOG)

    def set_snap_retain_count(self, value: str) -> None:
        count = self.integer(value, -_INT_MAX)
        if count < _MIN_SNAPSHOTS_KEPT:
            self.warn(f"{self.at.key} is raised from {count} to {_MIN_SNAPSHOTS_KEPT}")
        self.config.purge_snapshots_kept = max(count, _MIN_SNAPSHOTS_KEPT)

    def set_snap_count(self, value: str) -> None:
        count = self.integer(value, -_INT_MAX)
        if count < 2:
            self.warn(f"{self.at.key} is raised from {count} to 2")
        self.config.snap_count = max(count, 2)

    def set_version(self, value: str) -> None:
        if not 1 <= len(value) <= 16 or not all(digit in "0123456789abcdefABCDEF" for digit in value):
            self.fail(f"version is {value!r}, expected a hexadecimal number")
        self.config.config_version = int(value, 16)

    def set_election_algorithm(self, value: str) -> None:
        if self.integer(value, 0) != 3:
            self.fail(f"electionAlg is {value}, but 3 (fast leader election) is the only one there is")

    def session_bound(self, value: str) -> int:
        timeout = self.integer(value, -1)
        if timeout == 0:
            self.fail(f"{self.at.key} is 0, expected milliseconds, or -1 for the default")
        return timeout

    def set_command_url(self, value: str) -> None:
        if not value.startswith("/") or len(value) < 2:
            self.fail(f"{self.at.key} is {value!r}, expected a path such as /commands")
        self.config.admin_command_url = value.rstrip("/")

    def path(self, value: str) -> str:
        if not value:
            self.fail(f"{self.at.key} is empty, expected a folder")
        if not os.path.isabs(value):
            self.warn(f"{self.at.key} is relative, so it depends on where the member is started")
        return value

    # What only the whole file shows

    def finish(self) -> None:
        config = self.config
        if not config.data_dir:
            raise ConfigError("dataDir is not set", self.file)
        config.data_log_dir = config.data_log_dir or config.data_dir
        config.servers = tuple([self.servers[server] for server in sorted(self.servers)])
        self.finish_sessions()
        self.finish_members()
        self.finish_client_address()
        self.finish_ports()

    def fail_at(self, key: str, message: str) -> NoReturn:
        setting = self.seen.get(key)
        raise ConfigError(message, self.file, setting.line if setting else None)

    def finish_sessions(self) -> None:
        config = self.config
        if config.min_session_timeout == -1:
            config.min_session_timeout = config.tick_time * 2
        if config.max_session_timeout == -1:
            config.max_session_timeout = config.tick_time * 20
        if config.min_session_timeout > config.max_session_timeout:
            key = "maxSessionTimeout" if "maxSessionTimeout" in self.seen else "minSessionTimeout"
            self.fail_at(
                key,
                f"minSessionTimeout ({config.min_session_timeout} ms) must not be larger than "
                f"maxSessionTimeout ({config.max_session_timeout} ms)",
            )

    def finish_members(self) -> None:
        config = self.config
        voters, observers = len(config.participants), len(config.servers) - len(config.participants)
        if voters == 0 and not config.standalone_enabled:
            self.fail_at("standaloneEnabled", "standaloneEnabled is false, so there must be a server.N that votes")
        if observers and (voters == 0 or (voters == 1 and config.standalone_enabled)):
            needed = "a participant" if voters == 0 else "more than one participant, or standaloneEnabled=false"
            raise ConfigError(f"there are observers, which need {needed}", self.file)
        self.finish_my_id()
        if config.extended_types_enabled and config.my_id >= _MAX_SERVER_ID:
            self.fail_at("extendedTypesEnabled", "with extendedTypesEnabled the number in myid must be below 255")
        if config.standalone:
            if voters == 1:
                self.note("only one server is listed, so this member serves alone")
            return
        if config.init_limit_ticks == 0:
            self.fail_at("initLimit", "initLimit is not set, which an ensemble needs")
        if config.sync_limit_ticks == 0:
            self.fail_at("syncLimit", "syncLimit is not set, which an ensemble needs")
        if voters == 2:
            self.note("two voting servers tolerate no failure; an ensemble needs three for that")
        elif voters % 2 == 0:
            self.note(f"{voters} voting servers tolerate no more failures than {voters - 1}")
        myself = config.myself
        if myself is not None and myself.peer_type is not config.peer_type:
            if "peerType" in self.seen:
                self.note(
                    f"peerType is {config.peer_type}, but server.{myself.id} says {myself.peer_type}, which counts"
                )
            config.peer_type = myself.peer_type

    def finish_my_id(self) -> None:
        config = self.config
        file = os.path.join(config.data_dir, "myid")
        if not self.exists(file):
            if not config.standalone:
                raise ConfigError("the file is missing; it must hold this server's number", file)
            if len(config.servers) == 1:
                config.my_id = config.servers[0].id
            return
        first = self.read(file)[:64].decode("latin-1").splitlines()[:1]
        text = first[0].strip() if first else ""
        if not (text.isascii() and text.isdigit() and int(text) <= _MAX_SERVER_ID):
            raise ConfigError(f"{text!r} is not a server's number, expected 0 to {_MAX_SERVER_ID}", file, 1)
        config.my_id = int(text)
        if not config.standalone and config.my_id not in self.servers:
            listed = ", ".join(str(server.id) for server in config.servers)
            raise ConfigError(f"server.{config.my_id} is not in {self.file}, which lists {listed}", file, 1)

    def finish_client_address(self) -> None:
        config = self.config
        if self.client_port is not None:
            config.client_address = Address(self.client_host or WILDCARD, self.client_port)
        elif self.client_host is not None:
            self.fail_at("clientPortAddress", "clientPortAddress is set but clientPort is not")
        myself = config.myself
        dynamic = None if myself is None else myself.client
        if dynamic is not None:
            static = config.client_address
            same_port = static is None or static.port == dynamic.port
            if static is not None and not (same_port and static.host in (WILDCARD, "::", dynamic.host)):
                file, line = self.server_lines[config.my_id]
                raise ConfigError(
                    f"server.{config.my_id} names the client address {dynamic}, but clientPort names {static}",
                    file,
                    line,
                )
            config.client_address = dynamic
        if config.client_address is None:
            self.note("clientPort is not set, so no client can connect")

    def finish_ports(self) -> None:
        self.config.admin_address = Address(self.admin_host, self.admin_port)
        name = self.metrics_provider
        if name == _PROMETHEUS_PROVIDER:
            self.config.metrics_address = Address(self.metrics_host, self.metrics_port)
        elif name and name not in _QUIET_PROVIDERS:
            self.fail_at(
                "metricsProvider.className", f"{name} is not a metrics provider; there is {_PROMETHEUS_PROVIDER}"
            )


_Setter = Callable[[_Parser, str], None]


def _field(name: str, convert: Callable[[_Parser, str], object]) -> _Setter:
    """A key that is one field of the configuration."""

    def setter(parser: _Parser, value: str) -> None:
        setattr(parser.config, name, convert(parser, value))

    return setter


def _kept(name: str, convert: Callable[[_Parser, str], object]) -> _Setter:
    """A key that the parser keeps until the whole file is read."""

    def setter(parser: _Parser, value: str) -> None:
        setattr(parser, name, convert(parser, value))

    return setter


def _number(low: int, high: int = _INT_MAX, unit: int = 1) -> Callable[[_Parser, str], int]:
    return lambda parser, value: parser.integer(value, low, high) * unit


def _text(parser: _Parser, value: str) -> str:
    if not value:
        parser.fail(f"{parser.at.key} is empty")
    return value


def _host(parser: _Parser, value: str) -> str:
    return _text(parser, value.removeprefix("[").removesuffix("]"))


_DONE: dict[str, _Setter] = {
    "dataDir": _field("data_dir", _Parser.path),
    "dataLogDir": _field("data_log_dir", _Parser.path),
    "tickTime": _field("tick_time", _number(1)),
    "initLimit": _field("init_limit_ticks", _number(0)),
    "syncLimit": _field("sync_limit_ticks", _number(0)),
    "connectToLearnerMasterLimit": _field("connect_to_leader_limit_ticks", _number(0)),
    "peerType": _field("peer_type", _Parser.peer_type),
    "version": _Parser.set_version,
    "electionAlg": _Parser.set_election_algorithm,
    "standaloneEnabled": _field("standalone_enabled", _Parser.strict_boolean),
    "quorumListenOnAllIPs": _field("quorum_listen_on_all_ips", _Parser.strict_boolean),
    "dynamicConfigFile": _kept("dynamic_file", _text),
    "clientPort": _kept("client_port", lambda parser, value: parser.port(value, 0)),
    "clientPortAddress": _kept("client_host", _host),
    "clientPortListenBacklog": _field("client_port_listen_backlog", _number(-1)),
    "maxClientCnxns": _field("max_client_connections", _number(-1)),
    "minSessionTimeout": _field("min_session_timeout", _Parser.session_bound),
    "maxSessionTimeout": _field("max_session_timeout", _Parser.session_bound),
    "jute.maxbuffer": _field("max_buffer", _number(1024)),
    "globalOutstandingLimit": _field("global_outstanding_limit", _number(1)),
    "leaderServes": _field("leader_serves", lambda parser, value: parser.yes(value, otherwise=True)),
    "4lw.commands.whitelist": _Parser.set_four_letter_words,
    "snapCount": _Parser.set_snap_count,
    "snapSizeLimitInKb": _field("snap_size_limit", _number(-1, 1 << 40, unit=1024)),
    "preAllocSize": _field("preallocate", _number(0, 1 << 30, unit=1024)),
    "autopurge.snapRetainCount": _Parser.set_snap_retain_count,
    "autopurge.purgeInterval": _Parser.set_purge_interval,
    "commitLogCount": _Parser.set_commit_log_count,
    "forceSync": _field("force_sync", lambda parser, value: parser.yes(value, otherwise=True)),
    "fsync.warningthresholdms": _field("fsync_warning_threshold", _number(0)),
    "digest.enabled": _field("digest_enabled", _Parser.boolean),
    "extendedTypesEnabled": _field("extended_types_enabled", _Parser.boolean),
    "enforceQuota": _field("enforce_quota", _Parser.boolean),
    "skipACL": _field("skip_acl", lambda parser, value: parser.yes(value, otherwise=False)),
    "DigestAuthenticationProvider.superDigest": _Parser.set_super_digest,
    "znode.container.checkIntervalMs": _field("container_check_interval", _number(1)),
    "admin.enableServer": _field("admin_enabled", _Parser.boolean),
    "admin.serverAddress": _kept("admin_host", _host),
    "admin.serverPort": _kept("admin_port", lambda parser, value: parser.port(value, 0)),
    "admin.commandURL": _Parser.set_command_url,
    "admin.idleTimeout": _field("admin_idle_timeout", _number(1)),
    "metricsProvider.className": _kept("metrics_provider", _text),
    "metricsProvider.httpHost": _kept("metrics_host", _host),
    "metricsProvider.httpPort": _kept("metrics_port", lambda parser, value: parser.port(value, 0)),
}
"""What a member does, by the key's name in the file."""
