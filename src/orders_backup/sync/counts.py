"""Windows compared by counts: where Allegro's count is not ours, the difference is searched for by halving.

A half's count may be told by the difference of two others. Such a count only says where to look next: what is
verified was asked for itself, or listed order by order.
"""

from typing import Any

import structlog
from sqlalchemy.engine import Connection, Row

from orders_backup import db as database
from orders_backup.sync import evidence, listing, plan
from orders_backup.sync.listing import Listing
from orders_backup.sync.plan import Window

log = structlog.get_logger()


def compare(question: Listing) -> None:
    """One step, at most one call: ask for the window's count, accept it, halve the window, or have it listed."""
    window = question.window
    if window.total_count is None:
        _ask(question)
        return
    with database.transaction(question.job.runtime.db) as tx:
        question.job.fence(tx)
        found = evidence.stored_in(tx, window)
        if found.present == window.total_count:
            _accept(tx, question, found)
            return
        parts = _parts(tx, question, found.present)
        if not parts:
            evidence.update_window(tx, window, method="ids", total_count=None, stored=None, started_at=None)
            return
    _halve(question, parts)


def _ask(question: Listing) -> None:
    """The count of the whole window; one that is ours proves it."""
    job, window, started_at = question.job, question.window, question.job.now()
    total = listing.count(question)
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        found = evidence.stored_in(tx, window)
        evidence.update_window(tx, window, total_count=total, stored=found.present, started_at=started_at)
        if found.present == total:
            _accept(tx, Listing(job, question.run, evidence.again(tx, window), question.cause), found)


def _accept(tx: Connection, question: Listing, found: "Row[Any]") -> None:
    """The counts agree. A count that was only deduced has to be asked for first."""
    window = question.window
    if window.started_at is None:
        evidence.update_window(tx, window, total_count=None)
        return
    proof = {"stored": found.present, "missing": 0, "superseded": found.superseded, "unlisted": 0}
    evidence.update_window(tx, window, **proof, status="verified", checked_at=question.job.now())


def _parts(tx: Connection, question: Listing, present: int) -> list[Window]:
    """The window cut in the middle of our orders, or of its time where we hold few; empty: better listed as it is."""
    window, asked = question.window, listing.asked(question)
    too_large = window.total_count > plan.SPLIT_ABOVE
    if not too_large and not plan.is_worth_searching(listed=window.total_count, stored=present):
        return []
    middle = evidence.middle_of(tx, window, present=present) if present * 2 > window.total_count else None
    return (plan.cut(asked, middle) if middle else []) or plan.halves(asked, oldest=None)


def _halve(question: Listing, parts: list[Window]) -> None:
    """Asks for the newer half's count; the rest of the whole is the older one's, and tells whether to look there."""
    job, window, (newer, older) = question.job, question.window, parts
    started_at = job.now()
    total = listing.count(question, window=newer)
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        run_id, deeper = question.run.id, {"account_id": job.account_id, "depth": window.depth + 1}
        evidence.update_window(tx, window, status="split", checked_at=job.now())
        rest = window.total_count - total
        evidence.add_windows(tx, run_id, [older], **deeper, total_count=rest if rest >= 0 else None)
        evidence.add_windows(tx, run_id, [newer], **deeper, total_count=total, started_at=started_at)
    log.info("window_halved", account_id=str(job.account_id), listed=window.total_count, newer=total)
