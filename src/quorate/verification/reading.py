"""Reads histories: our recorder's JSON lines (see ``history``), the same events as one JSON array, and Jepsen's EDN.

An event is a map with ``type`` (``invoke``, ``ok``, ``fail``, ``unknown`` or Jepsen's ``info``), ``process``, ``name`` (or ``f``),
``key``, ``value``, ``result``, ``time`` and ``id``. An ending without ``id`` belongs to the operation that its process has
open, and one without ``result`` brings it as ``value``, as Jepsen's do. Of Jepsen's ``independent`` workloads, whose values are
``[key value]``, the key is split off. Operations of the nemesis are left out.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from quorate.errors import UsageError
from quorate.verification import edn
from quorate.verification.history import FORMAT, HEADER, History, Operation, Outcome
from quorate.verification.values import show

MAX_BYTES: Final = 1 << 30
"""Of a file."""

_ENDINGS: Final[dict[Any, Outcome]] = {"ok": "ok", "fail": "fail", "unknown": "unknown", "info": "unknown"}
_NEMESIS: Final = "nemesis"
_BLANK: Final = re.compile(r"[ \t\r\n]*")
_EDN_START: Final = re.compile(r"\s*[\[(]?\s*(?:#|;|\{\s*:|\()")

_Events = Iterator[tuple[Any, int]]


def read_history(file: Path, *, independent: bool | None = None) -> History:
    """Read a file of either notation: by its suffix (.edn, .json, .jsonl), else by how it begins.

    ``independent`` says whether values are Jepsen's ``[key value]``; None finds out. Raises UsageError with the file and the
    line, OSError if the file cannot be read.
    """
    if file.stat().st_size > MAX_BYTES:
        raise UsageError(f"{file}: longer than {MAX_BYTES >> 20} MiB")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: offset {error.start}: not UTF-8 text") from None
    notation = {".edn": "edn", ".json": "json", ".jsonl": "json"}.get(file.suffix)
    return parse_history(text, str(file), notation=notation, independent=independent)


def parse_history(text: str, source: str, *, notation: str | None = None, independent: bool | None = None) -> History:
    """As ``read_history``, of ``text``; ``notation`` is ``edn``, ``json`` or None."""
    if notation is None:
        notation = "edn" if _EDN_START.match(text) else "json"
    events = edn.elements(text, source) if notation == "edn" else _json_elements(text, source)
    history = _assembled(events, source)
    if not history.operations:
        raise UsageError(f"{source}: no operation in it, expected a history")
    if independent is None:
        independent = notation == "edn" and _looks_independent(history)
    if independent:
        _split_keys(history)
    return history


def _json_elements(text: str, source: str) -> _Events:
    """The values that stand in ``text`` one after another, or in the one array that it is."""
    decode = json.JSONDecoder(parse_constant=_refuse).raw_decode
    at = line = 0
    counted = 0

    def go_on(place: int) -> int:
        blank = _BLANK.match(text, place)
        return place if blank is None else blank.end()

    at = go_on(0)
    array = text.startswith("[", at)
    at = go_on(at + 1) if array else at
    first = True
    while at < len(text):
        line += text.count("\n", counted, at)
        counted = at
        if array:
            if text[at] == "]":
                if go_on(at + 1) < len(text):
                    raise UsageError(f"{source}:{line + 1}: something follows the array, expected the end of the file")
                return
            if not first:
                if text[at] != ",":
                    raise UsageError(f"{source}:{line + 1}: expected ',' or ']'")
                at = go_on(at + 1)
                line += text.count("\n", counted, at)
                counted = at
        first = False
        try:
            value, at = decode(text, at)
        except json.JSONDecodeError as error:
            raise UsageError(f"{source}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
        except RecursionError:
            raise UsageError(f"{source}:{line + 1}: not JSON that can be read: it nests too deep") from None
        except ValueError as error:
            raise UsageError(f"{source}:{line + 1}: not JSON: {error}") from None
        yield value, line + 1
        at = go_on(at)
    if array:
        line += text.count("\n", counted)
        raise UsageError(f"{source}:{line + 1}: the file ends, expected ']'")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no value")


def _assembled(events: _Events, source: str) -> History:
    now = 0
    history = History(lambda: now)
    history.source = source
    open_by_process: dict[str, list[Operation]] = {}
    open_by_id: dict[Any, Operation] = {}
    for number, (event, line) in enumerate(events):
        where = f"{source}:{line}"
        if not isinstance(event, dict):
            raise UsageError(f"{where}: {show(event)} is no event, expected a map with a type")
        if HEADER in event:
            history.model = _header(event, number, where)
            continue
        kind = event.get("type")
        if kind != "invoke" and not (isinstance(kind, str) and kind in _ENDINGS):
            raise UsageError(f"{where}: the type is {show(kind)}, expected invoke, ok, fail, unknown or info")
        process = event.get("process")
        if process == _NEMESIS or isinstance(process, edn.Name):
            continue
        now = _time(event, number, where)
        identity = event.get("id")
        if identity is not None and type(identity) not in (int, str):
            raise UsageError(f"{where}: the id is {show(identity)}, expected a number")
        if kind == "invoke":
            name = event.get("name", event.get("f"))
            if not isinstance(name, str):
                raise UsageError(f"{where}: the name is {show(name)}, expected a word, such as read")
            if type(process) not in (int, str):
                raise UsageError(f"{where}: the process is {show(process)}, expected a name or number")
            operation = history.invoke(str(process), str(name), event.get("key"), event.get("value"))
            history.lines.append(line)
            if identity is None:
                waiting = open_by_process.setdefault(operation.process, [])
                if waiting:
                    raise UsageError(
                        f"{where}: process {process} invokes {name} before its last operation has ended, expected an id"
                    )
                waiting.append(operation)
            elif identity in open_by_id:
                raise UsageError(f"{where}: the id {identity} is of an operation that has not ended")
            else:
                open_by_id[identity] = operation
            continue
        if identity is None:
            waiting = open_by_process.get(str(process), [])
            if not waiting:
                raise UsageError(f"{where}: process {show(process)} has no operation open that could end")
            operation = waiting.pop()
        else:
            found = open_by_id.pop(identity, None)
            if found is None:
                raise UsageError(f"{where}: the id {identity} is of no open operation")
            operation = found
        outcome = _ENDINGS[kind]
        result = event.get("result", event.get("value") if outcome == "ok" else event.get("error"))
        history.end(operation, outcome, result)
    return history


def _header(event: dict[Any, Any], number: int, where: str) -> str | None:
    if number:
        raise UsageError(f"{where}: a second header, expected an event")
    if event[HEADER] != FORMAT:
        raise UsageError(f"{where}: a history of format {show(event[HEADER])}, expected {FORMAT}")
    model = event.get("model")
    if model is not None and not isinstance(model, str):
        raise UsageError(f"{where}: the model is {show(model)}, expected a name")
    return model


def _time(event: dict[Any, Any], number: int, where: str) -> int:
    time = event.get("time", number)
    if type(time) is not int:
        raise UsageError(f"{where}: the time is {show(time)}, expected a number of nanoseconds")
    return time


def _looks_independent(history: History) -> bool:
    """Every value is a pair, and of a cas a pair with a pair: plain reads ask with nothing, plain swaps with two values."""
    return all(
        op.name != "txn" and _is_pair(op.value) and (op.name != "cas" or _is_pair(op.value[1]))
        for op in history.operations
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _split_keys(history: History) -> None:
    for number, operation in enumerate(history.operations):
        if not _is_pair(operation.value):
            raise UsageError(f"{history.place(number)}: the value is {show(operation.value)}, expected [key value]")
        operation.key, operation.value = operation.value
        if operation.outcome == "ok" and _is_pair(operation.result):
            operation.result = operation.result[1]
