"""Work that is due: ring, claim, renew, settle – the SQL of the claimable columns, for every table that has them.

PostgreSQL holds the work; a message only says "look". A claim is a lease with a generation: whoever claims
later gets a higher one, and `fence` makes the earlier holder's transaction fail before it writes anything.
Times are the database's clock throughout.
"""

import functools
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import metrics
from orders_backup.errors import LeaseLostError

RING_AGAIN_AFTER = timedelta(seconds=12)
"""A message that nobody acted on is sent again after this long: whoever was to send it may have died."""

Key = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do one piece of work. `now` is the database's clock at the claim."""

    table: sa.Table
    key: Key
    generation: int
    now: datetime
    failures: int


CLAIMED: ContextVar[list[Lease]] = ContextVar("claimed")
"""Where a worker's task notes what it claims, to be given back should the worker have to leave it."""


def ring(
    tx: Connection,
    table: sa.Table,
    *,
    again_after: timedelta = RING_AGAIN_AFTER,
    limit: int = 200,
    only: Sequence[sa.ColumnElement[bool]] = (),
    first: Sequence[sa.ColumnElement[Any]] = (),
) -> list[Key]:
    """The keys of work that is due, unclaimed and not yet told to anyone; they count as told from now on.

    Told again is what nobody claimed for `again_after`, and what was claimed since and whose lease ran out. The
    longest due comes first, after what `first` puts before it; `only` leaves out the rest.
    """
    statement = _ringing(table, again_after, tuple(only), tuple(first))
    return [dict(row._mapping) for row in tx.execute(statement, {"most": limit})]  # noqa: SLF001


@functools.lru_cache(maxsize=100)
def _ringing(
    table: sa.Table,
    again_after: timedelta,
    only: tuple[sa.ColumnElement[bool], ...],
    first: tuple[sa.ColumnElement[Any], ...],
) -> sa.Executable:
    """Made once: the tick asks several times a second, and putting the statement together costs more than asking."""
    now = sa.func.clock_timestamp()
    keys = list(table.primary_key.columns)
    due = (
        sa.select(*keys)
        .where(
            table.c.due_at <= now,
            sa.or_(table.c.leased_until.is_(None), table.c.leased_until < now),
            sa.or_(
                table.c.rung_at.is_(None),
                table.c.rung_at < now - again_after,
                table.c.rung_at < table.c.leased_until,
            ),
            *only,
        )
        .order_by(*first, table.c.due_at)
        .limit(sa.bindparam("most", type_=sa.Integer))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        sa.update(table).values(rung_at=now).where(*(column == due.c[column.name] for column in keys)).returning(*keys)
    )


def unring(tx: Connection, table: sa.Table, keys: Sequence[Key]) -> None:
    """Nobody was told of these after all; they are rung for again at once."""
    columns = list(table.primary_key.columns)
    unsent = [tuple(key[column.name] for column in columns) for key in keys]
    tx.execute(sa.update(table).values(rung_at=None).where(sa.tuple_(*columns).in_(unsent)))


def told(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a worker was told of this work, and none has claimed it yet: its message is on the way."""
    now = sa.func.clock_timestamp()
    unclaimed = sa.or_(table.c.leased_until.is_(None), table.c.leased_until < table.c.rung_at)
    return sa.and_(table.c.due_at <= now, table.c.rung_at >= now - RING_AGAIN_AFTER, unclaimed)


def held(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a worker holds this work."""
    return sa.func.coalesce(table.c.leased_until >= sa.func.clock_timestamp(), sa.false())


def claim(tx: Connection, table: sa.Table, key: Key, *, lease: timedelta) -> Lease | None:
    """Takes the work if it is due and nobody holds it; None otherwise, which is the end of a doubled message."""
    now = sa.func.clock_timestamp()
    statement = (
        sa.update(table)
        .values(leased_until=now + lease, lease_generation=table.c.lease_generation + 1)
        .where(
            *_is(table, key),
            table.c.due_at <= now,
            sa.or_(table.c.leased_until.is_(None), table.c.leased_until < now),
        )
        .returning(table.c.lease_generation, table.c.failures, now)
    )
    row = tx.execute(statement).one_or_none()
    if row is None:
        return None
    claimed = Lease(table, key, row[0], row[2].astimezone(UTC), row[1])
    CLAIMED.get([]).append(claimed)
    return claimed


def fence(tx: Connection, lease: Lease, *, extend: timedelta) -> None:
    """First statement of every transaction of a claimed job: still ours, and ours for `extend` longer.

    Raises LeaseLostError where someone else claimed the work meanwhile; the row stays locked until the commit.
    """
    values = {f"of_{name}": value for name, value in lease.key.items()}
    values |= {"mine": lease.generation, "extend": extend}
    if tx.execute(_fencing(lease.table), values).rowcount != 1:
        metrics.LEASES_LOST.inc()
        raise LeaseLostError("Another worker took over this work.")


@functools.cache
def _fencing(table: sa.Table) -> sa.Executable:
    """Made once: it begins every transaction of every job."""
    extend = sa.bindparam("extend", type_=sa.Interval)
    return (
        sa.update(table)
        .values(leased_until=sa.func.clock_timestamp() + extend)
        .where(
            *(column == sa.bindparam(f"of_{column.name}") for column in table.primary_key.columns),
            table.c.lease_generation == sa.bindparam("mine"),
        )
    )


def settle(
    tx: Connection,
    lease: Lease,
    *,
    due_at: datetime | None,
    failures: int = 0,
    last_error: str | None = None,
    **values: Any,
) -> None:
    """Gives the work back with the moment it is due next; None: nothing more to do. Raises LeaseLostError."""
    statement = (
        sa.update(lease.table)
        .values(due_at=due_at, rung_at=None, leased_until=None, failures=failures, last_error=last_error, **values)
        .where(*_is(lease.table, lease.key), lease.table.c.lease_generation == lease.generation)
    )
    if tx.execute(statement).rowcount != 1:
        metrics.LEASES_LOST.inc()
        raise LeaseLostError("Another worker took over this work.")


def give_back(tx: Connection, lease: Lease) -> None:
    """Ends the lease of work that its process leaves undone, so that nobody waits for it to run out; nothing where
    another holds the work by now. Who had it is fenced by the next claim."""
    statement = sa.update(lease.table).values(rung_at=None, leased_until=None)
    tx.execute(statement.where(*_is(lease.table, lease.key), lease.table.c.lease_generation == lease.generation))


def make_due(tx: Connection, table: sa.Table, key: Key) -> None:
    """Due now, whatever it was. A job that is running decides itself, when it settles, when it is due next."""
    now = sa.func.clock_timestamp()
    tx.execute(
        sa.update(table)
        .values(due_at=sa.func.least(sa.func.coalesce(table.c.due_at, now), now), rung_at=None)
        .where(*_is(table, key))
    )


def _is(table: sa.Table, key: Key) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in key.items()]
