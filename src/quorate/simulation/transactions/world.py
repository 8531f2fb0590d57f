"""Everything there is in a run: servers, the store, processes; and the rules that must hold at every moment."""

from typing import Any

from quorate.simulation import trace as kinds
from quorate.simulation import world
from quorate.simulation.scheduler import SECOND, Stream
from quorate.simulation.transactions.servers import EPOCH, Judge, Server, SimMariaDB, SimPostgres
from quorate.simulation.transactions.store import SimStore
from quorate.transactions.records import Decision, Record, unpack

SPACE = "sim"


class World(world.World):
    def __init__(self, seed: int, options: dict[str, Any], keep_trace: bool) -> None:
        super().__init__(seed, options, keep_trace)
        enabled = options["enabled"]
        delay = options["delay"]
        judge = Judge(self.ended)
        self.servers: list[Server] = []
        for number in range(options["postgres"]):
            postgres = SimPostgres(f"pg{number}", self.scheduler, Stream(seed, f"pg{number}"), delay, judge)
            postgres.deferred_failures = options["no_rate"] if "votes_no" in enabled else 0.0
            self.servers.append(postgres)
        for number in range(options["mariadb"]):
            self.servers.append(SimMariaDB(f"my{number}", self.scheduler, Stream(seed, f"my{number}"), delay, judge))
        for server in self.servers:
            server.resets = options["reset_rate"] if "reset" in enabled else 0.0
            server.slow = options["slow_rate"] if "slow" in enabled else 0.0
        self.store = SimStore(self.scheduler, Stream(seed, "store"), delay)
        self.store.losses = options["loss_rate"] if "lost_answers" in enabled else 0.0
        self.store.late = options["late_rate"] if "late_writes" in enabled else 0.0
        self.wrote: dict[str, list[str]] = {}
        """By transaction: the servers that it wrote to, before it was asked to commit."""
        self.told: dict[str, str] = {}
        self.outcomes: dict[tuple[str, str], bool] = {}
        """By transaction and server: whether its branch was committed."""
        self.hands: dict[tuple[str, str], bool] = {}
        """Those that an operator has ended: whether by committing them."""
        self.ridden: set[str] = set()
        """Transactions that write a key with their decision."""

    def seconds(self) -> float:
        return EPOCH + self.scheduler.now / SECOND

    def note(self, where: str, text: str) -> None:
        self.trace.note(self.scheduler.now, kinds.CLIENT, where, text=text)

    def record(self, gtid: str) -> Record | None:
        entry = self.store.entries.get(f"quorate/txn/{SPACE}/d/{gtid}".encode())
        return None if entry is None else unpack(entry.value)

    def end_by_hand(self, server: Server, number: int, committed: bool) -> None:
        """An operator has lost patience."""
        found = server.endable()
        if found:
            txn = found[number % len(found)]
            gtid = txn.name.partition("/")[0]
            self.hands[gtid, server.name] = committed
            self.probes[f"by hand: {'committed' if committed else 'rolled back'}"] += 1
            self.note("operator", f"{'commits' if committed else 'rolls back'} {txn.name}")
            server.end(txn, committed)

    def touched(self, gtid: str) -> bool:
        """An operator has ended some of it."""
        return any(gtid == named for named, _ in self.hands)

    # ---- the rules

    def ended(self, server: Server, name: str, committed: bool, prepared: bool) -> None:
        """A branch that wrote something is at its end."""
        gtid = name.partition("/")[0]
        self.trace.note(
            self.scheduler.now, kinds.COMMIT, server.name, text=f"{gtid} {'committed' if committed else 'rolled back'}"
        )
        if (gtid, server.name) in self.outcomes:
            self.violate(f"{gtid}: its branch at {server.name} was ended twice")
        self.outcomes[gtid, server.name] = committed
        if not prepared or (gtid, server.name) in self.hands:
            return
        self.probes["prepared and committed" if committed else "prepared and rolled back"] += 1
        record = self.record(gtid)
        if committed and (record is None or record.decision is not Decision.COMMIT):
            stands = "nothing" if record is None else "ABORT"
            self.violate(f"{gtid}: {server.name} committed, and the decision log has {stands}")
        if not committed and record is not None and record.decision is Decision.COMMIT:
            self.violate(f"{gtid}: {server.name} rolled back, and the decision is COMMIT")

    def judge(self) -> None:
        """At the end: all or nothing, as the program was told, and nothing is left."""
        for (gtid, where), committed in self.hands.items():
            self._judge_hand(gtid, where, committed)
        for gtid, servers in self.wrote.items():
            if self.touched(gtid):
                continue
            ends = {name: self.outcomes.get((gtid, name)) for name in servers}
            if gtid in self.ridden:
                ends["store"] = f"ride/{gtid}".encode() in self.store.entries
            told = self.told.get(gtid, "nothing")
            if len(set(ends.values())) > 1:
                self.violate(f"{gtid}: split: {ends}")
            elif told == "committed" and not all(ends.values()):
                self.violate(f"{gtid}: the program was told that it is committed, and it is not: {ends}")
            elif told == "aborted" and any(ends.values()):
                self.violate(f"{gtid}: the program was told that it is aborted, and it is not: {ends}")
        for server in self.servers:
            if server.left():
                self.violate(f"{server.name} is left with {', '.join(server.left())}")
        left = self.undone()
        if left:
            self.violate(f"decisions are left: {', '.join(left)}")

    def _judge_hand(self, gtid: str, server: str, committed: bool) -> None:
        """What is against the decision is in its record, which is kept; and nothing else is. Where there is no record, nothing was decided that
        anybody had to know; or it was aborted, and all of it was told at once."""
        record = self.record(gtid)
        others = [end for (named, at), end in self.outcomes.items() if named == gtid and (gtid, at) not in self.hands]
        if record is None:
            if not committed and any(others):
                self.violate(f"{gtid}: {server} was rolled back by hand, against a COMMIT that is forgotten")
            return
        against = committed is not (record.decision is Decision.COMMIT)
        told = server in record.heuristic
        kept = record.branch(server)
        # PostgreSQL does not know without the number, and nobody has seen that it was prepared
        can_tell = (
            record.decision is Decision.COMMIT or not server.startswith("pg") or (kept is not None and kept.token)
        )
        if against and not told and can_tell:
            self.violate(f"{gtid}: what was done by hand at {server} is not in its record: {record}")
        if against and told:
            self.probes[f"heuristic, {record.decision.value}"] += 1
        if told and not against:
            self.violate(f"{gtid}: {server} followed the decision by hand, and its record says otherwise: {record}")

    def undone(self) -> list[str]:
        """Transactions that somebody may have to finish yet. (A coordinator that notes late what it finished brings a forgotten record back, as done.)"""
        records = [unpack(entry.value) for key, entry in self.store.entries.items() if b"/d/" in key]
        return [record.gtid.text for record in records if not record.done]
