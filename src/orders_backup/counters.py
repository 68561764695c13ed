"""The counts of all processes as one sum in PostgreSQL: each adds what it counted since the last time.

So a scrape of any API tells of all workers, on whatever host, and a process that ends takes nothing with it but what it
counted since its last report. Alone writes `counters`.
"""

import threading
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup import metrics
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.metrics import Key
from orders_backup.tables import counters

EVERY = 10.0
"""Seconds from one report to the next."""
_ONE_AT_A_TIME = threading.Lock()


def report(db: Engine, *, durable: bool = False) -> None:
    """Adds what this process counted since it last did. Raises DatabaseUnavailableError; then the next time tells it.

    A COMMIT whose answer was lost may count twice: nothing is decided by these figures, and so, but for `durable`, it
    does not wait for the disk either.
    """
    with _ONE_AT_A_TIME:
        grown = metrics.TALLY.untold()
        if not grown:
            return
        rows = [{"name": name, "labels": labels, "value": by} for (name, labels), by in grown.items()]
        statement = insert(counters).values(rows)
        added = {"value": counters.c.value + statement.excluded.value}
        with database.transaction(db) as tx:
            if not durable:
                tx.execute(sa.text("SET LOCAL synchronous_commit = off"))
            tx.execute(statement.on_conflict_do_update(index_elements=["name", "labels"], set_=added))
        metrics.TALLY.tell(grown)


def keep_reporting(db: Engine, stopping: threading.Event) -> threading.Thread:
    """A thread that reports every few seconds until `stopping`, and then once more."""

    def keep() -> None:
        while True:
            is_last = stopping.wait(EVERY)
            with suppress(DatabaseUnavailableError, exc.DBAPIError):  # away, or a schema before this program's
                report(db)
            if is_last:
                return

    thread = threading.Thread(target=keep, name="counters", daemon=True)
    thread.start()
    return thread


def totals(tx: Connection) -> dict[Key, float]:
    """The sums of all processes."""
    return {(row.name, row.labels): row.value for row in tx.execute(sa.select(counters))}
