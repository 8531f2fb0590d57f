"""Quorate keeps distributed systems consistent: one package, drop-in for the servers teams use for it today.

Floors (a module imports only from floors below its own, docs/architecture.md):

    5  cli                      faces
    4  node                     composition root: one process = the services its configuration names
    3  zookeeper                services: wire codec, sessions, state machine
    2  consensus                replication cores: contract, zab
    1  runtime, storage         what the code above sees of the world: connections, time, disk
    0  errors, binary           ground
"""

__version__ = "0.1.0"
