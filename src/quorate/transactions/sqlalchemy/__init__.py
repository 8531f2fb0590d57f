"""SQLAlchemy 2.1: its sessions, connections and engines in transactions of a coordinator.

Two ways, which may be mixed:

    with coordinator.transaction() as tx:           # with aio.Coordinator: async with, await tx.enlist, AsyncSession
        session = tx.enlist(Session(engine))        # or a sessionmaker, a Connection, an Engine
        session.add(Order(…))
        tx.enlist(stock)                            # whatever else takes part

    coordinator.bind(orders_engine, "orders")       # from now on the coordinator decides this engine's two-phase transactions
    coordinator.bind(stock_engine, "stock")
    with Session(twophase=True, binds={Order: orders_engine, Item: stock_engine}) as session:
        session.add(Order(…))
        session.commit()

SQLAlchemy's own two-phase commit prepares every connection and then commits one after the other, and writes down nothing: one that breaks in
between leaves some committed and some not. Here the first of them decides for all, in the decision log, and tells all.

``dialect``
    what a bound engine's dialect does otherwise;
``unit``
    the transaction that connections of SQLAlchemy's take part in together, and each one's seat in it;
``listeners``
    which connections belong to one Session's transaction;
``enlisted``
    what ``Transaction.enlist`` does with SQLAlchemy's objects;
``byhand``
    ``recover_twophase``, ``commit_prepared``, ``rollback_prepared``.

What fails while a transaction works is raised as SQLAlchemy raises it. How it ended is told by this package's own exceptions, unwrapped: Aborted,
InDoubt, NotYetApplied, HeuristicOutcome.
"""

from quorate.transactions.sqlalchemy import listeners
from quorate.transactions.sqlalchemy.dialect import bind

__all__ = ["bind", "listeners"]
