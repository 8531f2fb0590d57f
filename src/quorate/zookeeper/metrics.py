"""The member's metrics: the values mntr and the admin server show, and Prometheus' text exposition of them.

Names are Apache's wherever it has one: gauges as ZooKeeperServer.registerMetrics and LeaderZooKeeperServer's name them,
counters and summaries as ServerMetrics.java does. Apache's Prometheus provider names a counter without ``_total``; so do
we, and call it untyped, because the text format wants that ending of a counter. What Apache does not have starts with
``quorate_``; process metrics have the names every Prometheus client gives them.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quorate.runtime.http import Request, Response, method_not_allowed, not_found
from quorate.zookeeper.stats import LATENCIES, QUANTILES, Summary
from quorate.zookeeper.view import VERSION, MemberView, Role

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PEER_STATES = {
    Role.LEADER: "leading",
    Role.FOLLOWER: "following",
    Role.OBSERVER: "observing",
    Role.LOOKING: "looking",
}

Number = int | float


def gauges(view: MemberView) -> list[tuple[str, Number]]:
    """Values of the moment, by Apache's names; the view must be serving."""
    stats = view.stats
    process = view.process()
    response = stats.client_response_size
    values: list[tuple[str, Number]] = [
        ("ephemerals_count", view.ephemerals_count()),
        ("num_alive_connections", view.connection_count()),
        ("avg_latency", stats.avg_latency_ms()),
        ("outstanding_requests", view.outstanding_requests()),
        ("znode_count", view.node_count()),
        ("global_sessions", len(view.sessions())),
        ("non_mtls_remote_conn_count", 0),
        ("last_client_response_size", response.last),
        ("packets_sent", stats.packets_sent),
        ("packets_received", stats.packets_received),
        ("max_client_response_size", response.maximum),
        ("connection_drop_probability", 0.0),
        ("watch_count", view.watch_count()),
        ("auth_failed_count", stats.auth_failed_count),
        ("min_latency", stats.min_latency_ms()),
        ("max_file_descriptor_count", process.max_files),
        ("approximate_data_size", view.data_size()),
        ("open_file_descriptor_count", process.open_files),
        ("local_sessions", 0),
        ("uptime", view.uptime_ms()),
        ("max_latency", stats.max_latency_ms()),
        ("outstanding_tls_handshake", 0),
        ("min_client_response_size", response.minimum),
        ("non_mtls_local_conn_count", 0),
        ("fsync_threshold_exceed_count", stats.fsync_threshold_exceed_count),
    ]
    ensemble = view.ensemble()
    if ensemble:
        voters = {member.sid for member in ensemble if not member.observer}
        values.append(("quorum_size", len(voters)))
        if view.role == Role.LEADER:
            values += _leader_gauges(view, voters)
    return values


def _leader_gauges(view: MemberView, voters: set[int]) -> list[tuple[str, Number]]:
    learners = view.learners()
    synced = [learner for learner in learners if learner.synced]
    followers = [learner for learner in synced if not learner.observer]
    voting = sum(learner.sid in voters for learner in followers)
    proposal = view.stats.proposal_size
    return [
        ("learners", len(learners)),
        ("synced_followers", voting),
        ("synced_non_voting_followers", len(followers) - voting),
        ("synced_observers", len(synced) - len(followers)),
        ("pending_syncs", view.pending_syncs()),
        ("leader_uptime", view.leader_uptime_ms()),
        ("last_proposal_size", proposal.last),
        ("max_proposal_size", proposal.maximum),
        ("min_proposal_size", proposal.minimum),
    ]


def monitor(view: MemberView) -> list[tuple[str, Number | str]]:
    """What mntr shows, without its prefix, in its order; the view must be serving. Never NaN: parsers break on it."""
    values: list[tuple[str, Number | str]] = [("version", VERSION), ("server_state", view.role.value)]
    if view.phase is not None:
        values.append(("peer_state", f"{PEER_STATES.get(view.role, view.role.value)} - {view.phase.value}"))
    values += gauges(view)
    values += view.stats.counters()
    values += view.stats.op_counts()
    for summary in view.stats.summaries():
        values += _monitor_summary(summary)
    return values


def _monitor_summary(summary: Summary) -> list[tuple[str, Number]]:
    name, histogram, scale = summary
    values: list[tuple[str, Number]] = [
        (f"avg_{name}", round(histogram.mean() * scale, 4)),
        (f"min_{name}", int(histogram.minimum * scale)),
        (f"max_{name}", int(histogram.maximum * scale)),
        (f"cnt_{name}", histogram.count),
        (f"sum_{name}", int(histogram.total * scale)),
    ]
    if name in LATENCIES:
        # 0.999 is p999
        values += [(f"p{str(q)[2:].ljust(2, '0')}_{name}", int(histogram.quantile(q) * scale)) for q in QUANTILES]
    return values


class _MemberCollector:
    """Makes the metric families of one scrape (prometheus_client's collector interface)."""

    def __init__(self, view: MemberView) -> None:
        self._view = view

    def collect(self) -> "Iterator[Metric]":
        view = self._view
        stats = view.stats
        if view.serving:
            for name, value in gauges(view):
                yield _family(name, "gauge", value)
            zxid = view.last_zxid()
            yield _family("quorate_zab_epoch", "gauge", zxid >> 32)
            yield _family("quorate_zab_counter", "gauge", zxid & 0xFFFFFFFF)
        for name, value in stats.counters():
            yield _family(name, "unknown", value)
        for name, value in stats.op_counts():
            yield _family(name, "unknown", value)
        for summary in stats.summaries():
            yield _summary_family(summary)
        yield self._role()
        yield from self._process()

    def _role(self) -> "Metric":
        from prometheus_client import Metric

        family = Metric("quorate_role", "1 for the role the member has, 0 for the others", "gauge")
        for role in Role:
            family.add_sample(family.name, {"role": role.value}, float(role == self._view.role))
        return family

    def _process(self) -> "Iterator[Metric]":
        process = self._view.process()
        yield _family("process_resident_memory_bytes", "gauge", process.resident_bytes)
        yield _family("process_virtual_memory_bytes", "gauge", process.virtual_bytes)
        yield _family("process_start_time_seconds", "gauge", process.started)
        yield _family("process_open_fds", "gauge", process.open_files)
        yield _family("process_max_fds", "gauge", process.max_files)
        yield _family("process_cpu_seconds", "counter", process.cpu_seconds)


def _family(name: str, kind: str, value: Number) -> "Metric":
    from prometheus_client import Metric

    family = Metric(name, name, kind)
    family.add_sample(f"{name}_total" if kind == "counter" else name, {}, float(value))
    return family


def _summary_family(summary: Summary) -> "Metric":
    from prometheus_client import Metric

    name, histogram, scale = summary
    family = Metric(name, name, "summary")
    for quantile in QUANTILES:
        # Prometheus says NaN of a quantile of nothing
        value = histogram.quantile(quantile) * scale if histogram.count else float("nan")
        family.add_sample(name, {"quantile": str(quantile)}, value)
    family.add_sample(f"{name}_count", {}, float(histogram.count))
    family.add_sample(f"{name}_sum", {}, histogram.total * scale)
    return family


def exposition(view: MemberView) -> bytes:
    """The scrape in Prometheus' text format, of CONTENT_TYPE. A member that is not serving shows what it counts."""
    # imported here because it takes longer than a server has to start, and not every server is scraped
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MemberCollector(view))
    return generate_latest(registry)


class MetricsEndpoint:
    """The router of a port that serves nothing but /metrics (metricsProvider.httpPort)."""

    def __init__(self, view: MemberView) -> None:
        self._view = view

    def __call__(self, request: Request) -> Response:
        if request.path not in ("/metrics", "/metrics/"):
            return not_found()
        if request.method != "GET":
            return method_not_allowed("GET, HEAD")
        return Response(200, exposition(self._view), CONTENT_TYPE)
