"""When to look for what belongs to an order: each order on a ladder of ages, returns and refunds by lists. PURE.

No event tells of a tracking number, an invoice, a return or a refund, so all of it is a matter of time: often while
things move, ever more seldom later, at last never. No I/O, no clock.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

OF_ORDERS = ("invoices", "shipments")
"""Kinds of which every order has one document, asked for order by order."""
LISTED = ("refunds", "returns")
"""Kinds that Allegro lists by time."""

SETTLED = timedelta(minutes=10)
"""After a parcel was handed over its number may still be on its way (Allegro's reads lag behind its writes)."""
HANDED_OVER = frozenset({"READY_FOR_SHIPMENT", "SENT", "READY_FOR_PICKUP", "PICKED_UP", "RETURNED"})
NOTHING_YET = frozenset({"BOUGHT", "FILLED_IN", "CANCELLED"})

_LADDERS = {
    ("shipments", False): (1, 2, 4, 8, 16, 32, 45),
    ("shipments", True): (4, 16, 45),
    ("invoices", False): (2, 8, 45),
    ("invoices", True): (16, 45),
}
"""Days since the purchase at which an order is looked at: while nothing was found, and once something was."""

EVERY = timedelta(minutes=10)
"""How often the job looks for orders that changed; that costs no call."""
GIVE_UP_AFTER = 5
AGAIN = timedelta(hours=1)
"""After a failure an order waits at least this long."""
MONTH = timedelta(days=30)
REST = timedelta(minutes=10)
"""How long a kind rests that failed with everything."""
OFF = timedelta(days=1)
"""How long a kind rests that Allegro denies."""


@dataclass(frozen=True, slots=True)
class Order:
    """What decides when an order is looked at. `ordered_at`: where it is unknown, when it was first read."""

    ordered_at: datetime
    status: str | None
    fulfillment: str | None
    is_gone: bool


@dataclass(frozen=True, slots=True)
class Span:
    """How far back a list is read, and how often."""

    name: str
    reach: timedelta | None
    every: timedelta


SPANS = (
    Span("all", None, timedelta(days=7)),
    Span("open", timedelta(days=60), timedelta(days=1)),
    Span("recent", timedelta(days=2), timedelta(hours=1)),
)
"""Widest first; a wider one does the work of those after it. New returns show within the hour, changes of open ones
within a day, and what any of that missed within a week."""


def next_look(
    kind: str, order: Order, *, read_at: datetime | None, found: bool, changed_at: datetime | None = None
) -> datetime | None:
    """When this order has to be asked for this kind; None: never again, unless it changes.

    The moment may lie in the past. What fell due last is done first, and so the news come before history, and history
    comes newest first. `changed_at`: when a new version of the order was stored, where that is why we ask.
    """
    if is_over(order):
        return None
    rungs = [order.ordered_at + timedelta(days=days) for days in _LADDERS[kind, found]]
    due_at = rungs[0] if read_at is None else next((rung for rung in rungs if rung > read_at), None)
    if kind == "shipments" and changed_at is not None and order.fulfillment in HANDED_OVER:
        soon = changed_at + SETTLED
        if read_at is None or read_at < soon:
            due_at = soon if due_at is None else min(due_at, soon)
    return due_at


def is_over(order: Order) -> bool:
    """Whether there is nothing to look for: not paid, cancelled, or gone from Allegro."""
    return order.is_gone or order.status in NOTHING_YET


def after_failure(failures: int, *, now: datetime) -> datetime:
    """When an order that failed so often is tried again: after hours, from the fifth time on once a month."""
    return now + (MONTH if failures >= GIVE_UP_AFTER else AGAIN * 2**failures)


def span_due(listed_at: Mapping[str, datetime | None], *, now: datetime) -> Span | None:
    """The widest span whose time has come. `listed_at`: up to when each was last listed to its end."""
    return next((span for span in SPANS if _due_at(span, listed_at, now=now) <= now), None)


def next_list_at(listed_at: Mapping[str, datetime | None], *, now: datetime) -> datetime:
    """When the next span is due."""
    return min(_due_at(span, listed_at, now=now) for span in SPANS)


def covered(name: str) -> list[str]:
    """This span and those that it did the work of."""
    names = [span.name for span in SPANS]
    return names[names.index(name) :]


def _due_at(span: Span, listed_at: Mapping[str, datetime | None], *, now: datetime) -> datetime:
    last = listed_at.get(span.name)
    return now if last is None else last + span.every


def bookmark(xid: int, seq: int, kinds: Collection[str]) -> str:
    """How far the change feed was followed, and for which kinds."""
    return f"{xid}:{seq}:{','.join(sorted(kinds))}"


def opened(bookmark: str | None, kinds: Collection[str]) -> tuple[int, int]:
    """Where to go on in the change feed: from its beginning where a kind is new since."""
    if bookmark is None:
        return 0, 0
    xid, seq, followed = bookmark.split(":")
    return (int(xid), int(seq)) if set(kinds) <= set(followed.split(",")) else (0, 0)
