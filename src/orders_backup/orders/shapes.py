"""What the archive answers with: orders, versions, events and changes as values. PURE; encoded as they stand."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import msgspec
from pydantic import GetPydanticSchema, WithJsonSchema
from pydantic_core import core_schema
from typing_extensions import TypedDict

from orders_backup.drift import Finding
from orders_backup.orders.diff import Operation

Document = Annotated[
    msgspec.Raw,
    GetPydanticSchema(lambda _source, _handler: core_schema.any_schema()),
    WithJsonSchema({"type": "object", "description": "Allegro's document, byte for byte as Allegro served it."}),
]
"""Archived bytes that go into an answer as they are, never decoded and encoded again."""


@dataclass(frozen=True, slots=True)
class OrderSummary:
    """The head of an order. `total` is the decimal text Allegro sent; `gone_at`: Allegro denies it since then;
    `superseded_by`: the order that took over its lines."""

    id: str
    account_id: uuid.UUID
    user_id: uuid.UUID
    status: str | None
    fulfillment_status: str | None
    ordered_at: datetime | None
    updated_at: datetime | None
    total: str | None
    currency: str | None
    buyer_login: str | None
    version: int
    superseded_by: str | None
    gone_at: datetime | None


@dataclass(frozen=True, slots=True)
class Order(OrderSummary):
    """An order with its document. Where the archived bytes are no JSON, `order_data` is null and
    `order_data_unreadable` true; the version's route gives the bytes with Accept: application/octet-stream."""

    order_data: Document | None
    order_data_unreadable: bool


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """One version. `read_at`: when the request that brought it was sent, so the moment it shows;
    `sha256` (hexadecimal) and `size` (bytes) are of the bytes as Allegro served them."""

    account_id: uuid.UUID
    order_id: str
    version: int
    read_at: datetime
    stored_at: datetime
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Version(VersionSummary):
    """One version with its document, null where its bytes are no JSON."""

    order_data: Document | None
    order_data_unreadable: bool


@dataclass(frozen=True, slots=True)
class Event:
    """One event of Allegro's journal. `processed_at`: a reading requested after it has been stored since then."""

    event_id: str
    account_id: uuid.UUID
    order_id: str
    event_type: str | None
    occurred_at: datetime | None
    stored_at: datetime
    processed_at: datetime | None
    event_data: Document | None
    event_data_unreadable: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the change feed. `cause`: what made us read the order."""

    seq: int
    account_id: uuid.UUID
    user_id: uuid.UUID
    order_id: str
    version: int
    kinds: list[str]
    cause: str
    stored_at: datetime


Diff = TypedDict(
    "Diff",
    {
        "account_id": uuid.UUID,
        "order_id": str,
        "from": int,
        "to": int,
        "kinds": list[str],
        "operations": list[Operation],
    },
)
"""What turns version `from` of an order into version `to`; no operations where only the bytes differ."""


@dataclass(frozen=True, slots=True)
class OrderPage:
    """A page of orders, without `order_data` where `fields=summary`."""

    items: list[Order] | list[OrderSummary]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class VersionPage:
    """A page of versions, oldest first; with `order_data` where `fields=full`."""

    items: list[Version] | list[VersionSummary]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of events in the order they were stored."""

    items: list[Event]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """A page of changes. `next_cursor` is always there: keep it and ask again; `has_more`: ask again at once."""

    items: list[Change]
    next_cursor: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class DriftPage:
    """Everything that was found in Allegro's documents and is not known, or is known and was missed."""

    items: list[Finding]
    next_cursor: None


def document(body: bytes | None) -> msgspec.Raw | None:
    """The bytes as part of a JSON answer, None where a strict reader of that answer would choke on them."""
    if body is None:
        return None
    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return msgspec.Raw(body)
