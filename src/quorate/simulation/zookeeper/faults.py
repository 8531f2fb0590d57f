"""What goes wrong in a run, and the end of it.

The nemesis strikes at times and in ways drawn from the seed, or by a given schedule: a list of ``[time, kind, *arguments]``,
all plain numbers, which is also what it leaves behind, so that a failure can be repeated and made smaller. The sniper
is part of it: it hits members and links in the middle of discovery, synchronisation and writes, where chance alone seldom does.

Data are never damaged where that could lose what was acknowledged: a disk is emptied, or a bit of it flipped, only while enough
other voters hold everything it holds. Any loss that follows is a bug of ours.
"""

from typing import Any, Final

from quorate.consensus.zab.messages import AckEpoch, Acks, Diff, LeaderInfo, Message, NewLeader, Snap, Trunc, UpToDate
from quorate.consensus.zab.replica import Append, WriteRequest
from quorate.simulation import trace as kinds
from quorate.simulation.machine import Machine
from quorate.simulation.scheduler import MILLISECOND, Stream
from quorate.simulation.zookeeper.world import World

DELICATE: Final = (AckEpoch, LeaderInfo, Diff, Trunc, Snap, NewLeader, UpToDate)

Strike = list[Any]


class Nemesis:
    def __init__(self, world: World) -> None:
        self.schedule: list[Strike] = []
        """Every strike so far."""
        self._world = world
        self._options = world.options
        self._stream = Stream(world.seed, "nemesis")
        self._active = True
        self._kinds = [kind for kind in self._options["enabled"] if kind != "sniper"]

    def start(self) -> None:
        given = self._options["schedule"]
        if given is not None:
            for strike in given:
                self._world.scheduler.at(strike[0], self._repeat, strike)
            return
        if "sniper" in self._options["enabled"]:
            self._world.sniper = self
        if self._kinds:
            self._next()

    def _next(self) -> None:
        options = self._options
        mean = options["duration"] // max(options["faults"], 1)
        self._world.scheduler.after(self._stream.around(mean), self._draw)

    def _draw(self) -> None:
        if self._active:
            kind = self._stream.choice(self._kinds)
            arguments = getattr(self, f"_draw_{kind}")()
            if arguments is not None:
                self._strike(kind, arguments)
            self._next()

    def _strike(self, kind: str, arguments: list[Any]) -> None:
        world = self._world
        self.schedule.append([world.scheduler.now, kind, *arguments])
        world.probe(f"fault: {kind}")
        getattr(self, f"_{kind}")(*arguments)

    def _repeat(self, strike: Strike) -> None:
        if self._active:
            self._strike(strike[1], strike[2:])

    def _after(self, delay: int, kind: str, *arguments: int) -> None:
        # not in the same instant: a schedule says when, but not among what else
        self._world.scheduler.after(max(delay, 1), self._later, kind, list(arguments))

    def _later(self, kind: str, arguments: list[Any]) -> None:
        if self._active:
            self._strike(kind, arguments)

    # ---- draws

    def _member(self) -> int:
        leader = self._world.leader()
        if leader and self._stream.chance(0.3):
            return leader
        return self._stream.choice(self._world.members)

    def _down_for(self) -> int:
        return self._stream.spread(MILLISECOND, 10 * self._options["tick"])

    def _split_members(self) -> tuple[list[int], list[int]]:
        """Two sides, or one member and some of the others (so that the connectivity is partial)."""
        stream = self._stream
        members = stream.shuffled(self._world.members)
        if len(members) == 1:
            return members, []
        size = stream.between(1, len(members) - 1)
        one, other = members[:size], members[size:]
        if stream.chance(0.3):
            one, other = one[:1], other[: stream.between(1, len(other))]
        return one, other

    def _block_for(self) -> int:
        return self._stream.spread(5 * MILLISECOND, 20 * self._options["tick"])

    # ---- processes and machines: (sid, nanoseconds down)

    def _draw_crash(self) -> list[int]:
        return [self._member(), self._down_for()]

    def _crash(self, sid: int, down: int) -> None:
        self._world.kill(sid, power=True)
        self._restart_after(sid, down)

    _draw_power = _draw_crash

    def _power(self, sid: int, down: int) -> None:
        self._world.kill(sid, power=False)
        self._restart_after(sid, down)

    def _draw_blackout(self) -> list[int]:
        return [self._down_for()]

    def _blackout(self, down: int) -> None:
        """Every machine loses power at once: what was not synced is gone everywhere."""
        for sid in self._world.members:
            self._power(sid, down)

    def _draw_crash_at_effect(self) -> list[int]:
        return [self._member(), self._stream.between(0, 30), self._down_for()]

    def _crash_at_effect(self, sid: int, effects: int, down: int) -> None:
        machine = self._world.machines[sid]
        if machine.alive:
            machine.effects_left = effects
            self._restart_after(sid, down + self._options["tick"])

    def _draw_crash_at_disk(self) -> list[int]:
        return [self._member(), self._stream.between(0, 40), int(self._stream.chance(0.5)), self._down_for()]

    def _crash_at_disk(self, sid: int, operations: int, power: int, down: int) -> None:
        world = self._world

        def crash() -> None:
            if self._active:
                world.kill(sid, power=bool(power), why="killed at a write")
                self._restart_after(sid, down)

        world.disks[sid].crash_after(operations, crash)

    def _restart_after(self, sid: int, down: int) -> None:
        self._world.scheduler.after(down, self._restart, sid)

    def _restart(self, sid: int) -> None:
        if self._active:
            self._world.start(sid)

    def _draw_pause(self) -> list[int]:
        return [self._member(), self._down_for()]

    def _pause(self, sid: int, duration: int) -> None:
        machine = self._world.machines[sid]
        self._world.note(kinds.PAUSE, sid, f"{duration / MILLISECOND:.3f} ms")
        machine.pause(self._world.scheduler.now + duration)
        self._world.scheduler.after(duration, self._world.note, kinds.RESUME, sid)

    def _draw_clock(self) -> list[int]:
        stream, tick = self._stream, self._options["tick"]
        jump = stream.spread(MILLISECOND, 20 * tick) if stream.chance(0.5) else 0
        wall = stream.between(-3_600_000, 3_600_000) if stream.chance(0.5) else 0
        drift = self._options["drift_ppm"] or 200
        return [self._member(), jump, stream.between(-drift, drift), wall]

    def _clock(self, sid: int, jump: int, drift_ppm: int, wall_ms: int) -> None:
        """The monotonic clock jumps forward and goes at another rate; the wall clock is set."""
        machine = self._world.machines[sid]
        machine.change_clock(jump, drift_ppm)
        machine.wall_offset_ms += wall_ms

    # ---- the network

    def _draw_reset(self) -> list[int]:
        return [self._stream.between(0, 1 << 20)]

    def _reset(self, which: int) -> None:
        network = self._world.network
        ends = [end for end in network.ends if end.open]
        if ends:
            network.reset(ends[which % len(ends)])

    def _draw_partition(self) -> list[Any]:
        one, other = self._split_members()
        return [one, other, 1, self._block_for(), self._stream.between(0, 1 << 20)]

    def _partition(self, one: list[int], other: list[int], both: int, duration: int, resets: int) -> None:
        """Cut ``one`` off from ``other``, in one direction or both; TCP gives up on some of the connections meanwhile."""
        world = self._world
        network, scheduler, machines = world.network, world.scheduler, world.machines
        pairs = [(a, b) for a in one for b in other]
        if both:
            pairs += [(b, a) for a, b in pairs]
        for source, target in pairs:
            self._cut(machines[source], machines[target], duration)
        stream = Stream(resets, "resets")
        for end in network.ends:
            cut = any(end.machine is machines[b] and end.other.machine is machines[a] for a, b in pairs)
            if end.open and cut and stream.chance(0.3):
                scheduler.after(stream.between(0, duration), self._give_up, end)

    def _give_up(self, end: Any) -> None:
        if self._active and end.open:
            self._world.network.reset(end)

    def _cut(self, a: Machine, b: Machine, duration: int) -> None:
        world = self._world
        world.network.block(a, b)
        world.trace.note(world.scheduler.now, kinds.FAULT, a.name, b.name, f"cut for {duration / MILLISECOND:.1f} ms")
        world.scheduler.after(duration, self._unblock, a, b)

    def _unblock(self, a: Machine, b: Machine) -> None:
        world = self._world
        world.network.unblock(a, b)
        world.trace.note(world.scheduler.now, kinds.FAULT, a.name, b.name, "cut ends")

    def _draw_oneway(self) -> list[Any]:
        one, other = self._split_members()
        if self._stream.chance(0.5):
            one, other = other, one
        return [one, other, 0, self._block_for(), self._stream.between(0, 1 << 20)]

    _oneway = _partition

    def _draw_slow_network(self) -> list[int]:
        return [self._stream.choice((1, 1, 5, 50))]

    def _slow_network(self, factor: int) -> None:
        self._world.network.conditions.slowdown = factor

    def _draw_loss(self) -> list[int]:
        return [self._stream.choice((0, 1, 5, 20))]

    def _loss(self, percent: int) -> None:
        self._world.network.conditions.loss = percent / 100

    # ---- disks

    def _draw_slow_disk(self) -> list[int]:
        return [self._member(), self._stream.choice((1, 10, 100, 1000))]

    def _slow_disk(self, sid: int, factor: int) -> None:
        self._world.disks[sid].slow(factor)

    def _draw_full_disk(self) -> list[int]:
        return [self._member(), self._down_for()]

    def _full_disk(self, sid: int, duration: int) -> None:
        """No space for a while; the member stops at its next write, and is started again when there is some."""
        self._world.disks[sid].fill()
        self._world.scheduler.after(duration, self._free, sid)

    def _free(self, sid: int) -> None:
        self._world.disks[sid].free()
        if self._active:
            self._world.scheduler.after(self._options["tick"], self._restart, sid)

    def _draw_failing_sync(self) -> list[int]:
        return [self._member(), self._down_for()]

    def _failing_sync(self, sid: int, down: int) -> None:
        self._world.disks[sid].fail_next_sync()
        self._restart_after(sid, down + self._options["tick"])

    def _draw_bit_flip(self) -> list[int]:
        return [self._member(), self._stream.between(0, 1 << 30)]

    def _bit_flip(self, sid: int, draw: int) -> None:
        world = self._world
        if world.spare(sid):
            what = world.disks[sid].flip_bit(Stream(draw, "bit"))
            if what:
                world.damaged.add(sid)
                world.note(kinds.FAULT, sid, f"bit flipped: {what}")

    def _draw_wipe(self) -> list[int]:
        return [self._member(), self._down_for()]

    def _wipe(self, sid: int, down: int) -> None:
        world = self._world
        if world.spare(sid):
            world.kill(sid, power=True)
            world.wipe(sid)
            self._restart_after(sid, down)

    # ---- clients

    def _draw_silent_client(self) -> list[int]:
        return [
            self._stream.between(0, 1 << 20),
            self._stream.spread(self._options["tick"], 30 * self._options["tick"]),
        ]

    def _silent_client(self, which: int, duration: int) -> None:
        clients = self._world.client_machines
        clients[which % len(clients)].pause(self._world.scheduler.now + duration)

    def _draw_cut_client(self) -> list[Any]:
        """Cut a client off from some members, in one direction or both."""
        stream, members = self._stream, self._world.members
        some = stream.shuffled(members)[: stream.between(1, len(members))]
        return [stream.between(0, 1 << 20), some, stream.between(0, 2), self._block_for()]

    def _cut_client(self, which: int, sids: list[int], direction: int, duration: int) -> None:
        world = self._world
        client = world.client_machines[which % len(world.client_machines)]
        for sid in sids:
            member = world.machines[sid]
            pairs = [(client, member), (member, client)]
            for a, b in pairs if direction == 2 else pairs[direction : direction + 1]:
                self._cut(a, b, duration)

    def _draw_lagging(self) -> list[int]:
        stream, tick = self._stream, self._options["tick"]
        return [
            self._member(),
            stream.spread(tick // 10, self._options["sync_limit"] * tick),
            stream.between(0, 1 << 20),
        ]

    def _lagging(self, sid: int, duration: int, moves: int) -> None:
        """A member that serves falls behind, because it does not hear its leader for a while; clients move to it meanwhile."""
        world = self._world
        leader = world.leader()
        if leader and leader != sid:
            self._cut(world.machines[leader], world.machines[sid], duration)
            world.scheduler.after(duration // 2, self._move_clients, sid, moves)

    def _move_clients(self, sid: int, moves: int) -> None:
        world = self._world
        stream = Stream(moves, "moves")
        away = world.machines[sid]
        for end in list(world.network.ends):
            if (
                end.open
                and end.machine in world.client_machines
                and end.other.machine is not away
                and stream.chance(0.7)
            ):
                self._give_up(end)

    # ---- the sniper (world.Sniper)

    def sent(self, sid: int, channel: int, messages: list[Message]) -> None:
        for message in messages:
            delicate = isinstance(message, DELICATE) or (isinstance(message, Acks) and not message.last & 0xFFFFFFFF)
            if delicate and self._stream.chance(self._options["sniper"]):
                self._aim(sid)

    def written(self, sid: int, write: WriteRequest) -> None:
        # appends are many, and the ways in which they go wrong few
        share = 0.1 if isinstance(write, Append) else 1.0
        if self._stream.chance(self._options["sniper"] * share):
            self._aim(sid)

    def _aim(self, sid: int) -> None:
        """Hit this member or its connections about now."""
        if not self._active:
            return
        stream = self._stream
        self._world.probe("fault: sniper")
        delay = stream.around(4 * max(self._options["delay"], self._options["disk_latency"]))
        kind = stream.choice(("crash", "power", "reset", "crash_at_disk", "crash_at_effect"))
        if kind == "reset":
            self._after(delay, kind, stream.between(0, 1 << 20))
        elif kind == "crash_at_disk":
            self._after(0, kind, sid, stream.between(0, 6), int(stream.chance(0.5)), self._down_for())
        elif kind == "crash_at_effect":
            self._after(0, kind, sid, stream.between(0, 6), self._down_for())
        else:
            self._after(delay, kind, sid, self._down_for())

    # ---- the end of it

    def stop(self, members: tuple[int, ...]) -> None:
        """No more faults; these members are up, all others down."""
        self._active = False
        world = self._world
        world.faulty = False
        world.wanted = members
        world.sniper = None
        world.network.heal()
        for machine in world.client_machines:
            machine.resume()
        for sid in world.members:
            world.disks[sid].heal()
            machine = world.machines[sid]
            machine.effects_left = -1
            if sid not in members:
                world.kill(sid, power=False, why="stays down")
            elif machine.alive:
                machine.resume()
        for sid in members:
            world.start(sid)
