"""What a member counts: packets, latencies and the counters Apache names in ServerMetrics.java.

The server changes plain attributes on its hot path (``stats.packets_received += n``) and records a latency once per
batch of requests that came together. Everything that has to be computed (means, quantiles, names) is left to whoever
asks. Attribute names are Apache's metric names, so that mntr, the admin server and Prometheus need no table of their own.

Latencies are recorded in nanoseconds and shown in milliseconds, Apache's unit.
"""

from typing import NamedTuple

from quorate.zookeeper.constants import Op

MILLISECONDS = 1e-6
"""Milliseconds in a nanosecond."""

QUANTILES = (0.5, 0.95, 0.99, 0.999)

OPS = 128
"""Length of the table of operation counts: types 0 to 107 count up from its start, -11 to -1 back from its end."""


class Histogram:
    """How a value is spread: count, sum, extremes, and counts in buckets that are a quarter of a power of two wide.

    Values are non-negative integers below 2**63. A quantile is off by an eighth of its value at most.
    """

    __slots__ = ("buckets", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.total = 0
        self.minimum = 0
        self.maximum = 0
        self.buckets = [0] * 256

    def record(self, value: int, count: int = 1) -> None:
        """``count`` events of ``value`` each."""
        if value > self.maximum:
            self.maximum = value
        if value < self.minimum or not self.count:
            self.minimum = value
        self.count += count
        self.total += value * count
        shift = value.bit_length() - 3
        if shift < 0:
            shift = 0
        # the two bits after the leading one tell the quarter
        self.buckets[(shift << 2) + (value >> shift)] += count

    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """The value that ``share`` (0 to 1) of all events do not exceed; 0 if there are none."""
        if not self.count:
            return 0.0
        wanted = share * self.count
        seen = 0
        for index, events in enumerate(self.buckets):
            seen += events
            if events and seen >= wanted:
                shift = max((index >> 2) - 1, 0)
                low = (index - (shift << 2)) << shift
                value = low + (1 << shift) / 2 if shift else low
                return min(max(value, self.minimum), self.maximum)
        return float(self.maximum)


class Sizes:
    """Last, least and greatest size in bytes, -1 before the first (BufferStats.java)."""

    __slots__ = ("last", "maximum", "minimum")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.last = -1
        self.minimum = -1
        self.maximum = -1

    def record(self, size: int) -> None:
        self.last = size
        if size > self.maximum:
            self.maximum = size
        if size < self.minimum or self.minimum < 0:
            self.minimum = size

    def __str__(self) -> str:
        return f"{self.last}/{self.minimum}/{self.maximum}"


class Summary(NamedTuple):
    """A histogram under its metric name. ``scale`` turns a recorded value into what is shown; 1 for plain numbers."""

    name: str
    histogram: Histogram
    scale: float


COUNTERS = (
    "bytes_received_count",
    "cnxn_closed_without_zk_server_running",
    "commit_count",
    "connection_drop_count",
    "connection_rejected",
    "connection_request_count",
    "connection_revalidate_count",
    "diff_count",
    "digest_mismatches_count",
    "large_requests_rejected",
    "learner_commit_received_count",
    "learner_proposal_received_count",
    "looking_count",
    "proposal_count",
    "quit_leading_due_to_disloyal_voter",
    "request_throttle_wait_count",
    "response_bytes",
    "revalidate_count",
    "sessionless_connections_expired",
    "snap_count",
    "snapshot_error_count",
    "stale_replies",
    "stale_requests",
    "stale_sessions_expired",
    "throttled_ops",
    "trunc_count",
    "ttl_node_created_count",
    "ttl_node_deleted_count",
    "unrecoverable_error_count",
    "unsuccessful_handshake",
    "watch_bytes",
)
"""The counters, each an attribute of ServerStats. trunc_count is ours: Apache counts DIFF and SNAP only."""

LATENCIES = (
    "commit_propagation_latency",
    "dbinittime",
    "election_time",
    "follower_sync_time",
    "fsynctime",
    "leader_unavailable_time",
    "observer_sync_time",
    "propagation_latency",
    "proposal_latency",
    "quorum_ack_latency",
    "readlatency",
    "snapshottime",
    "startup_snap_load_time",
    "startup_txns_load_time",
    "unavailable_time",
    "updatelatency",
)
"""Histograms of nanoseconds."""

AMOUNTS = (
    "node_changed_watch_count",
    "node_children_watch_count",
    "node_created_watch_count",
    "node_deleted_watch_count",
    "startup_txns_loaded",
    "sync_processor_batch_size",
)
"""Histograms of plain numbers. sync_processor_batch_size is how many transactions one fsync covered."""


class ServerStats:
    """All counts of one member, since it started or since ``reset``."""

    __slots__ = (
        *COUNTERS,
        *LATENCIES,
        *AMOUNTS,
        "auth_failed_count",
        "client_response_size",
        "fsync_threshold_exceed_count",
        "ops",
        "packets_received",
        "packets_sent",
        "proposal_size",
    )

    def __init__(self) -> None:
        self.packets_received = 0
        self.packets_sent = 0
        self.auth_failed_count = 0
        self.fsync_threshold_exceed_count = 0
        """Syncs that took longer than fsync.warningthresholdms."""
        self.ops = [0] * OPS
        """Requests by type: ``ops[op] += 1`` for a type that is in ``constants.Op``."""
        self.client_response_size = Sizes()
        self.proposal_size = Sizes()

        self.bytes_received_count = 0
        self.cnxn_closed_without_zk_server_running = 0
        self.commit_count = 0
        self.connection_drop_count = 0
        self.connection_rejected = 0
        self.connection_request_count = 0
        self.connection_revalidate_count = 0
        self.diff_count = 0
        self.digest_mismatches_count = 0
        self.large_requests_rejected = 0
        self.learner_commit_received_count = 0
        self.learner_proposal_received_count = 0
        self.looking_count = 0
        self.proposal_count = 0
        self.quit_leading_due_to_disloyal_voter = 0
        self.request_throttle_wait_count = 0
        self.response_bytes = 0
        self.revalidate_count = 0
        self.sessionless_connections_expired = 0
        self.snap_count = 0
        self.snapshot_error_count = 0
        self.stale_replies = 0
        self.stale_requests = 0
        self.stale_sessions_expired = 0
        self.throttled_ops = 0
        self.trunc_count = 0
        self.ttl_node_created_count = 0
        self.ttl_node_deleted_count = 0
        self.unrecoverable_error_count = 0
        self.unsuccessful_handshake = 0
        self.watch_bytes = 0

        self.commit_propagation_latency = Histogram()
        self.dbinittime = Histogram()
        self.election_time = Histogram()
        self.follower_sync_time = Histogram()
        self.fsynctime = Histogram()
        self.leader_unavailable_time = Histogram()
        self.observer_sync_time = Histogram()
        self.propagation_latency = Histogram()
        self.proposal_latency = Histogram()
        self.quorum_ack_latency = Histogram()
        self.readlatency = Histogram()
        self.snapshottime = Histogram()
        self.startup_snap_load_time = Histogram()
        self.startup_txns_load_time = Histogram()
        self.unavailable_time = Histogram()
        self.updatelatency = Histogram()

        self.node_changed_watch_count = Histogram()
        self.node_children_watch_count = Histogram()
        self.node_created_watch_count = Histogram()
        self.node_deleted_watch_count = Histogram()
        self.startup_txns_loaded = Histogram()
        self.sync_processor_batch_size = Histogram()

    def record(self, latency_ns: int, update: bool, count: int = 1) -> None:
        """``count`` requests of local clients were answered ``latency_ns`` after they came."""
        if update:
            self.updatelatency.record(latency_ns, count)
        else:
            self.readlatency.record(latency_ns, count)

    def reset(self) -> None:
        """As srst does: everything from zero, sizes of proposals included."""
        for name in COUNTERS:
            setattr(self, name, 0)
        for summary in self.summaries():
            summary.histogram.reset()
        self.packets_received = 0
        self.packets_sent = 0
        self.auth_failed_count = 0
        self.fsync_threshold_exceed_count = 0
        # in place: the server may hold on to the list
        self.ops[:] = [0] * OPS
        self.client_response_size.reset()
        self.proposal_size.reset()

    # ---- reading

    def counters(self) -> list[tuple[str, int]]:
        return [(name, getattr(self, name)) for name in COUNTERS]

    def summaries(self) -> list[Summary]:
        latencies = [Summary(name, getattr(self, name), MILLISECONDS) for name in LATENCIES]
        return latencies + [Summary(name, getattr(self, name), 1) for name in AMOUNTS]

    def op_counts(self) -> list[tuple[str, int]]:
        """Requests by the names of Apache's op_count metrics, then all of them."""
        ops = self.ops
        counts = [(f"op_count_{name}", sum([ops[op] for op in types])) for name, types in OP_COUNTS.items()]
        return [*counts, ("op_count_total", sum(ops))]

    def min_latency_ms(self) -> int:
        """The shortest of all requests, whole ms."""
        found = [h.minimum for h in (self.readlatency, self.updatelatency) if h.count]
        return int(min(found, default=0) * MILLISECONDS)

    def max_latency_ms(self) -> int:
        return int(max(self.readlatency.maximum, self.updatelatency.maximum) * MILLISECONDS)

    def avg_latency_ms(self) -> float:
        """Over all requests, ms with four decimals."""
        count = self.readlatency.count + self.updatelatency.count
        total = self.readlatency.total + self.updatelatency.total
        return round(total * MILLISECONDS / count, 4) if count else 0.0


OP_COUNTS: dict[str, tuple[Op, ...]] = {
    "add_watch": (Op.ADD_WATCH,),
    "check": (Op.CHECK,),
    "check_watches": (Op.CHECK_WATCHES,),
    "close_session": (Op.CLOSE_SESSION,),
    "create": (Op.CREATE, Op.CREATE2, Op.CREATE_TTL, Op.CREATE_CONTAINER),
    "create_session": (Op.CREATE_SESSION,),
    "delete": (Op.DELETE, Op.DELETE_CONTAINER),
    "exists": (Op.EXISTS,),
    "get_acl": (Op.GET_ACL,),
    "get_all_children_number": (Op.GET_ALL_CHILDREN_NUMBER,),
    "get_children": (Op.GET_CHILDREN, Op.GET_CHILDREN2),
    "get_data": (Op.GET_DATA,),
    "get_ephemerals": (Op.GET_EPHEMERALS,),
    "multi": (Op.MULTI,),
    "multi_read": (Op.MULTI_READ,),
    "ping": (Op.PING,),
    "reconfig": (Op.RECONFIG,),
    "remove_watches": (Op.REMOVE_WATCHES,),
    "set_acl": (Op.SET_ACL,),
    "set_data": (Op.SET_DATA,),
    "set_watches": (Op.SET_WATCHES, Op.SET_WATCHES2),
    "sync": (Op.SYNC,),
    "who_am_i": (Op.WHO_AM_I,),
}


class ConnectionStats:
    """What one connection's server counts of it; ``record`` once per batch of requests that came together.

    Times are nanoseconds on the environment's clock; ``last_cxid`` and ``last_zxid`` are -1 before the first request,
    ``last_op`` 0.
    """

    __slots__ = (
        "last_cxid",
        "last_latency",
        "last_op",
        "last_response",
        "last_zxid",
        "latency_count",
        "latency_max",
        "latency_min",
        "latency_total",
        "received",
        "sent",
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As crst does."""
        self.received = 0
        self.sent = 0
        self.last_op = 0
        self.last_cxid = -1
        self.last_zxid = -1
        self.last_response = 0
        self.last_latency = 0
        self.latency_min = 0
        self.latency_max = 0
        self.latency_total = 0
        self.latency_count = 0

    def record(self, op: int, cxid: int, zxid: int, now: int, latency_ns: int, count: int = 1) -> None:
        """``count`` requests were answered at ``now``, the last of them ``op`` with ``cxid``; ``zxid`` is the reply's."""
        if cxid >= 0:
            # pings and the like have negative ones: the last real request is of interest
            self.last_cxid = cxid
        self.last_op = op
        self.last_zxid = zxid
        self.last_response = now
        self.last_latency = latency_ns
        if latency_ns > self.latency_max:
            self.latency_max = latency_ns
        if latency_ns < self.latency_min or not self.latency_count:
            self.latency_min = latency_ns
        self.latency_total += latency_ns * count
        self.latency_count += count


OPERATIONS: dict[int, str] = {
    Op.PING: "PING",
    Op.CREATE_SESSION: "SESS",
    Op.MULTI: "MULT",
    Op.MULTI_READ: "MLTR",
    Op.CREATE: "CREA",
    Op.CREATE2: "CREA",
    Op.CREATE_TTL: "CREA",
    Op.CREATE_CONTAINER: "CREA",
    Op.DELETE: "DELE",
    Op.DELETE_CONTAINER: "DELE",
    Op.SET_DATA: "SETD",
    Op.RECONFIG: "RECO",
    Op.SET_ACL: "SETA",
    Op.CLOSE_SESSION: "CLOS",
    Op.SYNC: "SYNC",
    Op.CHECK: "CHEC",
    Op.EXISTS: "EXIS",
    Op.GET_DATA: "GETD",
    Op.SET_WATCHES: "SETW",
    Op.SET_WATCHES2: "STW2",
    Op.ADD_WATCH: "ADDW",
    Op.GET_ACL: "GETA",
    Op.GET_CHILDREN: "GETC",
    Op.GET_CHILDREN2: "GETC",
    Op.GET_ALL_CHILDREN_NUMBER: "GETACN",
    Op.CHECK_WATCHES: "CHKW",
    Op.REMOVE_WATCHES: "REMW",
    Op.WHO_AM_I: "HOMI",
    Op.GET_EPHEMERALS: "GETE",
}
"""How the cons command calls a connection's last operation; "NA" for the rest and before the first."""
