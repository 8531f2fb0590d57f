"""A worker of a batch: ``python -m quorate.simulation.batchworker`` runs the seeds it is handed and tells what came of them.

It speaks JSON lines with :mod:`quorate.simulation.batch`, its parent. First comes what to run, ``{"location", "mutation",
"options"}``, and is answered by ``{"ready": true}``; then lists of seeds, each seed answered by one line. It ends when
its input does, even in the middle of a run: a parent that is gone, however it went, leaves no worker behind.
"""

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Any, BinaryIO, Final

from quorate.errors import UsageError
from quorate.simulation.batch import Mutation, find_mutation, options_of
from quorate.simulation.protocols import import_location
from quorate.simulation.result import Simulation

_COLLECTED_EVERY: Final = 10
"""Runs."""


def main() -> int:
    # what the code under test prints must not get between our lines
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, orders), daemon=True).start()
    task = orders.get()
    try:
        simulation = import_location(task["location"])
        mutation = None if task["mutation"] is None else find_mutation(simulation, task["mutation"])
    except UsageError as error:
        _tell(answers, {"usage": str(error)})
        return 1
    except Exception:
        _tell(answers, {"broken": traceback.format_exc()})
        return 1
    with nullcontext() if mutation is None else mutation.applied():
        _tell(answers, {"ready": True})
        # a run leaves a few megabytes in cycles: they are collected between runs, not looked for in their midst
        gc.collect()
        gc.freeze()
        gc.disable()
        runs = 0
        while True:
            for seed in orders.get():
                _tell(answers, _run(simulation, mutation, seed, task["options"]))
                runs += 1
                if runs % _COLLECTED_EVERY == 0:
                    gc.collect()


def _listen(source: BinaryIO, orders: "SimpleQueue[Any]") -> None:
    for line in source:
        orders.put(json.loads(line))
    os._exit(0)


def _run(
    simulation: Simulation, mutation: Mutation | None, seed: int, changes: Mapping[str, object]
) -> dict[str, object]:
    began = time.process_time_ns()
    try:
        result = simulation.run(seed, options_of(simulation, mutation, seed, changes))
    except UsageError as error:
        return {"seed": seed, "usage": str(error)}
    except Exception:
        return {"seed": seed, "crash": traceback.format_exc(), "cpu": time.process_time_ns() - began}
    answer: dict[str, object] = {
        "seed": seed,
        "cpu": time.process_time_ns() - began,
        "failure": result.failure,
        "events": result.events,
        "virtual": result.virtual,
        "recovery": result.recovery,
        "commits": result.commits,
        "operations": result.operations,
        "digest": result.digest,
        "probes": dict(result.probes),
    }
    if result.failure:
        answer["options"] = dict(result.options)
    return answer


def _tell(answers: BinaryIO, answer: Mapping[str, object]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
