"""A three-member ensemble of ours that is sent rubbish, and what must be true of it afterwards."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ensembles import OURS, Ensemble, Member
from tests.support.processes import wait_until
from tests.support.raw import RawClient, create_body, path_version_body, path_watch_body

from quorate.zookeeper.constants import Op

MEBIBYTE = 1 << 20
SETTINGS = {"maxClientCnxns": "0", "minSessionTimeout": "2000"}


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    with Ensemble([OURS] * 3, folder, settings=SETTINGS) as members:
        yield members


def resident(member: Member) -> int:
    """Bytes of memory that the member's process holds."""
    status = Path(f"/proc/{member.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def works(member: Member) -> None:
    """A client creates, reads and deletes a node on this member."""
    path = f"/works-{member.sid}"
    with RawClient(member.host, member.client_port) as client:
        assert client.call(Op.CREATE, create_body(path, b"data"))[-1].err == 0
        assert client.call(Op.GET_DATA, path_watch_body(path))[-1].body.startswith(b"\0\0\0\4data")
        assert client.call(Op.DELETE, path_version_body(path))[-1].err == 0
        assert client.call(Op.CLOSE_SESSION)[-1].err == 0


def unharmed(ensemble: Ensemble, before: dict[int, int], growth: int) -> None:
    """Every process lives and serves, all hold the same, memory grew by less than ``growth``, no log has a traceback."""
    for member in ensemble.members:
        assert member.process.alive, member.process.output()[-3000:]
        member.wait_serving()
    ensemble.wait_converged()
    for member in ensemble.members:
        works(member)
        output = member.process.output()
        assert "Traceback" not in output, output[output.index("Traceback") - 500 :][:3000]
        wait_until(
            lambda member=member: resident(member) - before[member.sid] < growth,  # type: ignore[misc]  # a bound default
            20,
            f"member {member.sid} holds less than {growth >> 20} MiB more than {before[member.sid] >> 20} MiB",
        )
