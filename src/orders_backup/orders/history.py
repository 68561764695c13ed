"""The SQL that reads one order's past for the API and the operator's page: versions and events. Nothing is written."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.engine import Connection

from orders_backup.allegro import wire
from orders_backup.codec import Codec
from orders_backup.errors import ConflictError, NotFoundError
from orders_backup.orders import changes, queries
from orders_backup.orders import diff as differences
from orders_backup.orders.queries import Id, Instant
from orders_backup.orders.shapes import Diff, Event, Order, OrderSummary, Version, VersionSummary, document
from orders_backup.tables import accounts, order_events, order_versions, orders


@dataclass(frozen=True, slots=True)
class EventPosition:
    """The event after which a list goes on."""

    stored_at: Instant
    event_id: Id


VersionNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

_VERSION = [order_versions.c[name] for name in VersionSummary.__dataclass_fields__]
_EVENT = [order_events.c[name] for name in Event.__dataclass_fields__ if not name.startswith("event_data")] + [
    order_events.c.dictionary_id,
    order_events.c.event_data,
]


def at(tx: Connection, codec: Codec, account_id: uuid.UUID, order_id: str, moment: datetime) -> Order:
    """The order as it was last read at or before `moment`. Raises NotFoundError where we did not have it yet.

    Every field that Allegro's document tells comes from that version; `superseded_by` and `gone_at` are
    today's knowledge about the order.
    """
    head = queries.get(tx, codec, account_id, order_id)
    query = (
        sa.select(order_versions)
        .where(*_of(account_id, order_id), order_versions.c.read_at <= moment)
        .order_by(order_versions.c.read_at.desc(), order_versions.c.version.desc())
        .limit(1)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFoundError(f"The order {order_id} was first read after {moment.isoformat()}.")
    shown = {name: getattr(head, name) for name in _OF_TODAY} | {"id": order_id, "version": row.version}
    return _as_it_was(shown, codec.decompress(tx, row.dictionary_id, row.body))


def all_at(
    tx: Connection, codec: Codec, account_id: uuid.UUID, moment: datetime, *, after: str, limit: int, full: bool
) -> tuple[list[Order] | list[OrderSummary], str | None]:
    """The account's orders that were read at or before `moment`, as `at` shows each, by id; and the id to go on from,
    None: that was all."""
    version = order_versions.c
    known = (
        sa.select(version.order_id, version.version, version.dictionary_id, version.body)
        .ext(distinct_on(version.order_id))
        .where(version.account_id == account_id, version.order_id > after, version.read_at <= moment)
        .order_by(version.order_id, version.read_at.desc(), version.version.desc())
        .limit(limit + 1)
        .subquery("known")
    )
    of_today = [orders.c.account_id, orders.c.superseded_by, orders.c.gone_at, accounts.c.user_id]
    is_head = sa.and_(orders.c.account_id == account_id, orders.c.order_id == known.c.order_id)
    query = sa.select(known, *of_today).join(orders, is_head).join(accounts, accounts.c.id == orders.c.account_id)
    rows = tx.execute(query.order_by(known.c.order_id)).mappings().all()
    found = []
    for row in rows[:limit]:
        shown = {name: row[name] for name in _OF_TODAY} | {"id": row["order_id"], "version": row["version"]}
        found.append(_as_it_was(shown, codec.decompress(tx, row["dictionary_id"], row["body"])))
    more = found[-1].id if len(rows) > limit else None
    return found if full else [_summary(one) for one in found], more


_OF_TODAY = ("account_id", "user_id", "superseded_by", "gone_at")


def _as_it_was(shown: dict[str, Any], body: bytes) -> Order:
    """An order as these bytes of the past tell it; they do not tell what is `shown`."""
    facts, data = wire.order_facts(body), document(body)
    told: dict[str, Any] = {
        name: getattr(facts, name, None) for name in OrderSummary.__dataclass_fields__ if name not in shown
    }
    return Order(**shown, **told, order_data=data, order_data_unreadable=data is None)


def _summary(one: Order) -> OrderSummary:
    return OrderSummary(**{name: getattr(one, name) for name in OrderSummary.__dataclass_fields__})


def versions(
    tx: Connection, codec: Codec, account_id: uuid.UUID, order_id: str, *, after: int, limit: int, full: bool
) -> tuple[list[Version] | list[VersionSummary], int | None]:
    """Versions in the order they were stored, and the number to go on from; None: that was all."""
    bodies = [order_versions.c.dictionary_id, order_versions.c.body] if full else []
    query = sa.select(*_VERSION, *bodies).where(*_of(account_id, order_id), order_versions.c.version > after)
    rows = [
        {**row, "sha256": row["sha256"].hex()}
        for row in tx.execute(query.order_by(order_versions.c.version).limit(limit + 1)).mappings()
    ]
    more = rows[limit - 1]["version"] if len(rows) > limit else None
    if full:
        return [_version(tx, codec, row)[0] for row in rows[:limit]], more
    return [VersionSummary(**row) for row in rows[:limit]], more


def version(tx: Connection, codec: Codec, account_id: uuid.UUID, order_id: str, number: int) -> tuple[Version, bytes]:
    """One version and its exact bytes. Raises NotFoundError."""
    query = sa.select(*_VERSION, order_versions.c.dictionary_id, order_versions.c.body)
    row = (
        tx.execute(query.where(*_of(account_id, order_id), order_versions.c.version == number)).mappings().one_or_none()
    )
    if row is None:
        raise NotFoundError(f"The order {order_id} has no version {number}.")
    return _version(tx, codec, {**row, "sha256": row["sha256"].hex()})


def diff(
    tx: Connection, codec: Codec, account_id: uuid.UUID, order_id: str, *, since: int | None, until: int | None
) -> Diff:
    """What differs between two versions; without numbers, the newest and the one that it replaced.

    Versions count in the order of storing, so a late one has a higher number than what it precedes. Raises
    NotFoundError, and ConflictError where a document cannot be compared.
    """
    until = until or queries.get(tx, codec, account_id, order_id).version
    since = since or _replaced_by(tx, account_id, order_id, until)
    (one, before), (other, after) = (version(tx, codec, account_id, order_id, number) for number in (since, until))
    found = differences.operations(before, after)
    if found is None:
        raise ConflictError("One of the two versions is no JSON that can be compared; read their exact bytes.")
    return {
        "account_id": account_id,
        "order_id": order_id,
        "from": one.version,
        "to": other.version,
        "kinds": changes.kinds(before, after) if found else [],
        "operations": found,
    }


def _replaced_by(tx: Connection, account_id: uuid.UUID, order_id: str, number: int) -> int:
    """The version that shows the moment before the one that version `number` shows."""
    table = order_versions.c
    shown = sa.select(table.read_at).where(*_of(account_id, order_id), table.version == number).scalar_subquery()
    query = sa.select(table.version).where(*_of(account_id, order_id), table.read_at < shown)
    found = tx.execute(query.order_by(table.read_at.desc(), table.version.desc()).limit(1)).scalar_one_or_none()
    if found is None:
        raise NotFoundError(f"The order {order_id} has no version before {number}; name another one with from=.")
    return int(found)


def events(
    tx: Connection,
    codec: Codec,
    account_id: uuid.UUID,
    order_id: str,
    *,
    after: EventPosition | None,
    limit: int,
) -> tuple[list[Event], EventPosition | None]:
    """Our copy of Allegro's events about an order as they were stored, and the position to go on from."""
    key = sa.tuple_(order_events.c.stored_at, order_events.c.event_id)
    query = sa.select(*_EVENT).where(order_events.c.account_id == account_id, order_events.c.order_id == order_id)
    if after is not None:
        query = query.where(key > sa.tuple_(sa.literal(after.stored_at), sa.literal(after.event_id)))
    query = query.order_by(order_events.c.stored_at, order_events.c.event_id).limit(limit + 1)
    found = [_event(tx, codec, dict(row)) for row in tx.execute(query).mappings()]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], EventPosition(last.stored_at, last.event_id) if last else None


def _of(account_id: uuid.UUID, order_id: str) -> list[sa.ColumnElement[bool]]:
    return [order_versions.c.account_id == account_id, order_versions.c.order_id == order_id]


def _version(tx: Connection, codec: Codec, row: dict[str, Any]) -> tuple[Version, bytes]:
    body = queries.opened(tx, codec, row, "body") or b""
    data = document(body)
    return Version(**row, order_data=data, order_data_unreadable=data is None), body


def _event(tx: Connection, codec: Codec, row: dict[str, Any]) -> Event:
    data = document(queries.opened(tx, codec, row, "event_data"))
    return Event(**row, event_data=data, event_data_unreadable=data is None)
