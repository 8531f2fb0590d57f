"""The protocols that can be simulated, by the names that the command line knows them by."""

from difflib import get_close_matches
from importlib import import_module
from typing import Final

from quorate.errors import UsageError
from quorate.simulation.result import Simulation

PROTOCOLS: Final[dict[str, str]] = {
    "zab": "quorate.simulation.zookeeper.run:SIMULATION",
    "paxos": "quorate.simulation.paxos.run:SIMULATION",
    "shards": "quorate.simulation.shards.run:SIMULATION",
    "txn": "quorate.simulation.transactions.run:SIMULATION",
}
"""Where each simulation is: ``module:attribute``. Nothing is imported before it is asked for."""


def location(name: str) -> str:
    """Where the simulation of a protocol is. Raises UsageError for a name that there is not."""
    place = PROTOCOLS.get(name)
    if place is None:
        close = get_close_matches(name, PROTOCOLS, 3) or list(PROTOCOLS)
        raise UsageError(f"unknown protocol {name!r}: expected {' or '.join(close)}")
    return place


def load(name: str) -> Simulation:
    """The simulation of a protocol. Raises UsageError for a name that there is not."""
    return import_location(location(name))


def import_location(place: str) -> Simulation:
    """The simulation at ``module:attribute``."""
    module, _, attribute = place.partition(":")
    simulation: Simulation = getattr(import_module(module), attribute)
    return simulation
