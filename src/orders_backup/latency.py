"""Whether answers have become slow: hidden limits slow down before they refuse. Knows seconds, not what was asked.

What is usual is learned by each process for itself, because it depends on where the process runs; what follows from
slow answers is a pace in the request budget, which all processes share and which survives them.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median
from uuid import UUID

TIMES = 3.0
AT_LEAST = 0.5
"""Seconds; what is quicker is never slow: a busy machine of ours makes as much difference."""
ENOUGH = 6
"""Answers of one job, or accounts of one class of routes, that have to agree."""
ACCOUNTS = 24
FALLS, RISES = 0.2, 0.005
"""How much of a quicker, and of a slower answer, becomes the usual: it stays near the quick ones, and in the end
follows an Allegro that has become slower for good."""


def usual(known: float | None, seconds: float) -> float:
    """The usual time after one more answer. PURE."""
    if known is None:
        return seconds
    share = FALLS if seconds < known else RISES
    return known + share * (min(seconds, TIMES * known) - known)


def is_slow(recent: Collection[float], known: float) -> bool:
    """Whether most of the recent answers took more than three times what is usual. PURE."""
    return len(recent) >= ENOUGH and median(recent) > max(TIMES * known, AT_LEAST)


@dataclass(slots=True)
class _Route:
    """One class of routes: its usual time, and the last answer of each of the latest accounts."""

    usual: float | None = None
    last: "OrderedDict[UUID, float]" = field(default_factory=OrderedDict)


class Latencies:
    """What one process has learned of each class of routes. Safe among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._routes: dict[str, _Route] = {}

    def note(self, route: str, account_id: UUID, recent: "deque[float]", seconds: float) -> tuple[bool, bool]:
        """One more answer of an account, whose `recent` ones are kept by its job: is the account slow, are all?

        Whoever is told so starts afresh, since what comes next is the effect of going slower.
        """
        with self._lock:
            known = self._routes.setdefault(route, _Route())
            known.last.pop(account_id, None)
            known.last[account_id] = seconds
            if len(known.last) > ACCOUNTS:
                known.last.popitem(last=False)
            recent.append(seconds)
            before = seconds if known.usual is None else known.usual
            account, everybody = is_slow(recent, before), is_slow(known.last.values(), before)
            known.usual = usual(known.usual, seconds)
            if account:
                recent.clear()
            if everybody:
                known.last.clear()
            return account, everybody
