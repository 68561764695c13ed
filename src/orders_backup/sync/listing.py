"""One window of Allegro's list as a question: its pages, whether they answer it, and its division."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection, Row

from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.allegro.client import OrderPage
from orders_backup.errors import AllegroUnreadableError
from orders_backup.orders import changes
from orders_backup.orders.changes import Reading, Unreadable
from orders_backup.sync import evidence, plan
from orders_backup.sync.job import Job
from orders_backup.sync.plan import Fault, Window


@dataclass(frozen=True, slots=True)
class Listing:
    """The window in work and the run it belongs to. `cause` names the run's kind in the journal of changes."""

    job: Job
    run: "Row[Any]"
    window: "Row[Any]"
    cause: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """What `pages` that follow one another hold. `repeated`: those of its readings that another page counts, mostly
    the one before; `fresh`: the others. `reached`: how many of the window's `total` orders they and all pages before
    hold; `further`: where the window goes on; `wrong`: why the last page is no answer, though its orders are orders."""

    pages: int = 0
    readings: list[Reading | Unreadable] = field(default_factory=list)
    repeated: list[Reading | Unreadable] = field(default_factory=list)
    fresh: list[Reading | Unreadable] = field(default_factory=list)
    total: int = 0
    reached: int = 0
    further: dict[str, Any] = field(default_factory=dict)
    wrong: Fault | None = None


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


def count(listing: Listing, *, window: Window | None = None) -> int:
    """How many orders Allegro has in the window, or in a part of it. The row that comes with it may be broken."""
    try:
        return ask(listing, 0, limit=1, window=window).total_count
    except AllegroUnreadableError:
        return beyond_all(listing, window=window).total_count


def beyond_all(listing: Listing, *, window: Window | None = None) -> OrderPage:
    """The last row that can be asked for: it tells totalCount, and mostly holds nothing."""
    return ask(listing, client.RESULT_CAP - 1, limit=1, window=window)


def offsets(window: "Row[Any]") -> list[int]:
    """Where the next pages begin: full ones with the last row of the one before, small ones after it."""
    if window.page_size == client.LIST_LIMIT:
        last = max(window.total_count - 1, window.next_offset + 1)
        return list(range(window.next_offset, last, client.LIST_LIMIT - 1))
    return list(range(window.next_offset, window.total_count, window.page_size))


def joined(listing: Listing, pages: Sequence[tuple[int, OrderPage]]) -> Stretch:
    """The pages, each with its offset, as far as they follow one another and are sound; an unsound one is the last."""
    window = listing.window
    place = {name: getattr(window, name) for name in ("next_offset", "last_order_id")}
    found = Stretch(further=place)
    for offset, page in pages:
        if found.wrong is not None or found.further["next_offset"] != offset:
            break
        found = _with(listing, found, offset, page)
    return found


def _with(listing: Listing, found: Stretch, offset: int, page: OrderPage) -> Stretch:
    window, wanted, readings, last_id = listing.window, asked(listing), read(page), found.further["last_order_id"]
    wrong = plan.fault(
        total=page.total_count,
        before=window.total_count,
        offset=offset,
        rows=len(page.orders),
        inside=all(is_inside(wanted, one) for one in readings if is_placed(listing, one)),
        joined=last_id is None or not readings or order_id(readings[0]) in {last_id, None},
        limit=window.page_size,
    )
    repeated = readings[:1] if last_id is not None and wrong is None else []
    fresh, reached = readings[len(repeated) :], offset + len(readings)
    is_known = bool(repeated and found.readings) and repeated[0].sha256 == found.readings[-1].sha256
    return replace(
        found,
        pages=found.pages + 1,
        readings=found.readings + (fresh if is_known else readings),
        repeated=found.repeated + ([] if is_known else repeated),
        fresh=found.fresh + fresh,
        total=page.total_count,
        reached=reached,
        further=found.further if wrong else _further(readings, reached=reached, limit=window.page_size),
        wrong=wrong,
    )


def _further(readings: Sequence[Reading | Unreadable], *, reached: int, limit: int) -> dict[str, Any]:
    """How the window goes on after these readings, its first `reached` rows: small pages grow again, and a full page
    begins with the row before it, by which rows that moved in between show."""
    size = min(limit * 2, client.LIST_LIMIT)
    if size < client.LIST_LIMIT or not readings:
        return {"next_offset": reached, "listed": reached, "page_size": size, "last_order_id": None}
    last = order_id(readings[-1]) or ""
    return {"next_offset": reached - 1, "listed": reached, "page_size": size, "last_order_id": last}


def read(page: OrderPage) -> list[Reading | Unreadable]:
    """The page's orders, in its order."""
    if page.broken is not None:
        return [changes.unreadable(page.sent_at, body, page.broken) for body in page.orders]
    return [changes.read(page.sent_at, body) for body in page.orders]


def is_inside(window: Window, reading: Reading | Unreadable) -> bool:
    """Whether the order, which is placed, belongs into the window."""
    if isinstance(reading, Unreadable) or reading.facts.ordered_at is None:
        return True
    is_asked_for = not window.fulfillment or reading.facts.fulfillment_status in window.fulfillment
    return is_asked_for and window.since <= reading.facts.ordered_at < window.until


def is_placed(listing: Listing, reading: Reading | Unreadable) -> bool:
    """Whether the order says when it was bought, and not in the year 1 or 9999: else no window can count it."""
    bought = None if isinstance(reading, Unreadable) else reading.facts.ordered_at
    return bought is not None and plan.BEGINNING <= bought < listing.run.started_at + timedelta(days=1)


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
