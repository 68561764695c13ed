"""How many orders an account usually has in a span of time, by the hour of the week in Poland. PURE."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

WARSAW = ZoneInfo("Europe/Warsaw")
WEEKS = 8
_HOUR = timedelta(hours=1)

Slot = tuple[int, int]
"""Day of the week (1: Monday) and hour, by the clock of Warsaw."""


def slot(moment: datetime) -> Slot:
    local = moment.astimezone(WARSAW)
    return local.isoweekday(), local.hour


def expected(counts: Mapping[Slot, int], since: datetime, until: datetime) -> float:
    """Orders that [since, until) has on average. `counts`: those of the last eight weeks, by hour of the week."""
    total, at = 0.0, since.astimezone(UTC)
    while at < until:
        following = min(at.replace(minute=0, second=0, microsecond=0) + _HOUR, until)
        total += counts.get(slot(at), 0) / WEEKS * ((following - at) / _HOUR)
        at = following
    return total
