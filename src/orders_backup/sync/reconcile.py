"""The proof: which windows a reconcile reads, and the completeness certificate made of what was found in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from orders_backup import db as database
from orders_backup.errors import NotFoundError
from orders_backup.sync import discoveries, evidence, plan, proof, set_aside, state
from orders_backup.sync.discoveries import Discovery
from orders_backup.sync.plan import Window
from orders_backup.sync.proof import Evidence, Proven
from orders_backup.tables import accounts, orders, owed_orders, sync_history

COVERING = ("backfill", "full", "reconcile")
DISCOVERIES_OF = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proven of an account, and what is not: `complete` only where `open_questions` is empty.

    `checked_at`: when the newest run over everything ended; `ids_checked_at`: when the whole year was last compared
    order by order; `followed_at`: when the journal was last read to its end. `by_count`: how many of the windows were
    compared by their number of orders alone. `discoveries`: what each net caught in the last 30 days.
    """

    account_id: UUID
    complete: bool
    open_questions: list[str]
    run_id: UUID | None
    kind: str | None
    checked_at: datetime | None
    ids_checked_at: datetime | None
    followed_at: datetime | None
    covers_from: datetime | None
    covers_to: datetime | None
    by_count: int
    listed: int
    stored: int
    missing: int
    superseded: int
    explained: int
    set_aside: int
    unreadable: int
    acknowledged: int
    owed: int
    contradicted: int
    orders: int
    versions: int
    windows: list[Proven]
    discoveries: list[Discovery]


def windows(range_from: datetime | None, range_to: datetime | None, *, now: datetime) -> list[Window]:
    """Every order of the range, or of the twelve months Allegro guarantees, month by month, newest first."""
    until = min(range_to or now, now - plan.SETTLED)
    since = max(range_from or now - plan.REACH, plan.BEGINNING)
    return plan.months(since, until) if since < until else []


def certificate(tx: Connection, account_id: UUID) -> Certificate:
    """The evidence of the newest finished run over the whole reach of Allegro's list. Raises NotFoundError."""
    account = tx.execute(sa.select(accounts).where(accounts.c.id == account_id)).one_or_none()
    if account is None:
        raise NotFoundError("There is no such account.")
    run = _newest_run(tx, account_id)
    rows = evidence.windows(tx, account_id, run.id) if run is not None else []
    found = _evidence(tx, account, run, rows)
    questions = proof.questions(found)
    kept = tx.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(orders.c.versions), 0)).where(
            orders.c.account_id == account_id
        )
    ).one()
    proven = list(found.windows)
    return Certificate(
        account_id=account_id,
        complete=not questions,
        open_questions=questions,
        run_id=run.id if run else None,
        kind=run.kind if run else None,
        checked_at=found.checked_at,
        ids_checked_at=found.ids_checked_at,
        followed_at=found.followed_at,
        covers_from=min((one.window_from for one in proven), default=None),
        covers_to=max((one.window_to for one in proven), default=None),
        by_count=sum(one.method == "count" for one in proven),
        listed=sum(one.listed or 0 for one in proven),
        stored=sum(one.stored or 0 for one in proven),
        missing=sum(one.missing or 0 for one in proven),
        superseded=sum(one.superseded or 0 for one in proven),
        explained=sum(one.explained for one in proven),
        set_aside=found.set_aside,
        unreadable=found.unreadable,
        acknowledged=found.acknowledged,
        owed=found.owed,
        contradicted=found.contradicted,
        orders=kept[0],
        versions=int(kept[1]),
        windows=proven,
        discoveries=discoveries.since(tx, account_id, (found.now - DISCOVERIES_OF).date()),
    )


def _evidence(tx: Connection, account: "Row[Any]", run: "Row[Any] | None", rows: "Sequence[Row[Any]]") -> Evidence:
    aside, acknowledged, owed = _debts(tx, account.id)
    began_at = state.began(tx, account.id, "backfill")
    within = [one for one in rows if run is not None and plan.is_within_reach(one.window_to, began_at=run.started_at)]
    unreadable, unanswered = set_aside.unreadable(tx, account.id)
    return Evidence(
        now=database.clock(tx),
        status=account.status,
        is_paused=account.paused,
        is_backfilled=began_at is not None,
        began_at=run.started_at if run else None,
        checked_at=run.finished_at if run else None,
        ids_checked_at=state.certified(tx, account.id)[0],
        followed_at=state.followed_at(tx, account.id) or began_at,
        windows=[_proven(row, is_within_reach=row in within) for row in rows],
        owed=owed,
        set_aside=aside,
        unreadable=unreadable,
        acknowledged=acknowledged + unreadable - unanswered,
        contradicted=sum(evidence.contradicted(tx, one) for one in within if one.unlisted),
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


def _proven(row: "Row[Any]", *, is_within_reach: bool) -> Proven:
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
        beyond_reach=0 if is_within_reach else row.unlisted,
        unlisted=row.unlisted if is_within_reach else 0,
        explained=(row.superseded or 0) + (row.set_aside or 0) + (row.unlisted or 0),
        found_missing=row.found_missing,
        found_changed=row.found_changed,
        checked_at=row.checked_at,
        note=row.note,
    )


def _debts(tx: Connection, account_id: UUID) -> tuple[int, int, int]:
    """How many orders are set aside, how many of these somebody acknowledged, and how many are owed."""
    aside, acknowledged = owed_orders.c.set_aside_at.is_not(None), owed_orders.c.acknowledged_at.is_not(None)
    counts = (sa.func.count().filter(one) for one in (aside, sa.and_(aside, acknowledged), ~aside))
    row = tx.execute(sa.select(*counts).where(owed_orders.c.account_id == account_id)).one()
    return row[0], row[1], row[2]
