"""The four-letter words' texts, as Apache ZooKeeper 3.8.0 lays them out, and as existing clients parse them."""

import re
from pathlib import Path

import pytest
from kazoo.client import ENVI_VERSION, ENVI_VERSION_KEY
from tests.unit.zookeeper.member import Member

from quorate import __version__
from quorate.zookeeper.fourletter import (
    DEFAULT_WHITELIST,
    FOUR_LETTER_WORDS,
    answer,
    java_date,
    parse_whitelist,
)
from quorate.zookeeper.view import Phase, Role

TESTDATA = Path(__file__).parent / "testdata"

EVERY = frozenset({"*"})
VERSION = f"3.8.0-quorate-{__version__}, built on 11/23/2026 00:00 UTC"
NOT_SERVING = "This ZooKeeper instance is not currently serving requests\n"


def ask(word: str, member: Member | None = None) -> str:
    return answer(word.encode(), member or Member(), EVERY).decode()


def standalone() -> Member:
    return Member(Role.STANDALONE, None)


def test_srvr_of_a_standalone_server() -> None:
    assert ask("srvr", standalone()) == (
        f"Zookeeper version: {VERSION}\n"
        "Latency min/avg/max: 1/2.1111/11\n"
        "Received: 22\n"
        "Sent: 21\n"
        "Connections: 2\n"
        "Outstanding: 2\n"
        "Zxid: 0x200000008\n"
        "Mode: standalone\n"
        "Node count: 8\n"
    )


def test_srvr_of_a_leader_ends_with_the_proposal_sizes() -> None:
    assert ask("srvr").endswith("Mode: leader\nNode count: 8\nProposal sizes last/min/max: 48/48/91\n")


def test_a_read_only_server_says_so() -> None:
    member = Member(Role.READ_ONLY)
    text = ask("srvr", member)
    assert text.startswith(f"Zookeeper version: {VERSION}\nREAD-ONLY mode; serving only read-only clients\nLatency")
    assert "\nMode: read-only\n" in text
    assert ask("isro", member) == "ro"


def test_stat_lists_the_connections_in_brief() -> None:
    lines = ask("stat", standalone()).split("\n")
    assert lines[:6] == [
        f"Zookeeper version: {VERSION}",
        "Clients:",
        " /127.0.0.1:39114[1](queued=0,recved=11,sent=11)",
        " /[::1]:39130[0](queued=2,recved=1,sent=0)",
        "",
        "Latency min/avg/max: 1/2.1111/11",
    ]


def test_cons_tells_all_of_a_connection_that_has_a_session() -> None:
    assert ask("cons") == (
        " /127.0.0.1:39114[1](queued=0,recved=11,sent=11,sid=0x100001b3aba0000,lop=GETD,est=1795430512829,to=10000"
        ",lcxid=0xa,lzxid=0x4,lresp=1818227,llat=1,minlat=1,avglat=1,maxlat=11)\n"
        " /[::1]:39130[0](queued=2,recved=1,sent=0)\n"
        "\n"
    )


def test_a_session_without_requests_has_no_cxid_and_no_operation() -> None:
    member = Member()
    member.shown_connections[0].stats.reset()
    assert ask("cons", member).startswith(
        " /127.0.0.1:39114[1](queued=0,recved=0,sent=0,sid=0x100001b3aba0000,lop=NA,est=1795430512829,to=10000"
        ",lzxid=0xffffffffffffffff,lresp=0,llat=0,minlat=0,avglat=0,maxlat=0)\n"
    )


STANDALONE_CONF = (
    "clientPort=2181\n"
    "secureClientPort=-1\n"
    "dataDir=/data/version-2\n"
    "dataDirSize=1024\n"
    "dataLogDir=/log/version-2\n"
    "dataLogSize=67109337\n"
    "tickTime=2000\n"
    "maxClientCnxns=60\n"
    "minSessionTimeout=4000\n"
    "maxSessionTimeout=40000\n"
    "clientPortListenBacklog=-1\n"
)


def test_conf_of_a_standalone_server() -> None:
    assert ask("conf", standalone()) == STANDALONE_CONF + "serverId=0\n"


def test_conf_of_a_member_ends_with_the_ensemble() -> None:
    assert ask("conf") == STANDALONE_CONF + (
        "serverId=3\n"
        "initLimit=10\n"
        "syncLimit=5\n"
        "electionAlg=3\n"
        "electionPort=3888\n"
        "quorumPort=2888\n"
        "peerType=0\n"
        "membership: \n"
        "server.1=one:2888:3888:participant;one:2181\n"
        "version=0"
    )


def test_dirs() -> None:
    assert ask("dirs") == "datadir_size: 1024\nlogdir_size: 67109337\n"


def test_dump_of_whoever_expires_the_sessions() -> None:
    assert ask("dump") == (
        "SessionTracker dump:\n"
        "Session Sets (2)/(2):\n"
        "0 expire at Mon Nov 23 10:42:02 UTC 2026:\n"
        "2 expire at Mon Nov 23 10:42:04 UTC 2026:\n"
        "\t0x100001b3aba0000\n"
        "\t0x100001b3aba0001\n"
        "ephemeral nodes dump:\n"
        "Sessions with Ephemerals (2):\n"
        "0x100001b3aba0000:\n"
        "\t/a/e\n"
        "\t/a/z\n"
        "0x100001b3aba0001:\n"
        "\t/b\n"
        "Connections dump:\n"
        "Connections Sets (2)/(2):\n"
        "1 expire at Mon Nov 23 10:41:46 UTC 2026:\n"
        "\tip: /[::1]:39130 sessionId: 0x0\n"
        "1 expire at Mon Nov 23 10:41:56 UTC 2026:\n"
        "\tip: /127.0.0.1:39114 sessionId: 0x100001b3aba0000\n"
    )


def test_dump_of_a_follower_has_timeouts_instead() -> None:
    assert ask("dump", Member(Role.FOLLOWER)).startswith(
        "SessionTracker dump:\n"
        "Global Sessions(2):\n"
        "0x100001b3aba0000\t4000ms\n"
        "0x100001b3aba0001\t10000ms\n"
        "ephemeral nodes dump:\n"
    )


def test_envi_starts_with_the_version_and_has_apaches_names() -> None:
    assert ask("envi") == (
        "Environment:\n"
        f"zookeeper.version={VERSION}\n"
        "host.name=one.example.org\n"
        "java.version=<NA>\n"
        "java.vendor=<NA>\n"
        "java.home=<NA>\n"
        "java.class.path=<NA>\n"
        "java.library.path=<NA>\n"
        "java.io.tmpdir=<NA>\n"
        "java.compiler=<NA>\n"
        "os.name=Linux\n"
    )


def test_watches() -> None:
    assert ask("wchs") == "2 connections watching 3 paths\nTotal watches:4\n"
    assert ask("wchc") == "0x100001b3aba0000\n\t/a\n\t/a/b\n\t/zzz\n0x100001b3aba0001\n\t/a\n\n"
    assert ask("wchp") == (
        "/a\n\t0x100001b3aba0000\n\t0x100001b3aba0001\n/a/b\n\t0x100001b3aba0000\n/zzz\n\t0x100001b3aba0000\n\n"
    )


def test_hash_shows_signed_digests() -> None:
    assert ask("hash") == "100000080: 1234567890123\n100000100: -5\n"
    member = Member()
    member.shown_digests = []
    assert ask("hash", member) == ""


def test_the_short_answers_have_no_newline() -> None:
    assert (ask("ruok"), ask("isro"), ask("gtmk")) == ("imok", "rw", "306")


def test_stmk_takes_a_long() -> None:
    member = Member()
    assert answer(b"stmk", member, EVERY, (127).to_bytes(8, "big") + b"\n") == b"127"
    assert ask("gtmk", member) == "127"
    assert answer(b"stmk", member, EVERY, b"\xff" * 8) == b"-1"
    assert answer(b"stmk", member, EVERY, b"\0" * 7) == b""
    assert member.trace_mask == -1


def test_resets() -> None:
    member = Member()
    assert ask("srst", member) == "Server stats reset.\n"
    assert (member.stats.packets_received, str(member.stats.proposal_size)) == (0, "-1/-1/-1")
    assert ask("crst", member) == "Connection stats reset.\n"
    assert member.connection_resets == 1


def test_mntr_of_a_leader() -> None:
    lines = ask("mntr").splitlines()
    assert lines[:8] == [
        f"zk_version\t{VERSION}",
        "zk_server_state\tleader",
        "zk_peer_state\tleading - broadcast",
        "zk_ephemerals_count\t2",
        "zk_num_alive_connections\t2",
        "zk_avg_latency\t2.1111",
        "zk_outstanding_requests\t2",
        "zk_znode_count\t8",
    ]
    values = dict(line.split("\t") for line in lines)
    assert len(values) == len(lines), "no key comes twice"
    expected = {
        "zk_global_sessions": "2",
        "zk_packets_received": "22",
        "zk_packets_sent": "21",
        "zk_watch_count": "5",
        "zk_approximate_data_size": "57",
        "zk_open_file_descriptor_count": "41",
        "zk_max_file_descriptor_count": "20000",
        "zk_uptime": "34007",
        "zk_min_latency": "1",
        "zk_max_latency": "11",
        "zk_connection_drop_probability": "0.0",
        "zk_last_client_response_size": "-1",
        "zk_learners": "4",
        "zk_synced_followers": "1",
        "zk_synced_non_voting_followers": "1",
        "zk_synced_observers": "1",
        "zk_pending_syncs": "1",
        "zk_leader_uptime": "33000",
        "zk_last_proposal_size": "48",
        "zk_min_proposal_size": "48",
        "zk_max_proposal_size": "91",
        "zk_quorum_size": "3",
        "zk_commit_count": "0",
        "zk_op_count_create": "3",
        "zk_op_count_total": "4",
        "zk_avg_readlatency": "1.0",
        "zk_cnt_readlatency": "8",
        "zk_sum_readlatency": "8",
        "zk_p50_readlatency": "1",
        "zk_p999_readlatency": "1",
        "zk_avg_updatelatency": "11.0",
        "zk_p99_updatelatency": "11",
        "zk_cnt_fsynctime": "0",
        "zk_avg_fsynctime": "0.0",
        "zk_max_sync_processor_batch_size": "0",
    }
    assert {key: values.get(key) for key in expected} == expected


def test_mntr_of_others_has_no_leaders_values() -> None:
    alone = {line.split("\t")[0] for line in ask("mntr", standalone()).splitlines()}
    assert alone.isdisjoint({"zk_peer_state", "zk_quorum_size", "zk_learners", "zk_synced_followers"})
    follower = dict(line.split("\t") for line in ask("mntr", Member(Role.FOLLOWER)).splitlines())
    assert (follower["zk_peer_state"], follower["zk_quorum_size"]) == ("following - broadcast", "3")
    assert "zk_synced_followers" not in follower


def test_mntr_has_every_name_of_a_real_leader_but_those_that_are_listed() -> None:
    real = set((TESTDATA / "mntr-leader-3.8.0.txt").read_text().split())
    listed = [line for line in (TESTDATA / "mntr-omitted.txt").read_text().splitlines() if line and line[0] != "#"]
    names = {line.split("\t")[0] for line in ask("mntr").splitlines()}
    missing = {re.sub(r"^zk_((avg|min|max|cnt|sum|p\d+)_)?", "", name) for name in real - names}
    assert missing == set(listed)


@pytest.mark.parametrize("word", sorted(set(FOUR_LETTER_WORDS) - {b"stmk"}))
def test_a_member_that_looks_for_a_leader_answers_few_words(word: bytes) -> None:
    member = Member()
    member.become(Role.LOOKING, Phase.ELECTION, serving=False)
    text = answer(word, member, EVERY).decode()
    others = {b"ruok": "imok", b"isro": "null", b"gtmk": "306", b"envi": ask("envi")}
    assert text == others.get(word, NOT_SERVING)


@pytest.mark.parametrize("word", sorted(FOUR_LETTER_WORDS))
def test_only_srvr_is_allowed_unless_told(word: bytes) -> None:
    text = answer(word, Member(), DEFAULT_WHITELIST, bytes(8)).decode()
    if word == b"srvr":
        assert text.startswith("Zookeeper version: ")
    else:
        assert text == f"{word.decode()} is not executed because it is not in the whitelist.\n"


def test_whitelists() -> None:
    assert parse_whitelist("") == {"srvr"}
    assert parse_whitelist("stat, ruok ,,nosuch") == {"srvr", "stat", "ruok", "nosuch"}
    assert answer(b"ruok", Member(), parse_whitelist("stat,ruok")) == b"imok"
    assert answer(b"ruok", Member(), parse_whitelist("stat, *")) == b"imok"
    assert answer(b"cons", Member(), parse_whitelist("con")) == (
        b"cons is not executed because it is not in the whitelist.\n"
    )


def test_kazoo_reads_the_version_from_envi() -> None:
    # what KazooClient.server_version does
    lines = dict(line.split("=", 1) for line in ask("envi").splitlines() if "=" in line)
    assert ENVI_VERSION.match(lines[ENVI_VERSION_KEY]).group(1) == "3.8.0"


def test_go_zookeeper_reads_srvr() -> None:
    # the shape that go-zookeeper's FLWSrvr asks for; its date has no other order
    shape = re.compile(
        r"\AZookeeper version: ([A-Za-z0-9.\-]+), built on (\d\d/\d\d/\d{4} \d\d:\d\d [A-Za-z0-9:+\-]+).*\n"
        r"Latency min/avg/max: (\d+)/([0-9.]+)/(\d+).*\n"
        r"Received: (\d+).*\nSent: (\d+).*\nConnections: (\d+).*\nOutstanding: (\d+).*\n"
        r"Zxid: (0x[A-Za-z0-9]+).*\nMode: (\w+).*\nNode count: (\d+)"
    )
    for member in (Member(), standalone(), Member(Role.FOLLOWER)):
        assert shape.match(ask("srvr", member))


def test_telegraf_reads_every_line_of_mntr() -> None:
    line_shape = re.compile(r"^zk_(\w[\w.\-]*)\s+([\w.\-]+)")
    for member in (Member(), standalone(), Member(Role.OBSERVER)):
        for line in ask("mntr", member).splitlines():
            assert line_shape.match(line), line


@pytest.mark.parametrize(
    ("wall_ms", "text"),
    [
        (0, "Thu Jan 01 00:00:00 UTC 1970"),
        (1795430524999, "Mon Nov 23 10:42:04 UTC 2026"),
        (951827696789, "Tue Feb 29 12:34:56 UTC 2000"),
    ],
)
def test_dates_are_written_as_java_does(wall_ms: int, text: str) -> None:
    assert java_date(wall_ms) == text
