"""One run's windows: listed page by page, the pages of one look in one transaction, each window proven.

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
from orders_backup import metrics
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.allegro.client import OrderPage
from orders_backup.errors import AllegroUnreadableError, OrdersBackupError
from orders_backup.orders.archive import Recorded
from orders_backup.orders.changes import Reading, Unreadable
from orders_backup.sync import counts, discoveries, evidence, listing, nets, plan, state
from orders_backup.sync import job as jobs
from orders_backup.sync.job import Job
from orders_backup.sync.listing import Listing, Stretch
from orders_backup.sync.plan import Fault

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
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        if window.depth == 0 and window.attempts == 0:
            state.expect(tx, run.id, page.total_count)
        evidence.update_window(tx, window, started_at=started_at, total_count=page.total_count)
        if page.total_count > plan.SPLIT_ABOVE:
            readings = listing.read(page)
            _record(tx, question, Stretch(readings=readings, fresh=readings))
            if not listing.divide(tx, question, plan.halves(listing.asked(question), oldest=listing.oldest(readings))):
                _restart(tx, question, Fault("too_many", "more orders in one moment than Allegro can list"))
            return
        _take(tx, _as_it_is(tx, question), [(0, page)])


def _go_on(question: Listing) -> None:
    """The next pages, several on the way at once, stored together as far as they came.

    Each full page begins with the last row of the one before, by which rows that moved in between show. Pages behind
    one that failed are stored as well, and are asked for again to be proven.
    """
    job, window = question.job, question.window
    batch = listing.offsets(window)
    batch = batch[: job.calls.permits(Route.ORDERS, min(job.calls.in_flight, len(batch)))]
    answers = jobs.side_by_side(batch, partial(listing.ask, question, limit=window.page_size))
    if isinstance(answers[0], AllegroUnreadableError):
        answers[0] = _narrowed(question, answers[0]) or answers[0]
    failed = [one for one in answers if isinstance(one, OrdersBackupError)]
    pages = [(offset, one) for offset, one in zip(batch, answers, strict=True) if isinstance(one, OrderPage)]
    if pages:
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            current = _as_it_is(tx, question)
            is_open = current.window.status == "open" and current.window.attempts == window.attempts
            taken = _take(tx, current, pages) if is_open else 0
            behind = [one for _, page in pages[taken:] for one in listing.read(page)]
            _record(tx, question, Stretch(readings=behind, repeated=behind))
    if failed and not isinstance(failed[0], AllegroUnreadableError):
        raise failed[0]  # one that was unreadable is asked for again, by itself


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


def _take(tx: Connection, question: Listing, pages: Sequence[tuple[int, OrderPage]]) -> int:
    """Stores pages as far as they follow one another, then says whether they were sound: an unsound one is stored too,
    and its window begins again. How many were taken."""
    stretch = listing.joined(question, pages)
    if not stretch.pages:
        return 0
    unplaced = _record(tx, question, stretch)
    if stretch.wrong is not None:
        _restart(tx, question, stretch.wrong)
        return stretch.pages
    ids = [listing.order_id(one) or "" for one in stretch.fresh if listing.is_placed(question, one)]
    found: dict[str, Any] = {"fingerprint": evidence.fingerprint_with(ids)}
    if stretch.reached < stretch.total:
        evidence.update_window(tx, question.window, **found, **stretch.further)
        return stretch.pages
    evidence.update_window(tx, question.window, **found)
    proven = _as_it_is(tx, question)
    _prove(tx, proven, listed=stretch.reached, set_aside=question.window.set_aside + unplaced)
    return stretch.pages


def _prove(tx: Connection, question: Listing, *, listed: int, set_aside: int) -> None:
    """The last page is stored: does the archive hold just those orders that Allegro listed, each seen since the
    beginning? Their number alone could be right although one is missing: another may have come meanwhile, another way.
    """
    job, window = question.job, question.window
    found = evidence.stored_in(tx, window)
    unlisted = found.present - found.listed
    missing = window.total_count - found.listed - set_aside
    if missing or found.fingerprint != window.fingerprint:
        told = f"{window.total_count} orders were listed and {found.listed} of them distinct"
        _restart(tx, question, Fault("not_distinct", told))
        return
    if window.attempts == 0 and plan.is_doubtful(present=found.present, unlisted=unlisted):
        _restart(tx, question, Fault("many_unlisted", f"{unlisted} of {found.present} orders were listed no more"))
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
    cause = nets.OPEN_SWEEP if by_status else "unlisted"
    owed = evidence.owe_unlisted(tx, question.window, cause=cause, now=now)
    net = nets.NET_OF_RUN.get(question.run.kind)
    if net is not None and not by_status:  # of a changed status the journal may still tell: the reading counts it
        discoveries.note(tx, job.account_id, net=net, what="unlisted", orders=owed, now=now)


def _restart(tx: Connection, question: Listing, fault: Fault) -> None:
    """The window is read again from its first page; after five times it is left as it is, unproven.

    Beyond Allegro's reach orders fall off the list while it is read; there what was listed is kept and nothing proven.
    """
    window, attempts = question.window, question.window.attempts + 1
    metrics.RESTARTS.labels(fault.cause).inc()
    is_large = attempts >= SPLIT_AFTER and (window.total_count or 0) > client.LIST_LIMIT
    if is_large and listing.divide(tx, question, plan.halves(listing.asked(question), oldest=None)):
        return
    is_given_up = attempts >= ATTEMPTS
    found = _given_up(tx, question) if is_given_up else _AGAIN
    evidence.update_window(tx, window, attempts=attempts, note=fault.sentence, checked_at=question.job.now(), **found)
    log.warning("window_restarted", account_id=str(question.job.account_id), reason=fault.cause, attempts=attempts)


_AGAIN = {"started_at": None, "next_offset": 0, "listed": 0, "set_aside": 0, "fingerprint": 0, "last_order_id": None}


def _given_up(tx: Connection, question: Listing) -> dict[str, Any]:
    """A window that nobody could prove: what Allegro counts beyond what we hold is missing at least."""
    if not _is_within_reach(question):
        return {"status": "beyond_reach"}
    window = evidence.again(tx, question.window)
    present = evidence.stored_in(tx, window).present
    missing = max(window.total_count - present - window.set_aside, 0)
    return {"status": "unstable", "stored": present, "missing": missing}


def _record(tx: Connection, question: Listing, stretch: Stretch) -> int:
    """Stores a stretch's orders; what a net finds missing or changed is counted on the window and as its catch.

    How many of the fresh rows cannot be placed in any window, for want of an id or a purchase time.
    """
    job, run = question.job, question.run
    if not stretch.readings:
        return 0
    recorded, _ = jobs.record(tx, job, stretch.readings, cause=question.cause)
    recorded, again = _once(recorded, stretch.repeated)
    state.count(tx, run.id, recorded, listed=len(stretch.readings) - again)
    unplaced = sum(not listing.is_placed(question, one) for one in stretch.fresh)
    net = nets.NET_OF_RUN.get(run.kind)
    if net is not None:
        discoveries.note_found(tx, job.account_id, stretch.readings, recorded, net=net, now=job.now())
    caught = recorded if net is not None else Recorded()
    if caught.inserted or caught.updated or unplaced:
        evidence.caught(tx, question.window, caught, unplaced=unplaced)
    return unplaced


def _once(recorded: Recorded, repeated: Sequence[Reading | Unreadable]) -> tuple[Recorded, int]:
    """What was recorded, without the rows that another page counts, unless they were news; and how many these are."""
    news = {*recorded.new_ids, *recorded.changed_ids}
    unreadable = sum(isinstance(one, Unreadable) for one in repeated)
    unchanged = sum(isinstance(one, Reading) and one.facts.order_id not in news for one in repeated)
    unchanged = min(unchanged, recorded.unchanged)
    once = replace(recorded, set_aside=recorded.set_aside - unreadable, unchanged=recorded.unchanged - unchanged)
    return once, unreadable + unchanged


def _is_within_reach(question: Listing) -> bool:
    return plan.is_within_reach(question.window.window_to, began_at=question.run.started_at)
