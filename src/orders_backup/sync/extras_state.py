"""The SQL of the extras job: which kinds are wanted, how far lists are, which orders are due. Commits nothing."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from orders_backup.sync import extras_plan
from orders_backup.sync.extras_plan import Order
from orders_backup.tables import accounts, extra_kinds, order_extras, syncs


@dataclass(frozen=True, slots=True)
class Known:
    """An order and what is known of one kind of it. `document_id` None: it was never scheduled."""

    kind: str
    order_id: str
    order: Order
    document_id: str | None
    read_at: datetime | None
    found: bool
    failures: int


def kinds(tx: Connection, account_id: UUID) -> tuple[set[str], set[str]]:
    """What the account wants kept, and those of it that rest at present."""
    wanted = tx.execute(sa.select(accounts.c.extras).where(accounts.c.id == account_id)).scalar_one()
    table = extra_kinds.c
    off = sa.select(table.kind).where(table.account_id == account_id, table.off_until > sa.func.clock_timestamp())
    return set(wanted), set(tx.execute(off).scalars())


def followed_to(tx: Connection, account_id: UUID, bookmark: str) -> None:
    """How far our change feed was followed."""
    mine = (syncs.c.account_id == account_id) & (syncs.c.kind == "extras")
    tx.execute(sa.update(syncs).values(cursor=bookmark).where(mine))


def rest(tx: Connection, account_id: UUID, kind: str, *, until: datetime, reason: str) -> None:
    """This kind is not asked for until then; the reason shows on the account."""
    _put(tx, account_id, kind, off_until=until, reason=reason)


def listing(tx: Connection, account_id: UUID, kind: str) -> "Row[Any]":
    """How far the lists of this kind are."""
    tx.execute(insert(extra_kinds).values(account_id=account_id, kind=kind).on_conflict_do_nothing())
    table = extra_kinds.c
    return tx.execute(sa.select(extra_kinds).where(table.account_id == account_id, table.kind == kind)).one()


def begin_listing(tx: Connection, account_id: UUID, kind: str, *, span: str, since: datetime, until: datetime) -> None:
    """From the first page; its end stays where it is, however long that takes."""
    _put(tx, account_id, kind, span=span, since=since, until=until, next_offset=0)


def go_on_at(tx: Connection, account_id: UUID, kind: str, offset: int) -> None:
    """The pages before this offset are stored."""
    _put(tx, account_id, kind, next_offset=offset)


def finish_listing(tx: Connection, row: "Row[Any]") -> None:
    """The span was listed to its end, and with it every narrower one."""
    done = {f"{name}_at": row.until for name in extras_plan.covered(row.span)}
    _put(tx, row.account_id, row.kind, span=None, since=None, until=None, next_offset=0, **done)


def listed_at(row: "Row[Any]") -> dict[str, datetime | None]:
    """Up to when each span was last listed to its end."""
    return {span.name: getattr(row, f"{span.name}_at") for span in extras_plan.SPANS}


def known(tx: Connection, account_id: UUID, order_ids: Collection[str], kinds: Collection[str]) -> list[Known]:
    """These orders with what is known of each of these kinds; orders that the archive does not hold are left out."""
    query = sa.text(f"""
        SELECT {_KNOWN}
          FROM orders o
         CROSS JOIN unnest(CAST(:kinds AS text[])) AS k (kind)
          LEFT JOIN order_extras e ON e.account_id = o.account_id AND e.kind = k.kind AND e.document_id = o.order_id
         WHERE o.account_id = :account AND o.order_id = ANY (:ids)
    """)
    rows = tx.execute(query, {"account": account_id, "ids": list(order_ids), "kinds": list(kinds)})
    return [_known(row) for row in rows]


def due(tx: Connection, account_id: UUID, kinds: Collection[str], *, now: datetime, limit: int) -> list[Known]:
    """Orders that have to be looked at now; what fell due last comes first."""
    query = sa.text(f"""
        SELECT {_KNOWN}
          FROM order_extras e JOIN orders o ON o.account_id = e.account_id AND o.order_id = e.document_id
         CROSS JOIN LATERAL (SELECT e.kind) AS k
         WHERE e.account_id = :account AND e.due_at <= :now AND e.kind = ANY (:kinds)
         ORDER BY e.due_at DESC LIMIT :limit
    """)
    rows = tx.execute(query, {"account": account_id, "now": now, "kinds": list(kinds), "limit": limit})
    return [_known(row) for row in rows]


def next_due_at(tx: Connection, account_id: UUID, kinds: Collection[str]) -> datetime | None:
    """When the next order has to be looked at; None: none is waiting."""
    table = order_extras.c
    query = sa.select(sa.func.min(table.due_at)).where(
        table.account_id == account_id, table.kind.in_(list(kinds)), table.due_at.is_not(None)
    )
    found: datetime | None = tx.execute(query).scalar_one()
    return found


_KNOWN = """
    k.kind, o.order_id, coalesce(o.ordered_at, o.stored_at) AS ordered_at, o.status, o.fulfillment_status,
    o.gone_at IS NOT NULL AS is_gone, e.document_id, e.read_at, coalesce(e.found, false) AS found,
    coalesce(e.failures, 0) AS failures
"""


def _known(row: "Row[Any]") -> Known:
    order = Order(row.ordered_at, row.status, row.fulfillment_status, row.is_gone)
    return Known(row.kind, row.order_id, order, row.document_id, row.read_at, row.found, row.failures)


def _put(tx: Connection, account_id: UUID, kind: str, **values: Any) -> None:
    statement = insert(extra_kinds).values(account_id=account_id, kind=kind, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["account_id", "kind"], set_=values))
