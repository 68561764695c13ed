"""The hourly sweep of an account, for what the journal keeps silent: changes by `updatedAt`, then fulfilment statuses.

A fulfilment status moves no `updatedAt` and not always the journal (Allegro's staff, 2025), so open orders are listed
by status. What we hold as open and Allegro lists as open no more is owed a reading.
"""

import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.engine import Connection, Row

from orders_backup import db as database
from orders_backup import metrics
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.allegro.client import OrderPage
from orders_backup.budget import Priority
from orders_backup.errors import AllegroAnswerError, AllegroUnreadableError
from orders_backup.orders.changes import Reading, Unreadable
from orders_backup.runtime import Runtime
from orders_backup.sync import discoveries, evidence, listing, nets, plan, runs, state, windows
from orders_backup.sync import job as jobs
from orders_backup.sync.job import Job
from orders_backup.sync.plan import Fault, Window

UNTIL_BACKFILLED = timedelta(minutes=5)
"""There is nothing to sweep before the history is loaded; after this long it is looked whether it is."""
SPREAD = 0.1
"""So much sooner or later each sweep comes: accounts that were connected together do not stay together."""
ATTEMPTS = 3
"""After so many unsound pages by `updatedAt` the sweep fails, and goes on later where it was."""
A_DAY = timedelta(days=1)
"""An `updatedAt` that lies further ahead is none, and moves nothing."""

log = structlog.get_logger()


def sweep(runtime: Runtime, account_id: UUID) -> None:
    """One slice of the account's sweep, if it is due."""
    jobs.work(runtime, account_id, "sweep", priority=Priority.OPEN_ORDERS, body=_sweep)


def _sweep(job: Job) -> datetime:
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        is_backfilled = state.has_finished(tx, job.account_id, "backfill")
    if not is_backfilled:
        return job.now() + UNTIL_BACKFILLED
    run = _run(job)
    jobs.tell_of(run.id)
    try:
        is_over = _updated(job, run) and windows.advance(job, run, cause="sweep")
    finally:
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            state.count_calls(tx, run.id, job.calls.made)
    if not is_over:
        return job.now()
    runs.finish(job, run.id)
    return _again_at(job)


def _run(job: Job) -> "Row[Any]":
    """The sweep to go on with, or a new one. Its range are the purchases whose fulfilment it compares."""
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        found = state.unfinished(tx, job.account_id, ("sweep",))
        if found is not None:
            return found
        now = plan.in_milliseconds(job.now())
        parts = _windows(tx, job.account_id, now)
        since = min(window.since for window in parts)
        run_id = state.open_run(tx, job.account_id, "sweep", range_from=since, range_to=now - plan.SETTLED)
        state.begin_run(tx, run_id, parts, account_id=job.account_id, now=now)
        return state.run(tx, run_id)


def _windows(tx: Connection, account_id: UUID, now: datetime) -> list[Window]:
    recent = now - plan.RECENT
    held = evidence.held(tx, account_id, since=recent, statuses=nets.OPEN)
    parts = nets.open_orders(now, held=held)
    if state.has_swept(tx, account_id, from_before=recent, since=now - nets.OLDER_EVERY):
        return parts
    statuses = evidence.statuses_held(tx, account_id, since=now - plan.REACH, until=recent)
    return parts + nets.older_orders(now, statuses)


def _updated(job: Job, run: "Row[Any]") -> bool:
    """Everything with a younger `updatedAt` than the sweeps before had reached, oldest change first.

    Each page begins where the one before ended, by its moment and not by an offset: what changes meanwhile moves to
    the end of the list and is met again there. Only the last page makes it enough. False where the slice ended first.
    A list with fewer changes than we know of is believed only the third time: an order may have been merged away. A
    page that is unreadable is passed by, and every order listed, row by row where one spoils its page.
    """
    enough = run.started_at - nets.OVERLAP
    with database.transaction(job.runtime.db) as tx:
        began = state.began(tx, job.account_id, "backfill") or run.started_at
    swept_to = datetime.fromisoformat(job.cursor) if job.cursor else None
    since, offset, unsound = nets.updated_since(swept_to, backfill_began=began), 0, 0
    while swept_to is None or swept_to < enough:
        if job.now() >= job.ends_at:
            return False
        try:
            page = job.calls.ask(Route.ORDERS, partial(_ask, job, since, offset))
        except AllegroUnreadableError as error:
            log.warning("sweep_cut_short", account_id=str(job.account_id), code=error.code)
            _pass_by(job, enough)
            return True
        readings = listing.read(page)
        held = _store(job, run, readings, since=since)
        is_last_try = unsound >= ATTEMPTS - 1
        wrong = _fault(page, readings, since=since, offset=offset, is_last_try=is_last_try)
        if wrong is None and page.total_count < held and not is_last_try:
            wrong = Fault("fewer_than_known", f"{page.total_count} changes were listed and {held} are known")
        if wrong is not None:
            unsound, offset = unsound + 1, 0
            metrics.RESTARTS.labels(wrong.cause).inc()
            log.warning("sweep_restarted", account_id=str(job.account_id), reason=wrong.cause, attempts=unsound)
            if unsound >= ATTEMPTS:
                raise AllegroAnswerError(f"Allegro's list by change was unsound: {wrong.sentence}.")
            continue
        newest = max((one for one in map(_updated_at, readings) if one and one < run.started_at + A_DAY), default=since)
        is_last = offset + len(readings) >= page.total_count
        since, offset = (newest, 0) if newest > since else (since, offset + len(readings))
        swept_to = enough if is_last else min(since, enough - plan.MILLISECOND)
        _remember(job, swept_to)
    return True


def _pass_by(job: Job, swept_to: datetime) -> None:
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        state.reconcile_soon(tx, job.account_id)
    _remember(job, swept_to)


def _remember(job: Job, swept_to: datetime) -> None:
    """How far the sweep came, for the next slice and the next sweep; kept when this one settles, however it ends."""
    job.cursor = swept_to.astimezone(UTC).isoformat()
    job.values["cursor"] = job.cursor


def _ask(job: Job, since: datetime, offset: int, token: str) -> OrderPage:
    return client.orders_updated(job.runtime.allegro, token, since=since, offset=offset)


def _fault(
    page: OrderPage, readings: list[Reading | Unreadable], *, since: datetime, offset: int, is_last_try: bool
) -> Fault | None:
    """What is wrong with a page. A few rows that stay outside of what was asked for tell a wrong time of themselves,
    and not that the filter was ignored."""
    outside = sum(not _is_since(since, one) for one in readings)
    inside = outside <= (max(len(readings) // 10, 1) if is_last_try else 0)
    return plan.fault(total=page.total_count, before=None, offset=offset, rows=len(readings), inside=inside)


def _store(job: Job, run: "Row[Any]", readings: list[Reading | Unreadable], *, since: datetime) -> int:
    """Stores a page; how many changes since then are known now."""
    job.runtime.codec.prepare(job.runtime.db, [])
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        recorded, _ = jobs.record(tx, job, readings, cause="sweep")
        state.count(tx, run.id, recorded, listed=len(readings))
        discoveries.note_found(tx, job.account_id, readings, recorded, net="updated_sweep", now=job.now())
        return evidence.held_since(tx, job.account_id, since)


def _updated_at(reading: Reading | Unreadable) -> datetime | None:
    return reading.facts.updated_at if isinstance(reading, Reading) else None


def _is_since(since: datetime, reading: Reading | Unreadable) -> bool:
    """Whether the row is what was asked for; the filter counts milliseconds."""
    moment = _updated_at(reading)
    return moment is None or moment >= plan.in_milliseconds(since)


def _again_at(job: Job) -> datetime:
    """When the next sweep is due, whether or not this one could prove everything."""
    return job.now() + job.runtime.settings.sweep_interval * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 – spread
