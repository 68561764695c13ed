"""The SQL that finds orders for the API and the operator's page. Nothing is written here.

Columns and JSONB decide *which* orders, the archived bytes say *what* they are: they are decompressed and handed
on, never decoded.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.engine import Connection

from orders_backup.accounts import queries as accounts
from orders_backup.codec import Codec
from orders_backup.errors import AmbiguousOrderError, NotFoundError
from orders_backup.orders import words
from orders_backup.orders.shapes import Order, OrderSummary, document
from orders_backup.tables import order_versions, orders

Sort = Literal["-ordered_at", "ordered_at", "-updated_at", "updated_at"]
Id = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$")]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which orders, and in which order. `seen_by`: the user whose accounts the caller may see, None for all; `q`: words
    that all have to be found. Ranges of time are half-open: from inclusive, to exclusive."""

    seen_by: uuid.UUID | None = None
    user_id: uuid.UUID | None = None
    account_id: uuid.UUID | None = None
    status: str | None = None
    fulfillment_status: str | None = None
    buyer_login: str | None = None
    marketplace: str | None = None
    ordered_from: datetime | None = None
    ordered_to: datetime | None = None
    updated_from: datetime | None = None
    updated_to: datetime | None = None
    q: str | None = None
    sort: Sort = "-ordered_at"


@dataclass(frozen=True, slots=True)
class Position:
    """The order after which a list goes on. `at` None: among the orders without that time, which come last."""

    at: Instant | None
    order_id: Id
    account_id: uuid.UUID


_SUMMARY = [orders.c.order_id.label("id"), orders.c.account_id] + [
    orders.c[name] for name in OrderSummary.__dataclass_fields__ if name not in {"id", "account_id", "user_id"}
]

_DOUBT = [sa.or_(orders.c.projection_lossy, orders.c.order_data.is_(None)).label("doubtful")]
"""Only bytes that JSONB could not hold as they came may be no JSON; all others are known to be."""


def page(
    tx: Connection, codec: Codec, wanted: Filter, *, after: Position | None, limit: int, full: bool
) -> tuple[list[Order] | list[OrderSummary], Position | None]:
    """Orders with their documents (or without), and the position to go on from; None: that was all.

    Orders without the time that sorts them come last in either direction.
    """
    rows: list[dict[str, Any]] = []
    if after is None or after.at is not None:
        rows = _slice(tx, wanted, after, limit=limit + 1, full=full, dated=True)
    if len(rows) <= limit:
        later = after if after is not None and after.at is None else None
        rows += _slice(tx, wanted, later, limit=limit + 1 - len(rows), full=full, dated=False)
    more = None
    if len(rows) > limit:
        last = rows[limit - 1]
        more = Position(last[wanted.sort.lstrip("-")], last["id"], last["account_id"])
    if full:
        return [_order(tx, codec, row) for row in rows[:limit]], more
    return [OrderSummary(**row) for row in rows[:limit]], more


def search(tx: Connection, wanted: Filter, *, after: Position | None, limit: int) -> tuple[list[Position], bool]:
    """Where the orders are that a question finds, in the list's order, and whether there are more.

    Not under row-level security, which would keep PostgreSQL from using the index of words for a bound key: `those`
    reads what it finds, and is. So nothing of a foreign order gets further than here.
    """
    seen = accounts.visible(wanted.seen_by, user_id=wanted.user_id, account_id=wanted.account_id)
    is_narrow = any(one is not None for one in (wanted.seen_by, wanted.user_id, wanted.account_id))
    ids = list(tx.execute(sa.select(seen.c.id).limit(words.MOST_ACCOUNTS + 1)).scalars()) if is_narrow else None
    wants = conditions(wanted, ids)
    if ids == []:
        return [], False
    time, is_falling = orders.c[wanted.sort.lstrip("-")], wanted.sort.startswith("-")
    key = [orders.c.order_id, orders.c.account_id]
    query = sa.select(time, *key).where(orders.c.account_id.in_(sa.select(seen.c.id)), *wants)
    if after is not None:
        query = query.where(_follows(after, time, key, is_falling=is_falling))
    ordered = query.order_by(_directed(time, is_falling).nulls_last(), *(_directed(one, is_falling) for one in key))
    rows = [Position(*row) for row in tx.execute(ordered.limit(limit + 1))]
    return rows[:limit], len(rows) > limit


def _follows(
    after: Position, time: "sa.Column[Any]", key: "list[sa.Column[Any]]", *, is_falling: bool
) -> sa.ColumnElement[bool]:
    """What comes after this place, where those without the time come last."""
    values = [after.order_id, after.account_id]
    if after.at is None:
        return sa.and_(time.is_(None), _beyond(key, values, is_falling=is_falling))
    return sa.or_(time.is_(None), _beyond([time, *key], [after.at, *values], is_falling=is_falling))


def _beyond(columns: "Sequence[sa.Column[Any]]", values: Sequence[Any], *, is_falling: bool) -> sa.ColumnElement[bool]:
    place = sa.tuple_(*(sa.literal(value, column.type) for value, column in zip(values, columns, strict=True)))
    return sa.tuple_(*columns) < place if is_falling else sa.tuple_(*columns) > place


def those(
    tx: Connection, codec: Codec, places: Sequence[Position], wanted: Filter, *, full: bool
) -> tuple[list[Order] | list[OrderSummary], Position | None]:
    """The orders at these places with their documents (or without), in the same order, and the place of the last."""
    seen = accounts.visible(wanted.seen_by)
    keys = sa.tuple_(orders.c.account_id, orders.c.order_id).in_([(one.account_id, one.order_id) for one in places])
    heads = sa.select(seen.c.user_id, *_SUMMARY, *(_DOUBT if full else [])).join(seen, orders.c.account_id == seen.c.id)
    query = heads.where(keys)
    found = tx.execute(_with_bodies(query.subquery("head")) if full else query).mappings()
    by_key = {(row["account_id"], row["id"]): dict(row) for row in found}
    kept = [one for one in places if (one.account_id, one.order_id) in by_key]
    rows = [by_key[one.account_id, one.order_id] for one in kept]
    last = kept[-1] if kept else None
    if full:
        return [_order(tx, codec, row) for row in rows], last
    return [OrderSummary(**row) for row in rows], last


def find(tx: Connection, order_id: str, *, seen_by: uuid.UUID | None, account_id: uuid.UUID | None) -> uuid.UUID:
    """The account that holds the order. Raises NotFoundError, and AmbiguousOrderError where several do."""
    seen = accounts.visible(seen_by, account_id=account_id)
    query = sa.select(orders.c.account_id).join(seen, orders.c.account_id == seen.c.id)
    query = query.where(orders.c.order_id == order_id).order_by(orders.c.account_id)
    holders: list[uuid.UUID] = list(tx.execute(query).scalars())
    if not holders:
        raise NotFoundError(f"There is no order {order_id}, or this key may not see it.")
    if len(holders) > 1:
        raise AmbiguousOrderError(
            f"{len(holders)} accounts hold the order {order_id}; choose one with ?account_id=.",
            [str(holder) for holder in holders],
        )
    return holders[0]


def get(tx: Connection, codec: Codec, account_id: uuid.UUID, order_id: str) -> Order:
    """The newest version of an order. Raises NotFoundError."""
    seen = accounts.visible(None, account_id=account_id)
    heads = sa.select(seen.c.user_id, *_SUMMARY, *_DOUBT).join(seen, orders.c.account_id == seen.c.id)
    query = _with_bodies(heads.where(orders.c.order_id == order_id).subquery("head"))
    row = tx.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no order {order_id}.")
    return _order(tx, codec, dict(row))


def _slice(
    tx: Connection, wanted: Filter, after: Position | None, *, limit: int, full: bool, dated: bool
) -> list[dict[str, Any]]:
    """The next orders that have the sorting time, or that lack it.

    One index walk per account, each stopping at `limit`, then a merge: with a plain join PostgreSQL would sort
    every order of every account. Rows with and without the time are asked for separately because one index
    cannot give NULLS LAST in both directions.
    """
    time = orders.c[wanted.sort.lstrip("-")]
    key = ([time] if dated else []) + [orders.c.order_id, orders.c.account_id]
    seen = accounts.visible(wanted.seen_by, user_id=wanted.user_id, account_id=wanted.account_id)
    walk = sa.select(*_SUMMARY, *(_DOUBT if full else [])).where(
        orders.c.account_id == seen.c.id, time.is_not(None) if dated else time.is_(None), *conditions(wanted)
    )
    is_falling = wanted.sort.startswith("-")
    if after is not None:
        values = ([after.at] if dated else []) + [after.order_id, after.account_id]
        walk = walk.where(_beyond(key, values, is_falling=is_falling))
    lateral = walk.order_by(*(_directed(column, is_falling) for column in key)).limit(limit).lateral("walk")
    names = ([time.name] if dated else []) + ["id", "account_id"]
    merged = sa.select(seen.c.user_id, lateral).select_from(seen.join(lateral, sa.true()))
    merged = merged.order_by(*(_directed(lateral.c[name], is_falling) for name in names)).limit(limit)
    if full:
        heads = merged.subquery("head")
        merged = _with_bodies(heads).order_by(*(_directed(heads.c[name], is_falling) for name in names))
    return [dict(row) for row in tx.execute(merged).mappings()]


def conditions(wanted: Filter, account_ids: Sequence[uuid.UUID] | None = None) -> list[sa.ColumnElement[bool]]:
    """What the columns of an order have to hold; whose accounts are looked at is asked apart. `account_ids`: which
    these are, where that helps to find words."""
    found = [
        orders.c[name] == value
        for name in ("status", "fulfillment_status", "buyer_login", "marketplace")
        if (value := getattr(wanted, name)) is not None
    ]
    found += [
        orders.c[column] >= value
        for name, column in (("ordered_from", "ordered_at"), ("updated_from", "updated_at"))
        if (value := getattr(wanted, name)) is not None
    ]
    found += [
        orders.c[column] < value
        for name, column in (("ordered_to", "ordered_at"), ("updated_to", "updated_at"))
        if (value := getattr(wanted, name)) is not None
    ]
    if wanted.q is not None:
        question = sa.cast(sa.literal(words.question(wanted.q, account_ids)), pg.TSQUERY)
        found.append(orders.c.words.bool_op("@@")(question))
    return found


def _directed(column: sa.ColumnElement[Any], is_falling: bool) -> sa.ColumnElement[Any]:
    return column.desc() if is_falling else column.asc()


def _with_bodies(heads: sa.Subquery) -> "sa.Select[Any]":
    """The heads with the compressed bytes of their newest version."""
    return sa.select(heads, order_versions.c.dictionary_id, order_versions.c.body).outerjoin(
        order_versions,
        sa.and_(
            order_versions.c.account_id == heads.c.account_id,
            order_versions.c.order_id == heads.c.id,
            order_versions.c.version == heads.c.version,
        ),
    )


def _order(tx: Connection, codec: Codec, row: dict[str, Any]) -> Order:
    body, is_doubtful = opened(tx, codec, row, "body"), row.pop("doubtful")
    data = document(body) if is_doubtful or not body else msgspec.Raw(body)
    return Order(**row, order_data=data, order_data_unreadable=data is None)


def opened(tx: Connection, codec: Codec, row: dict[str, Any], name: str) -> bytes | None:
    """The bytes of a row that was read with `dictionary_id` and `name`; both are taken out of it."""
    dictionary_id, compressed = row.pop("dictionary_id"), row.pop(name)
    return None if compressed is None else codec.decompress(tx, dictionary_id, compressed)
