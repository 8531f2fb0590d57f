"""Counters and histograms: exact where they promise to be, within the stated error elsewhere."""

from hypothesis import given
from hypothesis import strategies as st

from quorate.zookeeper.constants import Op
from quorate.zookeeper.stats import (
    AMOUNTS,
    COUNTERS,
    LATENCIES,
    OP_COUNTS,
    ConnectionStats,
    Histogram,
    ServerStats,
    Sizes,
)

MS = 1_000_000


def test_an_empty_histogram_is_all_zero() -> None:
    histogram = Histogram()
    assert (histogram.mean(), histogram.quantile(0.5), histogram.minimum, histogram.maximum) == (0.0, 0.0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, (1 << 63) - 1), st.integers(1, 50)), min_size=1, max_size=50))
def test_a_quantile_is_within_an_eighth_of_the_exact_one(events: list[tuple[int, int]]) -> None:
    histogram = Histogram()
    values: list[int] = []
    for value, count in events:
        histogram.record(value, count)
        values += [value] * count
    values.sort()
    assert histogram.count == len(values)
    assert histogram.total == sum(values)
    assert (histogram.minimum, histogram.maximum) == (values[0], values[-1])
    for share in (0.5, 0.95, 0.99, 0.999, 1.0):
        wanted = share * len(values)
        exact = next(value for index, value in enumerate(values, 1) if index >= wanted)
        assert abs(histogram.quantile(share) - exact) <= exact / 8 + 1


def test_small_values_have_exact_quantiles() -> None:
    histogram = Histogram()
    for value in range(8):
        histogram.record(value)
    assert [histogram.quantile((value + 1) / 8) for value in range(8)] == list(range(8))


def test_a_histogram_that_is_reset_forgets() -> None:
    histogram = Histogram()
    histogram.record(77, 3)
    histogram.reset()
    histogram.record(5)
    assert (histogram.count, histogram.total, histogram.minimum, histogram.maximum) == (1, 5, 5, 5)
    assert sum(histogram.buckets) == 1


def test_sizes_are_minus_one_before_the_first() -> None:
    sizes = Sizes()
    assert str(sizes) == "-1/-1/-1"
    for size in (48, 0, 91, 50):
        sizes.record(size)
    assert str(sizes) == "50/0/91"
    sizes.reset()
    assert str(sizes) == "-1/-1/-1"


def test_latency_is_that_of_reads_and_updates_together() -> None:
    stats = ServerStats()
    assert (stats.min_latency_ms(), stats.avg_latency_ms(), stats.max_latency_ms()) == (0, 0.0, 0)
    stats.record(2 * MS, update=False, count=3)
    stats.record(9 * MS + 999_999, update=True)
    assert (stats.min_latency_ms(), stats.avg_latency_ms(), stats.max_latency_ms()) == (2, 4.0, 9)
    assert (stats.readlatency.count, stats.updatelatency.count) == (3, 1)


def test_every_name_is_an_attribute_and_reset_clears_it() -> None:
    stats = ServerStats()
    for name in COUNTERS:
        assert getattr(stats, name) == 0
        setattr(stats, name, 5)
    for name in LATENCIES + AMOUNTS:
        getattr(stats, name).record(3)
    stats.packets_received = stats.packets_sent = stats.auth_failed_count = stats.fsync_threshold_exceed_count = 1
    ops = stats.ops
    ops[Op.GET_DATA] = 4
    stats.proposal_size.record(9)
    stats.client_response_size.record(9)
    assert stats.counters() == [(name, 5) for name in COUNTERS]
    assert [summary.histogram.count for summary in stats.summaries()] == [1] * len(LATENCIES + AMOUNTS)

    stats.reset()
    assert stats.counters() == [(name, 0) for name in COUNTERS]
    assert [summary.histogram.count for summary in stats.summaries()] == [0] * len(LATENCIES + AMOUNTS)
    assert (stats.packets_received, stats.packets_sent) == (0, 0)
    assert (stats.auth_failed_count, stats.fsync_threshold_exceed_count) == (0, 0)
    assert (str(stats.proposal_size), str(stats.client_response_size)) == ("-1/-1/-1", "-1/-1/-1")
    assert dict(stats.op_counts())["op_count_total"] == 0
    assert stats.ops is ops, "the server may hold on to the table"


def test_requests_are_counted_by_type_positive_or_negative() -> None:
    stats = ServerStats()
    for op in Op:
        stats.ops[op] += 1
    counts = dict(stats.op_counts())
    assert counts["op_count_total"] == len(Op)
    assert {name: len(types) for name, types in OP_COUNTS.items()} == {
        name.removeprefix("op_count_"): count for name, count in counts.items() if name != "op_count_total"
    }


def test_a_connection_remembers_its_last_real_request() -> None:
    stats = ConnectionStats()
    stats.record(Op.GET_DATA, 7, 100, 5 * MS, 2 * MS, count=4)
    stats.record(Op.PING, -2, 101, 9 * MS, 1 * MS)
    assert (stats.last_op, stats.last_cxid, stats.last_zxid) == (Op.PING, 7, 101)
    assert (stats.last_response, stats.last_latency) == (9 * MS, 1 * MS)
    assert (stats.latency_min, stats.latency_max, stats.latency_total, stats.latency_count) == (MS, 2 * MS, 9 * MS, 5)
    stats.reset()
    assert (stats.last_cxid, stats.last_zxid, stats.last_op, stats.latency_count, stats.latency_max) == (
        -1,
        -1,
        0,
        0,
        0,
    )
