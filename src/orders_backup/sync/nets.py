"""Decisions of the nets under the journal: what a sweep looks at, and what counts as caught by it. PURE: no I/O."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from orders_backup.sync import plan
from orders_backup.sync.plan import Window

OPEN = ("NEW", "PROCESSING", "READY_FOR_SHIPMENT", "READY_FOR_PICKUP", "SUSPENDED")
"""Fulfilment statuses that a seller is still going to change (Allegro's OpenAPI file)."""
STATUSES = (*OPEN, "SENT", "PICKED_UP", "CANCELLED", "RETURNED")
LISTED_UP_TO = 5 * plan.PAGE
"""So many recent open orders are listed; of more each status is counted, which costs as many calls as it has."""
OLDER_EVERY = timedelta(hours=20)
"""Fulfilment of orders older than `plan.RECENT` is compared this often: once a night, whatever the hour."""
FIRST_MARGIN = timedelta(hours=3)
"""The first sweep by `updatedAt` begins this long before the backfill did."""
OVERLAP = timedelta(minutes=15)
"""Each later one begins this long before the one before it began: changes may become visible late."""
JOURNAL_LAG = timedelta(seconds=30)
"""Events enter the journal 10 to 20 seconds after the fact (measured on 11 samples)."""

OPEN_SWEEP = "open_sweep"
NET_OF_RUN = {"full": "full", "reconcile": "certificate", "sweep": OPEN_SWEEP}
"""The net whose catch is what the windows of such a run find; a backfill catches nothing, it begins."""


def open_orders(now: datetime, *, held: int) -> list[Window]:
    """How to compare the fulfilment of recent orders, of which we hold `held` as open."""
    until = now - plan.SETTLED
    if held <= LISTED_UP_TO:
        return [Window(now - plan.RECENT, until, "ids", OPEN)]
    return [Window(now - plan.RECENT, until, "count", (status,)) for status in OPEN]


def older_orders(now: datetime, statuses: Iterable[str]) -> list[Window]:
    """How to compare the fulfilment of the rest of the year: by counts, of known statuses and those we hold."""
    known = dict.fromkeys([*STATUSES, *sorted(status for status in statuses if status and "," not in status)])
    return [Window(now - plan.REACH, now - plan.RECENT, "count", (status,)) for status in known]


def updated_since(swept_to: datetime | None, *, backfill_began: datetime) -> datetime:
    """From which `updatedAt` on a sweep lists. `swept_to`: how far the sweeps before came, margin included."""
    return swept_to or backfill_began - FIRST_MARGIN


def is_caught(updated_at: datetime | None, *, followed_at: datetime | None) -> bool:
    """Whether the journal let an order through that a net found. What changed after the journal was last followed
    (`followed_at`) was found a little earlier, not instead."""
    if followed_at is None:
        return False
    return updated_at is None or updated_at + JOURNAL_LAG <= followed_at
