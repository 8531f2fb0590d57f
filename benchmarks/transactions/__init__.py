"""Two-phase commit over PostgreSQL and MariaDB, ours beside written by hand: ``python -m benchmarks.transactions``."""
