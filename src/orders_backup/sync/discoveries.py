"""The SQL of what each net caught, and of warnings that were logged; inside the transaction of the find."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup import metrics
from orders_backup.orders.archive import Recorded
from orders_backup.orders.changes import Reading, Unreadable
from orders_backup.sync import nets, state
from orders_backup.tables import discoveries


@dataclass(frozen=True, slots=True)
class Discovery:
    """Orders that a net caught and the journal had let through. `last_on`: the day of the newest of them."""

    net: str
    what: str
    orders: int
    last_on: date


def note(tx: Connection, account_id: UUID, *, net: str, what: str, orders: int, now: datetime) -> None:
    """Adds to what a net caught today; nothing for no orders."""
    if orders < 1:
        return
    metrics.DISCOVERIES.labels(net, what).inc(orders)
    row = {"account_id": account_id, "net": net, "what": what, "day": now.date(), "orders": orders}
    statement = insert(discoveries).values(row)
    added = discoveries.c.orders + statement.excluded.orders
    key = ["account_id", "net", "what", "day"]
    tx.execute(statement.on_conflict_do_update(index_elements=key, set_={"orders": added}))


def note_found(
    tx: Connection,
    account_id: UUID,
    readings: Sequence[Reading | Unreadable],
    recorded: Recorded,
    *,
    net: str,
    now: datetime,
) -> None:
    """Adds what a page brought that the archive did not have, and of which the journal should have told."""
    if not recorded.new_ids and not recorded.changed_ids:
        return
    followed_at = state.followed_at(tx, account_id)
    facts = {one.facts.order_id: one.facts for one in readings if isinstance(one, Reading)}
    for what, ids in (("missing", recorded.new_ids), ("changed", recorded.changed_ids)):
        caught = [one for one in set(ids) if nets.is_caught(facts[one].updated_at, followed_at=followed_at)]
        note(tx, account_id, net=net, what=what, orders=len(caught), now=now)


def since(tx: Connection, account_id: UUID, day: date) -> list[Discovery]:
    """What the nets of an account caught from this day on, net by net."""
    table = discoveries.c
    query = (
        sa.select(table.net, table.what, sa.func.sum(table.orders), sa.func.max(table.day))
        .where(table.account_id == account_id, table.day >= day)
        .group_by(table.net, table.what)
        .order_by(table.net, table.what)
    )
    return [Discovery(*row) for row in tx.execute(query)]
