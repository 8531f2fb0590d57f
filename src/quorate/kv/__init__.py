"""A versioned key-value store with optimistic locking, carried by Multi-Paxos.

``commands``
    what changes the store, and what comes of it, as bytes;
``mvcc``, ``machine``, ``snapshot``
    the state: keys with their versions and past, leases, sessions; the same on every member;
``wire``, ``server``, ``front``
    clients' connections;
``client``
    for Python, async and sync;
``config``, ``admin``
    a node's file, and the administration of a cluster.
"""
