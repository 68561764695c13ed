"""Decisions of the sync: what to fetch and how, how windows split, when to try again. PURE: no I/O, no clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil, log2
from uuid import UUID

from orders_backup.allegro import horizon
from orders_backup.allegro.wire import Event

BEGINNING = datetime(2010, 1, 1, tzinfo=UTC)
"""Before any order that Allegro could still list."""
REACH = horizon.REACH
RECENT = timedelta(days=30)
"""What every full sync lists order by order; what is older it compares by count."""
SPLIT_ABOVE = 9_900
"""A window with more orders is halved: offset + limit may not exceed 10,000."""
SETTLED = timedelta(seconds=30)
"""A window ends this long before now, so that purchases still being written at Allegro fall into the next run."""
OVERLAP = timedelta(minutes=10)
"""How far before the cursor each reading of the journal begins: events may become visible late."""
GAP = horizon.JOURNAL - timedelta(days=5)
"""A cursor this old may have lost events: Allegro keeps its journal for 60 days (Allegro's documentation)."""
GAP_LISTED_AGAIN = timedelta(days=1)
"""How often everything is listed while the journal has a gap that cannot be closed, because it cannot be read."""
CERTIFICATE_EVERY = timedelta(days=30)
"""After this long the whole year is listed again, order by order."""
CERTIFICATE_AGAIN = timedelta(days=1)
"""A certificate that failed is tried again after this long; the full syncs go on meanwhile."""
SPREAD = timedelta(days=2)
"""Over this long the certificates of accounts that were connected together are spread."""
UPDATED_AT_MARGIN = timedelta(minutes=1)
FROZEN_UPDATED_AT = frozenset({"FULFILLMENT_STATUS_CHANGED"})
"""Event types after which `updatedAt` stays as it was (Allegro's staff, 2025)."""
GIVE_UP_AFTER = 5
HALF_LIFE = timedelta(minutes=5)
"""How soon the recent rate of a journal's events forgets."""
QUIET_SHARE = 24
"""A journal in which nothing happens is polled after a 24th of the time in which nothing happened."""
TO_THE_LETTER = timedelta(seconds=20)
"""A usual interval shorter than this is not adapted to what happens: somebody wants to be told at once."""
BUSY, QUIET, LONGEST = 5, 4, timedelta(minutes=15)
"""Where no bounds are set: a fifth of the usual interval at the shortest, four times it at the longest."""
MILLISECOND = timedelta(milliseconds=1)
PAGE = 100
FEW_LOST = 20
"""So many orders may vanish from a window before that has to be seen twice."""


@dataclass(frozen=True, slots=True)
class Debt:
    """An order that has to be read, and what is known of it beforehand."""

    order_id: str
    occurred_at: datetime | None
    moves_updated_at: bool
    line_item_ids: list[str]


@dataclass(frozen=True, slots=True)
class Window:
    """Purchase times [since, until), to be compared by `method`: 'ids' lists every order, 'count' only counts.
    `fulfillment`: only orders of these fulfilment statuses; empty: of any."""

    since: datetime
    until: datetime
    method: str
    fulfillment: tuple[str, ...] = ()


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
    if not cursor.isdigit():
        return False
    if int(cursor) == 0:  # a journal that was empty when it was first read
        return followed_at is not None and followed_at < now - GAP
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
    return cut(window, middle)


def cut(window: Window, middle: datetime) -> list[Window]:
    """The window in two at this moment, newest first; empty where it does not lie inside."""
    middle = middle.replace(microsecond=middle.microsecond // 1000 * 1000)
    if not window.since < middle < window.until:
        return []
    return [replace(window, since=middle), replace(window, until=middle)]


def is_worth_searching(*, listed: int, stored: int) -> bool:
    """Whether halving a window by counts finds the difference with fewer calls than listing all of it.

    Each order that differs costs at most two counts a halving, down to one page.
    """
    pages = ceil(listed / PAGE)
    return pages > 1 and abs(listed - stored) * 2 * log2(pages) < pages


def is_doubtful(*, present: int, unlisted: int) -> bool:
    """Whether so many of our orders are missing in a list that an unsound answer is likelier than the truth."""
    return unlisted > FEW_LOST and unlisted * 2 > present


def certificate_due_at(account_id: UUID, *, proven_at: datetime | None, tried_at: datetime | None) -> datetime:
    """When the whole year has to be listed again. `proven_at`: when that last succeeded, `tried_at`: last ended."""
    due_at = proven_at + CERTIFICATE_EVERY - SPREAD * (account_id.int % 1000 / 1000) if proven_at else BEGINNING
    return max(due_at, tried_at + CERTIFICATE_AGAIN) if tried_at else due_at


def whole(now: datetime) -> list[Window]:
    """The backfill's windows: what Allegro guarantees, and whatever older it still lists."""
    return [Window(now - REACH, now, "ids"), Window(BEGINNING, now - REACH, "ids")]


def full(now: datetime) -> list[Window]:
    """The regular full sync: recent purchases order by order, the rest of the year by count."""
    until, recent = now - SETTLED, now - RECENT
    return [Window(recent, until, "ids"), Window(now - REACH, recent, "count")]


def is_within_reach(until: datetime, *, began_at: datetime) -> bool:
    """Whether Allegro still listed all orders of a window that ends then, when the run began; beyond, they fall off
    its list while it is read."""
    return until > began_at - REACH + SETTLED


def in_milliseconds(moment: datetime) -> datetime:
    """The moment as Allegro counts it."""
    return datetime.fromtimestamp(int(moment.timestamp() * 1000) / 1000, UTC)


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


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a list is no answer: the `cause`, as it is counted, and a sentence."""

    cause: str
    sentence: str


def fault(
    *, total: int, before: int | None, offset: int, rows: int, inside: bool, joined: bool = True, limit: int = PAGE
) -> Fault | None:
    """What is wrong with a list page; None for a sound one. `before`: totalCount of the window's earlier pages;
    `joined`: its first row is the last one of the page before."""
    if before is not None and total != before:
        return Fault("total_changed", f"totalCount changed from {before} to {total} while listing")
    if rows != min(limit, max(total - offset, 0)):
        return Fault("wrong_length", f"a page at offset {offset} held {rows} orders of {total}")
    if not inside:
        return Fault("outside", "a page held orders from outside its window")
    if not joined:
        return Fault("shifted", f"the page at offset {offset} did not begin where the one before it ended")
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


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What of late happened in a journal: events a second, and when the newest one came."""

    rate: float
    event_at: datetime | None


@dataclass(frozen=True, slots=True)
class Interval:
    """How often a journal is polled usually, at the shortest and at the longest."""

    usual: timedelta
    shortest: timedelta
    longest: timedelta


def interval(usual: timedelta, shortest: timedelta | None, longest: timedelta | None) -> Interval:
    """The bounds that were set, or those that follow from the usual interval; the usual one lies between them."""
    adapts = usual >= TO_THE_LETTER
    least = shortest or (max(usual / BUSY, TO_THE_LETTER) if adapts else usual)
    most = longest or (min(usual * QUIET, LONGEST) if adapts else usual)
    return Interval(usual, min(least, usual), max(most, usual))


def rhythm(known: Rhythm, *, events: int, since: datetime | None, now: datetime) -> Rhythm:
    """What is known of a journal after a reading that brought so many new events; `since`: the reading before."""
    event_at = now if events or known.event_at is None else known.event_at
    if since is None:
        return Rhythm(known.rate, event_at)
    seconds = max((now - since).total_seconds(), 1.0)
    kept = 0.5 ** (seconds / HALF_LIFE.total_seconds())
    return Rhythm(known.rate * kept + events / seconds * (1 - kept), event_at)


def poll_after(known: Rhythm, bounds: Interval, *, now: datetime) -> timedelta:
    """When to look again: as soon as an event is to be expected while they keep coming, and the more rarely the longer
    nothing came. In between it is the usual interval."""
    seconds = bounds.usual.total_seconds()
    if known.rate * seconds > 1:
        return max(timedelta(seconds=1 / known.rate), bounds.shortest)
    idle = now - known.event_at if known.event_at else timedelta(0)
    return min(max(idle / QUIET_SHARE, bounds.usual), bounds.longest)


def while_short(wait: timedelta, *, in_force: float) -> timedelta:
    """The interval while only this share of the budget's rate is in force: a journal that is level leaves the calls to
    those that are not, up to an interval that is long enough by itself."""
    return max(wait, min(wait / in_force, TO_THE_LETTER))


def backoff(failures: int) -> timedelta:
    """5 s, 10 s, 20 s … at most 10 minutes."""
    return min(timedelta(seconds=5 * 2 ** min(failures, 10)), timedelta(minutes=10))


def unproven_again(failed: int) -> timedelta:
    """How long a listing waits after so many runs in a row that could not prove everything: at most an hour."""
    return min(timedelta(seconds=150 * 2 ** min(failed - 1, 10)), timedelta(hours=1))
