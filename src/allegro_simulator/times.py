"""Instants as whole milliseconds since 1970 and their form on the wire; nothing reads a clock here."""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_WIRE_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 of an aware instant."""
    return (moment - _EPOCH) // _MICROSECOND


def milliseconds(moment: datetime) -> int:
    return microseconds(moment) // 1_000


def instant(ms: int) -> datetime:
    """The aware UTC instant of these milliseconds."""
    return _EPOCH + timedelta(milliseconds=ms)


@lru_cache(maxsize=4_096)
def day_text(day: int) -> str:
    """`2026-06-01` for a number of days since 1970."""
    return date.fromordinal(719_163 + day).isoformat()


def clock_text(ms_of_day: int) -> str:
    """`T08:15:22.341Z` for the milliseconds since midnight."""
    seconds, ms = divmod(ms_of_day, 1_000)
    minutes, second = divmod(seconds, 60)
    return f"T{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}.{ms:03d}Z"


def text(ms: int) -> str:
    """`2026-06-01T08:15:22.341Z`, the only form of an instant on the wire."""
    day, rest = divmod(ms, DAY)
    return day_text(day) + clock_text(rest)


def parsed(wire: str) -> int | None:
    """Milliseconds of a wire date, or None where it is not one with `Z` or an offset."""
    if not _WIRE_DATE.fullmatch(wire):
        return None
    try:
        return milliseconds(datetime.fromisoformat(wire))
    except ValueError:
        return None
