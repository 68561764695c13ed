"""One run's windows: listed page by page, each page in one transaction, each window proven.

A window is proven when all its pages told the same totalCount, each held what it should and began where the one before
ended, and the archive ends up with exactly the orders that were listed, each seen since the window was begun. Anything
else and the window is read again.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from sqlalchemy.engine import Connection, Row

from orders_backup import db as database
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.allegro.client import OrderPage
from orders_backup.errors import AllegroUnreadableError, OrdersBackupError
from orders_backup.orders.archive import Recorded
from orders_backup.orders.changes import Reading, Unreadable
from orders_backup.sync import counts, discoveries, evidence, listing, nets, plan, state
from orders_backup.sync import job as jobs
from orders_backup.sync.job import Job
from orders_backup.sync.listing import Listing

SPLIT_AFTER = 2
"""A window that moved under two readings is halved: a smaller one is read in a quieter while."""
ATTEMPTS = 5
"""After so many unsound readings a window is left as unstable, and its run fails."""

log = structlog.get_logger()


def advance(job: Job, run: "Row[Any]", *, cause: str) -> bool:
    """Works on the run's windows, newest first, until the slice ends. True when none is open any more."""
    while job.now() < job.ends_at:
        with database.transaction(job.runtime.db) as tx:
            window = evidence.next_window(tx, job.account_id, run.id)
        if window is None:
            return True
        question = Listing(job, run, window, cause)
        if window.method == "count":
            counts.compare(question)
        elif window.started_at is None:
            _begin(question)
        else:
            _go_on(question)
    return False


def _begin(question: Listing) -> None:
    """The first page tells the window's size; one that is too large is halved, and what it held is stored anyway."""
    job, window, run = question.job, question.window, question.run
    started_at = job.now()
    try:
        page: OrderPage | None = listing.ask(question, 0, limit=window.page_size)
    except AllegroUnreadableError as error:
        page = _narrowed(question, error)
    if page is None:
        return
    job.runtime.codec.prepare(job.runtime.db, page.orders)
    readings = listing.read(page)
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        if window.depth == 0 and window.attempts == 0:
            state.expect(tx, run.id, page.total_count)
        evidence.update_window(tx, window, started_at=started_at, total_count=page.total_count)
        if page.total_count > plan.SPLIT_ABOVE:
            _record(tx, question, readings)
            if not listing.divide(tx, question, plan.halves(listing.asked(question), oldest=listing.oldest(readings))):
                _restart(tx, question, "more orders in one moment than Allegro can list")
            return
        _take(tx, _as_it_is(tx, question), page, readings, offset=0, limit=window.page_size)


def _go_on(question: Listing) -> None:
    """The next pages, several on the way at once, stored in their order, each in a transaction of its own.

    Each full page begins with the last row of the one before, by which rows that moved in between show.
    """
    job, window = question.job, question.window
    batch = listing.offsets(window)
    batch = batch[: job.calls.permits(Route.ORDERS, min(job.calls.in_flight, len(batch)))]
    pages = jobs.side_by_side(batch, partial(listing.ask, question, limit=window.page_size))
    for offset, answer in zip(batch, pages, strict=True):
        page = _narrowed(question, answer) if isinstance(answer, AllegroUnreadableError) else answer
        if page is None:
            return
        if isinstance(page, OrdersBackupError):
            raise page
        readings = listing.read(page)
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            current = _as_it_is(tx, question)
            is_open = current.window.status == "open" and current.window.attempts == window.attempts
            if not is_open or current.window.next_offset != offset:
                return
            _take(tx, current, page, readings, offset=offset, limit=window.page_size)


def _as_it_is(tx: Connection, question: Listing) -> Listing:
    return replace(question, window=evidence.again(tx, question.window))


def _narrowed(question: Listing, error: AllegroUnreadableError) -> OrderPage | None:
    """What to do about a page that is broken or too large: it is asked for again with half as many orders, None.

    What is left in the end is one row, and stands for itself, as long as Allegro answers sensibly beyond the list's
    end: else it is Allegro that is ill, and not an order. The size is written down, because the budget may end first.
    """
    job, window = question.job, question.window
    if window.page_size > 1:
        known = {"next_offset": window.next_offset + 1, "last_order_id": None} if window.last_order_id else {}
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            evidence.update_window(tx, window, page_size=window.page_size // 2, **known)
        log.warning("page_narrowed", account_id=str(job.account_id), page_size=window.page_size // 2)
        return None
    beyond = listing.beyond_all(question)
    log.error("order_set_aside", account_id=str(job.account_id), order_id=None, code=error.code)
    return OrderPage(beyond.sent_at, [error.body], beyond.total_count, broken=str(error))


def _take(
    tx: Connection, question: Listing, page: OrderPage, readings: list[Reading | Unreadable], *, offset: int, limit: int
) -> None:
    """Stores a page, then says whether it was sound: an unsound one is stored too, and its window begins again."""
    window, asked = question.window, listing.asked(question)
    follows = window.last_order_id is not None
    wrong = plan.fault(
        total=page.total_count,
        before=window.total_count,
        offset=offset,
        rows=len(page.orders),
        inside=all(listing.is_inside(asked, one) for one in readings if listing.is_placed(question, one)),
        joined=not follows or listing.order_id(readings[0]) in {window.last_order_id, None} if readings else True,
        limit=limit,
    )
    repeated = 1 if follows and wrong is None else 0
    unplaced = _record(tx, question, readings, repeated=repeated)
    if wrong is not None:
        _restart(tx, question, wrong)
        return
    fresh = [listing.order_id(one) or "" for one in readings[repeated:] if listing.is_placed(question, one)]
    found: dict[str, Any] = {"fingerprint": evidence.fingerprint_with(fresh)}
    reached = offset + len(page.orders)
    if reached >= page.total_count:
        evidence.update_window(tx, window, **found)
        _prove(tx, _as_it_is(tx, question), listed=reached, set_aside=window.set_aside + unplaced)
    else:
        evidence.update_window(tx, window, **found, **listing.further(readings, reached=reached, limit=limit))


def _prove(tx: Connection, question: Listing, *, listed: int, set_aside: int) -> None:
    """The last page is stored: does the archive hold just those orders that Allegro listed, each seen since the
    beginning? Their number alone could be right although one is missing: another may have come meanwhile, another way.
    """
    job, window = question.job, question.window
    found = evidence.stored_in(tx, window)
    unlisted = found.present - found.listed
    missing = window.total_count - found.listed - set_aside
    if missing or found.fingerprint != window.fingerprint:
        _restart(tx, question, f"{window.total_count} orders were listed and {found.listed} of them distinct")
        return
    if window.attempts == 0 and plan.is_doubtful(present=found.present, unlisted=unlisted):
        _restart(tx, question, f"{unlisted} of {found.present} orders were listed no more")
        return
    if unlisted and _is_within_reach(question):
        _owe_unlisted(tx, question)
    evidence.update_window(
        tx,
        window,
        status="verified",
        next_offset=listed,
        listed=listed,
        stored=found.listed,
        missing=0,
        superseded=found.superseded,
        unlisted=unlisted,
        checked_at=job.now(),
    )


def _owe_unlisted(tx: Connection, question: Listing) -> None:
    """What Allegro lists no more is read by itself: it was merged away, or is in another fulfilment status now."""
    job, by_status, now = question.job, bool(question.window.fulfillment), question.job.now()
    cause = "open_sweep" if by_status else "unlisted"
    owed = evidence.owe_unlisted(tx, question.window, cause=cause, now=now)
    net = nets.NET_OF_RUN.get(question.run.kind)
    if net is not None:
        what = "changed" if by_status else "unlisted"
        discoveries.note(tx, job.account_id, net=net, what=what, orders=owed, now=now)


def _restart(tx: Connection, question: Listing, note: str) -> None:
    """The window is read again from its first page; after five times it is left as it is, unproven.

    Beyond Allegro's reach orders fall off the list while it is read; there what was listed is kept and nothing proven.
    """
    window, attempts = question.window, question.window.attempts + 1
    is_large = attempts >= SPLIT_AFTER and (window.total_count or 0) > client.LIST_LIMIT
    if is_large and listing.divide(tx, question, plan.halves(listing.asked(question), oldest=None)):
        return
    given_up = "unstable" if _is_within_reach(question) else "beyond_reach"
    status = "open" if attempts < ATTEMPTS else given_up
    again = {"started_at": None, "next_offset": 0, "listed": 0, "set_aside": 0, "fingerprint": 0, "last_order_id": None}
    evidence.update_window(
        tx, window, attempts=attempts, status=status, note=note, checked_at=question.job.now(), **again
    )
    log.warning("window_restarted", account_id=str(question.job.account_id), attempts=attempts)


def _record(tx: Connection, question: Listing, readings: Sequence[Reading | Unreadable], *, repeated: int = 0) -> int:
    """Stores a page's orders; what a net finds missing or changed is counted on the window and as its catch.

    How many of the rows cannot be placed in any window, for want of an id or a purchase time. The first `repeated`
    rows were on the page before: they are stored if they are news, and counted once.
    """
    job, run = question.job, question.run
    recorded, _ = jobs.record(tx, job, readings, cause=question.cause)
    recorded = _once(recorded, readings[:repeated])
    state.count(tx, run.id, recorded)
    unplaced = sum(not listing.is_placed(question, one) for one in readings[repeated:])
    net = nets.NET_OF_RUN.get(run.kind)
    if net is not None:
        discoveries.note_found(tx, job.account_id, readings, recorded, net=net, now=job.now())
    caught = recorded if net is not None else Recorded()
    if caught.inserted or caught.updated or unplaced:
        evidence.caught(tx, question.window, caught, unplaced=unplaced)
    return unplaced


def _once(recorded: Recorded, repeated: Sequence[Reading | Unreadable]) -> Recorded:
    """What was recorded, without the rows that were counted on the page before."""
    for one in repeated:
        if isinstance(one, Unreadable):
            recorded = replace(recorded, set_aside=recorded.set_aside - 1)
        elif one.facts.order_id not in recorded.new_ids + recorded.changed_ids and recorded.unchanged:
            recorded = replace(recorded, unchanged=recorded.unchanged - 1)
    return recorded


def _is_within_reach(question: Listing) -> bool:
    within: bool = question.window.window_to > question.run.started_at - plan.REACH + plan.SETTLED
    return within
