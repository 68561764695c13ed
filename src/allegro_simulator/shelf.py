"""One seller's orders in the two orders they are listed by, and the filters of the list; no HTTP."""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from allegro_simulator import orders, times
from allegro_simulator.orders import Order

MONTHS_12 = 365 * times.DAY
_ANY_LATE = 1 << 62

Key = Callable[[Order], tuple[int, str]]


def by_bought(order: Order) -> tuple[int, str]:
    return order.bought, order.id


def by_updated(order: Order) -> tuple[int, str]:
    return order.updated, order.id


FIELDS: dict[str, Callable[[Order], tuple[str | None, ...]]] = {
    "status": lambda order: (order.status,),
    "fulfillment.status": lambda order: (order.fulfillment,),
    "fulfillment.provider.id": lambda order: (order.template.provider,),
    "fulfillment.shipmentSummary.lineItemsSent": lambda order: (order.sent,),
    "payment.id": lambda order: (orders.payment_id(order) if order.has_payment else None,),
    "surcharges.id": lambda order: order.surcharges,
    "delivery.method.id": lambda order: (order.method,),
    "buyer.login": lambda order: (orders.buyer(order).login,),
    "marketplace.id": lambda order: (order.template.marketplace,),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list request asks for; bounds are inclusive milliseconds, None where not given.

    `fields` pairs a name of FIELDS with the values of which one must match.
    """

    bought_from: int | None = None
    bought_to: int | None = None
    updated_from: int | None = None
    updated_to: int | None = None
    fields: tuple[tuple[str, frozenset[str]], ...] = ()
    by_update: bool = False
    descending: bool = True


@dataclass(slots=True)
class Shelf:
    """Orders that exist, sorted by purchase and by modification; `generation` moves with each change."""

    bought: list[Order] = field(default_factory=list)
    updated: list[Order] = field(default_factory=list)
    generation: int = 0
    answers: OrderedDict[tuple[int, int, Wanted], list[Order]] = field(default_factory=OrderedDict)


def add(shelf: Shelf, order: Order) -> None:
    insort(shelf.bought, order, key=by_bought)
    insort(shelf.updated, order, key=by_updated)
    shelf.generation += 1


def fill(shelf: Shelf, many: list[Order]) -> None:
    """Add many orders at once."""
    shelf.bought = sorted(shelf.bought + many, key=by_bought)
    shelf.updated = sorted(shelf.updated + many, key=by_updated)
    shelf.generation += 1


def remove(shelf: Shelf, order: Order) -> None:
    del shelf.bought[bisect_left(shelf.bought, by_bought(order), key=by_bought)]
    del shelf.updated[bisect_left(shelf.updated, by_updated(order), key=by_updated)]
    shelf.generation += 1


def move(shelf: Shelf, order: Order, updated: int) -> None:
    """Give an order another moment of modification."""
    del shelf.updated[bisect_left(shelf.updated, by_updated(order), key=by_updated)]
    order.updated = updated
    insort(shelf.updated, order, key=by_updated)
    shelf.generation += 1


def visible_from(now: int) -> int:
    """Purchases before this moment are not served."""
    return now - MONTHS_12


def page(shelf: Shelf, wanted: Wanted, now: int, offset: int, limit: int) -> tuple[list[Order], int]:
    """Rows `offset` to `offset + limit` of what is wanted, and how many there are in all."""
    rows, low, high = _matching(shelf, wanted, now)
    count = high - low
    if offset >= count:
        return [], count
    if not wanted.descending:
        return rows[low + offset : min(low + offset + limit, high)], count
    end = high - offset
    return rows[max(end - limit, low) : end][::-1], count


def _matching(shelf: Shelf, wanted: Wanted, now: int) -> tuple[list[Order], int, int]:
    """A list in ascending order and the part of it that matches."""
    horizon = visible_from(now)
    hidden = bool(shelf.bought) and shelf.bought[0].bought < horizon
    bought_from = max(wanted.bought_from or 0, horizon)
    if wanted.by_update:
        rows = shelf.updated
        low, high = _part(rows, by_updated, wanted.updated_from, wanted.updated_to)
        plain = not hidden and wanted.bought_from is None and wanted.bought_to is None
    else:
        rows = shelf.bought
        low, high = _part(rows, by_bought, bought_from, wanted.bought_to)
        plain = wanted.updated_from is None and wanted.updated_to is None
    if plain and not wanted.fields:
        return rows, low, max(low, high)
    first = bisect_left(shelf.bought, (horizon, ""), key=by_bought)
    found = _scanned(shelf, rows, (low, high), wanted, first)
    return found, 0, len(found)


def _part(rows: list[Order], key: Key, start: int | None, end: int | None) -> tuple[int, int]:
    low = bisect_left(rows, (start or 0, ""), key=key)
    high = bisect_right(rows, (_ANY_LATE if end is None else end, "\uffff"), key=key)
    return low, high


def _scanned(shelf: Shelf, rows: list[Order], part: tuple[int, int], wanted: Wanted, first: int) -> list[Order]:
    """Rows that pass every filter; the last few answers are kept, for a reader asks page after page.

    `first` is the position of the oldest purchase that is still served.
    """
    key = (shelf.generation, first, wanted)
    if key in shelf.answers:
        return shelf.answers[key]
    oldest = shelf.bought[first].bought if first < len(shelf.bought) else _ANY_LATE
    bought_from = max(wanted.bought_from or 0, oldest)
    bought_to = _ANY_LATE if wanted.bought_to is None else wanted.bought_to
    updated_from = wanted.updated_from or 0
    updated_to = _ANY_LATE if wanted.updated_to is None else wanted.updated_to
    found = [
        order
        for order in rows[part[0] : part[1]]
        if bought_from <= order.bought <= bought_to and updated_from <= order.updated <= updated_to
    ]
    for name, values in wanted.fields:
        read = FIELDS[name]
        found = [order for order in found if not values.isdisjoint(read(order))]
    shelf.answers[key] = found
    while len(shelf.answers) > 8:
        shelf.answers.popitem(last=False)
    return found
