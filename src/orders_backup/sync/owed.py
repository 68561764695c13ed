"""The SQL of debts: the orders that have to be read. Decides nothing; commits nothing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from orders_backup.sync import plan
from orders_backup.sync.plan import Debt, Ranked
from orders_backup.tables import owed_orders


def owe(tx: Connection, account_id: UUID, debts: Sequence[Debt], *, cause: str, now: datetime) -> None:
    """These orders have to be read; what was set aside gets another chance by a new event."""
    if not debts:
        return
    rows = [
        {
            "account_id": account_id,
            "order_id": debt.order_id,
            "cause": cause,
            "owed_at": now,
            "occurred_at": debt.occurred_at,
            "moves_updated_at": debt.moves_updated_at,
            "line_item_ids": debt.line_item_ids,
            "due_at": now,
        }
        for debt in {debt.order_id: debt for debt in debts}.values()
    ]
    statement = insert(owed_orders).values(rows)
    new = statement.excluded
    earliest = sa.func.least(owed_orders.c.occurred_at, new.occurred_at)
    changed = {
        "owed_at": new.owed_at,
        "occurred_at": earliest,
        "moves_updated_at": sa.or_(owed_orders.c.moves_updated_at, new.moves_updated_at),
        "due_at": new.due_at,
        "failures": 0,
        "set_aside_at": None,
        "acknowledged_at": None,
    }
    tx.execute(statement.on_conflict_do_update(index_elements=["account_id", "order_id"], set_=changed))


def payable(tx: Connection, account_id: UUID, *, now: datetime, limit: int = 20_000) -> "Sequence[Row[Any]]":
    """Debts that may be paid now; those that failed before come last."""
    table = owed_orders.c
    query = sa.select(owed_orders).where(
        table.account_id == account_id, table.due_at <= now, table.set_aside_at.is_(None)
    )
    return tx.execute(query.order_by(table.due_at, table.order_id).limit(limit)).all()


def next_at(tx: Connection, account_id: UUID) -> datetime | None:
    """When the next debt may be paid; None where there is none."""
    table = owed_orders.c
    query = sa.select(sa.func.min(table.due_at)).where(table.account_id == account_id, table.set_aside_at.is_(None))
    found: datetime | None = tx.execute(query).scalar_one()
    return found


def failing(tx: Connection, account_id: UUID) -> int:
    """How many debts were tried in vain and will be tried again."""
    table = owed_orders.c
    query = sa.select(sa.func.count()).where(
        table.account_id == account_id, table.last_error.is_not(None), table.set_aside_at.is_(None)
    )
    return tx.execute(query).scalar_one()


def paid(tx: Connection, account_id: UUID, order_ids: Sequence[str], *, sent_at: datetime) -> list[str]:
    """Strikes the debts that a reading requested at `sent_at` pays, and says which."""
    table = owed_orders.c
    read = sa.any_(sa.literal(list(order_ids), pg.ARRAY(sa.Text)))
    statement = (
        sa.delete(owed_orders)
        .where(table.account_id == account_id, table.order_id == read, table.owed_at <= sent_at)
        .returning(table.order_id)
    )
    return list(tx.execute(statement).scalars())


def unpaid(tx: Connection, debt: "Row[Any]", *, error: str, counts: bool, now: datetime) -> bool:
    """An order could not be read. `counts`: others could, so it is the order's own failure; the fifth sets it aside.

    True where this one did.
    """
    failures: int = debt.failures + (1 if counts else 0)
    aside = failures >= plan.GIVE_UP_AFTER
    table = owed_orders.c
    tx.execute(
        sa.update(owed_orders)
        .values(
            failures=failures,
            last_error=error,
            due_at=now + plan.backoff(failures),
            set_aside_at=now if aside else None,
        )
        .where(table.account_id == debt.account_id, table.order_id == debt.order_id, table.owed_at == debt.owed_at)
    )
    return aside


def ranked(tx: Connection, account_id: UUID, order_ids: Sequence[str]) -> list[Ranked]:
    """Where owed orders stand among all orders of the account by purchase time; unknown orders are left out."""
    query = sa.text("""
        WITH wanted AS (
            SELECT order_id, ordered_at FROM orders
             WHERE account_id = :account AND order_id = ANY (:ids) AND ordered_at IS NOT NULL
        ), placed AS (
            SELECT order_id, ordered_at, row_number() OVER (ORDER BY ordered_at, order_id) AS rank
              FROM orders
             WHERE account_id = :account AND gone_at IS NULL
               AND ordered_at BETWEEN (SELECT min(ordered_at) FROM wanted) AND (SELECT max(ordered_at) FROM wanted)
        )
        SELECT placed.* FROM placed JOIN wanted USING (order_id)
    """)
    rows = tx.execute(query, {"account": account_id, "ids": list(order_ids)})
    return [Ranked(row.order_id, row.ordered_at, row.rank) for row in rows]
