"""One run's windows: listed page by page, each page in one transaction, each window proven.

A window is proven when all its pages told the same totalCount, each held what it should, and the archive ends up with
exactly that many orders seen since the window was begun. Anything else and the window is read again.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy.engine import Connection, Row

from orders_backup import db as database
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.allegro.client import OrderPage
from orders_backup.errors import AllegroUnreadableError, OrdersBackupError
from orders_backup.orders import changes
from orders_backup.orders.archive import Recorded
from orders_backup.orders.changes import Reading, Unreadable
from orders_backup.sync import job as jobs
from orders_backup.sync import plan, state
from orders_backup.sync.job import Job
from orders_backup.sync.plan import Window

SPLIT_AFTER = 2
"""A window that moved under two readings is halved: a smaller one is read in a quieter while."""
ATTEMPTS = 5
"""After so many unsound readings a window is left as unstable, and its run fails."""

BLOCK = 16
"""Requests taken from the budget at once, where so many pages are known to follow."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listing:
    """The window in work and the run it belongs to. `cause` names the run's kind in the journal of changes."""

    job: Job
    run: "Row[Any]"
    window: "Row[Any]"
    cause: str


def advance(job: Job, run: "Row[Any]", *, cause: str) -> bool:
    """Works on the run's windows, newest first, until the slice ends. True when none is open any more."""
    while job.now() < job.ends_at:
        with database.transaction(job.runtime.db) as tx:
            window = state.next_window(tx, job.account_id, run.id)
        if window is None:
            return True
        listing = Listing(job, run, window, cause)
        if window.method == "count":
            _count(listing)
        elif window.started_at is None:
            _begin(listing)
        else:
            _go_on(listing)
    return False


def _count(listing: Listing) -> None:
    """One call: as many as we hold, or else the window is halved until it is small enough to be listed."""
    job, window = listing.job, listing.window
    started_at = job.now()
    try:
        page = _ask(listing, 0, limit=1)
    except AllegroUnreadableError:
        page = _beyond_all(listing)
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        found = state.stored_in(tx, window)
        values = {"started_at": started_at, "total_count": page.total_count, "stored": found.present}
        if page.total_count == found.present:
            proof = {"missing": 0, "superseded": found.superseded, "unlisted": 0}
            state.update_window(tx, window, **values, **proof, status="verified", checked_at=job.now())
        elif page.total_count > client.LIST_LIMIT and _halve(tx, listing, oldest=None):
            log.info("window_halved", account_id=str(job.account_id), listed=page.total_count, stored=found.present)
        else:
            state.update_window(tx, window, method="ids")


def _begin(listing: Listing) -> None:
    """The first page tells the window's size; one that is too large is halved, and what it held is stored anyway."""
    job, window, run = listing.job, listing.window, listing.run
    started_at = job.now()
    try:
        page: OrderPage | None = _ask(listing, 0, limit=window.page_size)
    except AllegroUnreadableError as error:
        page = _narrowed(listing, error)
    if page is None:
        return
    job.runtime.codec.prepare(job.runtime.db, page.orders)
    readings = _read(page)
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        if window.depth == 0 and window.attempts == 0:
            state.expect(tx, run.id, page.total_count)
        state.update_window(tx, window, started_at=started_at, total_count=page.total_count)
        if page.total_count > plan.SPLIT_ABOVE:
            _record(tx, listing, readings)
            if not _halve(tx, listing, oldest=_oldest(readings)):
                _restart(tx, listing, "more orders in one moment than Allegro can list")
            return
        begun = state.next_window(tx, job.account_id, run.id)
        if begun is not None:
            _take(tx, Listing(job, run, begun, listing.cause), page, readings, offset=0, limit=window.page_size)


def _go_on(listing: Listing) -> None:
    """The next pages, several on the way at once, stored in their order, each in a transaction of its own."""
    job, window = listing.job, listing.window
    offsets = list(range(window.next_offset, window.total_count, window.page_size))
    permits = job.calls.permits(Route.ORDERS, min(BLOCK, len(offsets)))
    batch = offsets[: min(permits, jobs.IN_FLIGHT)]
    pages = jobs.side_by_side(batch, partial(_ask, listing, limit=window.page_size))
    for offset, answer in zip(batch, pages, strict=True):
        page = _narrowed(listing, answer) if isinstance(answer, AllegroUnreadableError) else answer
        if page is None:
            return
        if isinstance(page, OrdersBackupError):
            raise page
        readings = _read(page)
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            current = state.next_window(tx, job.account_id, listing.run.id)
            if current is None or current.next_offset != offset or current.attempts != window.attempts:
                return
            taken = Listing(job, listing.run, current, listing.cause)
            _take(tx, taken, page, readings, offset=offset, limit=window.page_size)


def _narrowed(listing: Listing, error: AllegroUnreadableError) -> OrderPage | None:
    """What to do about a page that is broken or too large: it is asked for again with half as many orders, None.

    What is left in the end is one row, and stands for itself, as long as Allegro answers sensibly beyond the list's
    end: else it is Allegro that is ill, and not an order. The size is written down, because the budget may end first.
    """
    job, window = listing.job, listing.window
    if window.page_size > 1:
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            state.update_window(tx, window, page_size=window.page_size // 2)
        log.warning("page_narrowed", account_id=str(job.account_id), page_size=window.page_size // 2)
        return None
    beyond = _beyond_all(listing)
    log.error("order_set_aside", account_id=str(job.account_id), order_id=None, code=error.code)
    return OrderPage(beyond.sent_at, [error.body], beyond.total_count, broken=str(error))


def _beyond_all(listing: Listing) -> OrderPage:
    """The last row that can be asked for: it tells totalCount, and mostly holds nothing."""
    return _ask(listing, client.RESULT_CAP - 1, limit=1)


def _ask(listing: Listing, offset: int, *, limit: int = client.LIST_LIMIT) -> OrderPage:
    window, runtime = listing.window, listing.job.runtime

    def question(token: str) -> OrderPage:
        since, until = window.window_from, window.window_to
        return client.orders_bought(runtime.allegro, token, since=since, until=until, offset=offset, limit=limit)

    return listing.job.calls.ask(Route.ORDERS, question)


def _read(page: OrderPage) -> list[Reading | Unreadable]:
    if page.broken is not None:
        return [changes.unreadable(page.sent_at, body, page.broken) for body in page.orders]
    return [changes.read(page.sent_at, body) for body in page.orders]


def _take(
    tx: Connection, listing: Listing, page: OrderPage, readings: list[Reading | Unreadable], *, offset: int, limit: int
) -> None:
    """Stores a page, then says whether it was sound: an unsound one is stored too, and its window begins again."""
    unplaced = _record(tx, listing, readings)
    window = listing.window
    wrong = plan.fault(
        total=page.total_count,
        before=window.total_count,
        offset=offset,
        rows=len(page.orders),
        inside=all(_inside(window, one) for one in readings if _is_placed(listing, one)),
        limit=limit,
    )
    reached = offset + len(page.orders)
    if wrong is not None:
        _restart(tx, listing, wrong)
    elif reached >= page.total_count:
        _prove(tx, listing, listed=reached, set_aside=window.set_aside + unplaced)
    else:
        wider = min(limit * 2, client.LIST_LIMIT)
        state.update_window(tx, window, next_offset=reached, listed=reached, page_size=wider)


def _prove(tx: Connection, listing: Listing, *, listed: int, set_aside: int) -> None:
    """The last page is stored: does the archive hold just as many as Allegro listed, each seen since the beginning?"""
    job, window = listing.job, listing.window
    found = state.stored_in(tx, window)
    unlisted = found.present - found.listed
    missing = window.total_count - found.listed - set_aside
    if missing:
        _restart(tx, listing, f"{window.total_count} orders were listed and {found.listed} of them distinct")
        return
    if unlisted and _is_within_reach(listing):
        state.owe_unlisted(tx, window, now=job.now())
    state.update_window(
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


def _restart(tx: Connection, listing: Listing, note: str) -> None:
    """The window is read again from its first page; after five times it is left as it is, unproven.

    Beyond Allegro's reach orders fall off the list while it is read; there what was listed is kept and nothing proven.
    """
    window, attempts = listing.window, listing.window.attempts + 1
    if attempts >= SPLIT_AFTER and (window.total_count or 0) > client.LIST_LIMIT and _halve(tx, listing, oldest=None):
        return
    given_up = "unstable" if _is_within_reach(listing) else "beyond_reach"
    status = "open" if attempts < ATTEMPTS else given_up
    again = {"started_at": None, "next_offset": 0, "listed": 0, "set_aside": 0, "checked_at": listing.job.now()}
    state.update_window(tx, window, attempts=attempts, status=status, note=note, **again)
    log.warning("window_restarted", account_id=str(listing.job.account_id), attempts=attempts, note=note)


def _halve(tx: Connection, listing: Listing, *, oldest: datetime | None) -> bool:
    """Two windows in place of one; False where it cannot be cut."""
    job, window = listing.job, listing.window
    parts = plan.halves(Window(window.window_from, window.window_to, window.method), oldest=oldest)
    if not parts:
        return False
    state.add_windows(tx, listing.run.id, parts, account_id=job.account_id, depth=window.depth + 1)
    state.update_window(tx, window, status="split", checked_at=job.now())
    return True


def _record(tx: Connection, listing: Listing, readings: list[Reading | Unreadable]) -> int:
    """Stores a page's orders; what a sweep finds missing or changed is counted on the window, as the nets' catch.

    How many of the rows cannot be placed in any window, for want of an id or a purchase time.
    """
    recorded, _ = jobs.record(tx, listing.job, readings, cause=listing.cause)
    state.count(tx, listing.run.id, recorded)
    unplaced = sum(not _is_placed(listing, one) for one in readings)
    caught = Recorded() if listing.run.kind == "backfill" else recorded
    if caught.inserted or caught.updated or unplaced:
        state.caught(tx, listing.window, caught, unplaced=unplaced)
    return unplaced


def _is_within_reach(listing: Listing) -> bool:
    within: bool = listing.window.window_to > listing.run.started_at - plan.REACH + plan.SETTLED
    return within


def _is_placed(listing: Listing, reading: Reading | Unreadable) -> bool:
    """Whether the order says when it was bought, and not in the year 1 or 9999: else no window can count it."""
    bought = None if isinstance(reading, Unreadable) else reading.facts.ordered_at
    return bought is not None and plan.BEGINNING <= bought < listing.run.started_at + timedelta(days=1)


def _inside(window: "Row[Any]", reading: Reading | Unreadable) -> bool:
    """Whether the order, whose purchase time is known, belongs into the window."""
    inside: bool = window.window_from <= reading.facts.ordered_at < window.window_to  # type: ignore[union-attr]
    return inside


def _oldest(readings: list[Reading | Unreadable]) -> datetime | None:
    moments = [one.facts.ordered_at for one in readings if isinstance(one, Reading) and one.facts.ordered_at]
    return min(moments, default=None)
