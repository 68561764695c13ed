"""The event journal: identifiers, the delay before an event is visible, what was handed out; no routing."""

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter

import msgspec

from allegro_simulator import orders, times
from allegro_simulator.orders import Order

KEPT_DAYS = 60
KINDS = (
    "BOUGHT",
    "FILLED_IN",
    "READY_FOR_PROCESSING",
    "BUYER_CANCELLED",
    "FULFILLMENT_STATUS_CHANGED",
    "AUTO_CANCELLED",
    "BUYER_MODIFIED",
)

_by_id = attrgetter("id")


@dataclass(slots=True, eq=False)
class Event:
    """One entry; `id` is microseconds of insertion, `occurred` milliseconds, `id` 0 while it waits."""

    kind: str
    order: Order
    occurred: int
    revision: int
    id: int = 0
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """An entry as the owner of the simulator sees it."""

    id: str
    type: str
    form_id: str
    occurred_at: datetime


@dataclass(slots=True)
class Journal:
    """What one seller's journal holds, oldest first, and what it lost on the way."""

    events: list[Event] = field(default_factory=list)
    lost: list[Event] = field(default_factory=list)
    losing: int = 0
    served: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Desk:
    """Gives out identifiers, strictly rising in the whole world, and holds events until they are due."""

    lag_us: int = 0
    last_id: int = 0
    taken: set[int] = field(default_factory=set)
    waiting: list[tuple[int, int, Journal, Event]] = field(default_factory=list)
    arrivals: int = 0


class _Offer(msgspec.Struct):
    id: msgspec.Raw
    name: msgspec.Raw


class _Line(msgspec.Struct):
    id: msgspec.Raw
    offer: _Offer
    quantity: msgspec.Raw
    originalPrice: msgspec.Raw  # noqa: N815 - the name on the wire
    price: msgspec.Raw
    boughtAt: msgspec.Raw  # noqa: N815 - the name on the wire


class _Buyer(msgspec.Struct):
    id: msgspec.Raw
    email: msgspec.Raw
    login: msgspec.Raw
    guest: msgspec.Raw
    preferences: msgspec.Raw


class _Form(msgspec.Struct):
    buyer: _Buyer
    lineItems: list[_Line]  # noqa: N815 - the name on the wire
    marketplace: msgspec.Raw


_decoder = msgspec.json.Decoder(_Form)
_encoder = msgspec.json.Encoder()


def write(desk: Desk, journal: Journal, event: Event, now_us: int) -> None:
    """Let an event enter the journal after the usual lag, unless the journal is about to lose one."""
    if journal.losing:
        journal.losing -= 1
        journal.lost.append(event)
        return
    desk.arrivals += 1
    heapq.heappush(desk.waiting, (now_us + desk.lag_us, desk.arrivals, journal, event))
    settle(desk, now_us)


def settle(desk: Desk, now_us: int) -> None:
    """Insert everything that is due by now."""
    while desk.waiting and desk.waiting[0][0] <= now_us:
        due, _, journal, event = heapq.heappop(desk.waiting)
        insert(desk, journal, event, due)


def insert(desk: Desk, journal: Journal, event: Event, due_us: int) -> None:
    """Put an event at the end of the journal with a new identifier."""
    event.id = max(desk.last_id + 1, due_us)
    while event.id in desk.taken:
        event.id += 1
    desk.taken.add(event.id)
    desk.last_id = event.id
    journal.events.append(event)


def fill(desk: Desk, journal: Journal, events: Iterable[Event]) -> None:
    """Add history: events that already carry the moment of insertion as `id`; equal ones move on by one."""
    for event in events:
        while event.id in desk.taken:
            event.id += 1
        desk.taken.add(event.id)
        desk.last_id = max(desk.last_id, event.id)
        journal.events.append(event)
    journal.events.sort(key=_by_id)


def plant(desk: Desk, journal: Journal, body: bytes, now_us: int) -> None:
    """Insert an event of any bytes; `{"id":"0"` at their beginning gets the event's own id."""
    latest = journal.events[-1]
    event = Event(latest.kind, latest.order, latest.occurred, latest.revision)
    insert(desk, journal, event, now_us)
    event.body = body.replace(b'{"id":"0"', b'{"id":"%d"' % event.id, 1) if body.startswith(b'{"id":"0"') else body


def duplicate(desk: Desk, journal: Journal, now_us: int) -> str | None:
    """Insert the latest event once more: another id, the same moment; None where there is none."""
    if not journal.events:
        return None
    latest = journal.events[-1]
    copy = Event(latest.kind, latest.order, latest.occurred, latest.revision)
    insert(desk, journal, copy, now_us)
    return str(copy.id)


def restore(desk: Desk, journal: Journal, now_us: int) -> list[str]:
    """Insert what was lost, now, under new ids."""
    lost, journal.lost = journal.lost, []
    for event in lost:
        insert(desk, journal, event, now_us)
    return [str(event.id) for event in lost]


def page(journal: Journal, now_us: int, *, after: int, kinds: frozenset[str], limit: int) -> list[Event]:
    """The oldest `limit` events of the last 60 days with an id above `after`."""
    oldest = now_us - KEPT_DAYS * times.DAY * 1_000
    events = journal.events
    start = max(bisect_left(events, oldest, key=_by_id), bisect_right(events, after, key=_by_id))
    if not kinds:
        return events[start : start + limit]
    found = []
    for position in range(start, len(events)):
        if events[position].kind in kinds:
            found.append(events[position])
            if len(found) == limit:
                break
    return found


def latest(journal: Journal, now_us: int) -> Event | None:
    """The newest event of the last 60 days."""
    oldest = now_us - KEPT_DAYS * times.DAY * 1_000
    if journal.events and journal.events[-1].id >= oldest:
        return journal.events[-1]
    return None


def body(event: Event) -> bytes:
    """The event as on the wire; rendered once, when it has its id."""
    if event.body is None:
        event.body = _rendered(event)
    return event.body


def _rendered(event: Event) -> bytes:
    order = event.order
    try:
        form = _decoder.decode(orders.body(order))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):  # a planted document: as it would be without
        form = _decoder.decode(orders.render(order, order.template))
    revision = orders.revision_text(order, event.revision)
    return b"".join(
        (
            b'{"id":"%d","order":{"seller":{"id":"%b"},"buyer":' % (event.id, order.seller_id.encode()),
            _encoder.encode(form.buyer),
            b',"lineItems":',
            _encoder.encode(form.lineItems),
            b',"checkoutForm":{"id":"%b","revision":"%b"},"marketplace":' % (order.id.encode(), revision.encode()),
            form.marketplace,
            b'},"type":"%b","occurredAt":"%b"}' % (event.kind.encode(), times.text(event.occurred).encode()),
        )
    )
