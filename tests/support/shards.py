"""Transactions over the shards of a store, step by step: what a coordinator does, and dies at."""

import time

from quorate.kv.client.records import put
from quorate.kv.client.sync import Client
from quorate.transactions import gtid as gtids
from quorate.transactions.gtid import Gtid
from quorate.transactions.kv import STORE
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.records import Decision, Record
from quorate.transactions.shells.blocking import Shell

SPACE = "test"
SHARDS = 'shards = ["", "m", "quorate/", "x"]'
"""The decisions are in a shard of their own, whose number is 3."""


class Steps:
    """One transaction. ``keys``: in shards 1, 2 and 4, such as a, n and z."""

    def __init__(self, kv: Client, timeout: float = 5.0, random: int = 0, decided_here: bool = True) -> None:
        self.kv = kv
        self.gtid: Gtid = gtids.new(SPACE, time.time(), timeout, random or time.monotonic_ns())
        self.log = KvLog(kv, SPACE)
        self.id = f"{self.gtid.text}/{STORE}"
        self.decision = self.log.key(self.gtid) if decided_here else ""

    def prepare(self, *keys: str, value: bytes = b"new") -> None:
        by_group: dict[int, list[str]] = {}
        for key, group in zip(keys, self.kv.groups(keys), strict=True):
            by_group.setdefault(group, []).append(key)
        for group, found in by_group.items():
            writes = [put(key, value) for key in found]
            self.kv.prepare(group, self.id, self.decision, self.gtid.deadline, [], writes)

    def decide(self, decision: Decision = Decision.COMMIT) -> Record:
        return Shell().run(self.log.decide(Record(self.gtid, decision, [], time.time(), "test")))

    def read(self) -> Record | None:
        return Shell().run(self.log.read(self.gtid))

    def outcome(self, key: str) -> int:
        (group,) = self.kv.groups([key])
        return self.kv.outcome(group, self.id)[0]
