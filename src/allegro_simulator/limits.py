"""Counts requests per client id, blocks a client that asks too often, and remembers every call."""

from array import array
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

WINDOW = 60.0
BLOCK = 60.0


class Call(NamedTuple):
    """One answered request; `at` is seconds since 1970, `path` the class of the path."""

    at: float
    method: str
    path: str
    status: int
    seller_id: str | None
    client_id: str | None


@dataclass(slots=True)
class Client:
    """Requests of one client id: all of them in order, those of the running window, the block."""

    times: "array[float]" = field(default_factory=lambda: array("d"))
    recent: deque[float] = field(default_factory=deque)
    blocked_until: float = 0.0


@dataclass(slots=True)
class Ledger:
    """Everything that was asked; `calls` keeps the last 200,000, the counters keep all."""

    limit: int
    clients: dict[str, Client] = field(default_factory=dict)
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=200_000))
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    blocked_calls: int = 0
    resources: dict[tuple[str, ...], deque[float]] = field(default_factory=dict)


def admits(ledger: Ledger, client_id: str, now: float) -> bool:
    """Whether this request may pass. More than the limit in any 60 s blocks for 60 s from the last request."""
    client = ledger.clients.setdefault(client_id, Client())
    client.times.append(now)
    recent = client.recent
    recent.append(now)
    while recent[0] <= now - WINDOW:
        recent.popleft()
    if now < client.blocked_until:
        ledger.blocked_calls += 1
        client.blocked_until = now + BLOCK
        return False
    if len(recent) > ledger.limit:
        client.blocked_until = now + BLOCK
        return False
    return True


def restart(ledger: Ledger, limit: int) -> None:
    """Another limit from now on; what was counted before is forgotten, a block too. The log of calls stays."""
    ledger.limit = limit
    ledger.clients.clear()


def is_crowded(ledger: Ledger, key: tuple[str, ...], now: float, per_second: int) -> bool:
    """Whether this request is one too many within a second; it counts all the same."""
    recent = ledger.resources.setdefault(key, deque())
    recent.append(now)
    while recent[0] <= now - 1:
        recent.popleft()
    return len(recent) > per_second


def record(ledger: Ledger, call: Call) -> None:
    ledger.calls.append(call)
    ledger.counts[call.path, call.status] += 1


def counted(ledger: Ledger, since: float, until: float) -> int:
    """How many requests counted against the limit from `since` to before `until`."""
    return sum(bisect_left(one.times, until) - bisect_left(one.times, since) for one in ledger.clients.values())


def worst_window(ledger: Ledger, seconds: float) -> int:
    """The greatest number of counted requests of one client id in any `seconds`."""
    return max((_worst(client.times, seconds) for client in ledger.clients.values()), default=0)


def _worst(moments: "array[float]", seconds: float) -> int:
    worst = start = 0
    for end, moment in enumerate(moments):
        while moments[start] <= moment - seconds:
            start += 1
        worst = max(worst, end - start + 1)
    return worst
