"""Who works: the SQL of `worker_slots`. The tick rings for as many as there are slots; the rest is for people."""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup.tables import worker_slots

PRESENT_FOR = timedelta(seconds=30)
"""A worker reports every ten seconds; one that did not for so long takes no work."""
FORGOTTEN_AFTER = timedelta(minutes=10)
SLOTS = 8
"""Of a worker that nobody has heard of yet."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of itself. `sent_ago`, `done_ago`: seconds since its canary left and since one came back."""

    worker: str
    slots: int
    sent_ago: float | None = None
    done_ago: float | None = None


def put(tx: Connection, report: Report) -> None:
    """Writes a worker's row, on the database's clock; the rows of workers that were killed long ago go."""
    now, table = sa.func.clock_timestamp(), worker_slots
    told = {"seen_at": now, "canary_sent_at": _ago(report.sent_ago), "canary_done_at": _ago(report.done_ago)}
    statement = insert(table).values(worker=report.worker, slots=report.slots, **told)
    tx.execute(statement.on_conflict_do_update(index_elements=["worker"], set_=told))
    tx.execute(sa.delete(table).where(table.c.seen_at < now - FORGOTTEN_AFTER))


def strike(tx: Connection, worker: str) -> None:
    """The worker has stopped."""
    tx.execute(sa.delete(worker_slots).where(worker_slots.c.worker == worker))


def slots(tx: Connection) -> int:
    """How many pieces of work all the workers that were seen of late can do at once."""
    table = worker_slots.c
    query = sa.select(sa.func.sum(table.slots)).where(table.seen_at >= sa.func.clock_timestamp() - PRESENT_FOR)
    return int(tx.execute(query).scalar_one() or SLOTS)


def newest_answer(tx: Connection) -> float | None:
    """Seconds since any worker heard a canary; None where none ever did."""
    since = sa.func.extract("epoch", sa.func.clock_timestamp() - sa.func.max(worker_slots.c.canary_done_at))
    seconds = tx.execute(sa.select(since)).scalar_one()
    return None if seconds is None else float(seconds)


def _ago(seconds: float | None) -> "sa.ColumnElement[object] | None":
    return None if seconds is None else sa.func.clock_timestamp() - timedelta(seconds=seconds)
