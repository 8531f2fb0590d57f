"""Transactions over lists: strict serializability, judged by the graph of what must have come before what.

A transaction is an operation ``txn`` whose value is a list of steps, ``["append", key, element]`` and ``["r", key, null]``; its result is the same
list with what each read returned in the place of null. The elements that are appended to one key must be unique. From lists that were read follows in
which order they grew, so no search is needed: transactions are the nodes of a graph whose edges say that one wrote before the other (``ww``), wrote
what the other read (``wr``), did not see what the other wrote (``rw``), or ended before the other began (``rt``). They are serializable if
there is no cycle without ``rt``, strictly if there is none at all.

Sources: Adya, "Weak Consistency" (1999), sections 3.1 and 4.2 (the graph, G0, G1a, G1b, G1c, G2); Kingsbury and Alvaro, "Elle" (2020), sections 4 and 5.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from quorate.errors import UsageError
from quorate.verification.history import History, Operation
from quorate.verification.values import freeze, show

READ: Final = ("r", "read")
APPEND: Final = ("append",)
SHOWN: Final = 10
"""Findings of one kind that are told in full."""

Edge = tuple[str, Any, Any]
"""(kind, key, element): of ``ww`` and ``wr`` the element that the first one appended, of ``rw`` the one that it did not see."""
_TIME: Final[Edge] = ("rt", None, None)
_TOLD: Final = {
    "ww": "appended {element} to {key} before {other} appended to it",
    "wr": "appended {element} to {key}, where {other} read it",
    "rw": "read {key} without {element}, which {other} appended",
}
Graph = dict[int, dict[int, Edge]]


def check(history: History) -> list[str]:
    """What is wrong, a sentence each. Raises UsageError for what is no history of such transactions."""
    return _Judgement(history).findings()


class _Transaction:
    """``reads``: of each key what was there before the transaction; ``appends``: what it added, in order."""

    __slots__ = ("appends", "committed", "number", "operation", "reads")

    def __init__(self, number: int, operation: Operation) -> None:
        self.number = number
        self.operation = operation
        self.committed = operation.outcome == "ok"
        self.reads: dict[Any, tuple[Any, ...]] = {}
        self.appends: dict[Any, list[Any]] = {}

    def __str__(self) -> str:
        return f"transaction {self.number} ({self.operation.process})"


class _Judgement:
    def __init__(self, history: History) -> None:
        self._history = history
        self._wrong: list[str] = []
        self._transactions: list[_Transaction] = []
        self._writers: dict[tuple[Any, Any], _Transaction] = {}
        for number, operation in enumerate(history.operations):
            try:
                self._transactions.append(self._transaction(number, operation))
            except UsageError as error:
                raise UsageError(f"{history.place(number)}: {error}") from None

    def findings(self) -> list[str]:
        orders = self._orders()
        graph = self._dependencies(orders)
        cycles = list(_cycles(graph))
        if not cycles:
            self._add_real_time(graph)
            cycles = list(_cycles(graph))
        self._wrong += [self._told(cycle, graph) for cycle in cycles[:SHOWN]]
        if len(cycles) > SHOWN:
            self._wrong.append(f"and {len(cycles) - SHOWN} more groups of transactions with cycles")
        return self._wrong

    # ---- transactions

    def _transaction(self, number: int, operation: Operation) -> _Transaction:
        if operation.name != "txn":
            raise UsageError(f"the model list-append knows no operation {operation.name!r}, only txn")
        known = operation.outcome == "ok"
        steps = operation.result if known else operation.value
        transaction = _Transaction(number, operation)
        for step in _steps(steps):
            name, key, value = step[0], freeze(step[1]), step[2]
            own = transaction.appends.get(key, [])
            if name in APPEND:
                element = freeze(value)
                if (key, element) in self._writers:
                    raise UsageError(f"{show(value)} is appended to {show(key)} a second time; elements must be unique")
                self._writers[key, element] = transaction
                transaction.appends.setdefault(key, []).append(element)
            elif known:
                self._read(transaction, key, _list(value), own)
        return transaction

    def _read(self, transaction: _Transaction, key: Any, seen: tuple[Any, ...], own: list[Any]) -> None:
        """A read shows what was there before the transaction, and after that what the transaction appended itself."""
        before = seen[: len(seen) - len(own)]
        earlier = transaction.reads.setdefault(key, before)
        if earlier != before or list(seen[len(before) :]) != own:
            self._wrong.append(
                f"internal: {transaction} read {show(seen)} of {show(key)}, expected {show((*earlier, *own))}"
            )

    # ---- the order in which each list grew

    def _orders(self) -> dict[Any, tuple[Any, ...]]:
        longest: dict[Any, tuple[Any, ...]] = {}
        for transaction in self._transactions:
            for key, seen in transaction.reads.items():
                if len(seen) > len(longest.get(key, ())):
                    longest[key] = seen
        for key, order in longest.items():
            self._judge_elements(key, order)
        for transaction in self._transactions:
            for key, seen in transaction.reads.items():
                order = longest.get(key, ())
                if order[: len(seen)] != seen:
                    self._wrong.append(
                        f"incompatible order: {transaction} read {show(seen)} of {show(key)}, which is no beginning of {show(order)}"
                    )
                self._judge_end(transaction, key, seen)
        return longest

    def _judge_elements(self, key: Any, order: tuple[Any, ...]) -> None:
        met = set()
        for element in order:
            writer = self._writers.get((key, element))
            if writer is None:
                self._wrong.append(f"{show(element)} was read of {show(key)}, and nobody appended it")
            elif writer.operation.outcome == "fail":
                self._wrong.append(
                    f"aborted read (G1a): {show(element)} was read of {show(key)}, and {writer}, which appended it, failed"
                )
            else:
                # somebody has seen a part of it, so it was done as a whole
                writer.committed = True
            if element in met:
                self._wrong.append(
                    f"{show(element)} was appended once to {show(key)} and is there twice: {show(order)}"
                )
            met.add(element)

    def _judge_end(self, reader: _Transaction, key: Any, seen: tuple[Any, ...]) -> None:
        writer = self._writers.get((key, seen[-1])) if seen else None
        if writer is not None and writer is not reader and writer.appends[key][-1] != seen[-1]:
            self._wrong.append(
                f"intermediate read (G1b): {reader} read {show(seen)} of {show(key)}, of which {writer} appended more after {show(seen[-1])}"
            )

    # ---- the graph

    def _dependencies(self, orders: dict[Any, tuple[Any, ...]]) -> Graph:
        graph: Graph = {transaction.number: {} for transaction in self._transactions if transaction.committed}
        unseen: dict[Any, list[tuple[Any, _Transaction]]] = {}
        seen_of = {key: set(order) for key, order in orders.items()}
        for (key, element), writer in self._writers.items():
            if writer.committed and element not in seen_of.get(key, ()):
                unseen.setdefault(key, []).append((element, writer))

        def edge(one: _Transaction | None, other: _Transaction | None, kind: str, key: Any, element: Any) -> None:
            if one is not None and other is not None and one is not other and one.committed and other.committed:
                graph[one.number].setdefault(other.number, (kind, key, element))

        for key, order in orders.items():
            writers = [self._writers.get((key, element)) for element in order]
            for place in range(1, len(order)):
                edge(writers[place - 1], writers[place], "ww", key, order[place - 1])
            # what nobody has seen yet is behind all that was seen
            for _, late in unseen.get(key, ()):
                if writers:
                    edge(writers[-1], late, "ww", key, order[-1])
        for reader in self._transactions:
            for key, seen in reader.reads.items():
                order = orders.get(key, ())
                if order[: len(seen)] != seen:
                    continue
                if seen:
                    edge(self._writers.get((key, seen[-1])), reader, "wr", key, seen[-1])
                if len(seen) < len(order):
                    edge(reader, self._writers.get((key, order[len(seen)])), "rw", key, order[len(seen)])
                else:
                    for element, late in unseen.get(key, ()):
                        edge(reader, late, "rw", key, element)
        return graph

    def _add_real_time(self, graph: Graph) -> None:
        """Through nodes that stand for the ends of transactions, in their order: one edge in and one out for each transaction."""
        ended = sorted(
            (transaction.operation.finished, transaction.number)
            for transaction in self._transactions
            if transaction.operation.outcome == "ok"
        )
        moments = [moment for moment, _ in ended]
        first = len(self._transactions)
        for place, (_, number) in enumerate(ended):
            graph[first + place] = {first + place + 1: _TIME} if place + 1 < len(ended) else {}
            graph[number].setdefault(first + place, _TIME)
        for transaction in self._transactions:
            place = bisect_left(moments, transaction.operation.began) - 1
            if transaction.committed and place >= 0:
                graph[first + place][transaction.number] = _TIME

    def _told(self, cycle: list[int], graph: Graph) -> str:
        """A cycle as a sentence."""
        size = len(self._transactions)
        kinds: list[str] = []
        parts: list[str] = []
        for place, node in enumerate(cycle):
            if node >= size:
                continue
            following = cycle[(place + 1) % len(cycle)]
            kind, key, element = graph[node][following]
            kinds.append(kind)
            if following >= size:
                after = next(other for other in [*cycle[place + 1 :], *cycle] if other < size)
                parts.append(f"{self._transactions[node]} ended before {self._transactions[after]} began")
            else:
                text = _TOLD[kind].format(key=show(key), element=show(element), other=self._transactions[following])
                parts.append(f"{self._transactions[node]} {text} [{kind}]")
        return f"{_anomaly(kinds)}: {'; '.join(parts)}"


def _anomaly(kinds: list[str]) -> str:
    """The name of a cycle by the kinds of its edges."""
    missed = kinds.count("rw")
    if missed > 1:
        name = "G2"
    elif missed:
        name = "G-single"
    else:
        name = "G1c" if "wr" in kinds else "G0"
    return f"not strictly serializable ({name} in real time)" if "rt" in kinds else f"not serializable ({name})"


def _steps(steps: Any) -> Iterator[Any]:
    if not isinstance(steps, list | tuple):
        raise UsageError(f"a transaction of {show(steps)}, expected a list of [name, key, value]")
    for step in steps:
        if not isinstance(step, list | tuple) or len(step) != 3 or step[0] not in (*READ, *APPEND):
            raise UsageError(f'a step {show(step)}, expected ["append", key, element] or ["r", key, list]')
        yield step


def _list(value: Any) -> tuple[Any, ...]:
    """What a read returned; null is a list that does not exist yet."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise UsageError(f"a read returned {show(value)}, expected a list")
    return tuple(freeze(element) for element in value)


def _cycles(graph: Graph) -> Iterator[list[int]]:
    """A shortest cycle of each strongly connected component that has any."""
    for component in _components(graph):
        if len(component) > 1:
            yield _shortest(graph, component)


def _shortest(graph: Graph, component: list[int]) -> list[int]:
    inside = set(component)
    best: list[int] = []
    for start in sorted(component)[:100]:
        came: dict[int, int] = {}
        queue = deque([start])
        while queue and start not in came:
            node = queue.popleft()
            for following in graph[node]:
                if following in inside and following not in came:
                    came[following] = node
                    queue.append(following)
        path = [start]
        while came[path[-1]] != start:
            path.append(came[path[-1]])
        if not best or len(path) < len(best):
            best = path[::-1]
            best = [start, *[node for node in best if node != start]]
    return best


def _components(graph: Graph) -> Iterable[list[int]]:
    """Strongly connected components, by Tarjan's algorithm without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in graph:
        if root in index:
            continue
        work: list[tuple[int, Iterator[int]]] = [(root, iter(graph[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, following = work[-1]
            for other in following:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(graph[other])))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        other = stack.pop()
                        on_stack.remove(other)
                        component.append(other)
                        if other == node:
                            break
                    yield component
