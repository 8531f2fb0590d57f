"""Two-phase commit under simulation: the production core, the adapters of both databases and the decision log in the store, on simulated servers that behave as PostgreSQL
and MariaDB were seen to.

``shell``
    carries flows out in virtual time;
``servers``
    the databases, which understand the statements that our adapters send;
``store``
    the key-value store, as its client sees it;
``processes``
    coordinators and what they do;
``run``, ``options``, ``faults``, ``mutations``
    as for the other protocols.
"""
