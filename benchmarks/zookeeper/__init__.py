"""Quorate beside Apache ZooKeeper: ``python -m benchmarks.zookeeper --help``."""
