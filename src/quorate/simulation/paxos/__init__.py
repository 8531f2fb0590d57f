"""Whole members of Paxos groups, with the key-value store on them, on virtual machines, network and disks.

``options``
    what a run is like, drawn from its seed;
``world``
    members' lives, and the judge of what they do at every step;
``clients``
    sessions that write, read, and send again what was not answered;
``faults``
    what goes wrong;
``run``
    a run from its seed to its verdict;
``mutations``
    deliberate bugs, which the simulation must notice.

The journal, snapshots, links, the host, the core and the state machine are the production code. Clients call the members' services directly:
what is between a client's socket and its service is not simulated.
"""
