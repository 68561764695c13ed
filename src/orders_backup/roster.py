"""Who works: the SQL of `workers`. For people and for /readyz; no decision depends on it."""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup.tables import workers

FORGOTTEN_AFTER = timedelta(minutes=10)
"""A worker that reported nothing for so long was killed, and its row goes."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of itself. `sent_ago`, `done_ago`: seconds since its canary left and since one came back."""

    name: str
    host: str
    sent_ago: float | None
    done_ago: float | None


def put(tx: Connection, report: Report) -> None:
    """Writes a worker's row; the moments are on the database's clock."""
    values = {"canary_sent_at": _ago(report.sent_ago), "canary_done_at": _ago(report.done_ago)}
    statement = insert(workers).values(name=report.name, host=report.host, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))


def strike(tx: Connection, name: str) -> None:
    """The worker has stopped."""
    tx.execute(sa.delete(workers).where(workers.c.name == name))


def strike_silent(tx: Connection) -> int:
    """Rows of workers that were killed go; how many these were."""
    latest = sa.func.greatest(workers.c.started_at, workers.c.canary_sent_at, workers.c.canary_done_at)
    return tx.execute(sa.delete(workers).where(latest < sa.func.clock_timestamp() - FORGOTTEN_AFTER)).rowcount


def newest_answer(tx: Connection) -> float | None:
    """Seconds since any worker heard a canary; None where none ever did."""
    since = sa.func.extract("epoch", sa.func.clock_timestamp() - sa.func.max(workers.c.canary_done_at))
    seconds = tx.execute(sa.select(since)).scalar_one()
    return None if seconds is None else float(seconds)


def _ago(seconds: float | None) -> "sa.ColumnElement[object] | None":
    return None if seconds is None else sa.func.clock_timestamp() - timedelta(seconds=seconds)
