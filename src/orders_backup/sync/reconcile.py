"""The proof: which windows a reconcile reads, and the completeness certificate made of what was found in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from orders_backup.errors import NotFoundError
from orders_backup.sync import plan, set_aside, state
from orders_backup.sync.plan import Window
from orders_backup.tables import accounts, orders, owed_orders, sync_history, unreadable_orders

COVERING = ("backfill", "full", "reconcile")


@dataclass(frozen=True, slots=True)
class Proven:
    """One window of the certificate. `listed`: Allegro's totalCount; `stored`: ours of these; `missing`: the rest.

    `superseded`: ours whose id Allegro gave up; `beyond_reach`: ours that Allegro no longer lists or guarantees.
    `explained`: these and what is set aside, the differences that have a reason.
    """

    window_from: datetime
    window_to: datetime
    method: str
    status: str
    listed: int | None
    stored: int | None
    missing: int | None
    superseded: int | None
    set_aside: int | None
    beyond_reach: int | None
    explained: int
    found_missing: int
    found_changed: int
    checked_at: datetime | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proven of an account, and what is not: `complete` only where `open_questions` is empty."""

    account_id: UUID
    complete: bool
    open_questions: list[str]
    run_id: UUID | None
    kind: str | None
    checked_at: datetime | None
    covers_from: datetime | None
    covers_to: datetime | None
    listed: int
    stored: int
    missing: int
    superseded: int
    explained: int
    set_aside: int
    unreadable: int
    acknowledged: int
    owed: int
    orders: int
    versions: int
    windows: list[Proven]


def windows(range_from: datetime | None, range_to: datetime | None, *, now: datetime) -> list[Window]:
    """Every order of the range, or of the twelve months Allegro guarantees, month by month, newest first."""
    until = min(range_to or now, now - plan.SETTLED)
    since = max(range_from or now - plan.REACH, plan.BEGINNING)
    return plan.months(since, until) if since < until else []


def certificate(tx: Connection, account_id: UUID) -> Certificate:
    """The evidence of the newest finished run over the whole reach of Allegro's list. Raises NotFoundError."""
    if tx.execute(sa.select(accounts.c.id).where(accounts.c.id == account_id)).one_or_none() is None:
        raise NotFoundError("There is no such account.")
    run = _newest_run(tx, account_id)
    rows = state.windows(tx, account_id, run.id) if run is not None else []
    proven = [_proven(row) for row in rows]
    aside, unanswered, owed = _debts(tx, account_id)
    unanswered += set_aside.open_unreadable(tx, account_id)
    unreadable = tx.execute(
        sa.select(sa.func.count()).select_from(unreadable_orders).where(unreadable_orders.c.account_id == account_id)
    ).scalar_one()
    kept = tx.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(orders.c.versions), 0)).where(
            orders.c.account_id == account_id
        )
    ).one()
    questions = _questions(run, proven, aside=unanswered, owed=owed)
    return Certificate(
        account_id=account_id,
        complete=not questions,
        open_questions=questions,
        run_id=run.id if run else None,
        kind=run.kind if run else None,
        checked_at=run.finished_at if run else None,
        covers_from=min((one.window_from for one in proven), default=None),
        covers_to=max((one.window_to for one in proven), default=None),
        listed=sum(one.listed or 0 for one in proven),
        stored=sum(one.stored or 0 for one in proven),
        missing=sum(one.missing or 0 for one in proven),
        superseded=sum(one.superseded or 0 for one in proven),
        explained=sum(one.explained for one in proven),
        set_aside=aside,
        unreadable=unreadable,
        acknowledged=aside + unreadable - unanswered,
        owed=owed,
        orders=kept[0],
        versions=int(kept[1]),
        windows=proven,
    )


def _newest_run(tx: Connection, account_id: UUID) -> "Row[Any] | None":
    """Runs over a range that somebody chose prove that range only, and are no certificate of the account."""
    table = sync_history.c
    query = sa.select(sync_history).where(
        table.account_id == account_id,
        table.kind.in_(COVERING),
        table.finished_at.is_not(None),
        table.range_from.is_(None),
        table.range_to.is_(None),
    )
    return tx.execute(query.order_by(table.finished_at.desc()).limit(1)).one_or_none()


def _proven(row: "Row[Any]") -> Proven:
    return Proven(
        window_from=row.window_from,
        window_to=row.window_to,
        method=row.method,
        status=row.status,
        listed=row.total_count,
        stored=row.stored,
        missing=row.missing,
        superseded=row.superseded,
        set_aside=row.set_aside,
        beyond_reach=row.unlisted,
        explained=(row.superseded or 0) + (row.set_aside or 0) + (row.unlisted or 0),
        found_missing=row.found_missing,
        found_changed=row.found_changed,
        checked_at=row.checked_at,
        note=row.note,
    )


def _questions(run: "Row[Any] | None", proven: Sequence[Proven], *, aside: int, owed: int) -> list[str]:
    """Everything that stands between the evidence and the word complete."""
    if run is None:
        return ["No run over the whole list has finished yet."]
    found = []
    unproven = sum(one.status not in {"verified", "beyond_reach"} for one in proven)
    if unproven:
        found.append(f"{unproven} windows kept changing while they were read.")
    if owed:
        found.append(f"{owed} orders are named by events or sweeps and not yet read.")
    if aside:
        found.append(f"{aside} orders could not be read and are set aside.")
    return found


def _debts(tx: Connection, account_id: UUID) -> tuple[int, int, int]:
    """How many orders are set aside, how many of these nobody has acknowledged, and how many are owed."""
    aside, unanswered = owed_orders.c.set_aside_at.is_not(None), owed_orders.c.acknowledged_at.is_(None)
    counts = (sa.func.count().filter(one) for one in (aside, sa.and_(aside, unanswered), ~aside))
    row = tx.execute(sa.select(*counts).where(owed_orders.c.account_id == account_id)).one()
    return row[0], row[1], row[2]
