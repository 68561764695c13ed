"""Months as Polish book-keeping has them: by the clock of Warsaw. PURE."""

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from orders_backup.errors import InvalidRequestError

WARSAW = ZoneInfo("Europe/Warsaw")
_MONTH = re.compile(r"([1-9]\d{3})-(0[1-9]|1[0-2])")


def bounds(month: str) -> tuple[datetime, datetime]:
    """The first moment of `2026-06` and the first after it, in UTC. Raises InvalidRequestError."""
    found = _MONTH.fullmatch(month)
    if found is None or found[1] == "9999":
        raise InvalidRequestError("month: write a year and a month, as 2026-06.")
    year, number = int(found[1]), int(found[2])
    following = (year + number // 12, number % 12 + 1)
    begin, end = (datetime(*one, 1, tzinfo=WARSAW).astimezone(UTC) for one in ((year, number), following))
    return begin, end


def local(moment: datetime) -> str:
    """The moment by the clock of Warsaw, as spreadsheets read it: `2026-06-01 10:15:22`."""
    return moment.astimezone(WARSAW).strftime("%Y-%m-%d %H:%M:%S")
