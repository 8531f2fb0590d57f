"""What goes wrong in a run, and the end of it.

The nemesis strikes at times and in ways drawn from the seed, or by a given schedule: a list of ``[time, kind, *arguments]``, all plain
numbers, which is also what it leaves behind, so that a failure can be repeated and made smaller.
"""

from collections.abc import Callable
from typing import Any

from quorate.consensus.paxos.messages import Accepted, Adopt, Promise, StorePromise
from quorate.consensus.paxos.peer import Drained
from quorate.simulation import trace as kinds
from quorate.simulation.machine import Machine
from quorate.simulation.paxos.world import Promises, World
from quorate.simulation.scheduler import MILLISECOND, Stream

Strike = list[Any]
_SPIES = 3
"""Reads of the judge's own after each strike."""
_CLOSELY = 12
"""The same, where a stale read is looked for."""


class Nemesis:
    def __init__(self, world: World) -> None:
        self.schedule: list[Strike] = []
        """Every strike so far."""
        self._world = world
        self._options = world.options
        self._stream = Stream(world.seed, "nemesis")
        self._spies = Stream(world.seed, "spies")
        self._active = True

    def start(self) -> None:
        given = self._options["schedule"]
        if given is not None:
            for strike in given:
                self._world.scheduler.at(strike[0], self._repeat, strike)
        elif self._options["enabled"]:
            self._next()

    def _next(self) -> None:
        mean = self._options["duration"] // max(self._options["faults"], 1)
        self._world.scheduler.after(self._stream.around(mean), self._draw)

    def _draw(self) -> None:
        if self._active:
            kind = self._stream.choice(self._options["enabled"])
            self._strike(kind, getattr(self, f"_draw_{kind}")())
            self._next()

    def _strike(self, kind: str, arguments: list[Any]) -> None:
        world = self._world
        self.schedule.append([world.scheduler.now, kind, *arguments])
        world.probe(f"fault: {kind}")
        getattr(self, f"_{kind}")(*arguments)
        for _ in range(_SPIES):
            world.scheduler.after(self._spies.between(1, 2 * self._options["election_timeout"]), self._spy)

    def _spy(self) -> None:
        """Somewhere, preferably at who was a leader and may not know that it is none any more."""
        world = self._world
        group = self._spies.choice(world.groups)
        former = [
            sid
            for sid, life in sorted(world.lives.items())
            if life.host is not None and life.host.groups[group].leading and sid != world.leader(group)
        ]
        world.spy(self._spies.choice(former or sorted(world.started)), group)

    def _watch_closely(self, sid: int, group: int, duration: int) -> None:
        """More at the beginning, where old answers are still believed."""
        for part in range(1, _CLOSELY + 1):
            self._world.scheduler.after(duration * part**2 // _CLOSELY**2, self._world.spy, sid, group)

    def _repeat(self, strike: Strike) -> None:
        if self._active:
            self._strike(strike[1], strike[2:])

    # ---- draws

    def _member(self) -> int:
        leader = self._world.leader()
        if leader and self._stream.chance(0.4):
            return leader
        return self._stream.choice(sorted(self._world.started))

    def _down_for(self) -> int:
        return self._stream.spread(MILLISECOND, 8 * self._options["election_timeout"])

    def _sides(self) -> tuple[list[int], list[int]]:
        """Two sides, or one member and some of the others (so that the connectivity is partial)."""
        stream = self._stream
        members = stream.shuffled(sorted(self._world.started))
        if len(members) == 1:
            return members, []
        size = stream.between(1, len(members) - 1)
        one, other = members[:size], members[size:]
        if stream.chance(0.3):
            one, other = one[:1], other[: stream.between(1, len(other))]
        return one, other

    # ---- processes and machines

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
        for sid in sorted(self._world.started):
            self._power(sid, down)

    def _draw_crash_at_effect(self) -> list[int]:
        return [self._member(), self._stream.between(0, 30), self._down_for()]

    def _crash_at_effect(self, sid: int, effects: int, down: int) -> None:
        machine = self._world.machines[sid]
        if machine.alive:
            machine.effects_left = effects
            self._restart_after(sid, down + self._options["election_timeout"])

    def _draw_crash_at_disk(self) -> list[int]:
        return [self._member(), self._stream.between(0, 40), int(self._stream.chance(0.5)), self._down_for()]

    def _crash_at_disk(self, sid: int, operations: int, power: int, down: int) -> None:
        world = self._world

        def crash() -> None:
            if self._active:
                world.kill(sid, power=bool(power), why="killed at a write")
                self._restart_after(sid, down)

        world.crash_at_disk(sid, operations, crash)

    def _restart_after(self, sid: int, down: int) -> None:
        self._world.scheduler.after(down, self._restart, sid)

    def _restart(self, sid: int) -> None:
        if self._active:
            self._world.start(sid)

    def _draw_pause(self) -> list[int]:
        return [self._member(), self._down_for()]

    def _pause(self, sid: int, duration: int) -> None:
        world = self._world
        world.note(kinds.PAUSE, sid, f"{duration / MILLISECOND:.3f} ms")
        world.machines[sid].pause(world.scheduler.now + duration)

    def _draw_clock(self) -> list[int]:
        stream = self._stream
        jump = stream.spread(MILLISECOND, 4 * self._options["election_timeout"]) if stream.chance(0.3) else 0
        # a lease rests on the rates that are promised, and on nothing jumping
        bound = self._options["clock_error"] // 3
        return [self._member(), 0 if self._options["lease"] else jump, stream.between(-bound, bound)]

    def _clock(self, sid: int, jump: int, drift_ppm: int) -> None:
        self._world.machines[sid].change_clock(jump, drift_ppm)

    def _draw_crash_at_adoption(self) -> list[int]:
        return [self._stream.choice(sorted(self._world.started)), self._stream.between(0, 3), self._down_for()]

    def _crash_at_adoption(self, sid: int, operations: int, down: int) -> None:
        """Power is lost while it replaces chosen entries of its log by a leader's, which are the same."""

        def look(drained: Drained, promises: Promises) -> None:
            if any(isinstance(write, Adopt) and write.first <= promises.chosen for write in drained.writes):
                del self._world.snipers[sid]
                self._crash_at_disk(sid, operations, 0, down)

        self._world.snipers[sid] = look

    def _draw_word_lost(self) -> list[int]:
        stream, heartbeat = self._stream, self._options["heartbeat"]
        return [
            stream.choice(sorted(self._world.started)),
            stream.between(0, 2),
            stream.between(0, heartbeat),
            self._down_for(),
        ]

    def _word_lost(self, sid: int, operations: int, down: int, dark: int) -> None:
        """The process dies while it writes what it promises or accepts, comes back, finds it in the cache, is slow to sync
        it, and power is lost as soon as it says so."""

        def look(drained: Drained, promises: Promises) -> None:
            if any(isinstance(write, StorePromise | Adopt) for write in drained.writes):
                del self._world.snipers[sid]
                self._crash_at_disk(sid, operations, 1, down)
                self._world.awaited[sid] = lambda: self._listen(sid, dark)

        self._world.snipers[sid] = look

    def _listen(self, sid: int, dark: int) -> None:
        def look(drained: Drained, promises: Promises) -> None:
            if any(isinstance(message, Promise | Accepted) for sent in drained.messages.values() for message in sent):
                del self._world.snipers[sid]
                self._world.scheduler.after(2 * self._options["delay"], self._go_dark, sid, dark)

        if self._active:
            self._world.snipers[sid] = look
            self._slow_disk(sid, 100)

    def _go_dark(self, sid: int, down: int) -> None:
        if self._active:
            self._slow_disk(sid, 1)
            self._power(sid, down)

    # ---- leaders that do not know that they are none any more

    def _led(self) -> tuple[int, int, list[int]]:
        """A group, who leads it and the others in some order; a leader of 0 if there is none."""
        world, stream = self._world, self._stream
        group = stream.choice(world.groups)
        leader = world.leader(group)
        host = world.host(leader)
        others = [] if host is None else [sid for sid in host.groups[group].peer.acceptor.log.sids if sid != leader]
        return group, leader if others else 0, stream.shuffled(others)

    def _draw_deaf_leader(self) -> list[Any]:
        group, leader, others = self._led()
        timeout = self._options["election_timeout"]
        to = others[0] if leader and self._stream.chance(0.6) else 0
        delay = self._stream.between(0, 4 * self._options["delay"])
        return [group, leader, others, to, delay, self._stream.between(timeout // 4, 3 * timeout)]

    def _deaf_leader(self, group: int, leader: int, others: list[int], to: int, delay: int, duration: int) -> None:
        """It is heard and hears nobody; if ``to`` is given, after it was asked to hand over to that one."""
        world = self._world
        host = world.host(leader)
        if host is None:
            return
        if to:
            world.enter(leader, host.hand_over, group, to, lambda error: world.probe(f"handed over: {error is None}"))
        world.scheduler.after(delay, self._partition, others, [leader], 0, duration)
        self._watch_closely(leader, group, duration)

    def _draw_late_words(self) -> list[Any]:
        _, leader, others = self._led()
        return [leader, others, self._options["election_timeout"] * self._stream.between(2, 5)]

    def _late_words(self, leader: int, others: list[int], duration: int) -> None:
        """It is not heard any more, and what it said meanwhile arrives just when somebody has promised another."""
        if not leader:
            return
        world = self._world
        source = world.machines[leader]
        for other in others:
            held = [world.machines[other]]
            world.network.block(source, held[0])

            def hear(held: list[Machine] = held) -> None:
                if held:
                    world.network.unblock(source, held.pop())

            def look(drained: Drained, promises: Promises, sid: int = other, hear: Callable[[], None] = hear) -> None:
                if any(isinstance(message, Promise) for sent in drained.messages.values() for message in sent):
                    del world.snipers[sid]
                    hear()

            world.snipers[other] = look
            world.scheduler.after(duration, hear)

    def _draw_sleeping_leader(self) -> list[int]:
        group, leader, _ = self._led()
        timeout = self._options["election_timeout"]
        return [group, leader, self._stream.between(timeout // 2, 4 * timeout)]

    def _sleeping_leader(self, group: int, leader: int, duration: int) -> None:
        """A read is the first thing it does when it wakes up."""
        world = self._world
        if leader:
            self._pause(leader, duration)
            world.scheduler.after(duration - 1, world.spy, leader, group, True)
            self._watch_closely(leader, group, 2 * duration)

    def _draw_forgetful_voter(self) -> list[Any]:
        group, leader, others = self._led()
        timeout = self._options["election_timeout"]
        when = self._stream.between(timeout // 2, 3 * timeout)
        return [group, leader, others, when, self._stream.between(MILLISECOND, timeout // 4)]

    def _forgetful_voter(self, group: int, leader: int, others: list[int], when: int, down: int) -> None:
        """All but one follower lose the leader; then that one restarts, and does not hear of it any more either."""
        if not leader:
            return
        world, timeout = self._world, self._options["election_timeout"]
        voter, lost = others[0], others[1:]
        self._partition([leader], lost, 1, when + 3 * timeout)
        world.scheduler.after(when, self._forget, voter, leader, down)
        world.scheduler.after(when, self._watch_closely, leader, group, timeout)

    def _forget(self, voter: int, leader: int, down: int) -> None:
        if self._active:
            self._partition([leader], [voter], 1, down + 2 * self._options["election_timeout"])
            self._crash(voter, down)

    # ---- the network

    def _draw_reset(self) -> list[int]:
        return [self._stream.between(0, 1 << 20)]

    def _reset(self, which: int) -> None:
        network = self._world.network
        ends = [end for end in network.ends if end.open]
        if ends:
            network.reset(ends[which % len(ends)])

    def _draw_partition(self) -> list[Any]:
        one, other = self._sides()
        return [one, other, 1, self._down_for()]

    def _partition(self, one: list[int], other: list[int], both: int, duration: int) -> None:
        """Cut ``one`` off from ``other``, in one direction or both."""
        world = self._world
        pairs = [(a, b) for a in one for b in other]
        if both:
            pairs += [(b, a) for a, b in pairs]
        for a, b in pairs:
            source, target = world.machines[a], world.machines[b]
            world.network.block(source, target)
            world.trace.note(
                world.scheduler.now, kinds.FAULT, source.name, target.name, f"cut for {duration / MILLISECOND:.1f} ms"
            )
            world.scheduler.after(duration, world.network.unblock, source, target)

    def _draw_oneway(self) -> list[Any]:
        one, other = self._sides()
        if self._stream.chance(0.5):
            one, other = other, one
        return [one, other, 0, self._down_for()]

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
        return [self._member(), self._stream.choice((1, 10, 100))]

    def _slow_disk(self, sid: int, factor: int) -> None:
        for disk in self._world.disks[sid]:
            disk.slowdown = factor

    def _draw_full_disk(self) -> list[int]:
        return [self._member(), self._down_for()]

    def _full_disk(self, sid: int, duration: int) -> None:
        self._world.failing.add(sid)
        self._world.files[sid].full = True
        self._world.scheduler.after(duration, self._free, sid)

    def _free(self, sid: int) -> None:
        self._world.files[sid].full = False
        self._restart_after(sid, self._options["election_timeout"])

    def _draw_failing_sync(self) -> list[int]:
        return [self._member(), self._down_for()]

    def _failing_sync(self, sid: int, down: int) -> None:
        self._world.failing.add(sid)
        self._world.files[sid].syncs_to_fail = 1
        self._restart_after(sid, down + self._options["election_timeout"])

    # ---- operators

    def _draw_members(self) -> list[int]:
        return [self._stream.choice(self._world.groups), self._stream.between(0, 1), self._stream.between(0, 1 << 20)]

    def _members(self, group: int, add: int, which: int) -> None:
        """Add or remove a member of a group; a number is never used twice."""
        world = self._world
        leader = world.leader(group)
        host = world.host(leader)
        if host is None:
            return
        sids = host.groups[group].peer.acceptor.log.sids
        patience = 20 * self._options["election_timeout"]
        if add:
            fresh = [sid for sid in world.sids if sid not in world.started]
            others = [sid for sid in sorted(world.started) if sid not in sids and sid not in world.first]
            sid = others[which % len(others)] if others else fresh[0] if fresh else 0
            if not sid or len(sids) >= 5:
                return
            if sid not in world.started:
                world.started.add(sid)
                world.start(sid)
            world.enter(
                leader,
                host.add_member,
                group,
                world.member(sid),
                patience,
                lambda error: world.probe(f"added: {error is None}"),
            )
        elif len(sids) > max(2, self._options["accept_quorum"] + 1):
            sid = sids[which % len(sids)]
            world.enter(
                leader, host.remove_member, group, sid, patience, lambda error: world.probe(f"removed: {error is None}")
            )

    def _draw_hand_over(self) -> list[int]:
        return [self._stream.choice(self._world.groups), self._stream.between(0, 1 << 20)]

    def _hand_over(self, group: int, which: int) -> None:
        world = self._world
        leader = world.leader(group)
        host = world.host(leader)
        if host is not None:
            sids = [sid for sid in host.groups[group].peer.acceptor.log.sids if sid != leader]
            if sids:
                sid = sids[which % len(sids)]
                world.enter(
                    leader, host.hand_over, group, sid, lambda error: world.probe(f"handed over: {error is None}")
                )

    # ---- the end of it

    def stop(self, up: tuple[int, ...]) -> None:
        """No more faults; these members are up, all others down."""
        self._active = False
        world = self._world
        world.snipers.clear()
        world.awaited.clear()
        world.network.heal()
        for sid in sorted(world.started):
            world.files[sid].full = False
            world.files[sid].syncs_to_fail = 0
            for disk in world.disks[sid]:
                disk.hurry()
            machine = world.machines[sid]
            machine.effects_left = -1
            if sid not in up:
                world.kill(sid, power=False, why="stays down")
            elif machine.alive:
                machine.resume()
        for sid in up:
            world.start(sid)
