"""A mutation of the production code below a simulated ensemble."""

from typing import Any

from quorate.simulation import mutation
from quorate.simulation.mutation import Patch as Patch
from quorate.simulation.zookeeper import options as swarm


class Mutation(mutation.Mutation):
    """``issue``: the bug of ZooKeeper, or the literature's, that it resembles."""

    __slots__ = ()

    def __init__(self, name: str, what: str, *patches: Patch, **more: Any) -> None:
        super().__init__(swarm.draw, name, what, *patches, **more)
