"""The admin server's commands: field by field what Apache ZooKeeper 3.8.0 answers in the same situation."""

import json
from typing import Any

import pytest
from tests.unit.zookeeper.member import FIRST, SECOND, WALL, Member

from quorate import __version__
from quorate.runtime.http import Request, Response
from quorate.zookeeper.admin import COMMANDS, AdminCommands, run
from quorate.zookeeper.view import Phase, Role

VERSION = f"3.8.0-quorate-{__version__}, built on 11/23/2026 00:00 UTC"
SIZES = {"last_buffer_size": -1, "min_buffer_size": -1, "max_buffer_size": -1}


def http(member: Member, path: str, method: str = "GET", **arguments: str) -> Response:
    return AdminCommands(member)(Request(method, path, list(arguments.items()), {}, b"", ("127.0.0.1", 1)))


def ask(name: str, member: Member | None = None, **arguments: str) -> dict[str, Any]:
    """The command's answer over HTTP, without the two fields that every answer has."""
    response = http(member or Member(), f"/commands/{name}", **arguments)
    assert (response.status, response.content_type) == (200, "application/json")
    fields: dict[str, Any] = json.loads(response.body)
    assert fields.pop("command") == name
    assert fields.pop("error") is None
    return fields


def standalone() -> Member:
    return Member(Role.STANDALONE, None)


def test_configuration() -> None:
    assert ask("configuration") == {
        "client_port": 2181,
        "data_dir": "/data/version-2",
        "data_log_dir": "/log/version-2",
        "tick_time": 2000,
        "max_client_cnxns": 60,
        "min_session_timeout": 4000,
        "max_session_timeout": 40000,
        "server_id": 3,
        "client_port_listen_backlog": -1,
    }
    assert ask("initial_configuration") == {"initial_configuration": "tickTime=2000\n"}


def test_connections() -> None:
    first, second = ask("connections")["connections"]
    assert ask("connections")["secure_connections"] == []
    assert first == {
        "remote_socket_address": "127.0.0.1:39114",
        "interest_ops": 1,
        "outstanding_requests": 0,
        "packets_received": 11,
        "packets_sent": 11,
        "session_id": FIRST,
        "last_operation": "GETD",
        "established": WALL,
        "session_timeout": 10000,
        "last_cxid": 10,
        "last_zxid": 4,
        "last_response_time": 1818227,
        "last_latency": 1,
        "min_latency": 1,
        "avg_latency": 1,
        "max_latency": 11,
    }
    assert (second["remote_socket_address"], second["last_operation"]) == ("[::1]:39130", "NA")
    assert (second["last_cxid"], second["last_zxid"]) == (-1, -1)


def test_connection_stat_reset() -> None:
    member = Member()
    assert ask("connection_stat_reset", member) == {}
    assert member.connection_resets == 1


def test_hash() -> None:
    assert ask("hash") == {
        "digests": [
            {"zxid": 0x100000080, "digest": 1234567890123, "digest_version": 2},
            {"zxid": 0x100000100, "digest": -5, "digest_version": 2},
        ]
    }


def test_dirs() -> None:
    assert ask("dirs") == {"datadir_size": 1024, "logdir_size": 67109337}


def test_dump() -> None:
    ephemerals = {str(FIRST): ["/a/e", "/a/z"], str(SECOND): ["/b"]}
    assert ask("dump") == {
        "expiry_time_to_session_ids": {"1828000": [], "1830000": [FIRST, SECOND]},
        "session_id_to_ephemeral_paths": ephemerals,
    }
    assert ask("dump", Member(Role.FOLLOWER)) == {
        "expiry_time_to_session_ids": {},
        "session_id_to_ephemeral_paths": ephemerals,
    }


def test_environment_and_properties() -> None:
    fields = ask("environment")
    assert list(fields)[:3] == ["zookeeper.version", "host.name", "java.version"]
    assert fields["zookeeper.version"] == VERSION
    assert ask("system_properties") == {"zookeeper.admin.serverPort": "8080", "zookeeper.tickTime": "2000"}


def test_trace_mask() -> None:
    member = Member()
    assert ask("get_trace_mask", member) == {"tracemask": 306}
    assert ask("set_trace_mask", member, traceMask="-5") == {"tracemask": -5}
    assert member.trace_mask == -5
    required = "setTraceMask requires long traceMask argument"
    assert run(member, "set_trace_mask") == {"command": "set_trace_mask", "error": required}
    for text in ("x", "", "1.5", str(1 << 63)):
        fields = run(member, "set_trace_mask", {"traceMask": text}.get)
        assert fields == {"command": "set_trace_mask", "error": f"{required}, got {text}"}
    assert member.trace_mask == -5


def test_read_only() -> None:
    assert ask("is_read_only") == {"read_only": False}
    assert ask("is_read_only", Member(Role.READ_ONLY)) == {"read_only": True}


def test_last_snapshot() -> None:
    assert ask("last_snapshot") == {"zxid": "100000011", "timestamp": 1795430567}

    class WithoutSnapshot(Member):
        def last_snapshot(self) -> None:
            return None

    assert ask("last_snapshot", WithoutSnapshot()) == {"zxid": "ffffffffffffffff", "timestamp": -1}


def test_leader() -> None:
    assert ask("leader") == {"is_leader": True, "leader_id": 3, "leader_ip": "three"}
    assert ask("leader", Member(Role.FOLLOWER)) == {"is_leader": False, "leader_id": 3, "leader_ip": "three"}
    assert run(standalone(), "leader") == {"command": "leader", "error": "server is not initialized"}


def test_monitor_has_mntrs_values_with_their_types() -> None:
    fields = ask("monitor")
    assert (fields["version"], fields["server_state"]) == (VERSION, "leader")
    assert (fields["znode_count"], fields["avg_latency"], fields["cnt_readlatency"]) == (8, 2.1111, 8)


def test_observers() -> None:
    fields = ask("observers")
    assert fields == {
        "synced_observers": 1,
        "observers": [
            {
                "remote_socket_address": "10.0.0.4:5004",
                "sid": 4,
                "established": WALL,
                "queued_packets": 1,
                "queued_packets_size": 90,
                "packets_received": 5,
                "packets_sent": 6,
                "requests": 2,
                "last_zxid": 8,
            }
        ],
    }
    assert ask("observers", Member(Role.FOLLOWER)) == {"synced_observers": 0, "observers": []}


def test_observer_connection_stat_reset_is_the_leaders() -> None:
    leader, follower = Member(), Member(Role.FOLLOWER)
    assert ask("observer_connection_stat_reset", leader) == {}
    assert ask("observer_connection_stat_reset", follower) == {}
    assert (leader.observer_resets, follower.observer_resets) == (1, 0)


def test_server_stats() -> None:
    expected = {
        "version": VERSION,
        "read_only": False,
        "server_stats": {
            "packets_sent": 21,
            "packets_received": 22,
            "fsync_threshold_exceed_count": 0,
            "client_response_stats": SIZES,
            "provider_null": False,
            "server_state": "leader",
            "outstanding_requests": 2,
            "min_latency": 1,
            "avg_latency": 2.1111,
            "max_latency": 11,
            "data_dir_size": 1024,
            "log_dir_size": 67109337,
            "last_processed_zxid": 0x200000008,
            "num_alive_client_connections": 2,
            "uptime": 34007,
            "auth_failed_count": 0,
            "non_mtlsremote_conn_count": 0,
            "non_mtlslocal_conn_count": 0,
        },
        "client_response": SIZES,
        "proposal_stats": {"last_buffer_size": 48, "min_buffer_size": 48, "max_buffer_size": 91},
        "node_count": 8,
    }
    assert ask("server_stats") == expected
    stats = ask("stats")
    brief = stats.pop("connections")
    assert stats.pop("secure_connections") == []
    assert stats == expected
    assert brief[0] == {
        "remote_socket_address": "127.0.0.1:39114",
        "interest_ops": 1,
        "outstanding_requests": 0,
        "packets_received": 11,
        "packets_sent": 11,
    }
    assert "proposal_stats" not in ask("server_stats", Member(Role.FOLLOWER))


def test_stat_reset() -> None:
    member = Member()
    assert ask("stat_reset", member) == {}
    assert member.stats.packets_received == 0


def test_voting_view() -> None:
    voters = ask("voting_view")["current_config"]
    assert list(voters) == ["1", "2", "3"]
    assert voters["2"] == {
        "server_addresses": ["two:2888"],
        "election_addresses": ["two:3888"],
        "client_address": "two:2181",
        "learner_type": "participant",
    }
    assert ask("voting_view", standalone()) == {"current_config": {}}


def test_watches() -> None:
    assert ask("watches") == {"session_id_to_watched_paths": {str(FIRST): ["/a", "/a/b", "/zzz"], str(SECOND): ["/a"]}}
    assert ask("watches_by_path") == {"path_to_session_ids": {"/a": [FIRST, SECOND], "/a/b": [FIRST], "/zzz": [FIRST]}}
    assert ask("watch_summary") == {"num_connections": 2, "num_paths": 3, "num_total_watches": 4}


def test_zabstate() -> None:
    fields = ask("zabstate")
    assert fields.pop("quorum_address") == {
        "empty": False,
        "all_addresses": ["three:2888"],
        "one": "three:2888",
        "wildcard_addresses": ["0.0.0.0:2888"],
        "all_ports": [2888],
        "all_host_strings": ["three"],
    }
    assert fields.pop("election_address")["one"] == "three:3888"
    assert fields == {
        "myid": 3,
        "is_leader": True,
        "client_address": "three:2181",
        "voting": True,
        "last_zxid": "0x200000008",
        "zab_epoch": 2,
        "zab_counter": 8,
        "zabstate": "broadcast",
    }
    assert ask("zabstate", standalone()) == {"voting": False, "zabstate": ""}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_member_that_looks_for_a_leader_answers_few_commands(name: str) -> None:
    member = Member()
    member.become(Role.LOOKING, Phase.ELECTION, serving=False)
    error = run(member, name)["error"]
    if name in ("environment", "get_trace_mask", "system_properties", "zabstate"):
        assert error is None
    elif name == "set_trace_mask":
        assert error == "setTraceMask requires long traceMask argument"
    else:
        assert error == "This ZooKeeper instance is not currently serving requests"


def test_short_names_answer_under_the_long_one() -> None:
    for short, name in (("mntr", "monitor"), ("srvr", "server_stats"), ("envi", "environment"), ("wchc", "watches")):
        assert run(Member(), short)["command"] == name


def test_unknown_commands_are_said_so_with_status_200() -> None:
    response = http(Member(), "/commands/nosuch")
    assert response.status == 200
    assert json.loads(response.body) == {"command": "nosuch", "error": "Unknown command: nosuch"}


def test_the_index_links_every_command() -> None:
    for path in ("/commands", "/commands/"):
        response = http(Member(), path)
        assert response.content_type == "text/html; charset=utf-8"
        assert response.body.decode().startswith('<a href="/commands/configuration">configuration</a>\n<br/>\n')
        assert response.body.count(b"<a href=") == len(COMMANDS) == 26


def test_other_paths_and_methods() -> None:
    assert http(Member(), "/").status == 404
    assert http(Member(), "/commandsx").status == 404
    assert http(Member(), "/metrics").body.startswith(b"# HELP ")
    refused = http(Member(), "/commands/ruok", "POST")
    assert (refused.status, refused.headers) == (405, (("Allow", "GET, HEAD"),))
    assert http(Member(), "/metrics", "PUT").status == 405


def test_the_command_url_can_be_another() -> None:
    router = AdminCommands(Member(), "/zk/")
    request = Request("GET", "/zk/ruok", [], {}, b"", ("127.0.0.1", 1))
    assert isinstance(router(request), Response)
    assert json.loads(router(request).body) == {"command": "ruok", "error": None}
    assert router(Request("GET", "/commands/ruok", [], {}, b"", ("127.0.0.1", 1))).status == 404
