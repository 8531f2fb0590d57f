"""Settings of zoo.cfg that a client can see."""

import socket
import struct
from pathlib import Path

import pytest
from tests.support.ensembles import OURS, Ensemble
from tests.support.processes import wait_until
from tests.support.raw import Closed, RawClient, create_body, path_version_body, path_watch_body

from quorate.zookeeper.constants import CONTAINER, PERSISTENT_WITH_TTL, Code, Op


def test_a_leader_may_be_kept_free_of_clients(tmp_path: Path) -> None:
    with Ensemble([OURS] * 3, tmp_path, settings={"leaderServes": "no"}) as ensemble:
        leader = ensemble.leader()
        with pytest.raises(Closed):
            RawClient(leader.host, leader.client_port)
        for member in ensemble.members:
            if member is not leader:
                with RawClient(member.host, member.client_port) as client:
                    assert client.call(Op.EXISTS, path_watch_body("/"))[-1].err == 0


def test_containers_and_ttl_nodes_are_reaped(tmp_path: Path) -> None:
    settings = {"znode.container.checkIntervalMs": "200", "extendedTypesEnabled": "true"}
    with Ensemble([OURS], tmp_path, settings=settings) as ensemble:
        member = ensemble.members[0]
        with RawClient(member.host, member.client_port) as client:

            def error_of(op: int, body: bytes) -> int:
                return client.call(op, body)[-1].err

            assert error_of(Op.CREATE_CONTAINER, create_body("/used", flags=CONTAINER)) == 0
            assert error_of(Op.CREATE_CONTAINER, create_body("/fresh", flags=CONTAINER)) == 0
            assert error_of(Op.CREATE, create_body("/used/child")) == 0
            assert error_of(Op.DELETE, path_version_body("/used/child")) == 0
            ttl = create_body("/ttl", flags=PERSISTENT_WITH_TTL) + struct.pack(">q", 100)
            assert error_of(Op.CREATE_TTL, ttl) == 0

            def reaped() -> bool:
                return all(error_of(Op.EXISTS, path_watch_body(path)) == Code.NO_NODE for path in ("/used", "/ttl"))

            wait_until(reaped, 10, "both are reaped")
            assert error_of(Op.EXISTS, path_watch_body("/fresh")) == 0, "never had a child"


def test_connections_per_address_are_bounded(tmp_path: Path) -> None:
    with Ensemble([OURS], tmp_path, settings={"maxClientCnxns": "2"}) as ensemble:
        member = ensemble.members[0]
        where = (member.host, member.client_port)
        with RawClient(*where), RawClient(*where), pytest.raises(Closed):
            RawClient(*where)
        wait_until(lambda: bool(member.mode), 5, "there is room again")


def test_a_port_without_an_address_serves_ipv6_too(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with Ensemble([OURS], tmp_path) as ensemble:
        member = ensemble.members[0]
        for host in ("127.0.0.1", "::1"):
            with RawClient(host, member.client_port) as client:
                assert client.call(Op.EXISTS, path_watch_body("/"))[-1].err == 0
