"""The listing job of one account: history first, then the full syncs and whatever was asked for, run by run."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection, Row

from orders_backup import db as database
from orders_backup.budget import Priority
from orders_backup.runtime import Runtime
from orders_backup.sync import evidence, plan, pull, reconcile, runs, state, windows
from orders_backup.sync import job as jobs
from orders_backup.sync.job import Job
from orders_backup.sync.plan import Window

PATIENCE = 3
"""So often a backfill may fail before full syncs begin beside it."""


def work_on_listing(runtime: Runtime, account_id: UUID) -> None:
    """Goes on with the account's backfill or full sync, if it is due. The backfill leaves the budget to all others."""
    with database.transaction(runtime.db) as tx:
        is_backfilled = state.has_finished(tx, account_id, "backfill")
    priority = Priority.RECONCILE if is_backfilled else Priority.BACKFILL
    jobs.work(runtime, account_id, "listing", priority=priority, body=_list)


def _list(job: Job) -> datetime:
    with database.transaction(job.runtime.db) as tx:
        has_cursor = state.journal_cursor(tx, job.account_id) is not None
    if not has_cursor:
        pull.pin(job)
    run = _run(job)
    jobs.tell_of(run.id)
    try:
        is_over = windows.advance(job, run, cause="backfill" if run.kind == "backfill" else "sweep")
    finally:
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            state.count_calls(tx, run.id, job.calls.made)
    return _again_at(job, runs.finish(job, run.id)) if is_over else job.now()


def _run(job: Job) -> "Row[Any]":
    """The run to go on with; the first one ever is the backfill, later ones are full syncs or what was asked for."""
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        is_backfilled = state.has_finished(tx, job.account_id, "backfill")
        kinds = state.LISTING_KINDS if is_backfilled else ("backfill",)
        found = state.unfinished(tx, job.account_id, kinds)
        run = found or state.run(tx, _open(tx, job))
        if run.status == "queued":
            state.begin_run(tx, run.id, _windows(tx, job, run), account_id=job.account_id, now=job.now())
        return state.run(tx, run.id)


def _open(tx: Connection, job: Job) -> UUID:
    """The backfill until its windows are proven, each time with those that are not; then full syncs, and after a month
    the certificate: every order of the year. A backfill that stays unproven keeps them waiting for a while only."""
    if state.has_succeeded(tx, job.account_id, "backfill") or _is_overdue(tx, job):
        is_due = _certificate_due_at(tx, job) <= job.now()
        return state.open_run(tx, job.account_id, "reconcile" if is_due else "full")
    left = _left(tx, job)
    since, until = min((one.since for one in left), default=None), max((one.until for one in left), default=None)
    return state.open_run(tx, job.account_id, "backfill", range_from=since, range_to=until)


def _is_overdue(tx: Connection, job: Job) -> bool:
    """Whether full syncs have to go on beside a backfill that was tried several times in vain."""
    if state.failed_in_a_row(tx, job.account_id, ("backfill",)) < PATIENCE:
        return False
    since = job.now() - job.interval
    return not any(state.was_asked_for(tx, job.account_id, kind, since=since) for kind in ("full", "reconcile"))


def _left(tx: Connection, job: Job) -> Sequence[Window]:
    """What the backfill that ended last could not prove."""
    last = state.last_finished(tx, job.account_id, "backfill")
    rows = evidence.windows(tx, job.account_id, last) if last else []
    return [Window(row.window_from, row.window_to, "ids") for row in rows if row.status == "unstable"]


def _certificate_due_at(tx: Connection, job: Job) -> datetime:
    proven_at, tried_at = state.certified(tx, job.account_id)
    return plan.certificate_due_at(job.account_id, proven_at=proven_at, tried_at=tried_at)


def _windows(tx: Connection, job: Job, run: "Row[Any]") -> Sequence[Window]:
    now = plan.in_milliseconds(job.now())
    if run.kind == "backfill":
        return plan.whole(now - plan.SETTLED) if run.range_from is None else _left(tx, job)
    if run.kind == "full" and run.range_from is None and run.range_to is None:
        return plan.full(now)
    return reconcile.windows(run.range_from, run.range_to, now=now)


def _again_at(job: Job, run: "Row[Any]") -> datetime:
    """When to go on: ever later while something cannot be proven; at once where another run waits, or the backfill is
    not proven yet, or took several runs, after which one compares the whole year."""
    now = job.now()
    with database.transaction(job.runtime.db) as tx:
        another = state.unfinished(tx, job.account_id, state.LISTING_KINDS)
        failed = state.failed_in_a_row(tx, job.account_id, state.LISTING_KINDS)
        is_backfilled = state.has_succeeded(tx, job.account_id, "backfill")
        certificate_due_at = _certificate_due_at(tx, job)
    if run.error is not None:
        return now + min(plan.unproven_again(failed), job.interval)
    if another is not None or not is_backfilled or (run.kind == "backfill" and run.range_from is not None):
        return now
    return max(min(now + job.interval, certificate_due_at), now)
