"""The four-letter words: a client sends four bytes instead of a frame's length, gets text, and is hung up on.

Layouts are those of Apache ZooKeeper 3.8 (server/command), because programs read them. What Apache prints in the order
of its hash tables comes sorted here.
"""

from collections.abc import Callable, Iterable, Set
from datetime import date

from quorate.zookeeper.metrics import monitor
from quorate.zookeeper.stats import MILLISECONDS, OPERATIONS
from quorate.zookeeper.view import VERSION, ConnectionInfo, MemberView, Role

ALL = "*"
"""In a whitelist: every word."""

DEFAULT_WHITELIST = frozenset({"srvr"})

ARGUMENT_BYTES = {b"stmk": 8}
"""Words that are followed by an argument, and its length; the others stand alone, and what follows is ignored."""

NOT_SERVING = "This ZooKeeper instance is not currently serving requests"

JAVA_PROPERTIES = (
    "java.version",
    "java.vendor",
    "java.home",
    "java.class.path",
    "java.library.path",
    "java.io.tmpdir",
    "java.compiler",
)
"""Names envi always has; Apache, too, says <NA> of one without a value."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_whitelist(text: str) -> frozenset[str]:
    """The words that 4lw.commands.whitelist allows; srvr always is, because Apache's own scripts need it.

    Unknown words are kept, as Apache keeps them: they allow nothing.
    """
    words = {word.strip() for word in text.split(",")} - {""}
    if ALL in words:
        return frozenset({ALL})
    return DEFAULT_WHITELIST | words


def answer(word: bytes, view: MemberView, whitelist: Set[str], argument: bytes = b"") -> bytes:
    """The answer to ``word``, a key of FOUR_LETTER_WORDS; ``argument`` is what followed it (ARGUMENT_BYTES)."""
    name = word.decode("ascii")
    if name not in whitelist and ALL not in whitelist:
        return f"{name} is not executed because it is not in the whitelist.\n".encode()
    if word == b"stmk":
        return _set_trace_mask(view, argument)
    if not view.serving:
        alternative = _WHEN_NOT_SERVING.get(word)
        return (NOT_SERVING + "\n" if alternative is None else alternative(view)).encode()
    return FOUR_LETTER_WORDS[word](view).encode()


# ---- the server


def _conf(view: MemberView) -> str:
    config = view.config
    data_size, log_size = view.data_dir_size(), view.log_dir_size()
    lines = [
        f"clientPort={config.client_port}",
        f"secureClientPort={config.secure_client_port}",
        f"dataDir={config.data_dir}",
        f"dataDirSize={data_size}",
        f"dataLogDir={config.data_log_dir}",
        f"dataLogSize={log_size}",
        f"tickTime={config.tick_time}",
        f"maxClientCnxns={config.max_client_cnxns}",
        f"minSessionTimeout={config.min_session_timeout}",
        f"maxSessionTimeout={config.max_session_timeout}",
        f"clientPortListenBacklog={config.client_port_listen_backlog}",
        f"serverId={config.server_id}",
    ]
    ensemble = view.ensemble()
    if not ensemble:
        return _text(lines)
    lines += [f"initLimit={config.init_limit}", f"syncLimit={config.sync_limit}", "electionAlg=3"]
    for member in ensemble:
        if member.sid == config.server_id:
            lines += [f"electionPort={member.election[1]}", f"quorumPort={member.quorum[1]}"]
    lines += [f"peerType={int(config.observer)}", "membership: "]
    # the membership ends without a newline
    return _text(lines) + view.membership()


def _dirs(view: MemberView) -> str:
    return f"datadir_size: {view.data_dir_size()}\nlogdir_size: {view.log_dir_size()}\n"


def environment(view: MemberView) -> list[tuple[str, str]]:
    """What envi shows: the version first, where clients look for it."""
    own = list(view.environment())
    java = [(name, "<NA>") for name in JAVA_PROPERTIES]
    return [("zookeeper.version", VERSION), *own[:1], *java, *own[1:]]


def _envi(view: MemberView) -> str:
    return _text(["Environment:", *(f"{name}={value}" for name, value in environment(view))])


def _srvr(view: MemberView) -> str:
    return _text([*_version_lines(view), *_server_lines(view)])


def _stat(view: MemberView) -> str:
    clients = [_connection(connection, brief=True) for connection in view.connections()]
    return _text([*_version_lines(view), "Clients:", *clients, "", *_server_lines(view)])


def _version_lines(view: MemberView) -> list[str]:
    lines = [f"Zookeeper version: {VERSION}"]
    if view.role == Role.READ_ONLY:
        lines.append("READ-ONLY mode; serving only read-only clients")
    return lines


def _server_lines(view: MemberView) -> list[str]:
    stats = view.stats
    lines = [
        f"Latency min/avg/max: {stats.min_latency_ms()}/{stats.avg_latency_ms()}/{stats.max_latency_ms()}",
        f"Received: {stats.packets_received}",
        f"Sent: {stats.packets_sent}",
        f"Connections: {view.connection_count()}",
        f"Outstanding: {view.outstanding_requests()}",
        f"Zxid: {_hex(view.last_zxid())}",
        f"Mode: {view.role.value}",
        f"Node count: {view.node_count()}",
    ]
    if view.role == Role.LEADER:
        lines.append(f"Proposal sizes last/min/max: {stats.proposal_size}")
    return lines


def _srst(view: MemberView) -> str:
    view.stats.reset()
    return "Server stats reset.\n"


def _mntr(view: MemberView) -> str:
    return _text([f"zk_{name}\t{value}" for name, value in monitor(view)])


def _hash(view: MemberView) -> str:
    return _text([f"{_unsigned(zxid):x}: {_signed(digest)}" for zxid, _, digest in view.digests()])


def _isro(view: MemberView) -> str:
    return "ro" if view.role == Role.READ_ONLY else "rw"


def _ruok(view: MemberView) -> str:
    return "imok"


def _gtmk(view: MemberView) -> str:
    return str(view.trace_mask)


def _set_trace_mask(view: MemberView, argument: bytes) -> bytes:
    # Apache hangs up without a word when the mask is cut short
    if len(argument) < ARGUMENT_BYTES[b"stmk"]:
        return b""
    view.trace_mask = int.from_bytes(argument[:8], "big", signed=True)
    return str(view.trace_mask).encode()


# ---- connections and sessions


def _cons(view: MemberView) -> str:
    return _text([*(_connection(connection, brief=False) for connection in view.connections()), ""])


def _connection(info: ConnectionInfo, brief: bool) -> str:
    stats = info.stats
    text = (
        f" /{_address(info.address)}[{int(info.reading)}]"
        f"(queued={info.queued},recved={stats.received},sent={stats.sent}"
    )
    if not brief and info.session:
        cxid = "" if stats.last_cxid < 0 else f",lcxid={_hex(stats.last_cxid)}"
        average = stats.latency_total // stats.latency_count if stats.latency_count else 0
        text += (
            f",sid={_hex(info.session)},lop={OPERATIONS.get(stats.last_op, 'NA')},est={info.established}"
            f",to={info.timeout}{cxid},lzxid={_hex(stats.last_zxid)},lresp={_ms(stats.last_response)}"
            f",llat={_ms(stats.last_latency)},minlat={_ms(stats.latency_min)},avglat={_ms(average)}"
            f",maxlat={_ms(stats.latency_max)}"
        )
    return text + ")"


def _crst(view: MemberView) -> str:
    view.reset_connection_stats()
    return "Connection stats reset.\n"


def _dump(view: MemberView) -> str:
    lines = ["SessionTracker dump:"]
    expiries = view.session_expiries()
    if expiries is None:
        sessions = view.sessions()
        lines.append(f"Global Sessions({len(sessions)}):")
        lines += [f"{_hex(session)}\t{sessions[session]}ms" for session in sorted(sessions)]
    else:
        sets = [(when, [_hex(session) for session in sorted(expiries[when])]) for when in sorted(expiries)]
        lines += _expiry_sets(view, "Session", sets)
    ephemerals = view.ephemerals()
    lines += ["ephemeral nodes dump:", f"Sessions with Ephemerals ({len(ephemerals)}):"]
    for session in sorted(ephemerals):
        lines.append(f"{_hex(session)}:")
        lines += [f"\t{path}" for path in sorted(ephemerals[session])]
    by_time: dict[int, list[str]] = {}
    for info in view.connections():
        line = f"ip: /{_address(info.address)} sessionId: {_hex(info.session)}"
        by_time.setdefault(info.expires, []).append(line)
    lines.append("Connections dump:")
    lines += _expiry_sets(view, "Connections", sorted(by_time.items()))
    return _text(lines)


def _expiry_sets(view: MemberView, kind: str, sets: Iterable[tuple[int, list[str]]]) -> list[str]:
    sets = list(sets)
    lines = [f"{kind} Sets ({len(sets)})/({sum(len(members) for _, members in sets)}):"]
    offset = view.wall_ms() - view.elapsed_ms()
    for when, members in sets:
        lines.append(f"{len(members)} expire at {java_date(when + offset)}:")
        lines += [f"\t{member}" for member in members]
    return lines


# ---- watches


def _wchs(view: MemberView) -> str:
    connections, paths, watches = view.watch_summary()
    return f"{connections} connections watching {paths} paths\nTotal watches:{watches}\n"


def _wchc(view: MemberView) -> str:
    watches = view.watches_by_session()
    lines: list[str] = []
    for session in sorted(watches):
        lines.append(_hex(session))
        lines += [f"\t{path}" for path in sorted(watches[session])]
    return _text([*lines, ""])


def _wchp(view: MemberView) -> str:
    watches = view.watches_by_path()
    lines: list[str] = []
    for path in sorted(watches):
        lines.append(path)
        lines += [f"\t{_hex(session)}" for session in sorted(watches[path])]
    return _text([*lines, ""])


# ---- text


def _text(lines: Iterable[str]) -> str:
    return "".join([line + "\n" for line in lines])


def _unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


def _signed(value: int) -> int:
    value = _unsigned(value)
    return value - (1 << 64) if value >> 63 else value


def _hex(value: int) -> str:
    """As Java prints a long: the two's complement, without leading zeros."""
    return f"0x{_unsigned(value):x}"


def _ms(nanoseconds: int) -> int:
    return int(nanoseconds * MILLISECONDS)


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def java_date(wall_ms: int) -> str:
    """As java.util.Date prints itself in UTC: ``Mon Nov 23 10:42:04 UTC 2026``."""
    days, seconds = divmod(wall_ms // 1000, 86400)
    day = date.fromordinal(_EPOCH_DAY + days)
    hours, rest = divmod(seconds, 3600)
    clock = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
    return f"{_DAYS[day.weekday()]} {_MONTHS[day.month - 1]} {day.day:02} {clock} UTC {day.year}"


FOUR_LETTER_WORDS: dict[bytes, Callable[[MemberView], str]] = {
    b"conf": _conf,
    b"cons": _cons,
    b"crst": _crst,
    b"dirs": _dirs,
    b"dump": _dump,
    b"envi": _envi,
    b"gtmk": _gtmk,
    b"hash": _hash,
    b"isro": _isro,
    b"mntr": _mntr,
    b"ruok": _ruok,
    b"srst": _srst,
    b"srvr": _srvr,
    b"stat": _stat,
    b"stmk": _gtmk,
    b"wchc": _wchc,
    b"wchp": _wchp,
    b"wchs": _wchs,
}
"""Word to what it shows of a serving member. A connection's first four bytes are looked up here."""

_WHEN_NOT_SERVING: dict[bytes, Callable[[MemberView], str]] = {
    b"envi": _envi,
    b"gtmk": _gtmk,
    b"isro": lambda view: "null",
    b"ruok": _ruok,
}
