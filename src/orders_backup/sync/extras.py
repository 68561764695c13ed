"""The extras job of one account: what belongs to its orders, kept when nothing more urgent needs the budget.

Which orders to look at it learns from our own change feed; when, extras_plan decides. A kind that Allegro denies, or
that fails with everything, rests for a while with its reason on the account; the others go on.
"""

from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.engine import Row

from orders_backup import db as database
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client, wire
from orders_backup.allegro.client import ExtraPage
from orders_backup.budget import Priority
from orders_backup.errors import AllegroAnswerError, AllegroError
from orders_backup.orders import extras, feed
from orders_backup.orders.extras import Document, Look
from orders_backup.runtime import Runtime
from orders_backup.sync import extras_looks, state
from orders_backup.sync import extras_plan as plan
from orders_backup.sync import extras_state as extras_sql
from orders_backup.sync import job as jobs
from orders_backup.sync.extras_looks import CAUSE, Tried
from orders_backup.sync.extras_state import Known
from orders_backup.sync.job import Job
from orders_backup.sync.plan import BEGINNING

SLICE = timedelta(seconds=5)
"""Shorter than that of the orders' jobs: a worker is soon free for them again."""
UNTIL_BACKFILLED = timedelta(minutes=1)
FEED_PAGE = 1000


log = structlog.get_logger()


def work_on_extras(runtime: Runtime, account_id: UUID) -> None:
    """Looks at what is due beside the account's orders. Leaves the budget to everything else."""
    jobs.work(runtime, account_id, "extras", priority=Priority.EXTRAS, body=_collect)


def _collect(job: Job) -> datetime:
    now = job.now()
    job.slice_ends_at = min(job.slice_ends_at, now + SLICE)
    with database.transaction(job.runtime.db) as tx:
        is_backfilled = state.has_finished(tx, job.account_id, "backfill")
        wanted, off = extras_sql.kinds(tx, job.account_id)
    if not is_backfilled:
        return now + UNTIL_BACKFILLED
    # Only learns the dictionary that the orders made: a dictionary outlives every erasure, and these documents hold
    # personal values that the orders' training does not know.
    job.runtime.codec.prepare(job.runtime.db, [])
    _follow(job, wanted.intersection(plan.OF_ORDERS))
    tried = Tried()
    try:
        for kind in sorted(wanted.difference(off).intersection(plan.LISTED)):
            _list(job, kind, tried)
        extras_looks.look(job, wanted.difference(off).intersection(plan.OF_ORDERS), tried)
    finally:
        if tried.inserted or tried.updated:
            counts = {"inserted": tried.inserted, "updated": tried.updated, "calls": job.calls.made}
            log.info("extras_collected", account_id=str(job.account_id), **counts)
    job.values["succeeded_at"] = job.now()
    return _next(job, wanted - off - tried.resting)


def _next(job: Job, kinds: set[str]) -> datetime:
    """When the next order or list is due, at most the time after which the feed is followed again."""
    now = job.now()
    with database.transaction(job.runtime.db) as tx:
        moments = [extras_sql.next_due_at(tx, job.account_id, kinds.intersection(plan.OF_ORDERS))]
        for kind in kinds.intersection(plan.LISTED):
            row = extras_sql.listing(tx, job.account_id, kind)
            moments.append(now if row.span else plan.next_list_at(extras_sql.listed_at(row), now=now))
    return max(min([now + plan.EVERY, *(moment for moment in moments if moment is not None)]), now)


# Our own change feed says which orders to look at


def _follow(job: Job, kinds: set[str]) -> None:
    """Schedules every order that is new or changed since the bookmark; doing a part of it again is harmless."""
    after = feed.Position(*plan.opened(job.cursor, kinds))
    has_more = bool(kinds)
    while has_more and job.now() < job.ends_at:
        with database.snapshot(job.runtime.db) as tx:
            changes, after, has_more = feed.page(
                tx, seen_by=None, account_id=job.account_id, after=after, limit=FEED_PAGE
            )
        changed_at = {
            one.order_id: None if one.cause == "backfill" else one.stored_at for one in changes if one.cause != CAUSE
        }
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            found = extras_sql.known(tx, job.account_id, list(changed_at), kinds)
            extras.schedule(tx, job.account_id, _looks(found, changed_at))
        job.values["cursor"] = plan.bookmark(after.xid, after.seq, kinds)


def _looks(found: list[Known], changed_at: dict[str, datetime | None]) -> list[Look]:
    looks = []
    for one in found:
        last = {"read_at": one.read_at, "changed_at": changed_at[one.order_id]}
        due_at = plan.next_look(one.kind, one.order, found=one.found, **last)
        if due_at is not None or one.document_id is not None:
            looks.append(Look(one.kind, one.order_id, due_at))
    return looks


# Returns and refunds come in lists


def _list(job: Job, kind: str, tried: Tried) -> None:
    """The pages of the widest span that is due, and then of no other: that was the widest."""
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        row = extras_sql.listing(tx, job.account_id, kind)
        span = plan.span_due(extras_sql.listed_at(row), now=job.now())
        if row.span is None and span is None:
            return
        if row.span is None and span is not None:
            now = job.now()
            since = BEGINNING if span.reach is None else now - span.reach
            extras_sql.begin_listing(tx, job.account_id, kind, span=span.name, since=since, until=now)
    page: ExtraPage | None = None
    while (page is None or not page.is_last) and job.now() < job.ends_at:
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)  # who took the job over may have listed the span to its end
            row = extras_sql.listing(tx, job.account_id, kind)
        before, ask = page, partial(_page, job, row)
        try:
            page = job.calls.ask(Route.EXTRAS, ask)
            documents = _listed(kind, page, before)
        except AllegroError as error:
            if not extras_looks.is_of_its_kind(error):
                raise
            extras_looks.rest(job, kind, error, tried)
            return
        tried.landed.add(kind)
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            extras_looks.record(tx, job, documents, tried)
            if page.is_last:
                extras_sql.finish_listing(tx, row)
            else:
                extras_sql.go_on_at(tx, job.account_id, kind, row.next_offset + len(documents))


def _page(job: Job, row: "Row[Any]", token: str) -> ExtraPage:
    ask = {"returns": client.customer_returns, "refunds": client.refunds}[row.kind]
    return ask(job.runtime.allegro, token, since=row.since, until=row.until, offset=row.next_offset)


def _listed(kind: str, page: ExtraPage, before: ExtraPage | None) -> list[Document]:
    """The documents of a page. Raises AllegroAnswerError for the same page again, which would never end."""
    if before is not None and page.documents == before.documents:
        raise AllegroAnswerError(f"Allegro served the same page of {kind} again.")
    found = []
    for body in page.documents:
        extras_looks.fits(body)
        document_id, order_id = wire.document_ids(body)
        found.append(extras.document(kind, document_id, order_id, page.sent_at, body, found=True))
    return found
