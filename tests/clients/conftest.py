"""A three-member ensemble for real clients: ours, or Apache's with QUORATE_TEST_KIND=apache (to test the tests)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from tests.support.ensembles import OURS, Ensemble

Connect = Callable[..., KazooClient]


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    kind = os.environ.get("QUORATE_TEST_KIND", OURS)
    folder: Path = tmp_path_factory.mktemp("clients")
    settings = {"extendedTypesEnabled": "true"}
    properties = {"zookeeper.extendedTypesEnabled": "true"}
    with Ensemble([kind] * 3, folder, settings=settings, properties=properties) as members:
        yield members


@pytest.fixture
def connect(ensemble: Ensemble) -> Iterator[Connect]:
    """Makes started kazoo clients; all are stopped at the end."""
    clients: list[KazooClient] = []

    def make(**options: object) -> KazooClient:
        client = KazooClient(hosts=ensemble.addresses, **options)
        clients.append(client)
        client.start(timeout=15)
        return client

    yield make
    for client in clients:
        client.stop()
        client.close()
