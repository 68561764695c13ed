"""What could not be read: shown, tried again, or acknowledged by a person. The SQL and the steps; no HTTP.

Two kinds. `order`: an order that is owed and failed five times of its own. `unreadable`: bytes that came as an
order and name no order id, or the page of a list that one order spoiled.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from orders_backup.accounts import queries as accounts
from orders_backup.allegro import wire
from orders_backup.codec import Codec
from orders_backup.errors import AllegroAnswerError, InvalidRequestError, NotFoundError
from orders_backup.orders import archive, changes
from orders_backup.orders.changes import Reading
from orders_backup.sync import owed, state
from orders_backup.sync.plan import Debt
from orders_backup.tables import owed_orders, unreadable_orders

REASON = 500
"""Characters of a reason at most."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID_IN_A_PAGE = re.compile(rb'\s*\{\s*"checkoutForms"\s*:\s*\[\s*\{\s*"id"\s*:\s*"([!#-\[\]-~]{1,100})"')


@dataclass(frozen=True, slots=True)
class Item:
    """Something set aside. `id`: the order's, or the bytes' SHA-256; `first_seen` and `last_seen`: when it was set
    aside, or when the bytes came first and last; `failures`: how often reading failed, or how often the bytes came."""

    kind: Literal["order", "unreadable"]
    id: str
    sha256: str | None
    size: int | None
    first_seen: datetime
    last_seen: datetime | None
    failures: int
    last_error: str | None
    acknowledged_at: datetime | None
    acknowledged_reason: str | None

    @property
    def told(self) -> str:
        """What a person is told of it."""
        noted = f" (acknowledged: {self.acknowledged_reason})" if self.acknowledged_at else ""
        return f"{self.kind}  {self.id}  {self.first_seen:%Y-%m-%d %H:%M} UTC  {self.last_error}{noted}"


@dataclass(frozen=True, slots=True)
class Position:
    """The item after which a list goes on."""

    kind: str
    id: Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*$")]


@dataclass(frozen=True, slots=True)
class Retried:
    """`due`: orders that are read again now; `understood`: bytes that are in the archive now; `unreadable`: bytes that
    this program cannot read either."""

    due: int
    understood: int
    unreadable: int

    @property
    def told(self) -> str:
        """What a person is told of it."""
        return f"{self.due} orders are due now; of the bytes {self.understood} are understood, {self.unreadable} not."


def page(tx: Connection, account_id: UUID, *, after: Position | None, limit: int) -> tuple[list[Item], Position | None]:
    """What is set aside in an account, orders first, and the position to go on from; None: that was all."""
    found = _all(account_id).subquery("found")
    key = sa.tuple_(found.c.kind, found.c.id)
    query = sa.select(found)
    if after is not None:
        query = query.where(key > sa.tuple_(sa.literal(after.kind), sa.literal(after.id)))
    rows = tx.execute(query.order_by(found.c.kind, found.c.id).limit(limit + 1)).mappings()
    items = [Item(**row) for row in rows]
    last = items[limit - 1] if len(items) > limit else None
    return items[:limit], Position(last.kind, last.id) if last else None


def everything(tx: Connection, account_id: UUID) -> list[Item]:
    """All that is set aside in an account. Raises NotFoundError where there is no such account."""
    accounts.require(tx, account_id, seen_by=None)
    found = _all(account_id).subquery("found")
    return [Item(**row) for row in tx.execute(sa.select(found).order_by(found.c.kind, found.c.id)).mappings()]


def body(tx: Connection, account_id: UUID, item_id: str) -> bytes:
    """The bytes that could not be read. Raises NotFoundError."""
    table = unreadable_orders.c
    digest = bytes.fromhex(item_id) if _SHA256.fullmatch(item_id) else b""
    query = sa.select(table.body).where(table.account_id == account_id, table.sha256 == digest)
    found: bytes | None = tx.execute(query).scalar_one_or_none()
    if found is None:
        raise NotFoundError(f"No bytes with the SHA-256 {item_id} are set aside in this account.")
    return found


def retry(tx: Connection, codec: Codec, account_id: UUID, ids: Sequence[str] | None, *, now: datetime) -> Retried:
    """Owed orders are due now, with five more tries; bytes are read by this program, and archived as of the moment
    they came where it understands them. `ids` None: all. Raises NotFoundError for an id that is not set aside."""
    _require(tx, account_id, ids)
    table = owed_orders.c
    again = {"set_aside_at": None, "failures": 0, "due_at": now, "acknowledged_at": None, "acknowledged_reason": None}
    due = tx.execute(
        sa.update(owed_orders).values(again).where(*_aside(account_id), _named(table.order_id, ids))
    ).rowcount
    rows = _unreadable(tx, account_id, ids)
    understood = sum(_understood(tx, codec, row, now=now) for row in rows)
    if owed.next_at(tx, account_id) is not None:
        state.make_journal_due(tx, account_id)
    return Retried(due, understood, len(rows) - understood)


def acknowledge(tx: Connection, account_id: UUID, ids: Sequence[str] | None, *, reason: str) -> int:
    """A person takes note: these no longer stand between the evidence and a complete certificate; how many those are.

    What was acknowledged before keeps its first reason. Raises NotFoundError for an id that is not set aside, and
    InvalidRequestError without a reason.
    """
    if not reason.strip() or len(reason) > REASON or "\x00" in reason:
        raise InvalidRequestError(f"A reason has 1 to {REASON} characters.")
    _require(tx, account_id, ids)
    values = {"acknowledged_at": sa.func.clock_timestamp(), "acknowledged_reason": reason}
    orders, bytes_ = owed_orders.c, unreadable_orders.c
    debts = sa.update(owed_orders).values(values).where(*_aside(account_id), orders.acknowledged_at.is_(None))
    rows = sa.update(unreadable_orders).values(**values, xid=sa.func.pg_current_xact_id())
    rows = rows.where(bytes_.account_id == account_id, bytes_.acknowledged_at.is_(None))
    noted = tx.execute(debts.where(_named(orders.order_id, ids))).rowcount
    return noted + tx.execute(rows.where(_named(sa.func.encode(bytes_.sha256, "hex"), ids))).rowcount


def unreadable(tx: Connection, account_id: UUID) -> tuple[int, int]:
    """How many bytes are kept that name no order, and how many of these nobody has taken note of."""
    table = unreadable_orders.c
    query = sa.select(sa.func.count(), sa.func.count().filter(table.acknowledged_at.is_(None)))
    row = tx.execute(query.where(table.account_id == account_id)).one()
    return row[0], row[1]


def _all(account_id: UUID) -> "sa.CompoundSelect[Any]":
    orders, bytes_ = owed_orders.c, unreadable_orders.c
    digest = sa.func.encode(bytes_.sha256, "hex").collate("C")
    return sa.union_all(
        sa.select(
            sa.literal("order").label("kind"),
            orders.order_id.label("id"),
            sa.cast(sa.null(), sa.Text).label("sha256"),
            sa.cast(sa.null(), sa.Integer).label("size"),
            orders.set_aside_at.label("first_seen"),
            sa.cast(sa.null(), sa.DateTime(timezone=True)).label("last_seen"),
            orders.failures,
            orders.last_error,
            orders.acknowledged_at,
            orders.acknowledged_reason,
        ).where(*_aside(account_id)),
        sa.select(
            sa.literal("unreadable"),
            digest,
            digest,
            sa.func.length(bytes_.body),
            bytes_.read_at,
            sa.func.coalesce(bytes_.last_read_at, bytes_.read_at),
            bytes_.readings,
            bytes_.last_error,
            bytes_.acknowledged_at,
            bytes_.acknowledged_reason,
        ).where(bytes_.account_id == account_id),
    )


def _require(tx: Connection, account_id: UUID, ids: Sequence[str] | None) -> None:
    accounts.require(tx, account_id, seen_by=None)
    if ids is None:
        return
    found = _all(account_id).subquery("found")
    held = set(tx.execute(sa.select(found.c.id).where(found.c.id.in_(ids))).scalars())
    missing = sorted(set(ids) - held)
    if missing:
        raise NotFoundError(f"Not set aside in this account: {', '.join(missing)[:500]}.")


def _aside(account_id: UUID) -> list[sa.ColumnElement[bool]]:
    return [owed_orders.c.account_id == account_id, owed_orders.c.set_aside_at.is_not(None)]


def _named(column: sa.ColumnElement[Any], ids: Sequence[str] | None) -> sa.ColumnElement[bool]:
    return sa.true() if ids is None else column.in_(ids)


def _unreadable(tx: Connection, account_id: UUID, ids: Sequence[str] | None) -> "Sequence[Row[Any]]":
    table = unreadable_orders.c
    named = _named(sa.func.encode(table.sha256, "hex"), ids)
    query = sa.select(unreadable_orders).where(table.account_id == account_id, named)
    return tx.execute(query.order_by(table.read_at, table.sha256)).all()


def _understood(tx: Connection, codec: Codec, row: "Row[Any]", *, now: datetime) -> bool:
    """Whether this program reads these bytes: then they are a version of their order, and no longer here."""
    reading = _read(row)
    if reading is not None:
        archive.record(tx, codec, row.account_id, [reading], cause="set_aside")
        table = unreadable_orders.c
        tx.execute(sa.delete(unreadable_orders).where(table.account_id == row.account_id, table.sha256 == row.sha256))
        return True
    named = _ID_IN_A_PAGE.match(row.body)
    if named:
        debt = Debt(named[1].decode(), None, False, [])
        owed.owe(tx, row.account_id, [debt], cause="set_aside", now=now)
    return False


def _read(row: "Row[Any]") -> Reading | None:
    """The order that the bytes are, or the one order of the page that they are."""
    found = changes.read(row.read_at, row.body)
    if isinstance(found, Reading):
        return found
    try:
        orders, _ = wire.order_page(row.body)
    except AllegroAnswerError:
        return None
    found = changes.read(row.read_at, orders[0]) if len(orders) == 1 else found
    return found if isinstance(found, Reading) else None
