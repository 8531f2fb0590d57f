"""Consul's HTTP API over the store: ``/v1/kv``, ``/v1/txn``, ``/v1/session`` and what clients ask before they use them.

``parsing``
    queries, durations, waits;
``shapes``
    answers as Consul's JSON has them;
``kv``, ``txn``, ``sessions``
    the three families;
``router``
    all of it as one router for ``runtime.http``.

An index is a revision of the store. A Consul session is a lease whose number is part of its id. Source: Consul's API documentation and the
behaviour of Consul 1.8.7.
"""
