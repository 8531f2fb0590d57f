"""Atomic commit over databases that know nothing of one another: two-phase commit whose decisions are replicated.

``Coordinator``, ``Transaction``
    for programs with an event loop; ``sync`` has the same for those without;
``databases``
    PostgreSQL and MariaDB; ``sql`` how each takes part, ``drivers`` their connections;
``kv``
    our own store, of several shards, or of a cluster of its own;
``participant``
    the interface, for systems of your own; ``conformance`` the kit that tests one;
``zope``
    a bridge to Zope's ``transaction``;
``commit``, ``recovery``
    the protocol, as flows (``flow``) that ``shells`` carry out;
``log``, ``logs``
    where decisions lie.
"""

from quorate.transactions.aio import Coordinator, Transaction
from quorate.transactions.databases import MariaDB, Postgres
from quorate.transactions.errors import (
    Aborted,
    ConfigurationError,
    ConnectionBroken,
    HeuristicOutcome,
    InDoubt,
    NotYetApplied,
    ParticipantError,
    TransactionError,
    UnknownBranch,
    VotedNo,
)
from quorate.transactions.kv import Kv
from quorate.transactions.participant import Branch, Outcome, Participant, Prepared, Vote

__all__ = [
    "Aborted", "Branch", "ConfigurationError", "ConnectionBroken", "Coordinator", "HeuristicOutcome", "InDoubt", "Kv", "MariaDB", "NotYetApplied", "Outcome", "Participant",
    "ParticipantError", "Postgres", "Prepared", "Transaction", "TransactionError", "UnknownBranch", "Vote", "VotedNo",
]  # fmt: skip
