"""The SQL that reads what belongs to an order, for the API and the operator's page. Nothing is written here."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.accounts import queries as accounts
from orders_backup.accounts.queries import ExtraKind
from orders_backup.codec import Codec
from orders_backup.errors import AmbiguousOrderError, NotFoundError
from orders_backup.orders.queries import Id, opened
from orders_backup.orders.shapes import Document, document
from orders_backup.tables import order_extra_versions, order_extras, orders


@dataclass(frozen=True, slots=True)
class ExtraVersionSummary:
    """One version of a document beside an order; fields as in a version of an order."""

    account_id: uuid.UUID
    kind: ExtraKind
    id: str
    version: int
    read_at: datetime
    stored_at: datetime
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ExtraVersion(ExtraVersionSummary):
    """One version with its document, null where its bytes are no JSON."""

    data: Document | None
    data_unreadable: bool


@dataclass(frozen=True, slots=True)
class Extra(ExtraVersion):
    """A document beside an order in its newest version. `read_at`: when the request was sent that last saw it so;
    `next_read_at`: when it is asked for by itself again, null where lists bring it or never; `last_error`: why
    that failed last, null where it did not."""

    order_id: str | None
    next_read_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class ExtraPage:
    """A page of documents by kind and id."""

    items: list[Extra]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ExtraVersionPage:
    """A page of versions, oldest first."""

    items: list[ExtraVersionSummary]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """The document after which a list goes on."""

    kind: Id
    id: Id


VersionNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

_HEAD, _VERSIONS = order_extras.c, order_extra_versions.c
_VERSION = [
    _VERSIONS.account_id,
    _VERSIONS.kind,
    _VERSIONS.document_id.label("id"),
    *(_VERSIONS[name] for name in ("version", "read_at", "stored_at", "sha256", "size")),
]
_BODY = [_VERSIONS.dictionary_id, _VERSIONS.body]


def find(tx: Connection, order_id: str, *, seen_by: uuid.UUID | None, account_id: uuid.UUID | None) -> uuid.UUID:
    """The account that holds the order, or something of it: returns name orders that are older than the archive.

    Raises NotFoundError, and AmbiguousOrderError where several do.
    """
    seen = accounts.visible(seen_by, account_id=account_id)
    held = sa.union(
        sa.select(orders.c.account_id).where(orders.c.order_id == order_id, orders.c.account_id == seen.c.id),
        sa.select(_HEAD.account_id).where(_HEAD.order_id == order_id, _HEAD.account_id == seen.c.id),
    )
    holders: list[uuid.UUID] = sorted(tx.execute(held).scalars())
    if not holders:
        raise NotFoundError(f"There is no order {order_id}, or this key may not see it.")
    if len(holders) > 1:
        found = f"{len(holders)} accounts hold the order {order_id}; choose one with ?account_id=."
        raise AmbiguousOrderError(found, [str(holder) for holder in holders])
    return holders[0]


def page(
    tx: Connection, codec: Codec, account_id: uuid.UUID, order_id: str, *, after: Position | None, limit: int
) -> tuple[list[Extra], Position | None]:
    """What belongs to the order, and the position to go on from; None: that was all."""
    key = sa.tuple_(_HEAD.kind, _HEAD.document_id)
    query = sa.select(
        *(column for column in _VERSION if column.name != "read_at"),
        *_BODY,
        _HEAD.order_id,
        _HEAD.read_at,
        _HEAD.due_at.label("next_read_at"),
        _HEAD.last_error,
    ).join_from(order_extras, order_extra_versions, _is_newest())
    query = query.where(_HEAD.account_id == account_id, _HEAD.order_id == order_id)
    if after is not None:
        query = query.where(key > sa.tuple_(sa.literal(after.kind), sa.literal(after.id)))
    rows = tx.execute(query.order_by(_HEAD.kind, _HEAD.document_id).limit(limit + 1)).mappings()
    found = [Extra(**_shown(tx, codec, dict(row))[0]) for row in rows]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], Position(last.kind, last.id) if last else None


def versions(
    tx: Connection, account_id: uuid.UUID, order_id: str, key: tuple[str, str], *, after: int, limit: int
) -> tuple[list[ExtraVersionSummary], int | None]:
    """Every version of a document in the order they were stored, and the number to go on from. Raises NotFoundError."""
    _require(tx, account_id, order_id, key)
    query = sa.select(*_VERSION).where(*_of(account_id, key), _VERSIONS.version > after)
    rows = tx.execute(query.order_by(_VERSIONS.version).limit(limit + 1)).mappings()
    found = [ExtraVersionSummary(**{**row, "sha256": row["sha256"].hex()}) for row in rows]
    return found[:limit], found[limit - 1].version if len(found) > limit else None


def version(
    tx: Connection, codec: Codec, account_id: uuid.UUID, order_id: str, key: tuple[str, str], *, number: int
) -> tuple[ExtraVersion, bytes]:
    """One version and its exact bytes. Raises NotFoundError."""
    _require(tx, account_id, order_id, key)
    query = sa.select(*_VERSION, *_BODY).where(*_of(account_id, key), _VERSIONS.version == number)
    row = tx.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no version {number} of {key[0]} {key[1]}.")
    shown, body = _shown(tx, codec, dict(row))
    return ExtraVersion(**shown), body


def _require(tx: Connection, account_id: uuid.UUID, order_id: str, key: tuple[str, str]) -> None:
    is_head = (_HEAD.account_id == account_id, _HEAD.kind == key[0], _HEAD.document_id == key[1])
    found = tx.execute(sa.select(_HEAD.kind).where(*is_head, _HEAD.order_id == order_id, _HEAD.version > 0))
    if found.one_or_none() is None:
        raise NotFoundError(f"The order {order_id} has no {key[0]} {key[1]}.")


def _of(account_id: uuid.UUID, key: tuple[str, str]) -> list[sa.ColumnElement[bool]]:
    return [_VERSIONS.account_id == account_id, _VERSIONS.kind == key[0], _VERSIONS.document_id == key[1]]


def _is_newest() -> sa.ColumnElement[bool]:
    names = ("account_id", "kind", "document_id", "version")
    return sa.and_(*(_VERSIONS[name] == _HEAD[name] for name in names))


def _shown(tx: Connection, codec: Codec, row: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    body = opened(tx, codec, row, "body") or b""
    data = document(body)
    return {**row, "sha256": row["sha256"].hex(), "data": data, "data_unreadable": data is None}, body
