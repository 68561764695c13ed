"""The request budget all workers share: GCRA in PostgreSQL, on the database's clock. Knows limits, not endpoints.

Two buckets guard a call: the client id's (Allegro's own limit, shared by every seller of the application) and the
account's of the call's class. rate * 60 + burst <= 97 % of the limit, so that no window of 60 s can hold more than
the limit, whatever the workers' clocks say. Background work leaves a floor of each bucket to more urgent work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup.errors import BudgetExhaustedError
from orders_backup.tables import request_budget

SAFE_SHARE = 0.97
BURST_SHARE = 0.035
SILENCE = timedelta(seconds=65)
"""Allegro blocks a client id for a minute after a 429 and longer if it goes on calling (Allegro's staff, 2020)."""
RAMP = timedelta(seconds=120)
RAMP_START = 0.1


class Priority(Enum):
    """Who may drain a bucket how far: the value is the share of the burst that must be left to the more urgent."""

    TOKEN = 0.0
    LIVE = 0.05
    RECONCILE = 0.3
    BACKFILL = 0.5
    EXTRAS = 0.7


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit of `per_minute` requests, shared by everyone who names the same key."""

    key: str
    per_minute: int

    @property
    def burst(self) -> int:
        return max(1, int(self.per_minute * BURST_SHARE))

    @property
    def rate(self) -> float:
        """Requests per second that may be granted for ever."""
        return max(self.per_minute * SAFE_SHARE - self.burst, self.per_minute * 0.5) / 60


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket's state. `full_at`: when it is full again; `silent_until`: no call at all before."""

    full_at: datetime
    silent_until: datetime | None


def room(bucket: Bucket, level: Level, *, now: datetime, priority: Priority) -> tuple[int, datetime]:
    """How many requests may be made now, and, if none, when the next one may. PURE."""
    if level.silent_until is not None and now < level.silent_until:
        return 0, level.silent_until
    rate = bucket.rate * ramp(level, now=now)
    floor = min(priority.value * bucket.burst, bucket.burst - 1)
    available = bucket.burst - max((level.full_at - now).total_seconds(), 0.0) * bucket.rate
    if available - floor >= 1 - 1e-6:
        return max(int((available - floor) * ramp(level, now=now) + 1e-6), 1), now
    return 0, now + timedelta(seconds=(1 + floor - available) / rate)


def drained(bucket: Bucket, level: Level, taken: int, *, now: datetime) -> datetime:
    """The new `full_at` after `taken` requests; while ramping up after a silence each one weighs more. PURE."""
    weight = 1 / ramp(level, now=now)
    return max(level.full_at, now) + timedelta(seconds=taken * weight / bucket.rate)


def ramp(level: Level, *, now: datetime) -> float:
    """The share of the rate in force: 10 % right after a silence, rising to all of it in two minutes. PURE."""
    if level.silent_until is None or now >= level.silent_until + RAMP:
        return 1.0
    return RAMP_START + (1 - RAMP_START) * max((now - level.silent_until) / RAMP, 0.0)


def take(db: Engine, buckets: Sequence[Bucket], wanted: int, *, priority: Priority) -> int:
    """Takes up to `wanted` requests from all buckets at once and says how many (at least one).

    What is taken and not used is lost, never lent out twice. Raises BudgetExhaustedError(retry_at), and
    DatabaseUnavailableError where the budget cannot be asked: then no call may be made.
    """
    while True:
        with database.transaction(db) as tx:
            levels = _locked(tx, buckets)
            if len(levels) == len({bucket.key for bucket in buckets}):
                return _taken(tx, buckets, levels, wanted, priority=priority)
        _begin(db, buckets)


def _taken(
    tx: Connection, buckets: Sequence[Bucket], levels: dict[str, Level], wanted: int, *, priority: Priority
) -> int:
    now = database.clock(tx)
    rooms = [room(bucket, levels[bucket.key], now=now, priority=priority) for bucket in buckets]
    granted = min(wanted, *(count for count, _ in rooms))
    if granted < 1:
        raise BudgetExhaustedError("The request budget is used up.", max(moment for _, moment in rooms))
    for bucket in buckets:
        full_at = drained(bucket, levels[bucket.key], granted, now=now)
        tx.execute(sa.update(request_budget).values(full_at=full_at).where(request_budget.c.key == bucket.key))
    return granted


def silence(db: Engine, key: str, *, seconds: float | None) -> None:
    """After a 429: nobody calls under this key for `seconds` (Retry-After) or 65 s, then the rate ramps up."""
    length = timedelta(seconds=seconds) if seconds else SILENCE
    with database.transaction(db) as tx:
        until = sa.func.clock_timestamp() + length
        statement = insert(request_budget).values(key=key, full_at=sa.func.clock_timestamp(), silent_until=until)
        tx.execute(
            statement.on_conflict_do_update(
                index_elements=["key"],
                set_={"silent_until": sa.func.greatest(request_budget.c.silent_until, until)},
            )
        )


def _locked(tx: Connection, buckets: Sequence[Bucket]) -> dict[str, Level]:
    """The levels with their rows locked, always in the order of the keys, so that no two takers wait crosswise."""
    keys = sorted(bucket.key for bucket in buckets)
    query = (
        sa.select(request_budget.c.key, request_budget.c.full_at, request_budget.c.silent_until)
        .where(request_budget.c.key.in_(keys))
        .order_by(request_budget.c.key)
        .with_for_update()
    )
    return {row.key: Level(row.full_at, row.silent_until) for row in tx.execute(query)}


def _begin(db: Engine, buckets: Sequence[Bucket]) -> None:
    """Buckets that nobody named before start full; in a transaction of its own, which holds no other meanwhile."""
    keys = sorted(bucket.key for bucket in buckets)
    new = [{"key": key, "full_at": sa.func.clock_timestamp()} for key in keys]
    with database.transaction(db) as tx:
        tx.execute(insert(request_budget).values(new).on_conflict_do_nothing())
