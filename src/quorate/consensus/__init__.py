"""Replication cores: plain typed state machines without I/O, all driven by the calls of ``contract``."""
