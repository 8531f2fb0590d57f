"""What the workers record of a real server is right, and each wrong that is planted in it is found, with the log and without."""

import copy
from collections.abc import Callable

import pytest
from tests.chaos.judging import committed_log, findings
from tests.chaos.workers import (
    EPHEMERAL,
    REGISTER,
    SEQUENCE,
    SWAPPED,
    KazooWriter,
    Observer,
    Record,
    Sequencer,
    Swapper,
)
from tests.support.ensembles import OURS, Ensemble
from tests.support.processes import wait_until
from tests.support.raw import RawClient, create_body
from tests.support.trees import Tree, assert_equal_trees

from quorate.verification import zookeeper
from quorate.verification.history import History, Operation
from quorate.zookeeper.constants import Op

Told = tuple[History, zookeeper.Log, Tree]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A history of a single real member, its log and its tree."""
    record = Record()
    with Ensemble([OURS], tmp_path_factory.mktemp("member")) as ensemble:
        member = ensemble.members[0]
        with RawClient(member.host, member.client_port) as client:
            for path in (REGISTER, SWAPPED, SEQUENCE, EPHEMERAL):
                assert client.call(Op.CREATE, create_body(path))[-1].err == 0
            client.call(Op.CLOSE_SESSION)
        kinds = (KazooWriter, Swapper, Sequencer, Observer)
        workers = [kind(kind.__name__, ensemble.members, index, record) for index, kind in enumerate(kinds)]
        for worker in workers:
            worker.start()
        wait_until(lambda: record.acknowledged >= 150, 30, "clients write")
        for worker in workers:
            worker.end()
        assert [violation for worker in workers for violation in worker.violations] == []
        tree = assert_equal_trees(ensemble)
        log = committed_log(ensemble)
        assert log is not None
    return record.history, log, tree


def planted(
    told: Told, change: Callable[[Operation], None], name: str, process: str
) -> tuple[History, zookeeper.Log, Tree]:
    history = History()
    history.operations = copy.deepcopy(told[0].operations)
    change(
        next(
            op
            for op in reversed(history.operations)
            if op.name == name and op.outcome == "ok" and process in op.process
        )
    )
    return history, told[1], told[2]


def test_what_happened_is_right(told: Told) -> None:
    history, log, tree = told
    assert findings(history, log, tree) == []
    assert findings(history, None, tree) == []
    assert {op.name for op in history.operations} >= {"connect", "set", "get", "create", "event", "close"}


def other_data(op: Operation) -> None:
    op.result["data"] = "nobody wrote this"


def older(op: Operation) -> None:
    op.result["zxid"] -= 50


def newer(op: Operation) -> None:
    op.result["zxid"] += 1000


def other_path(op: Operation) -> None:
    op.result["path"] += "0"


@pytest.mark.parametrize(
    ("change", "name", "process"),
    [
        (other_data, "get", "Observer"),
        (other_data, "get", "KazooWriter"),
        (older, "get", "Observer"),
        (older, "set", "Swapper"),
        (newer, "set", "KazooWriter"),
        (other_path, "create", "Sequencer"),
    ],
)
def test_a_planted_wrong_is_found(told: Told, change: Callable[[Operation], None], name: str, process: str) -> None:
    assert findings(*planted(told, change, name, process)) != []


@pytest.mark.parametrize(("change", "name"), [(other_data, "get"), (older, "get"), (older, "set")])
def test_without_the_log_too(told: Told, change: Callable[[Operation], None], name: str) -> None:
    history, _, tree = planted(told, change, name, "Swapper")
    assert findings(history, None, tree) != []


def test_a_tree_that_lacks_a_node(told: Told) -> None:
    history, log, tree = told
    lacking = {path: node for path, node in tree.items() if path != REGISTER}
    assert any(REGISTER in finding for finding in findings(history, log, lacking))
