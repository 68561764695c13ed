"""One incremental sync of one account, top to bottom: the journal, then the orders it named."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import metrics
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.allegro.client import EventPage
from orders_backup.allegro.wire import Event
from orders_backup.budget import Priority
from orders_backup.errors import (
    AllegroAnswerError,
    AllegroUnreadableError,
    BudgetExhaustedError,
)
from orders_backup.orders import archive
from orders_backup.runtime import Runtime
from orders_backup.sync import debts, discoveries, owed, plan, polling, state
from orders_backup.sync import job as jobs
from orders_backup.sync.job import Job
from orders_backup.sync.runs import COUNTED

log = structlog.get_logger()

SKIPPED_AFTER = 8
"""Failures in a row, about half an hour: as long an unreadable page of the journal is asked for again."""


def pull(runtime: Runtime, account_id: UUID) -> None:
    """Follows the journal to its end and pays what it owes, if the account's journal is due."""
    jobs.work(runtime, account_id, "journal", priority=Priority.LIVE, body=_pull)


def pin(job: Job) -> None:
    """The cursor from which the journal will be followed: the newest event now, before anything is listed."""
    newest = job.calls.ask(Route.EVENTS, lambda token: client.latest_event_id(job.runtime.allegro, token))
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        state.pin_cursor(tx, job.account_id, plan.later("0", plan.credible([newest or "0"], now=job.now())))


def _pull(job: Job) -> datetime:
    if job.cursor is None:
        pin(job)
        with database.transaction(job.runtime.db) as tx:
            job.cursor = state.journal_cursor(tx, job.account_id)
    try:
        followed = _follow(job)
        paid = _pay(job, followed.run_id)
    finally:
        _count_calls(job)
    if followed.go_on_at is not None or not paid:
        return followed.go_on_at or job.now()
    return _finish(job)


def _finish(job: Job) -> datetime:
    """The journal was read to its end and every debt tried: the run is over, and this is when the next one begins."""
    now = job.now()
    job.values["succeeded_at"] = now
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        next_owed_at = owed.next_at(tx, job.account_id)
        run = state.unfinished(tx, job.account_id, ("incremental",))
        if run is not None and run.status == "running":
            failing = owed.failing(tx, job.account_id)
            error = f"{failing} orders could not be read yet; they stay owed." if failing else None
            state.finish_run(tx, run.id, error=error, now=now)
            ids = {"account_id": str(job.account_id), "run_id": str(run.id)}
            counts = {name: getattr(run, name) for name in ("events", *COUNTED)}
            status = "failed" if failing else "succeeded"
            metrics.SYNCS.labels(run.kind, status).inc()
            log.info("sync_finished", **ids, kind=run.kind, status=status, unproven=failing, **counts)
        next_poll = now + polling.interval(tx, job, now=now)
    return next_poll if next_owed_at is None else max(min(next_poll, next_owed_at), now)


@dataclass(frozen=True, slots=True)
class _Followed:
    """`run_id`: the run that counts this, None while nothing happened; `go_on_at`: None where the end was reached."""

    run_id: UUID | None
    go_on_at: datetime | None


def _follow(job: Job) -> _Followed:
    """Every page of the journal from a little before the cursor: events stored, orders owed, the cursor moved."""
    cursor = job.cursor or "0"
    run_id, after = _begun(job, cursor)
    while job.now() < job.ends_at:
        try:
            page = job.calls.ask(Route.EVENTS, partial(_events, job, after))
        except BudgetExhaustedError as error:
            return _Followed(run_id, error.retry_at)
        except AllegroUnreadableError:
            if job.lease.failures < SKIPPED_AFTER or not _skipped(job):
                raise
            return _Followed(run_id, None)
        job.runtime.codec.prepare(job.runtime.db, [])
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            new = archive.record_events(tx, job.runtime.codec, job.account_id, page.events)
            if new and run_id is None:
                run_id = _opened(tx, job)
            owed.owe(tx, job.account_id, plan.debts(new), cause="event", now=job.now())
            _note_late(tx, job, new, cursor=cursor)
            job.runtime.drift.see("event", job.account_id, ((event.order_id, event.body) for event in new))
            ids = plan.credible((event.event_id for event in page.events), now=job.now())
            newest = plan.later(job.cursor or "0", ids)
            if newest != job.cursor:
                state.move_cursor(tx, job.lease, seen=job.cursor, cursor=newest)
            if run_id is not None:
                state.count_events(tx, run_id, len(new))
        _note_lag(job, new)
        job.cursor = newest
        if len(page.events) < client.EVENTS_LIMIT:
            return _Followed(run_id, None)
        reached = plan.later(ids[-1] if ids else after, [] if new else [newest])
        if reached == after:
            raise AllegroAnswerError("Allegro served the same page of the journal again.")
        after = reached
    return _Followed(run_id, job.now())


def _begun(job: Job, cursor: str) -> tuple[UUID | None, str]:
    """The run that waits for this, if any, and the event after which to read. A gap behind the cursor is noticed."""
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        run_id = _asked_for(tx, job)
        if plan.is_gap(cursor, followed_at=job.followed_at, now=job.now()):
            if not state.was_asked_for(tx, job.account_id, "reconcile", since=job.now() - plan.GAP_LISTED_AGAIN):
                state.reconcile_soon(tx, job.account_id)
            log.warning("journal_gap_detected", account_id=str(job.account_id))
        known = archive.event_before(tx, job.account_id, cursor, count=client.EVENTS_LIMIT // 2)
    return run_id, plan.later(plan.overlapped(cursor), plan.credible([known] if known else [], now=job.now()))


def _skipped(job: Job) -> bool:
    """A page that stays broken inside keeps nothing else waiting: the journal goes on at its newest event, and every
    order is listed for what lay between. False where nothing newer is known."""
    newest = job.calls.ask(Route.EVENTS, partial(client.latest_event_id, job.runtime.allegro))
    cursor = plan.later(job.cursor or "0", plan.credible([newest or "0"], now=job.now()))
    if cursor == job.cursor:
        return False
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        state.move_cursor(tx, job.lease, seen=job.cursor, cursor=cursor)
        state.reconcile_soon(tx, job.account_id)
    log.warning("journal_page_skipped", account_id=str(job.account_id))
    job.cursor = cursor
    return True


def _note_late(tx: Connection, job: Job, new: Sequence[Event], *, cursor: str) -> None:
    """Events that became visible below the cursor: only the overlap met them. The first reading ever has no cursor of
    its own making, and what lies before it is the backfill's."""
    if job.followed_at is not None:
        late = {event.order_id for event in new if event.order_id and plan.later(cursor, [event.event_id]) == cursor}
        discoveries.note(tx, job.account_id, net="overlap", what="changed", orders=len(late), now=job.now())


def _note_lag(job: Job, new: Sequence[Event]) -> None:
    """How old the newest of the events beyond the cursor was when it was stored; older ones came by the overlap."""
    beyond = [event for event in new if plan.later(job.cursor or "0", [event.event_id]) != job.cursor]
    job.new_events += len(beyond)
    moments = [event.occurred_at for event in beyond if event.occurred_at is not None]
    if moments:
        now = job.now()
        job.values["lag_seconds"] = max((now - max(moments)).total_seconds(), 0.0)
        for moment in moments:
            metrics.LAG.observe(max((now - moment).total_seconds(), 0.0))


def _events(job: Job, after: str, token: str) -> EventPage:
    return client.events(job.runtime.allegro, token, after=after)


def _asked_for(tx: Connection, job: Job) -> UUID | None:
    """The incremental run that somebody asked for or that a crash left unfinished."""
    run = state.unfinished(tx, job.account_id, ("incremental",))
    jobs.tell_of(None if run is None else run.id)
    if run is None:
        return None
    if run.status == "queued":
        state.begin_run(tx, run.id, [], account_id=job.account_id, now=job.now())
    run_id: UUID = run.id
    return run_id


def _opened(tx: Connection, job: Job) -> UUID:
    run_id = state.open_run(tx, job.account_id, "incremental")
    jobs.tell_of(run_id)
    state.begin_run(tx, run_id, [], account_id=job.account_id, now=job.now())
    return run_id


def _count_calls(job: Job) -> None:
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        run = state.unfinished(tx, job.account_id, ("incremental",))
        if run is not None:
            state.count_calls(tx, run.id, job.calls.made)


def _pay(job: Job, run_id: UUID | None) -> bool:
    """Reads the owed orders, in a run that counts them. False where the slice ended first."""
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        payable = {debt.order_id: debt for debt in owed.payable(tx, job.account_id, now=job.now())}
        if payable and run_id is None:
            run_id = _opened(tx, job)
    if run_id is None:
        return True
    return debts.pay(job, run_id, payable)
