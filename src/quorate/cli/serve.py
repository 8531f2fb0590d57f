"""``quorate serve FILE.toml``: one node of a deployment in the foreground; the file names the services it runs."""

import argparse

from quorate.cli import logs
from quorate.kv import config as kv_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.toml", help="the node's configuration (docs/kv.md)")
    logs.add_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    config = kv_config.load(arguments.file)
    logs.configure(arguments.log_level, config.sid)
    # imported here, so that a mistake in the file is told without loading a server
    from quorate.node import kv

    return kv.run(config)
