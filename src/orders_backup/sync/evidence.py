"""The SQL of windows: what was asked of Allegro's list and what was found in each. Decides nothing; commits nothing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from orders_backup.allegro import client
from orders_backup.orders.archive import Recorded
from orders_backup.sync.plan import Window
from orders_backup.tables import sync_windows


def add_windows(
    tx: Connection, run_id: UUID, windows: Sequence[Window], *, account_id: UUID, depth: int, **found: Any
) -> None:
    """Windows to be proven by a run; `found`: what is known of each of them beforehand."""
    rows = [
        {
            "account_id": account_id,
            "run_id": run_id,
            "window_from": window.since,
            "window_to": window.until,
            "fulfillment": ",".join(window.fulfillment),
            "method": window.method,
            "depth": depth,
            "page_size": client.LIST_LIMIT,
            **found,
        }
        for window in windows
    ]
    if rows:
        tx.execute(insert(sync_windows).values(rows).on_conflict_do_nothing())


def next_window(tx: Connection, account_id: UUID, run_id: UUID) -> "Row[Any] | None":
    """The open window of the run to go on with: one that is being listed, then the newest one not yet asked about.

    Last come those whose counts differ, where Allegro has most first: listing these often settles the others,
    because an order that is in one status too few is in another too many.
    """
    table = sync_windows.c
    is_begun = sa.and_(table.method == "ids", table.started_at.is_not(None))
    differs = sa.and_(table.method == "count", table.total_count.is_not(None))
    surplus = sa.case((differs, table.total_count - sa.func.coalesce(table.stored, table.total_count)), else_=0)
    query = sa.select(sync_windows).where(
        table.account_id == account_id, table.run_id == run_id, table.status == "open"
    )
    order = (is_begun.desc(), differs, surplus.desc(), table.window_to.desc(), table.fulfillment)
    return tx.execute(query.order_by(*order).limit(1)).one_or_none()


def again(tx: Connection, window: "Row[Any]") -> "Row[Any]":
    """The window as it is now."""
    return tx.execute(sa.select(sync_windows).where(*_is(window))).one()


def windows(tx: Connection, account_id: UUID, run_id: UUID) -> "Sequence[Row[Any]]":
    """The run's windows that stand for themselves, newest first; those that were split are left out."""
    table = sync_windows.c
    query = sa.select(sync_windows).where(
        table.account_id == account_id, table.run_id == run_id, table.status != "split"
    )
    return tx.execute(query.order_by(table.window_to.desc())).all()


def caught(tx: Connection, window: "Row[Any]", recorded: Recorded, *, unplaced: int) -> None:
    """Adds to a window what a page brought that the archive did not have, and the rows that cannot be placed in it."""
    table = sync_windows.c
    values = {
        "set_aside": table.set_aside + unplaced,
        "found_missing": table.found_missing + recorded.inserted,
        "found_changed": table.found_changed + recorded.updated,
    }
    update_window(tx, window, **values)


def fingerprint_with(order_ids: Sequence[str]) -> "sa.ColumnElement[Any]":
    """The window's fingerprint, and these ids added to it."""
    ids = sa.func.unnest(sa.literal(list(order_ids), pg.ARRAY(sa.Text))).column_valued("id")
    hashes = sa.func.sum(sa.cast(sa.func.hashtextextended(ids, 0), sa.Numeric))
    return sync_windows.c.fingerprint + sa.select(sa.func.coalesce(hashes, 0)).scalar_subquery()


def update_window(tx: Connection, window: "Row[Any]", **values: Any) -> None:
    """Writes what was found in a window."""
    tx.execute(sa.update(sync_windows).values(values).where(*_is(window)))


def stored_in(tx: Connection, window: "Row[Any]") -> "Row[Any]":
    """Our orders bought in the window: `present` (not known gone), `listed` (seen since the window was begun) with the
    `fingerprint` of their ids, `superseded` (gone from Allegro)."""
    query = sa.text(f"""
        SELECT count(*) FILTER (WHERE gone_at IS NULL) AS present,
               count(*) FILTER (WHERE gone_at IS NULL AND read_at >= :started) AS listed,
               coalesce(sum(hashtextextended(order_id, 0)::numeric)
                        FILTER (WHERE gone_at IS NULL AND read_at >= :started), 0) AS fingerprint,
               count(*) FILTER (WHERE gone_at IS NOT NULL) AS superseded
          FROM orders
         WHERE {_OURS}
    """)
    return tx.execute(query, _window_of(window)).one()


def middle_of(tx: Connection, window: "Row[Any]", *, present: int) -> datetime | None:
    """The purchase time that halves our orders of the window; None where it holds fewer than two."""
    query = sa.text(f"""
        SELECT ordered_at FROM orders WHERE {_OURS} AND gone_at IS NULL ORDER BY ordered_at OFFSET :half LIMIT 1
    """)
    found: datetime | None = tx.execute(query, {**_window_of(window), "half": present // 2}).scalar_one_or_none()
    return found


def owe_unlisted(tx: Connection, window: "Row[Any]", *, cause: str, now: datetime) -> int:
    """Orders of ours that Allegro did not list in this window have to be read; how many were not owed before."""
    query = sa.text(f"""
        INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at)
        SELECT account_id, order_id, :cause, :now, :now
          FROM orders
         WHERE {_OURS} AND gone_at IS NULL AND read_at < :started
            ON CONFLICT (account_id, order_id) DO NOTHING
    """)
    return tx.execute(query, {**_window_of(window), "cause": cause, "now": now}).rowcount


def contradicted(tx: Connection, window: "Row[Any]") -> int:
    """How many of our orders that Allegro did not list in a verified window were read since, by themselves, and are
    not gone: then its list was not whole, whatever it counted."""
    query = sa.text(f"""
        SELECT count(*) FILTER (WHERE stored_at < :checked AND read_at >= :started) FROM orders
         WHERE {_OURS} AND gone_at IS NULL
    """)
    present = tx.execute(query, {**_window_of(window), "checked": window.checked_at}).scalar_one()
    return max(int(present) - int(window.stored or 0), 0)


def held(tx: Connection, account_id: UUID, *, since: datetime, statuses: Sequence[str]) -> int:
    """How many of our orders bought since then are in one of these fulfilment statuses."""
    query = sa.text("""
        SELECT count(*) FROM orders
         WHERE account_id = :account AND ordered_at >= :since AND gone_at IS NULL
           AND fulfillment_status = ANY (CAST(:statuses AS text[]))
    """)
    return int(tx.execute(query, {"account": account_id, "since": since, "statuses": list(statuses)}).scalar_one())


def held_since(tx: Connection, account_id: UUID, moment: datetime) -> int:
    """How many of our orders have this `updatedAt` or a younger one."""
    query = sa.text("""
        SELECT count(*) FROM orders WHERE account_id = :account AND updated_at >= :moment AND gone_at IS NULL
    """)
    return int(tx.execute(query, {"account": account_id, "moment": moment}).scalar_one())


def statuses_held(tx: Connection, account_id: UUID, *, since: datetime, until: datetime) -> list[str]:
    """The fulfilment statuses that our orders bought in this time are in."""
    query = sa.text("""
        SELECT DISTINCT fulfillment_status FROM orders
         WHERE account_id = :account AND ordered_at >= :since AND ordered_at < :until
           AND gone_at IS NULL AND fulfillment_status IS NOT NULL
    """)
    values = {"account": account_id, "since": since, "until": until}
    return list(tx.execute(query, values).scalars())


_OURS = """account_id = :account AND ordered_at >= :since AND ordered_at < :until
           AND (:fulfillment = '' OR fulfillment_status = ANY (string_to_array(:fulfillment, ',')))"""


def _is(window: "Row[Any]") -> list[sa.ColumnElement[bool]]:
    return [column == getattr(window, column.name) for column in sync_windows.primary_key.columns]


def _window_of(window: "Row[Any]") -> dict[str, Any]:
    return {
        "account": window.account_id,
        "since": window.window_from,
        "until": window.window_to,
        "started": window.started_at,
        "fulfillment": window.fulfillment,
    }
