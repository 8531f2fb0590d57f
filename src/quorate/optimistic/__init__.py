"""Retries for optimistic locking, whoever's it is: one decorator for our own store, ZooKeeper, SQLAlchemy, PostgreSQL and MariaDB.

    from quorate.optimistic import retry

    @retry(deadline=5)
    def transfer():
        with Session(engine) as session, session.begin():
            ...

``conflicts``
    which exceptions say that somebody else was faster;
``retrying``
    the decorator, its pauses, its deadline and its counters.
"""

from quorate.optimistic.conflicts import is_conflict
from quorate.optimistic.retrying import GaveUp, Metrics, Retry, retry

__all__ = ["GaveUp", "Metrics", "Retry", "is_conflict", "retry"]
