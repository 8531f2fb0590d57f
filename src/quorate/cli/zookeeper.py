"""``quorate zookeeper ZOO.CFG``: one member in the foreground, from Apache ZooKeeper's own configuration file."""

import argparse
import logging

from quorate.cli import logs
from quorate.zookeeper import zoocfg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="ZOO.CFG", help="configuration file in Apache ZooKeeper's format")
    logs.add_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    config = zoocfg.load(arguments.file)
    logs.configure(arguments.log_level, config.my_id)
    log = logging.getLogger(__name__)
    for warning in config.warnings:
        log.warning("%s", warning)
    # imported here, so that a mistake in the file is told without loading a server
    from quorate.node import zookeeper

    return zookeeper.run(config)
