"""The SQL of what is due and how far we are: syncs and runs. Decides nothing; commits nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from orders_backup import due
from orders_backup.due import Lease
from orders_backup.errors import ConflictError, LeaseLostError, NotFoundError
from orders_backup.orders.archive import Recorded
from orders_backup.sync import evidence
from orders_backup.sync.plan import Window
from orders_backup.tables import accounts, sync_history, syncs

LISTING_KINDS = ("backfill", "full", "reconcile")
RUN_KINDS = {"journal": ("incremental",), "listing": LISTING_KINDS, "sweep": ("sweep",), "extras": ()}
"""Which kinds of run each standing job works on."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claimed sync with what its account wants. `interval`: the account's own for full syncs."""

    lease: Lease
    cursor: str | None
    followed_at: datetime | None
    interval: timedelta


# The standing jobs of an account


def wake(tx: Connection) -> None:
    """Makes the syncs of every account that may be synced and whose syncs sleep due now: new, reconnected, resumed."""
    tx.execute(_WAKE)
    tx.execute(_HASTEN)


_HASTEN = sa.text("""
    UPDATE syncs s
       SET due_at = t.ended_at + make_interval(secs => a.sync_interval_seconds)
      FROM accounts a CROSS JOIN LATERAL (
               SELECT max(h.finished_at) AS ended_at FROM sync_history h
                WHERE h.account_id = a.id AND h.kind IN ('backfill', 'full', 'reconcile')
           ) t
     WHERE a.id = s.account_id AND s.kind = 'listing' AND a.sync_interval_seconds IS NOT NULL AND s.failures = 0
       AND s.due_at > s.succeeded_at + make_interval(secs => a.sync_interval_seconds + 1)
       AND s.due_at > t.ended_at + make_interval(secs => a.sync_interval_seconds + 1)
""")
"""An interval that was made shorter counts from the last full sync, not from the end of the old interval; one that
could not prove everything counts too, or it would be tried again without end."""

_WAKE = sa.text("""
    INSERT INTO syncs (account_id, kind, due_at)
    SELECT a.id, k.kind, clock_timestamp()
      FROM accounts a CROSS JOIN (VALUES ('journal'), ('listing'), ('sweep'), ('extras')) AS k (kind)
      LEFT JOIN syncs s ON s.account_id = a.id AND s.kind = k.kind
     WHERE a.status = 'active' AND NOT a.paused AND s.due_at IS NULL AND (k.kind <> 'extras' OR a.extras <> '{}')
        ON CONFLICT (account_id, kind) DO UPDATE SET due_at = excluded.due_at, rung_at = NULL, failures = 0
""")


def claim(tx: Connection, account_id: UUID, kind: str, *, lease: timedelta, interval: timedelta) -> Claimed | None:
    """Claims a sync of an account that may be synced; one that may not goes to sleep. None: nothing to do here."""
    claimed = due.claim(tx, syncs, {"account_id": account_id, "kind": kind}, lease=lease)
    if claimed is None:
        return None
    account = tx.execute(sa.select(accounts).where(accounts.c.id == account_id)).one()
    if account.status != "active" or account.paused:
        due.settle(tx, claimed, due_at=None)
        return None
    own = account.sync_interval_seconds
    sync = _sync(tx, account_id, kind)
    return Claimed(claimed, sync.cursor, sync.succeeded_at, timedelta(seconds=own) if own else interval)


def move_cursor(tx: Connection, lease: Lease, *, seen: str | None, cursor: str) -> None:
    """Advances the journal's cursor if nobody else did. Raises LeaseLostError."""
    statement = (
        sa.update(syncs)
        .values(cursor=cursor)
        .where(
            syncs.c.account_id == lease.key["account_id"],
            syncs.c.kind == "journal",
            syncs.c.cursor.is_not_distinct_from(seen),
        )
    )
    if tx.execute(statement).rowcount != 1:
        raise LeaseLostError("Another worker moved the cursor.")


def pin_cursor(tx: Connection, account_id: UUID, cursor: str) -> None:
    """Sets the journal's cursor where it has none yet."""
    row = {"account_id": account_id, "kind": "journal", "cursor": cursor}
    statement = insert(syncs).values(row)
    pinned = {"cursor": sa.func.coalesce(syncs.c.cursor, cursor)}
    tx.execute(statement.on_conflict_do_update(index_elements=["account_id", "kind"], set_=pinned))


def journal_cursor(tx: Connection, account_id: UUID) -> str | None:
    """The journal's cursor; None where it was never pinned."""
    query = sa.select(syncs.c.cursor).where(syncs.c.account_id == account_id, syncs.c.kind == "journal")
    return tx.execute(query).scalar_one_or_none()


def followed_at(tx: Connection, account_id: UUID) -> datetime | None:
    """When the journal was last read to its end; None where it never was."""
    query = sa.select(syncs.c.succeeded_at).where(syncs.c.account_id == account_id, syncs.c.kind == "journal")
    return tx.execute(query).scalar_one_or_none()


def make_journal_due(tx: Connection, account_id: UUID) -> None:
    """Debts are paid by the journal's job: it is due now."""
    due.make_due(tx, syncs, {"account_id": account_id, "kind": "journal"})


def _sync(tx: Connection, account_id: UUID, kind: str) -> "Row[Any]":
    return tx.execute(sa.select(syncs).where(syncs.c.account_id == account_id, syncs.c.kind == kind)).one()


# Runs


def request(
    tx: Connection, account_id: UUID, kind: str, *, range_from: datetime | None = None, range_to: datetime | None = None
) -> UUID:
    """Queues a run and makes it due now; asking for the same again while it waits gives the same run.

    Raises NotFoundError, and ConflictError where the account cannot be synced.
    """
    locked = sa.select(accounts).where(accounts.c.id == account_id).with_for_update(key_share=True)
    account = tx.execute(locked).one_or_none()
    if account is None:
        raise NotFoundError("There is no such account.")
    if account.status != "active" or account.paused:
        state = "paused" if account.paused else account.status
        raise ConflictError(f"This account is {state}; only an active account can be synced.")
    waiting = _queued(tx, account_id, kind, range_from, range_to)
    run_id = waiting or open_run(tx, account_id, kind, range_from=range_from, range_to=range_to)
    job = "journal" if kind == "incremental" else "listing"
    due.make_due(tx, syncs, {"account_id": account_id, "kind": job})
    return run_id


def reconcile_soon(tx: Connection, account_id: UUID) -> None:
    """Every order has to be listed from now on: a reconcile waits, and the listing is due. One that is running may
    have passed what is meant, and is not enough."""
    if _queued(tx, account_id, "reconcile", None, None) is None:
        open_run(tx, account_id, "reconcile")
    due.make_due(tx, syncs, {"account_id": account_id, "kind": "listing"})


def was_asked_for(tx: Connection, account_id: UUID, kind: str, *, since: datetime) -> bool:
    """Whether a run over everything was asked for since then, be it over by now or not."""
    table = sync_history.c
    query = sa.select(table.id).where(
        table.account_id == account_id, table.kind == kind, table.requested_at > since, table.range_from.is_(None)
    )
    return bool(tx.execute(sa.select(query.exists())).scalar_one())


def _queued(
    tx: Connection, account_id: UUID, kind: str, range_from: datetime | None, range_to: datetime | None
) -> UUID | None:
    table = sync_history.c
    query = sa.select(table.id).where(
        table.account_id == account_id,
        table.kind == kind,
        table.status == "queued",
        table.range_from.is_not_distinct_from(range_from),
        table.range_to.is_not_distinct_from(range_to),
    )
    return tx.execute(query.limit(1)).scalar_one_or_none()


def open_run(
    tx: Connection, account_id: UUID, kind: str, *, range_from: datetime | None = None, range_to: datetime | None = None
) -> UUID:
    """A new run, queued."""
    run_id = uuid4()
    row = {"id": run_id, "account_id": account_id, "kind": kind, "status": "queued"}
    tx.execute(sa.insert(sync_history).values(**row, range_from=range_from, range_to=range_to))
    return run_id


def unfinished(tx: Connection, account_id: UUID, kinds: Iterable[str]) -> "Row[Any] | None":
    """The run to work on: one that has begun before any that waits, then the oldest."""
    table = sync_history.c
    query = (
        sa.select(sync_history)
        .where(table.account_id == account_id, table.kind.in_(list(kinds)), table.finished_at.is_(None))
        .order_by(table.started_at.asc().nulls_last(), table.requested_at)
        .limit(1)
    )
    return tx.execute(query).one_or_none()


def run(tx: Connection, run_id: UUID) -> "Row[Any]":
    """A run by its id."""
    return tx.execute(sa.select(sync_history).where(sync_history.c.id == run_id)).one()


def has_finished(tx: Connection, account_id: UUID, kind: str) -> bool:
    """Whether a run of this kind ever came to its end, proven or not."""
    table = sync_history.c
    ended = table.finished_at.is_not(None)
    query = sa.select(table.id).where(table.account_id == account_id, table.kind == kind, ended)
    return tx.execute(query.limit(1)).one_or_none() is not None


def has_succeeded(tx: Connection, account_id: UUID, kind: str) -> bool:
    """Whether a run of this kind ever proved all it looked at."""
    table = sync_history.c
    query = sa.select(table.id).where(table.account_id == account_id, table.kind == kind, table.status == "succeeded")
    return tx.execute(query.limit(1)).one_or_none() is not None


def last_finished(tx: Connection, account_id: UUID, kind: str) -> UUID | None:
    """The run of this kind that ended last."""
    table = sync_history.c
    query = sa.select(table.id).where(
        table.account_id == account_id, table.kind == kind, table.finished_at.is_not(None)
    )
    return tx.execute(query.order_by(table.finished_at.desc()).limit(1)).scalar_one_or_none()


def failed_in_a_row(tx: Connection, account_id: UUID, kinds: Iterable[str]) -> int:
    """How many runs of these kinds have failed since the last one that succeeded."""
    table = sync_history.c
    mine = (table.account_id == account_id) & table.kind.in_(list(kinds))
    last = sa.select(sa.func.max(table.finished_at)).where(mine, table.status == "succeeded").scalar_subquery()
    since = sa.func.coalesce(last, sa.text("'-infinity'::timestamptz"))
    query = sa.select(sa.func.count()).where(mine, table.status == "failed", table.finished_at > since)
    return tx.execute(query).scalar_one()


def began(tx: Connection, account_id: UUID, kind: str) -> datetime | None:
    """When the newest run of this kind over everything that ended was begun; None where there is none."""
    table = sync_history.c
    query = sa.select(table.started_at).where(table.account_id == account_id, table.kind == kind)
    query = query.where(table.finished_at.is_not(None), table.range_from.is_(None))
    query = query.order_by(table.requested_at.desc()).limit(1)
    found: datetime | None = tx.execute(query).scalar_one_or_none()
    return found


def certified(tx: Connection, account_id: UUID) -> tuple[datetime | None, datetime | None]:
    """When a run that lists the whole year order by order last succeeded, and when one of the whole year last ended.

    A backfill of several runs counts when the last of them has proven what the others could not.
    """
    table = sync_history.c
    succeeded = sa.func.max(table.finished_at).filter(table.status == "succeeded")
    tried = sa.func.max(table.finished_at).filter(table.range_from.is_(None))
    query = sa.select(succeeded, tried).where(
        table.account_id == account_id,
        table.kind.in_(("backfill", "reconcile")),
        sa.or_(table.kind == "backfill", table.range_from.is_(None) & table.range_to.is_(None)),
    )
    row = tx.execute(query).one()
    return row[0], row[1]


def has_swept(tx: Connection, account_id: UUID, *, from_before: datetime, since: datetime) -> bool:
    """Whether a sweep that began since then compared purchases from before this moment, and succeeded."""
    table = sync_history.c
    query = sa.select(table.id).where(
        table.account_id == account_id,
        table.requested_at >= since,
        table.kind == "sweep",
        table.status == "succeeded",
        table.range_from < from_before - timedelta(days=1),
    )
    return tx.execute(query.limit(1)).one_or_none() is not None


def begin_run(tx: Connection, run_id: UUID, windows: Sequence[Window], *, account_id: UUID, now: datetime) -> None:
    """From queued to running, with the windows it has to prove."""
    table = sync_history.c
    tx.execute(sa.update(sync_history).values(status="running", started_at=now).where(table.id == run_id))
    evidence.add_windows(tx, run_id, windows, account_id=account_id, depth=0)


def count(tx: Connection, run_id: UUID, recorded: Recorded, *, listed: int, gone: int = 0) -> None:
    """Adds to a run what one transaction stored of the `listed` orders that arrived, or were asked for and are gone;
    the table refuses counts that do not add up."""
    _add(
        tx,
        run_id,
        listed=listed,
        inserted=recorded.inserted,
        updated=recorded.updated,
        unchanged=recorded.unchanged,
        set_aside=recorded.set_aside,
        gone=gone,
    )


def count_events(tx: Connection, run_id: UUID, events: int) -> None:
    """Adds the events of the journal that were new."""
    _add(tx, run_id, events=events)


def count_calls(tx: Connection, run_id: UUID, calls: int) -> None:
    """Adds the requests that a slice of the run has sent."""
    _add(tx, run_id, calls=calls)


def expect(tx: Connection, run_id: UUID, total: int) -> None:
    """Adds to what Allegro says there is."""
    table = sync_history.c
    expected = sa.func.coalesce(table.expected, 0) + total
    tx.execute(sa.update(sync_history).values(expected=expected).where(table.id == run_id))


def finish_run(tx: Connection, run_id: UUID, *, error: str | None, now: datetime) -> None:
    """The run is over; `error` tells why it proved nothing."""
    values = {"status": "failed" if error else "succeeded", "error": error, "finished_at": now}
    tx.execute(sa.update(sync_history).values(values).where(sync_history.c.id == run_id))


def _add(tx: Connection, run_id: UUID, **amounts: int) -> None:
    table = sync_history.c
    values = {name: table[name] + amount for name, amount in amounts.items() if amount}
    if values:
        tx.execute(sa.update(sync_history).values(values).where(table.id == run_id))
