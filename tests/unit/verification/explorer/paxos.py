"""Lamport's Paxos.tla as a space, action by action: what TLC counts of it, an explorer must count.

A state is (per acceptor: maxBal, maxVBal, maxVal; the set of messages as a bitset). Ballot and value -1 stand for none.
Where the specification says "there is" within an action TLC makes one successor for each case, so this does as well.
"""

from itertools import combinations

Acceptor = tuple[int, int, int]
World = tuple[tuple[Acceptor, ...], int]
Action = tuple[object, ...]

NONE = (-1, -1)


class Paxos:
    def __init__(self, acceptors: int = 3, values: int = 2, ballots: int = 3, quorum: int | None = None) -> None:
        """``quorum``: acceptors in a quorum, a majority unless given."""
        self._count = acceptors
        self._values = range(values)
        self._ballots = range(ballots)
        self._quorums = list(combinations(range(acceptors), quorum or acceptors // 2 + 1))
        self._votes = [NONE, *((ballot, value) for ballot in self._ballots for value in self._values)]
        self._bits: dict[Action, int] = {}
        for ballot in self._ballots:
            self._bit("1a", ballot)
            for value in self._values:
                self._bit("2a", ballot, value)
            for acceptor in range(acceptors):
                for vote in self._votes:
                    self._bit("1b", acceptor, ballot, *vote)
                    self._bit("2b", acceptor, ballot, *vote[1:])
        self._promises = [
            sum(self._bit("1b", a, ballot, *vote) for a in range(acceptors) for vote in self._votes)
            for ballot in self._ballots
        ]
        """Per ballot, the bits of all its 1b messages."""
        self._allowed: dict[tuple[int, int, int], int] = {}
        self._chosen: dict[int, str] = {}
        self._accepted = sum(bit for message, bit in self._bits.items() if message[0] == "2b")

    def _bit(self, *message: object) -> int:
        return self._bits.setdefault(message, 1 << len(self._bits))

    def initial(self) -> list[World]:
        return [(((-1, -1, -1),) * self._count, 0)]

    def key(self, state: World) -> World:
        return state

    def successors(self, state: World) -> list[tuple[Action, World]]:
        acceptors, messages = state
        bits = self._bits
        found: list[tuple[Action, World]] = []
        for ballot in self._ballots:
            begun = bits["1a", ballot]
            found.append((("Phase1a", ballot), (acceptors, messages | begun)))
            proposals = [bits["2a", ballot, value] for value in self._values]
            if not any(messages & bit for bit in proposals):
                for value in self._values:
                    after: tuple[Action, World] = (("Phase2a", ballot, value), (acceptors, messages | proposals[value]))
                    found += [after] * self._ways(messages & self._promises[ballot], ballot, value)
            for number, (promised, *vote) in enumerate(acceptors):
                before, behind = acceptors[:number], acceptors[number + 1 :]
                if messages & begun and ballot > promised:
                    changed = (*before, (ballot, vote[0], vote[1]), *behind)
                    promise = bits["1b", number, ballot, vote[0], vote[1]]
                    found.append((("Phase1b", number, ballot), (changed, messages | promise)))
                if ballot >= promised:
                    for value in self._values:
                        if messages & proposals[value]:
                            changed = (*before, (ballot, ballot, value), *behind)
                            accepted = bits["2b", number, ballot, value]
                            found.append((("Phase2b", number, ballot, value), (changed, messages | accepted)))
        return found

    def _ways(self, promises: int, ballot: int, value: int) -> int:
        """In how many ways the ballot's promises allow to propose the value: by quorum, and by the vote that says so."""
        case = promises, ballot, value
        ways = self._allowed.get(case)
        if ways is None:
            ways = self._allowed[case] = sum(self._ways_of(promises, ballot, value, quorum) for quorum in self._quorums)
        return ways

    def _ways_of(self, promises: int, ballot: int, value: int, quorum: tuple[int, ...]) -> int:
        reported: list[tuple[int, int]] = []
        for acceptor in quorum:
            votes = [vote for vote in self._votes if promises & self._bits["1b", acceptor, ballot, *vote]]
            if not votes:
                return 0
            reported += [vote for vote in votes if vote != NONE]
        if not reported:
            return 1
        return reported.count((max(voted for voted, _ in reported), value))

    def violation(self, state: World) -> str:
        """Agreement: at most one value is chosen."""
        accepted = state[1] & self._accepted
        verdict = self._chosen.get(accepted)
        if verdict is None:
            chosen = [
                value
                for value in self._values
                if any(
                    all(accepted & self._bits["2b", acceptor, ballot, value] for acceptor in quorum)
                    for ballot in self._ballots
                    for quorum in self._quorums
                )
            ]
            verdict = self._chosen[accepted] = f"Agreement: {chosen} are chosen" if len(chosen) > 1 else ""
        return verdict
