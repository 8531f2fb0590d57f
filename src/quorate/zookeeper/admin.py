"""The admin server's commands: what the four-letter words tell, as JSON over HTTP (server/admin/Commands.java).

Field names are Apache ZooKeeper 3.8's; so is the habit of answering 200 with an ``error`` field. ``/metrics`` is served
at the same port. Commands that change something take GET, as in 3.8.
"""

from collections.abc import Callable

from quorate.runtime.http import Request, Response, json_response, method_not_allowed, not_found
from quorate.zookeeper.fourletter import NOT_SERVING, environment
from quorate.zookeeper.metrics import CONTENT_TYPE, exposition, monitor
from quorate.zookeeper.stats import MILLISECONDS, OPERATIONS, ServerStats, Sizes
from quorate.zookeeper.view import VERSION, ConnectionInfo, EnsembleMember, MemberView, Role

COMMAND_URL = "/commands"

Arguments = Callable[[str], str | None]
"""The value of a query argument, None if it is not given."""

Fields = dict[str, object]


def _nothing(name: str) -> None:
    return None


def run(view: MemberView, name: str, arguments: Arguments = _nothing) -> Fields:
    """The answer of the command ``name`` (or one of its short names), with ``command`` and ``error`` in it."""
    primary = _ALIASES.get(name, name)
    command = COMMANDS.get(primary)
    if command is None:
        return {"command": name, "error": f"Unknown command: {name}"}
    if not view.serving and primary not in _ALWAYS:
        return {"command": name, "error": NOT_SERVING}
    fields = command(view, arguments)
    fields["command"] = primary
    fields.setdefault("error", None)
    return fields


class AdminCommands:
    """The router of the admin port: the index at ``command_url``, the commands below it, and /metrics."""

    def __init__(self, view: MemberView, command_url: str = COMMAND_URL) -> None:
        self._view = view
        self._url = command_url.rstrip("/")

    def __call__(self, request: Request) -> Response:
        path = request.path
        metrics = path in ("/metrics", "/metrics/")
        if not metrics and path != self._url and not path.startswith(self._url + "/"):
            return not_found()
        if request.method != "GET":
            return method_not_allowed("GET, HEAD")
        if metrics:
            return Response(200, exposition(self._view), CONTENT_TYPE)
        name = path[len(self._url) + 1 :]
        if not name:
            return Response(200, self._index().encode(), "text/html; charset=utf-8")
        return json_response(run(self._view, name, request.argument))

    def _index(self) -> str:
        return "".join([f'<a href="{self._url}/{name}">{name}</a>\n<br/>\n' for name in sorted(COMMANDS)])


# ---- the server


def _configuration(view: MemberView, arguments: Arguments) -> Fields:
    config = view.config
    return {
        "client_port": config.client_port,
        "data_dir": config.data_dir,
        "data_log_dir": config.data_log_dir,
        "tick_time": config.tick_time,
        "max_client_cnxns": config.max_client_cnxns,
        "min_session_timeout": config.min_session_timeout,
        "max_session_timeout": config.max_session_timeout,
        "server_id": config.server_id,
        "client_port_listen_backlog": config.client_port_listen_backlog,
    }


def _initial_configuration(view: MemberView, arguments: Arguments) -> Fields:
    return {"initial_configuration": view.config.initial}


def _environment(view: MemberView, arguments: Arguments) -> Fields:
    return dict(environment(view))


def _system_properties(view: MemberView, arguments: Arguments) -> Fields:
    return dict(sorted(view.system_properties().items()))


def _dirs(view: MemberView, arguments: Arguments) -> Fields:
    return {"datadir_size": view.data_dir_size(), "logdir_size": view.log_dir_size()}


def _server_stats(view: MemberView, arguments: Arguments) -> Fields:
    stats = view.stats
    fields: Fields = {
        "version": VERSION,
        "read_only": view.role == Role.READ_ONLY,
        "server_stats": _stats(view, stats),
        "client_response": _sizes(stats.client_response_size),
    }
    if view.role == Role.LEADER:
        fields["proposal_stats"] = _sizes(stats.proposal_size)
    fields["node_count"] = view.node_count()
    return fields


def _stats(view: MemberView, stats: ServerStats) -> Fields:
    return {
        "packets_sent": stats.packets_sent,
        "packets_received": stats.packets_received,
        "fsync_threshold_exceed_count": stats.fsync_threshold_exceed_count,
        "client_response_stats": _sizes(stats.client_response_size),
        "provider_null": False,
        "server_state": view.role.value,
        "outstanding_requests": view.outstanding_requests(),
        "min_latency": stats.min_latency_ms(),
        "avg_latency": stats.avg_latency_ms(),
        "max_latency": stats.max_latency_ms(),
        "data_dir_size": view.data_dir_size(),
        "log_dir_size": view.log_dir_size(),
        "last_processed_zxid": view.last_zxid(),
        "num_alive_client_connections": view.connection_count(),
        "uptime": view.uptime_ms(),
        "auth_failed_count": stats.auth_failed_count,
        "non_mtlsremote_conn_count": 0,
        "non_mtlslocal_conn_count": 0,
    }


def _sizes(sizes: Sizes) -> Fields:
    return {
        "last_buffer_size": sizes.last,
        "min_buffer_size": sizes.minimum,
        "max_buffer_size": sizes.maximum,
    }


def _stats_with_connections(view: MemberView, arguments: Arguments) -> Fields:
    fields = _server_stats(view, arguments)
    fields["connections"] = [_connection(info, brief=True) for info in view.connections()]
    fields["secure_connections"] = []
    return fields


def _stat_reset(view: MemberView, arguments: Arguments) -> Fields:
    view.stats.reset()
    return {}


def _monitor(view: MemberView, arguments: Arguments) -> Fields:
    return dict(monitor(view))


def _ruok(view: MemberView, arguments: Arguments) -> Fields:
    return {}


def _is_read_only(view: MemberView, arguments: Arguments) -> Fields:
    return {"read_only": view.role == Role.READ_ONLY}


def _get_trace_mask(view: MemberView, arguments: Arguments) -> Fields:
    return {"tracemask": view.trace_mask}


def _set_trace_mask(view: MemberView, arguments: Arguments) -> Fields:
    text = arguments("traceMask")
    if text is None:
        return {"error": "setTraceMask requires long traceMask argument"}
    try:
        mask = int(text)
    except ValueError:
        mask = 1 << 64
    if not -(1 << 63) <= mask < 1 << 63:
        return {"error": f"setTraceMask requires long traceMask argument, got {text}"}
    view.trace_mask = mask
    return {"tracemask": mask}


# ---- the tree


def _hash(view: MemberView, arguments: Arguments) -> Fields:
    digests = [
        {"zxid": zxid, "digest": digest - (1 << 64) if digest >> 63 > 0 else digest, "digest_version": version}
        for zxid, version, digest in view.digests()
    ]
    return {"digests": digests}


def _last_snapshot(view: MemberView, arguments: Arguments) -> Fields:
    found = view.last_snapshot()
    if found is None:
        return {"zxid": "f" * 16, "timestamp": -1}
    zxid, seconds = found
    return {"zxid": f"{zxid:x}", "timestamp": seconds}


def _watches(view: MemberView, arguments: Arguments) -> Fields:
    watches = view.watches_by_session()
    return {"session_id_to_watched_paths": {str(session): sorted(watches[session]) for session in sorted(watches)}}


def _watches_by_path(view: MemberView, arguments: Arguments) -> Fields:
    watches = view.watches_by_path()
    return {"path_to_session_ids": {path: sorted(watches[path]) for path in sorted(watches)}}


def _watch_summary(view: MemberView, arguments: Arguments) -> Fields:
    summary = view.watch_summary()
    return {
        "num_connections": summary.connections,
        "num_paths": summary.paths,
        "num_total_watches": summary.watches,
    }


# ---- sessions and connections


def _dump(view: MemberView, arguments: Arguments) -> Fields:
    expiries = view.session_expiries() or {}
    ephemerals = view.ephemerals()
    return {
        "expiry_time_to_session_ids": {str(when): sorted(expiries[when]) for when in sorted(expiries)},
        "session_id_to_ephemeral_paths": {str(session): sorted(ephemerals[session]) for session in sorted(ephemerals)},
    }


def _connections(view: MemberView, arguments: Arguments) -> Fields:
    return {
        "connections": [_connection(info, brief=False) for info in view.connections()],
        "secure_connections": [],
    }


def _connection(info: ConnectionInfo, brief: bool) -> Fields:
    stats = info.stats
    fields: Fields = {
        "remote_socket_address": _address(info.address),
        "interest_ops": int(info.reading),
        "outstanding_requests": info.queued,
        "packets_received": stats.received,
        "packets_sent": stats.sent,
    }
    if not brief:
        average = stats.latency_total // stats.latency_count if stats.latency_count else 0
        fields |= {
            "session_id": info.session,
            "last_operation": OPERATIONS.get(stats.last_op, "NA"),
            "established": info.established,
            "session_timeout": info.timeout,
            "last_cxid": stats.last_cxid,
            "last_zxid": stats.last_zxid,
            "last_response_time": _ms(stats.last_response),
            "last_latency": _ms(stats.last_latency),
            "min_latency": _ms(stats.latency_min),
            "avg_latency": _ms(average),
            "max_latency": _ms(stats.latency_max),
        }
    return fields


def _connection_stat_reset(view: MemberView, arguments: Arguments) -> Fields:
    view.reset_connection_stats()
    return {}


# ---- the ensemble


def _leader(view: MemberView, arguments: Arguments) -> Fields:
    found = view.leader()
    if found is None:
        return {"error": "server is not initialized"}
    sid, host = found
    return {"is_leader": view.role == Role.LEADER, "leader_id": sid, "leader_ip": host}


def _observers(view: MemberView, arguments: Arguments) -> Fields:
    if view.role != Role.LEADER:
        return {"synced_observers": 0, "observers": []}
    observers = [learner for learner in view.learners() if learner.observer]
    return {
        "synced_observers": sum(learner.synced for learner in observers),
        "observers": [
            {
                "remote_socket_address": _address(learner.address),
                "sid": learner.sid,
                "established": learner.established,
                "queued_packets": learner.queued_packets,
                "queued_packets_size": learner.queued_bytes,
                "packets_received": learner.packets_received,
                "packets_sent": learner.packets_sent,
                "requests": learner.requests,
                "last_zxid": learner.last_zxid,
            }
            for learner in observers
        ],
    }


def _observer_connection_stat_reset(view: MemberView, arguments: Arguments) -> Fields:
    if view.role == Role.LEADER:
        view.reset_observer_stats()
    return {}


def _voting_view(view: MemberView, arguments: Arguments) -> Fields:
    return {
        "current_config": {
            str(member.sid): {
                "server_addresses": [_address(member.quorum)],
                "election_addresses": [_address(member.election)],
                "client_address": "" if member.client is None else _address(member.client),
                "learner_type": "participant",
            }
            for member in view.ensemble()
            if not member.observer
        }
    }


def _zabstate(view: MemberView, arguments: Arguments) -> Fields:
    phase = view.phase
    own = _own(view)
    if phase is None or own is None:
        return {"voting": False, "zabstate": ""}
    zxid = view.last_zxid()
    return {
        "myid": own.sid,
        "is_leader": view.role == Role.LEADER,
        "quorum_address": _addresses(own.quorum),
        "election_address": _addresses(own.election),
        "client_address": None if own.client is None else _address(own.client),
        "voting": not own.observer,
        "last_zxid": f"0x{zxid:x}",
        "zab_epoch": zxid >> 32,
        "zab_counter": zxid & 0xFFFFFFFF,
        "zabstate": phase.value,
    }


def _own(view: MemberView) -> EnsembleMember | None:
    return next((member for member in view.ensemble() if member.sid == view.config.server_id), None)


def _addresses(address: tuple[str, int]) -> Fields:
    """Apache's MultipleAddresses without the fields for which it would probe the address."""
    text = _address(address)
    return {
        "empty": False,
        "all_addresses": [text],
        "one": text,
        "wildcard_addresses": [f"0.0.0.0:{address[1]}"],
        "all_ports": [address[1]],
        "all_host_strings": [address[0]],
    }


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ms(nanoseconds: int) -> int:
    return int(nanoseconds * MILLISECONDS)


COMMANDS: dict[str, Callable[[MemberView, Arguments], Fields]] = {
    "configuration": _configuration,
    "connection_stat_reset": _connection_stat_reset,
    "connections": _connections,
    "dirs": _dirs,
    "dump": _dump,
    "environment": _environment,
    "get_trace_mask": _get_trace_mask,
    "hash": _hash,
    "initial_configuration": _initial_configuration,
    "is_read_only": _is_read_only,
    "last_snapshot": _last_snapshot,
    "leader": _leader,
    "monitor": _monitor,
    "observer_connection_stat_reset": _observer_connection_stat_reset,
    "observers": _observers,
    "ruok": _ruok,
    "server_stats": _server_stats,
    "set_trace_mask": _set_trace_mask,
    "stat_reset": _stat_reset,
    "stats": _stats_with_connections,
    "system_properties": _system_properties,
    "voting_view": _voting_view,
    "watch_summary": _watch_summary,
    "watches": _watches,
    "watches_by_path": _watches_by_path,
    "zabstate": _zabstate,
}

_ALIASES = {
    "conf": "configuration",
    "config": "configuration",
    "cons": "connections",
    "crst": "connection_stat_reset",
    "env": "environment",
    "envi": "environment",
    "gtmk": "get_trace_mask",
    "icfg": "initial_configuration",
    "isro": "is_read_only",
    "lead": "leader",
    "lsnp": "last_snapshot",
    "mntr": "monitor",
    "obsr": "observers",
    "orst": "observer_connection_stat_reset",
    "srst": "stat_reset",
    "srvr": "server_stats",
    "stat": "stats",
    "stmk": "set_trace_mask",
    "sysp": "system_properties",
    "wchc": "watches",
    "wchp": "watches_by_path",
    "wchs": "watch_summary",
}

_ALWAYS = frozenset({"environment", "get_trace_mask", "set_trace_mask", "system_properties", "zabstate"})
"""Commands that a member answers while it is not serving."""
