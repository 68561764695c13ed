"""The SQL of exports in the background; this module alone writes `exports`, but for the claimable columns."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import due
from orders_backup.errors import NotFoundError
from orders_backup.exports.kept import Place
from orders_backup.tables import exports

AT_ONCE = 2
"""Exports that run at the same time in the whole installation, so that they never take all slots from the syncs."""


@dataclass(frozen=True, slots=True)
class Part:
    """A finished file. `place`: the last order in it; `is_last`: no order comes after it."""

    number: int
    name: str
    orders: int
    rows: int
    bytes: int
    sha256: str
    unreadable: int
    left_out: int
    place: Place | None
    is_last: bool
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Export:
    """A row of the table. `failures`: tries in a row that brought nothing."""

    export_id: uuid.UUID
    user_id: uuid.UUID | None
    format: str
    filter: dict[str, Any]
    status: str
    stored_in: str | None
    horizon: int | None
    orders_total: int | None
    orders_done: int
    busy_seconds: float
    parts: list[Part]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    failures: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """The export after which a list goes on."""

    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    export_id: uuid.UUID


_COLUMNS = [exports.c[name] for name in Export.__dataclass_fields__]


def create(tx: Connection, *, user_id: uuid.UUID | None, name: str, given: dict[str, Any]) -> uuid.UUID:
    """A new export that is due now."""
    export_id = uuid.uuid4()
    row = {
        "export_id": export_id,
        "user_id": user_id,
        "format": name,
        "filter": msgspec.to_builtins({key: value for key, value in given.items() if value is not None}),
        "due_at": sa.func.clock_timestamp(),
    }
    tx.execute(sa.insert(exports).values(row))
    return export_id


def get(tx: Connection, export_id: uuid.UUID, *, seen_by: uuid.UUID | None) -> Export:
    """One export. Raises NotFoundError where there is none that the caller may see."""
    query = sa.select(*_COLUMNS).where(exports.c.export_id == export_id, *_seen(seen_by))
    row = tx.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no export {export_id}, or this key may not see it.")
    return _export(dict(row))


def page(
    tx: Connection, *, seen_by: uuid.UUID | None, after: Position | None, limit: int
) -> tuple[list[Export], Position | None]:
    """Exports, newest first, and the position to go on from."""
    key = sa.tuple_(exports.c.created_at, exports.c.export_id)
    query = sa.select(*_COLUMNS).where(*_seen(seen_by))
    if after is not None:
        query = query.where(key < sa.tuple_(sa.literal(after.created_at), sa.literal(after.export_id)))
    query = query.order_by(exports.c.created_at.desc(), exports.c.export_id.desc()).limit(limit + 1)
    found = [_export(dict(row)) for row in tx.execute(query).mappings()]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], Position(last.created_at, last.export_id) if last else None


def ring(tx: Connection) -> list[due.Key]:
    """Exports to start now: those that run, or were told to a worker, leave so much room."""
    busy = sa.or_(due.held(exports), due.told(exports))
    running = tx.execute(sa.select(sa.func.count()).select_from(exports).where(exports.c.due_at.is_not(None), busy))
    room = AT_ONCE - int(running.scalar_one())
    return due.ring(tx, exports, limit=room) if room > 0 else []


def begin(tx: Connection, lease: due.Lease) -> Export:
    """A try begins: it counts as failed until a part is finished. What an earlier one left half done is not counted."""
    done = sa.text("(SELECT coalesce(sum(CAST(part->>'orders' AS bigint)), 0) FROM jsonb_array_elements(parts) part)")
    now = sa.func.clock_timestamp()
    made = exports.c.status.in_(["queued", "running"])
    values = {
        "status": sa.case((made, "running"), else_=exports.c.status),
        "started_at": sa.func.coalesce(exports.c.started_at, now),
        "failures": exports.c.failures + 1,
        "orders_done": done,
    }
    statement = sa.update(exports).values(values).where(*_is(lease)).returning(*_COLUMNS)
    return _export(dict(tx.execute(statement).mappings().one()))


def plan(tx: Connection, lease: due.Lease, *, orders: int, horizon: int, stored_in: str) -> None:
    """What there is to do, found out once."""
    values = {"orders_total": orders, "horizon": horizon, "stored_in": stored_in}
    tx.execute(sa.update(exports).values(values).where(*_is(lease)))


def note(tx: Connection, lease: due.Lease, *, orders_done: int, busy: float) -> None:
    """How far a part is."""
    values = {"orders_done": orders_done, "busy_seconds": exports.c.busy_seconds + busy}
    tx.execute(sa.update(exports).values(values).where(*_is(lease)))


def keep(tx: Connection, lease: due.Lease, parts: list[Part]) -> None:
    """These parts are finished and lie where they will stay; the try was none in vain."""
    values = {
        "parts": msgspec.to_builtins(parts),
        "orders_done": sum(part.orders for part in parts),
        "failures": 0,
        "last_error": None,
    }
    tx.execute(sa.update(exports).values(values).where(*_is(lease)))


def in_(tx: Connection, delay: timedelta) -> datetime:
    """That long from now, on the database's clock."""
    moment: datetime = tx.execute(sa.select(sa.func.clock_timestamp() + delay)).scalar_one()
    return moment


def _is(lease: due.Lease) -> list[sa.ColumnElement[bool]]:
    return [exports.c.export_id == lease.key["export_id"], exports.c.lease_generation == lease.generation]


def _seen(seen_by: uuid.UUID | None) -> list[sa.ColumnElement[bool]]:
    return [] if seen_by is None else [exports.c.user_id == seen_by]


def _export(row: dict[str, Any]) -> Export:
    return Export(**{**row, "parts": msgspec.convert(row["parts"], list[Part])})
