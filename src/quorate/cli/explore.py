"""``quorate explore zab``: visit every state of a small Zab ensemble, and draw the shortest way to one that must not be.

The cores are those that run in production. Standard output has what was visited, and the counter-example if there is one;
progress goes to standard error when that is a terminal.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Final

from quorate.cli.duration import seconds
from quorate.errors import UsageError
from quorate.verification.explorer import Explorer
from quorate.verification.spaces.zab import Bounds, ZabSpace
from quorate.verification.spaces.zab_story import tell

_WHY: Final = {
    "states": "no violation in what was visited; --max-states ended it",
    "depth": "no violation in what was visited; --depth ended it",
    "time": "no violation in what was visited; --time-budget ended it",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", choices=["zab"], help="what to explore")
    parser.add_argument("--members", metavar="N", type=int, default=3, help="voting members (default: 3)")
    parser.add_argument("--transactions", metavar="N", type=int, default=1, help="proposals at most (default: 1)")
    parser.add_argument("--crashes", metavar="N", type=int, default=1, help="crashes at most (default: 1)")
    parser.add_argument("--epochs", metavar="N", type=int, default=2, help="elections at most (default: 2)")
    parser.add_argument(
        "--disconnects",
        metavar="N",
        type=int,
        default=0,
        help="links that break, or leaders that lose patience, at most",
    )
    parser.add_argument(
        "--window",
        metavar="N",
        type=int,
        default=500,
        help="committed entries a leader keeps to bring others up to date",
    )
    parser.add_argument(
        "--elections", action="store_true", help="let members elect by themselves (default: any quorum elects anyone)"
    )
    parser.add_argument(
        "--depth", metavar="N", type=int, default=0, help="go no further than this many states from the start"
    )
    parser.add_argument("--max-states", metavar="N", type=int, default=0, help="visit about this many states at most")
    parser.add_argument("--time-budget", metavar="TIME", default="", help="stop after this long, such as 90s or 5m")
    parser.add_argument("--html", metavar="FILE", type=Path, help="draw the counter-example into this file as well")


def run(arguments: argparse.Namespace) -> int:
    """Status 0 if no state visited breaks an invariant, 1 if one does."""
    for name in ("depth", "max_states"):
        if getattr(arguments, name) < 0:
            raise UsageError(f"--{name.replace('_', '-')} must not be negative")
    bounds = Bounds(
        members=arguments.members,
        transactions=arguments.transactions,
        crashes=arguments.crashes,
        disconnects=arguments.disconnects,
        epochs=arguments.epochs,
        window=arguments.window,
        elections=arguments.elections,
    )
    space = ZabSpace(bounds)
    watched = sys.stderr.isatty()
    explorer = Explorer(
        space,
        max_states=arguments.max_states,
        max_depth=arguments.depth,
        time_budget=seconds("--time-budget", arguments.time_budget),
        progress=_progress if watched else None,
    )
    found = explorer.run()
    if watched:
        sys.stderr.write("\r\x1b[K")
    sys.stdout.write(
        f"{found.generated:,} states generated, {found.distinct:,} distinct, depth {found.depth};"
        f" {found.seconds:.1f} s, {found.distinct / max(found.seconds, 1e-9):,.0f} distinct states/s;"
        f" {space.local_steps:,} steps of the cores\n"
    )
    if found.trace is None:
        sys.stdout.write(f"{_WHY.get(found.end, 'no violation; every state within the bounds was visited')}\n")
        return 0
    story = tell(space, found.trace, found.violation)
    sys.stdout.write("\n" + story.text(shutil.get_terminal_size((140, 24)).columns))
    if arguments.html is not None:
        arguments.html.write_text(story.html(), encoding="utf-8")
        sys.stdout.write(f"\ndrawn in {arguments.html}\n")
    return 1


def _progress(depth: int, distinct: int, frontier: int) -> None:
    sys.stderr.write(f"\r\x1b[Kdepth {depth}: {distinct:,} states, {frontier:,} in the newest level")
    sys.stderr.flush()
