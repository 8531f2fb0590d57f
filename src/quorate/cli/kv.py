"""``quorate kv``: the key-value store from the command line.

Values are bytes; they are shown as text where they are UTF-8, and with --json in any case as text with backslashes for what is not.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from quorate.errors import QuorateError, UsageError
from quorate.kv.client import records
from quorate.kv.client.errors import Conflict
from quorate.kv.client.records import Event, Item
from quorate.kv.client.sync import Client
from quorate.kv.commands import Condition, Write

ENVIRONMENT = "QUORATE_KV"

_TXN_HELP = """a JSON document: {"if": [{"key": …, "version"|"revision"|"exists"|"value": …}, …], "then": [{"put": key, "value": …}, {"delete": key},
{"delete_prefix": prefix}, …]}; - for standard input"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--address",
        metavar="HOST:PORT[,…]",
        default=os.environ.get(ENVIRONMENT),
        help=f"members, as `quorate up` prints them after `kv` (default: ${ENVIRONMENT})",
    )
    common.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="for each operation (default: %(default)g)"
    )
    common.add_argument("--json", action="store_true", help="print JSON, one object a line")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    get = actions.add_parser("get", parents=[common], help="print a key's value; status 1 if there is no such key")
    get.add_argument("key")
    get.add_argument("--revision", type=int, default=0, help="as it was at this revision of the store")
    get.add_argument(
        "--staleness", type=float, default=0.0, metavar="SECONDS", help="how old the answer may be (default: 0)"
    )
    put = actions.add_parser("put", parents=[common], help="set a key and print its new version")
    put.add_argument("key")
    put.add_argument("value", help="- reads it from standard input")
    delete = actions.add_parser("delete", parents=[common], help="delete a key; status 1 if there is no such key")
    delete.add_argument("key")
    for sub in (put, delete):
        sub.add_argument(
            "--version", type=int, dest="expected", help="only if the key has this version (0: does not exist)"
        )
    listing = actions.add_parser(
        "list", parents=[common], help="print the keys that begin with a prefix, and their values"
    )
    listing.add_argument("prefix", nargs="?", default="")
    listing.add_argument("--limit", type=int, default=0)
    listing.add_argument("--keys", action="store_true", help="only the keys")
    listing.add_argument("--revision", type=int, default=0)
    watch = actions.add_parser("watch", parents=[common], help="print changes as they come, until interrupted")
    watch.add_argument("prefix", nargs="?", default="")
    watch.add_argument("--after", type=int, help="begin with what came after this revision (default: now)")
    watch.add_argument("--count", type=int, default=0, help="end after so many")
    compact = actions.add_parser(
        "compact", parents=[common], help="forget the past before a revision, and print the oldest that is kept"
    )
    compact.add_argument("revision", type=int)
    compact.add_argument("--key", default="\0", help="any key of the shard, if there are several")
    txn = actions.add_parser("txn", parents=[common], help="write several keys at once, if conditions hold")
    txn.add_argument("file", help=_TXN_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError, QuorateError."""
    if not arguments.address:
        raise UsageError(f"no address: name members with --address or in ${ENVIRONMENT}")
    action: Callable[[Client, argparse.Namespace], int] = _ACTIONS[arguments.action]
    with Client(arguments.address, timeout=arguments.timeout) as client:
        try:
            return action(client, arguments)
        except Conflict as error:
            if arguments.json:
                _print_json(
                    {
                        "conflicts": [
                            {"key": _text(found.key), "version": found.version, "revision": found.modified}
                            for found in error.conflicts
                        ]
                    }
                )
            raise


def _get(client: Client, arguments: argparse.Namespace) -> int:
    item = client.get(arguments.key, revision=arguments.revision, staleness=arguments.staleness)
    if item is None:
        raise QuorateError(f"there is no key {arguments.key}")
    if arguments.json:
        _print_json(_shown(item))
    else:
        sys.stdout.buffer.write(item.value)
        if sys.stdout.isatty():
            sys.stdout.write("\n")
        sys.stdout.flush()
    return 0


def _put(client: Client, arguments: argparse.Namespace) -> int:
    value = sys.stdin.buffer.read() if arguments.value == "-" else os.fsencode(arguments.value)
    version = client.put(arguments.key, value, version=arguments.expected)
    _print_json({"key": arguments.key, "version": version}) if arguments.json else print_line(version)
    return 0


def _delete(client: Client, arguments: argparse.Namespace) -> int:
    if not client.delete(arguments.key, version=arguments.expected):
        raise QuorateError(f"there is no key {arguments.key}")
    return 0


def _compact(client: Client, arguments: argparse.Namespace) -> int:
    oldest = client.compact(arguments.revision, key=arguments.key)
    _print_json({"compacted": oldest}) if arguments.json else print_line(oldest)
    return 0


def _list(client: Client, arguments: argparse.Namespace) -> int:
    options = {"limit": arguments.limit, "keys_only": arguments.keys, "revision": arguments.revision}
    for item in client.list(arguments.prefix, **options):
        if arguments.json:
            _print_json(_shown(item))
        elif arguments.keys:
            print_line(item.key)
        else:
            print_line(f"{item.key}\t{_text(item.value)}")
    return 0


def _watch(client: Client, arguments: argparse.Namespace) -> int:
    for number, event in enumerate(client.watch(arguments.prefix, after=arguments.after), 1):
        if arguments.json:
            _print_json(_change(event))
        else:
            what = "deleted" if event.item is None else f"version {event.item.version}\t{_text(event.item.value)}"
            print_line(f"{event.revision}\t{event.key}\t{what}")
        sys.stdout.flush()
        if number == arguments.count:
            break
    return 0


def _txn(client: Client, arguments: argparse.Namespace) -> int:
    name = "standard input" if arguments.file == "-" else arguments.file
    try:
        if arguments.file == "-":
            document = json.load(sys.stdin)
        else:
            with open(arguments.file, encoding="utf-8") as file:
                document = json.load(file)
    except ValueError as error:
        raise UsageError(f"{name}: no JSON: {error}") from None
    except OSError as error:
        raise UsageError(f"{name}: {(error.strerror or str(error)).lower()}") from None
    if not isinstance(document, dict) or not set(document) <= {"if", "then"}:
        raise UsageError(f'{name}: expected an object with "if" and "then"')
    conditions = [_condition(part, f"{name}: if[{at}]") for at, part in _parts(document, "if", name)]
    writes = [_write(part, f"{name}: then[{at}]") for at, part in _parts(document, "then", name)]
    done = client.commit(conditions, writes)
    if arguments.json:
        _print_json({"revision": done.revision, "versions": done.versions})
    else:
        print_line(f"committed at revision {done.revision}")
    return 0


def _parts(document: dict[str, Any], name: str, where: str) -> Iterable[tuple[int, dict[str, Any]]]:
    parts = document.get(name, [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise UsageError(f'{where}: "{name}" must be a list of objects')
    return enumerate(parts)


def _condition(part: dict[str, Any], where: str) -> Condition:
    key = part.get("key")
    rest = sorted(set(part) - {"key"})
    if not isinstance(key, str) or len(rest) != 1:
        raise UsageError(f'{where}: expected a "key" and one of version, revision, exists, value')
    value = part[rest[0]]
    if rest == ["version"] and type(value) is int and value >= 0:
        return records.version_is(key, value)
    if rest == ["revision"] and type(value) is int and value >= 0:
        return records.modified_at(key, value)
    if rest == ["exists"] and isinstance(value, bool):
        return records.exists(key) if value else records.absent(key)
    if rest == ["value"] and isinstance(value, str):
        return records.value_is(key, value.encode())
    raise UsageError(f"{where}: {rest[0]}: {value!r} is no version, revision, truth or text that it could be")


def _write(part: dict[str, Any], where: str) -> Write:
    if set(part) == {"put", "value"} and isinstance(part["put"], str) and isinstance(part["value"], str):
        return records.put(part["put"], part["value"].encode())
    if set(part) == {"delete"} and isinstance(part["delete"], str):
        return records.delete(part["delete"])
    if set(part) == {"delete_prefix"} and isinstance(part["delete_prefix"], str):
        return records.delete_prefix(part["delete_prefix"])
    raise UsageError(
        f'{where}: expected {{"put": key, "value": text}}, {{"delete": key}} or {{"delete_prefix": prefix}}'
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _shown(item: Item) -> dict[str, Any]:
    return {
        "key": item.key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "value": _text(item.value),
        "version": item.version,
        "created": item.created,
        "modified": item.modified,
        "lease": item.lease,
    }


def _change(event: Event) -> dict[str, Any]:
    return {"revision": event.revision, "key": event.key, "item": None if event.item is None else _shown(event.item)}


def print_line(text: object) -> None:
    sys.stdout.write(f"{text}\n")


def _print_json(value: dict[str, Any]) -> None:
    print_line(json.dumps(value, ensure_ascii=False))


_ACTIONS = {
    "get": _get,
    "put": _put,
    "delete": _delete,
    "list": _list,
    "watch": _watch,
    "txn": _txn,
    "compact": _compact,
}
