"""Which backups stay. PURE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar


class Dated(Protocol):
    """Something that was made at a moment."""

    @property
    def made_at(self) -> datetime: ...


Kind = TypeVar("Kind", bound=Dated)


@dataclass(frozen=True, slots=True)
class Keep:
    """The newest backup of so many days, weeks and months that have one."""

    daily: int = 7
    weekly: int = 5
    monthly: int = 12


def spent(found: Sequence[Kind], keep: Keep) -> list[Kind]:
    """Those that may go. The newest of all always stays."""
    newest_first = sorted(found, key=lambda one: one.made_at, reverse=True)
    kept = {id(one) for one in newest_first[:1]}
    rules: tuple[tuple[int, Callable[[datetime], object]], ...] = (
        (keep.daily, lambda at: at.date()),
        (keep.weekly, lambda at: at.isocalendar()[:2]),
        (keep.monthly, lambda at: (at.year, at.month)),
    )
    for most, period in rules:
        first_of: dict[object, Kind] = {}
        for one in newest_first:
            first_of.setdefault(period(one.made_at), one)
        kept |= {id(one) for one in list(first_of.values())[:most]}
    return [one for one in newest_first if id(one) not in kept]
