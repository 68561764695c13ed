"""The SQL that finds orders for the API and the operator's page, lists excepted (pages.py). Nothing is written here.

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

from orders_backup.accounts import queries as account_queries
from orders_backup.codec import Codec
from orders_backup.errors import AmbiguousOrderError, NotFoundError
from orders_backup.orders import words
from orders_backup.orders.shapes import Order, OrderSummary, document
from orders_backup.tables import accounts, order_versions, orders

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


_FILTERS = [name for name in Filter.__dataclass_fields__ if name != "sort"]


@dataclass(frozen=True, slots=True)
class Position:
    """The order after which a list goes on. `at` None: among the orders without that time, which come last."""

    at: Instant | None
    order_id: Id
    account_id: uuid.UUID


SHOWN: list[sa.ColumnElement[Any]] = [
    accounts.c.user_id if name == "user_id" else orders.c["order_id" if name == "id" else name]
    for name in OrderSummary.__dataclass_fields__
]
"""The columns of a summary, in its order."""

DOUBT = sa.or_(orders.c.projection_lossy, orders.c.order_data.is_(None))
"""Only bytes that JSONB could not hold as they came may be no JSON; all others are known to be."""


def find(tx: Connection, order_id: str, *, seen_by: uuid.UUID | None, account_id: uuid.UUID | None) -> uuid.UUID:
    """The account that holds the order. Raises NotFoundError, and AmbiguousOrderError where several do."""
    seen = account_queries.visible(seen_by, account_id=account_id)
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
    is_newest = sa.and_(
        order_versions.c.account_id == orders.c.account_id,
        order_versions.c.order_id == orders.c.order_id,
        order_versions.c.version == orders.c.version,
    )
    query = (
        sa.select(*SHOWN, DOUBT, order_versions.c.dictionary_id, order_versions.c.body)
        .join_from(orders, accounts, accounts.c.id == orders.c.account_id)
        .outerjoin(order_versions, is_newest)
        .where(orders.c.account_id == account_id, orders.c.order_id == order_id)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFoundError(f"There is no order {order_id}.")
    return order(tx, codec, row)


_EQUAL = ("status", "fulfillment_status", "buyer_login", "marketplace")
_RANGES = {
    "ordered_from": "ordered_at",
    "ordered_to": "ordered_at",
    "updated_from": "updated_at",
    "updated_to": "updated_at",
}


def given(wanted: Filter) -> frozenset[str]:
    """The names of the filters that narrow the list."""
    return frozenset(name for name in _FILTERS if getattr(wanted, name) is not None)


def conditions(given: frozenset[str]) -> list[sa.ColumnElement[bool]]:
    """What the columns of an order have to hold where these filters are given; what they ask for is in `parameters`.
    Whose accounts are looked at is asked apart."""
    found = [orders.c[name] == sa.bindparam(name, type_=sa.Text) for name in _EQUAL if name in given]
    for name, column in _RANGES.items():
        if name in given:
            moment = sa.bindparam(name, type_=orders.c[column].type)
            found.append(orders.c[column] >= moment if name.endswith("_from") else orders.c[column] < moment)
    if "q" in given:
        found.append(orders.c.words.bool_op("@@")(sa.cast(sa.bindparam("q", type_=sa.Text), pg.TSQUERY)))
    return found


def parameters(wanted: Filter, account_ids: Sequence[uuid.UUID] | None = None) -> dict[str, Any]:
    """The values of the filters that are given. `account_ids`: whose orders, where that helps to find words."""
    found = {name: getattr(wanted, name) for name in given(wanted)}
    if wanted.q is not None:
        found["q"] = words.question(wanted.q, account_ids)
    return found


def order(tx: Connection, codec: Codec, row: Sequence[Any]) -> Order:
    """A row of SHOWN, DOUBT, the dictionary and the body."""
    is_doubtful, dictionary_id, compressed = row[-3:]
    body = None if compressed is None else codec.decompress(tx, dictionary_id, compressed)
    data = document(body) if is_doubtful or not body else msgspec.Raw(body)
    shown: Any = (*row[:-3], data, data is None)
    return Order(*shown)


def opened(tx: Connection, codec: Codec, row: dict[str, Any], name: str) -> bytes | None:
    """The bytes of a row that was read with `dictionary_id` and `name`; both are taken out of it."""
    dictionary_id, compressed = row.pop("dictionary_id"), row.pop(name)
    return None if compressed is None else codec.decompress(tx, dictionary_id, compressed)
