"""What a member holds, read through its client port, for comparing members with each other."""

from typing import NamedTuple

from tests.support.ensembles import Ensemble, Member
from tests.support.processes import four_letter_word
from tests.support.raw import RawClient, path_watch_body

from quorate.binary import Reader, pack_string
from quorate.zookeeper.constants import Code, Op

SYSTEM = "/zookeeper"


class NodeView(NamedTuple):
    """A node as a client sees it; ``stat`` is the record's bytes, so that every field counts."""

    data: bytes | None
    stat: bytes
    acl: bytes
    children: tuple[str, ...]
    owner: int


Tree = dict[str, NodeView]


def read_tree(member: Member) -> Tree:
    """Every node outside /zookeeper. The reading session is made before the first read and closed after the last."""
    tree: Tree = {}
    with RawClient(member.host, member.client_port) as client:
        waiting = ["/"]
        while waiting:
            path = waiting.pop()
            reply = client.call(Op.GET_DATA, path_watch_body(path))[-1]
            if reply.err:
                assert reply.err == Code.NO_NODE, f"getData {path} on member {member.sid}: error {reply.err}"
                continue
            reader = Reader(reply.body)
            data = reader.buffer()
            stat = reply.body[-68:]
            acl = client.call(Op.GET_ACL, pack_string(path))[-1].body
            names = Reader(client.call(Op.GET_CHILDREN, path_watch_body(path))[-1].body)
            children = tuple(sorted(names.text() for _ in range(names.count(4))))
            tree[path] = NodeView(data, stat, acl, children, int.from_bytes(stat[44:52], "big", signed=True))
            prefix = "" if path == "/" else path
            waiting += [f"{prefix}/{name}" for name in children if f"{prefix}/{name}" != SYSTEM]
        client.call(Op.CLOSE_SESSION)
    return tree


def assert_equal_trees(ensemble: Ensemble) -> Tree:
    """All running members hold the same nodes to the last field of their stats; that tree. Nobody may be writing."""
    ensemble.wait_converged()
    running = [member for member in ensemble.members if member.process.alive]
    reference = read_tree(running[0])
    for member in running[1:]:
        tree = read_tree(member)
        differing = sorted(path for path in tree.keys() | reference.keys() if tree.get(path) != reference.get(path))
        assert not differing, "\n".join(
            f"{path}: member {running[0].sid} {reference.get(path)}, member {member.sid} {tree.get(path)}"
            for path in differing[:5]
        )
    return reference


def metrics(member: Member) -> dict[str, str]:
    """mntr's names (without ``zk_``) and values; empty while the member does not serve."""
    lines = four_letter_word(member.host, member.client_port, "mntr").splitlines()
    pairs = [line.split("\t", 1) for line in lines]
    return {pair[0].removeprefix("zk_"): pair[1] for pair in pairs if len(pair) == 2}
