"""What a member shows to Prometheus under ``/metrics``: its groups, the store in each, its disk and its process.

Names follow Prometheus' conventions (base units, ``_total`` for counters); ``group`` counts shards from 1.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from quorate.consensus.paxos.host import Host
from quorate.kv.front import Front
from quorate.kv.service import KvService
from quorate.runtime.http import Request, Response, method_not_allowed

if TYPE_CHECKING:
    from prometheus_client import Metric

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Syncs(Protocol):
    """How long the journal's syncs took: ``runtime.files.SyncStatistics``."""

    count: int
    total_ms: float
    max_ms: float


class Metrics:
    """A router for PATH; a collector of prometheus_client's."""

    def __init__(self, host: Host, front: Front, syncs: Syncs) -> None:
        self._host = host
        self._front = front
        self._syncs = syncs

    def __call__(self, request: Request) -> Response:
        if request.method != "GET":
            return method_not_allowed("GET, HEAD")
        return Response(200, self._exposition(), CONTENT_TYPE)

    def _exposition(self) -> bytes:
        # imported here because it takes longer than a server has to start, and not every server is scraped
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        return generate_latest(registry)

    def collect(self) -> "Iterator[Metric]":
        services = self._front.shards.services
        yield from self._groups()
        yield from self._store(services)
        yield _family("quorate_kv_connections", "Clients connected", "gauge", [({}, self._front.connections)])
        syncs = self._syncs
        yield _family("quorate_journal_segments", "Files of the journal", "gauge", [({}, self._host.journal.segments)])
        yield _family("quorate_journal_syncs", "Syncs of the journal's disk", "counter", [({}, syncs.count)])
        yield _family("quorate_journal_sync_seconds", "Time they took", "counter", [({}, syncs.total_ms / 1000)])
        yield _family("quorate_journal_sync_max_seconds", "The slowest so far", "gauge", [({}, syncs.max_ms / 1000)])

    def _groups(self) -> "Iterator[Metric]":
        groups = self._host.groups

        def family(name: str, text: str, values: Iterable[tuple[int, float]]) -> "Metric":
            return _family(
                f"quorate_paxos_{name}", text, "gauge", [({"group": str(of)}, value) for of, value in values]
            )

        yield family(
            "leading", "1 if this member leads the group", ((of, group.leading) for of, group in groups.items())
        )
        yield family(
            "leader", "Who leads, 0 if nobody is known to", ((of, group.leader) for of, group in groups.items())
        )
        logs = {of: group.peer.acceptor.log for of, group in groups.items()}
        yield family("members", "Members of the group", ((of, len(log.sids)) for of, log in logs.items()))
        yield family("last_index", "Last index in the log", ((of, log.last) for of, log in logs.items()))
        yield family("decided_index", "Last index known to be chosen", ((of, log.decided) for of, log in logs.items()))
        yield family("applied_index", "Last index applied", ((of, group.applied) for of, group in groups.items()))
        yield family("first_index", "Entries up to this one are in a snapshot alone", ((of, log.base) for of, log in logs.items()))  # fmt: skip

    def _store(self, services: Iterable[KvService]) -> "Iterator[Metric]":
        machines = {str(service.replica.group): service.machine for service in services}

        def family(name: str, text: str, values: Iterable[tuple[str, float]]) -> "Metric":
            return _family(f"quorate_kv_{name}", text, "gauge", [({"group": of}, value) for of, value in values])

        yield family("revision", "Revision of the store", ((of, m.store.revision) for of, m in machines.items()))
        yield family("compacted_revision", "Older revisions are gone", ((of, m.store.compacted) for of, m in machines.items()))  # fmt: skip
        yield family("keys", "Keys", ((of, len(m.store.current)) for of, m in machines.items()))
        yield family(
            "leases", "Leases, Consul's sessions among them", ((of, len(m.leases)) for of, m in machines.items())
        )
        yield family("sessions", "Sessions of clients", ((of, len(m.sessions)) for of, m in machines.items()))
        yield family("intents", "Prepared for transactions over shards", ((of, len(m.locks.intents)) for of, m in machines.items()))  # fmt: skip
        yield family("outcomes", "Outcomes of such transactions that are kept", ((of, len(m.outcomes.of)) for of, m in machines.items()))  # fmt: skip
        watches = [({"group": str(service.replica.group)}, len(service.watches)) for service in services]
        yield _family("quorate_kv_watches", "Watches on this member", "gauge", watches)
        proposed = [({"group": str(service.replica.group)}, service.proposed_commands) for service in services]
        yield _family("quorate_kv_commands", "Commands this member proposed as leader", "counter", proposed)
        batches = [({"group": str(service.replica.group)}, service.proposed_batches) for service in services]
        yield _family("quorate_kv_batches", "Batches they made", "counter", batches)


def _family(name: str, text: str, kind: str, samples: Iterable[tuple[dict[str, str], float]]) -> "Metric":
    from prometheus_client import Metric

    family = Metric(name, text, kind)
    for labels, value in samples:
        family.add_sample(f"{name}_total" if kind == "counter" else name, labels, float(value))
    return family
