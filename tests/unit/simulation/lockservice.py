"""A small simulated protocol for the tests of what runs, shrinks and draws simulations: clients take turns at a server's lock.

The server remembers whom it granted the lock on its disk, and messages that get lost are sent again, so that no two clients
ever hold the lock at once. The mutations break that: ``forgetful`` keeps the holder in memory only, and a crash loses it.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from quorate.errors import UsageError
from quorate.simulation import trace as kinds
from quorate.simulation.result import Result
from quorate.simulation.scheduler import MILLISECOND, Scheduler, Stream
from quorate.simulation.trace import Trace

FAULTS = ("crash", "cut", "pause")
HOLD = 20 * MILLISECOND
RETRY = 30 * MILLISECOND


class _Bugs:
    forgetful = False
    exploding = False
    dying = False
    hanging = False


class _Run:
    def __init__(self, seed: int, options: Mapping[str, Any], keep: bool) -> None:
        self.options = options
        self.scheduler = Scheduler()
        self.trace = Trace(keep)
        self.network = Stream(seed, "network")
        self.nemesis = Stream(seed, "nemesis")
        self.clients = [f"c{number}" for number in range(1, options["clients"] + 1)]
        self.holding: list[str] = []
        self.disk = ""
        """The holder as the server's disk has it; "" if the lock is free."""
        self.memory = ""
        self.up = True
        self.cut: dict[str, int] = {}
        self.paused: dict[str, int] = {}
        self.wanted = dict.fromkeys(self.clients, options["requests"])
        self.grants = 0
        self.links = 0
        self.failure = ""
        self.schedule: list[list[Any]] = []

    def note(self, kind: str, where: str, other: str = "", text: str = "", link: int = 0) -> None:
        if link:
            self.trace.show(self.scheduler.now, kind, where, other, text, link)
        else:
            self.trace.note(self.scheduler.now, kind, where, other, text)

    def execute(self) -> None:
        self.note(kinds.START, "server")
        self.note(kinds.ROLE, "server", text="LEADING epoch 1 leader 1, serving")
        for number, name in enumerate(self.clients):
            self.scheduler.after(number * MILLISECOND, self.ask, name)
        given = self.options["schedule"]
        if given is None:
            for _ in range(self.options["faults"] if self.options["enabled"] else 0):
                when = self.nemesis.between(0, self.options["duration"])
                kind = self.nemesis.choice(self.options["enabled"])
                draw = [self.nemesis.choice(self.clients)] if kind != "crash" else []
                self.scheduler.at(when, self.strike, kind, *draw, self.nemesis.between(1, 40) * MILLISECOND)
        else:
            for when, kind, *draw in given:
                self.scheduler.at(when, self.strike, kind, *draw)
        while self.scheduler.now < self.options["duration"] and not self.failure and self.scheduler.step():
            pass
        self.note(kinds.PHASE, "", text="the time is up")

    # ---- faults

    def strike(self, kind: str, *draw: Any) -> None:
        self.schedule.append([self.scheduler.now, kind, *draw])
        duration = draw[-1]
        if kind == "crash":
            if self.up:
                self.up = False
                self.note(kinds.CRASH, "server", text="killed")
                self.scheduler.after(duration, self.restart)
        elif kind == "cut":
            client = draw[0]
            self.cut[client] = self.cut.get(client, 0) + 1
            self.note(kinds.FAULT, client, "server", f"cut for {duration / MILLISECOND:.1f} ms")
            self.scheduler.after(duration, self.mend, client)
        else:
            client = draw[0]
            self.paused[client] = max(self.paused.get(client, 0), self.scheduler.now + duration)
            self.note(kinds.PAUSE, client, text=f"{duration / MILLISECOND:.1f} ms")
            self.scheduler.after(duration, self.note, kinds.RESUME, client)

    def restart(self) -> None:
        self.up = True
        self.memory = "" if _Bugs.forgetful else self.disk
        self.note(kinds.START, "server")
        self.note(kinds.ROLE, "server", text="LEADING epoch 2 leader 1, serving")

    def mend(self, client: str) -> None:
        self.cut[client] -= 1
        self.note(kinds.FAULT, client, "server", "cut ends")

    # ---- messages

    def send(self, source: str, target: str, text: str) -> None:
        self.links += 1
        self.note(kinds.SEND, source, target, text, self.links)
        client = source if target == "server" else target
        if self.cut.get(client) or self.network.chance(self.options["loss"]):
            return
        delay = MILLISECOND + self.network.around(self.options["delay"])
        self.scheduler.after(delay, self.deliver, source, target, text, self.links)

    def deliver(self, source: str, target: str, text: str, link: int) -> None:
        if self.paused.get(target, 0) > self.scheduler.now:
            self.scheduler.at(self.paused[target], self.deliver, source, target, text, link)
            return
        if target == "server" and not self.up:
            return
        self.note(kinds.DELIVER, target, source, "", link)
        word, number = text.split()
        holder = f"{source} {number}"
        if target != "server":
            self.granted(target, int(number))
        elif word == "RELEASE":
            if self.memory == holder:
                self.memory = self.disk = ""
        elif self.memory in ("", holder):
            self.memory = self.disk = holder
            self.note(kinds.WRITE, "server", text=f"holder {holder}")
            self.send("server", source, f"GRANT {number}")

    # ---- clients

    def ask(self, name: str) -> None:
        if name not in self.holding and self.wanted[name]:
            self.send(name, "server", f"ACQUIRE {self.wanted[name]}")
            self.scheduler.after(RETRY + self.network.around(RETRY), self.ask, name)

    def granted(self, name: str, number: int) -> None:
        if name in self.holding or number != self.wanted[name]:
            return  # an answer to a request that is over
        self.holding.append(name)
        self.grants += 1
        self.note(kinds.COMMIT, name, text=f"{self.grants:#x} holds the lock")
        self.note(kinds.CLIENT, name, text=f"acquire -> ok {self.grants}")
        if len(self.holding) > 1:
            self.failure = f"mutual exclusion: {' and '.join(sorted(self.holding))} hold the lock"
            self.note(kinds.FAILURE, "", text=self.failure)
        self.scheduler.after(HOLD, self.release, name)

    def release(self, name: str) -> None:
        if name in self.holding:
            self.holding.remove(name)
            self.send(name, "server", f"RELEASE {self.wanted[name]}")
            self.wanted[name] -= 1
            self.scheduler.after(RETRY, self.ask, name)


class Mutation:
    issue = ""

    def __init__(self, name: str, what: str) -> None:
        self.name = name
        self.what = what

    def draw(self, seed: int) -> dict[str, object]:
        return SIMULATION.options(seed)

    @contextmanager
    def applied(self) -> Iterator[None]:
        setattr(_Bugs, self.name, True)
        try:
            yield
        finally:
            setattr(_Bugs, self.name, False)


class LockService:
    """quorate.simulation.result.Simulation, with mutations."""

    mutations: Mapping[str, Mutation] = {
        name: Mutation(name, what)
        for name, what in (
            ("forgetful", "the server's memory of the holder is lost in a crash"),
            ("exploding", "seed 5 raises an exception"),
            ("dying", "seed 5 ends its process"),
            ("hanging", "seed 5 does not end"),
        )
    }

    def options(self, seed: int) -> dict[str, object]:
        stream = Stream(seed, "options")
        return {
            "clients": stream.between(2, 5),
            "requests": stream.between(2, 10),
            "delay": stream.spread(MILLISECOND // 10, 5 * MILLISECOND),
            "loss": stream.choice((0.0, 0.0, 0.1)),
            "duration": stream.between(300, 1000) * MILLISECOND,
            "faults": stream.between(2, 20),
            "enabled": [fault for fault in FAULTS if stream.chance(0.5)],
            "unused": 10,
            "schedule": None,
        }

    def smaller(self, options: Mapping[str, Any]) -> list[tuple[str, dict[str, object]]]:
        ways: list[tuple[str, dict[str, object]]] = []
        if options["schedule"] is None:
            for fault in options["enabled"]:
                ways.append((f"without {fault}", {**options, "enabled": [f for f in options["enabled"] if f != fault]}))
        if options["clients"] > 1:
            ways.append(("one client less", {**options, "clients": options["clients"] - 1}))
        if options["requests"] > 1:
            ways.append(("half the requests", {**options, "requests": options["requests"] // 2}))
        if options["loss"]:
            ways.append(("no loss", {**options, "loss": 0.0}))
        return ways

    def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
        complete: dict[str, Any] = {**self.options(seed), **(options or {})}
        if complete["clients"] < 1:
            raise UsageError("simulation option clients: at least one is needed")
        if seed == 5 and _Bugs.exploding:
            raise ZeroDivisionError("the simulator itself is wrong")
        if seed == 5 and _Bugs.dying:
            os._exit(9)
        while seed == 5 and _Bugs.hanging:
            pass
        run = _Run(seed, complete, trace)
        run.execute()
        result = Result(seed, {**complete, "schedule": run.schedule})
        result.failure = run.failure
        result.events = run.scheduler.events
        result.virtual = run.scheduler.now
        result.commits = result.operations = run.grants
        result.recovery = HOLD
        result.digest = run.trace.digest
        result.probes = {"grant": run.grants, "crash": sum(strike[1] == "crash" for strike in run.schedule)}
        result.trace = run.trace.events
        result.lanes = ["server", *run.clients]
        return result


SIMULATION = LockService()
LOCATION = "tests.unit.simulation.lockservice:SIMULATION"
