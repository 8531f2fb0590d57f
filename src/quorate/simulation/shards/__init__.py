"""Transactions over the shards of the store, by whole members under the faults of ``simulation.paxos``, and by coordinators that die and sleep.

``client``
    the store as a process has it: sends, sends again, and resolves what it meets by the production code;
``processes``
    coordinators that append to lists and read them by the production flow, with recovery, and others that read and write single shards;
``run``
    a run, judged strictly serializable;
``mutations``
    deliberate bugs that must be noticed.
"""
