"""One window of Allegro's list as a question: its pages, whether they answer it, and its division."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection, Row

from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.allegro.client import OrderPage
from orders_backup.orders import changes
from orders_backup.orders.changes import Reading, Unreadable
from orders_backup.sync import evidence
from orders_backup.sync.job import Job
from orders_backup.sync.plan import Window


@dataclass(frozen=True, slots=True)
class Listing:
    """The window in work and the run it belongs to. `cause` names the run's kind in the journal of changes."""

    job: Job
    run: "Row[Any]"
    window: "Row[Any]"
    cause: str


def asked(listing: Listing) -> Window:
    """What the window asks for."""
    window = listing.window
    fulfillment = tuple(window.fulfillment.split(",")) if window.fulfillment else ()
    return Window(window.window_from, window.window_to, window.method, fulfillment)


def ask(listing: Listing, offset: int, *, limit: int = client.LIST_LIMIT, window: Window | None = None) -> OrderPage:
    """A page of the window, or of a part of it."""
    wanted, allegro = window or asked(listing), listing.job.runtime.allegro

    def question(token: str) -> OrderPage:
        return client.orders_bought(
            allegro,
            token,
            since=wanted.since,
            until=wanted.until,
            offset=offset,
            limit=limit,
            fulfillment=wanted.fulfillment,
        )

    return listing.job.calls.ask(Route.ORDERS, question)


def read(page: OrderPage) -> list[Reading | Unreadable]:
    """The page's orders, in its order."""
    return [changes.read(page.sent_at, body) for body in page.orders]


def is_inside(window: Window, reading: Reading | Unreadable) -> bool:
    """Whether the order belongs into the window; one whose purchase time cannot be read is not held against it."""
    if isinstance(reading, Unreadable) or reading.facts.ordered_at is None:
        return True
    is_asked_for = not window.fulfillment or reading.facts.fulfillment_status in window.fulfillment
    return is_asked_for and window.since <= reading.facts.ordered_at < window.until


def is_placed(reading: Reading | Unreadable) -> bool:
    """Whether the order has an id and a purchase time, so that it can be counted in a window."""
    return isinstance(reading, Reading) and reading.facts.ordered_at is not None


def order_id(reading: Reading | Unreadable) -> str | None:
    """The order's id; None where its bytes name none."""
    return reading.facts.order_id if isinstance(reading, Reading) else None


def oldest(readings: Sequence[Reading | Unreadable]) -> datetime | None:
    """The earliest purchase among these."""
    moments = [one.facts.ordered_at for one in readings if isinstance(one, Reading) and one.facts.ordered_at]
    return min(moments, default=None)


def divide(tx: Connection, listing: Listing, parts: Sequence[Window]) -> bool:
    """Puts these windows in the place of the one in work; False where there are none, because it cannot be cut."""
    job, window = listing.job, listing.window
    if not parts:
        return False
    evidence.add_windows(tx, listing.run.id, parts, account_id=job.account_id, depth=window.depth + 1)
    evidence.update_window(tx, window, status="split", checked_at=job.now())
    return True
