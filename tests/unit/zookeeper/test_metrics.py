"""The Prometheus exposition, read back by Prometheus' own parser."""

import math
import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families
from tests.unit.zookeeper.member import Member

from quorate.runtime.http import Request
from quorate.zookeeper.metrics import CONTENT_TYPE, MetricsEndpoint, exposition
from quorate.zookeeper.stats import COUNTERS
from quorate.zookeeper.view import Phase, Role

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(member: Member) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(exposition(member).decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} comes twice"
            found[key] = sample.value
    return found


def plain(samples: Samples) -> dict[str, float]:
    return {name: value for (name, labels), value in samples.items() if not labels}


def test_apaches_names_and_values() -> None:
    samples = scrape(Member())
    values = plain(samples)
    expected = {
        "znode_count": 8,
        "num_alive_connections": 2,
        "outstanding_requests": 2,
        "avg_latency": 2.1111,
        "packets_received": 22,
        "watch_count": 5,
        "synced_followers": 1,
        "learners": 4,
        "quorum_size": 3,
        "open_file_descriptor_count": 41,
        "op_count_create": 3,
        "readlatency_count": 8,
        "readlatency_sum": 8,
        "updatelatency_count": 1,
        "updatelatency_sum": 11,
        "fsynctime_count": 0,
        "proposal_latency_count": 0,
        "quorate_zab_epoch": 2,
        "quorate_zab_counter": 8,
    }
    assert {name: values.get(name) for name in expected} == expected
    assert set(COUNTERS) <= set(values)
    assert samples["readlatency", (("quantile", "0.5"),)] == 1
    assert samples["updatelatency", (("quantile", "0.99"),)] == 11


def test_quantiles_of_nothing_are_nan_and_nothing_else_is() -> None:
    samples = scrape(Member())
    for (name, labels), value in samples.items():
        if labels and labels[0][0] == "quantile" and plain(samples)[f"{name}_count"] == 0:
            assert math.isnan(value)
        else:
            assert not math.isnan(value), name


def test_latencies_are_in_fractions_of_a_millisecond() -> None:
    member = Member()
    member.stats.reset()
    member.stats.record(50_000, update=False, count=2)
    samples = scrape(member)
    assert math.isclose(plain(samples)["readlatency_sum"], 0.1)
    assert math.isclose(samples["readlatency", (("quantile", "0.5"),)], 0.05)


def test_process_metrics_have_the_usual_names() -> None:
    values = plain(scrape(Member()))
    assert values["process_resident_memory_bytes"] == 30 << 20
    assert values["process_cpu_seconds_total"] == 1.5
    assert values["process_open_fds"] == 41
    assert values["process_max_fds"] == 20000
    assert values["process_start_time_seconds"] == 1795430478.5


def test_the_role_is_one_of_all_roles() -> None:
    samples = scrape(Member(Role.FOLLOWER))
    roles = {labels[0][1]: value for (name, labels), value in samples.items() if name == "quorate_role"}
    assert roles == {role.value: float(role == Role.FOLLOWER) for role in Role}
    assert "synced_followers" not in plain(samples)


def test_a_member_that_is_not_serving_shows_what_it_counts() -> None:
    member = Member()
    member.become(Role.LOOKING, Phase.ELECTION, serving=False)
    values = plain(scrape(member))
    assert "znode_count" not in values
    assert values["readlatency_count"] == 8
    assert values["process_open_fds"] == 41


def test_the_text_declares_each_family_once() -> None:
    text = exposition(Member()).decode()
    assert "# TYPE znode_count gauge\nznode_count 8.0\n" in text
    assert "# TYPE commit_count untyped\ncommit_count 0.0\n" in text
    assert "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1.5\n" in text
    assert (
        "# TYPE updatelatency summary\n"
        'updatelatency{quantile="0.5"} 11.0\n'
        'updatelatency{quantile="0.95"} 11.0\n'
        'updatelatency{quantile="0.99"} 11.0\n'
        'updatelatency{quantile="0.999"} 11.0\n'
        "updatelatency_count 1.0\n"
        "updatelatency_sum 11.0\n"
    ) in text
    declared = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))


def test_the_endpoint_serves_metrics_only() -> None:
    endpoint = MetricsEndpoint(Member())

    def get(path: str, method: str = "GET") -> tuple[int, str]:
        response = endpoint(Request(method, path, [], {}, b"", ("127.0.0.1", 1)))
        return response.status, response.content_type

    assert get("/metrics") == (200, CONTENT_TYPE)
    assert get("/")[0] == 404
    assert get("/metrics", "POST")[0] == 405


def test_the_client_library_is_not_loaded_before_the_first_scrape() -> None:
    code = (
        "import sys, quorate.zookeeper.admin, quorate.zookeeper.fourletter, quorate.runtime.http\n"
        "sys.exit(any(name in sys.modules for name in ('prometheus_client', 'h11')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
