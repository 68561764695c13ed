"""Decisions of the sync: what to fetch and how, how windows split, when to try again. PURE: no I/O, no clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil

from orders_backup.allegro.wire import Event

BEGINNING = datetime(2010, 1, 1, tzinfo=UTC)
"""Before any order that Allegro could still list."""
REACH = timedelta(days=360)
"""How far back windows are proven: a little less than the 12 months that Allegro guarantees (Allegro's staff, 2025),
so that orders falling off at that edge do not move under a window. Older ones are kept as long as they are listed."""
RECENT = timedelta(days=30)
"""What every full sync lists order by order; what is older it compares by count."""
SPLIT_ABOVE = 9_900
"""A window with more orders is halved: offset + limit may not exceed 10,000."""
SETTLED = timedelta(seconds=30)
"""A window ends this long before now, so that purchases still being written at Allegro fall into the next run."""
OVERLAP = timedelta(minutes=10)
"""How far before the cursor each reading of the journal begins: events may become visible late."""
GAP = timedelta(days=55)
"""A cursor this old may have lost events: Allegro keeps its journal for 60 days (Allegro's documentation)."""
UPDATED_AT_MARGIN = timedelta(minutes=1)
FROZEN_UPDATED_AT = frozenset({"FULFILLMENT_STATUS_CHANGED"})
"""Event types after which `updatedAt` stays as it was (Allegro's staff, 2025)."""
GIVE_UP_AFTER = 5
MILLISECOND = timedelta(milliseconds=1)
PAGE = 100


@dataclass(frozen=True, slots=True)
class Debt:
    """An order that has to be read, and what is known of it beforehand."""

    order_id: str
    occurred_at: datetime | None
    moves_updated_at: bool
    line_item_ids: list[str]


@dataclass(frozen=True, slots=True)
class Window:
    """Purchase times [since, until), to be compared by `method`: 'ids' lists every order, 'count' only counts."""

    since: datetime
    until: datetime
    method: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """An owed order that is in the archive: its purchase time and its rank among all orders by that time."""

    order_id: str
    ordered_at: datetime
    rank: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A range of purchase times whose list pages hold several owed orders."""

    since: datetime
    until: datetime
    order_ids: tuple[str, ...]


def debts(events: Iterable[Event]) -> list[Debt]:
    """One debt per order named by these events: since its earliest event, by `updatedAt` if any of them moves it."""
    by_order: dict[str, Debt] = {}
    for event in events:
        if event.order_id is None:
            continue
        moves = event.event_type not in FROZEN_UPDATED_AT
        debt = Debt(event.order_id, event.occurred_at, moves, event.line_item_ids)
        known = by_order.get(event.order_id)
        by_order[event.order_id] = debt if known is None else _joined(known, debt)
    return list(by_order.values())


def _joined(one: Debt, other: Debt) -> Debt:
    moments = [moment for moment in (one.occurred_at, other.occurred_at) if moment is not None]
    moves = one.moves_updated_at or other.moves_updated_at
    return Debt(one.order_id, min(moments, default=None), moves, other.line_item_ids)


def overlapped(cursor: str) -> str:
    """The event id to read after, some minutes before the cursor: ids count microseconds (measured on 13 samples)."""
    if not cursor.isdigit():
        return cursor
    return str(max(int(cursor) - int(OVERLAP.total_seconds() * 1_000_000), 0))


def is_gap(cursor: str, *, followed_at: datetime | None, now: datetime) -> bool:
    """Whether the journal may have dropped events between this cursor and the oldest it still has.

    An old cursor alone is none: a seller to whom nothing happens keeps his. `followed_at`: when the journal was last
    read to its end.
    """
    if not cursor.isdigit() or int(cursor) == 0:
        return False
    is_old = int(cursor) < (now - GAP).timestamp() * 1_000_000
    return is_old and (followed_at is None or followed_at < now - GAP)


def later(cursor: str, event_ids: Iterable[str]) -> str:
    """The greatest of these ids: they are numbers of any length."""
    return max([cursor, *event_ids], key=lambda event_id: (int(event_id) if event_id.isdigit() else -1, event_id))


def credible(event_ids: Iterable[str], *, now: datetime) -> list[str]:
    """Those that can be a moment of the journal. What is no number, or lies beyond tomorrow, never moves the cursor:
    it would take it past everything still to come."""
    latest = int((now + timedelta(days=1)).timestamp() * 1_000_000)
    return [one for one in event_ids if one.isdigit() and int(one) <= latest]


def halves(window: Window, *, oldest: datetime | None) -> list[Window]:
    """Two windows for one with too many orders, cut in the middle of what holds any, newest first.

    What lies before the oldest order seen stays a part of the older half. A window of two milliseconds or less
    cannot be cut: empty.
    """
    start = max(window.since, oldest) if oldest else window.since
    middle = start + (window.until - start) / 2
    middle = middle.replace(microsecond=middle.microsecond // 1000 * 1000)
    if not window.since < middle < window.until:
        return []
    return [Window(middle, window.until, window.method), Window(window.since, middle, window.method)]


def whole(now: datetime) -> list[Window]:
    """The backfill's windows: what Allegro guarantees, and whatever older it still lists."""
    return [Window(now - REACH, now, "ids"), Window(BEGINNING, now - REACH, "ids")]


def full(now: datetime) -> list[Window]:
    """The regular full sync: recent purchases order by order, the rest of the year by count."""
    until, recent = now - SETTLED, now - RECENT
    return [Window(recent, until, "ids"), Window(now - REACH, recent, "count")]


def months(since: datetime, until: datetime) -> list[Window]:
    """Windows of calendar months, newest first, each to be listed order by order."""
    starts = [since]
    while True:
        last = starts[-1]
        following = datetime(last.year + last.month // 12, last.month % 12 + 1, 1, tzinfo=UTC)
        if following >= until:
            break
        starts.append(following)
    return [Window(a, b, "ids") for a, b in reversed(list(zip(starts, [*starts[1:], until], strict=True)))]


def fault(*, total: int, before: int | None, offset: int, rows: int, inside: bool, limit: int = PAGE) -> str | None:
    """What is wrong with a list page; None for a sound one. `before`: totalCount of the window's earlier pages."""
    if before is not None and total != before:
        return f"totalCount changed from {before} to {total} while listing"
    if rows != min(limit, max(total - offset, 0)):
        return f"a page at offset {offset} held {rows} orders of {total}"
    if not inside:
        return "a page held orders from outside its window"
    return None


def stretches(ranked: Sequence[Ranked]) -> list[Stretch]:
    """Ranges where reading list pages costs fewer calls than reading the owed orders one by one."""
    found: list[list[Ranked]] = []
    for one in sorted(ranked, key=lambda ranked_order: ranked_order.rank):
        if found and one.rank - found[-1][-1].rank < PAGE:
            found[-1].append(one)
        else:
            found.append([one])
    return [
        Stretch(group[0].ordered_at, group[-1].ordered_at, tuple(one.order_id for one in group))
        for group in found
        if ceil((group[-1].rank - group[0].rank + 1) / PAGE) < len(group)
    ]


def backoff(failures: int) -> timedelta:
    """5 s, 10 s, 20 s … at most 10 minutes."""
    return min(timedelta(seconds=5 * 2 ** min(failures, 10)), timedelta(minutes=10))
