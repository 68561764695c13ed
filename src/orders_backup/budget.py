"""The request budget all workers share: GCRA in PostgreSQL, on the database's clock. Knows limits, not endpoints.

A call needs a permit of every bucket above it: the client id's (Allegro's own limit, shared by every seller of the
application), its class of routes, and the account's of that class. rate * (60 s + DELAY) + burst <= limit, so that
no window of 60 s can hold more than the limit, whatever the workers' clocks say. Background work leaves a floor of
each bucket to more urgent work; 5 % of the rate are nevertheless its own. After a 429, or while answers are slow, a
bucket keeps a lower pace, which recovers slowly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup.errors import BudgetExhaustedError
from orders_backup.tables import request_budget

BURST_SHARE = 0.03
DELAY = 2.0
"""Seconds from taking a permit until Allegro counts the request, at most: a permit lasts 1 s, the network takes 1."""
SILENCE = timedelta(seconds=65)
"""Allegro blocks a client id for a minute after a 429 and longer if it goes on calling (Allegro's staff, 2020)."""
RAMP = timedelta(seconds=120)
RAMP_START = 0.1
LEAST_PACE = 0.05
PACE_AFTER_429 = 0.75
PACE_WHEN_SLOW = 0.5
RECOVERY = timedelta(hours=1)
"""How long a pace takes to rise from nothing to all of the rate; a fall by half recovers in half of it."""
SLOWED_ONCE_IN = timedelta(seconds=30)
"""Slow answers that several workers notice at the same time halve the pace once; what comes later is the effect."""
OWN_SHARE = 0.055
"""Of every bucket's rate, whatever the more urgent want: 5 % and a little, because nobody wakes up on the dot."""
OWN_SHARE_AFTER = 10.0
"""Seconds after which a class of work that had more than its own share comes to it again, at the latest."""


class Priority(Enum):
    """Who may drain a bucket how far: the value is the share of the burst that must be left to the more urgent."""

    TOKEN = 0.0
    LIVE = 0.05
    OPEN_ORDERS = 0.1
    RECONCILE = 0.2
    BACKFILL = 0.35
    EXTRAS = 0.45


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit of `per_minute` requests, shared by everyone who names the same key."""

    key: str
    per_minute: int

    @property
    def burst(self) -> int:
        return max(1, min(2, self.per_minute // 30), int(self.per_minute * BURST_SHARE))

    @property
    def rate(self) -> float:
        """Requests per second that may be granted for ever."""
        return max(self.per_minute - self.burst, 1) / (60 + DELAY)

    def floor(self, priority: Priority) -> float:
        """What a class of work has to leave: a whole request at least, but for logins. It may always fill up by half a
        request, or two, before the bucket overflows."""
        least = 1.0 if priority.value else 0.0
        return min(max(priority.value * self.burst, least), max(self.burst - 2.0, (self.burst - 1) / 2))


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket's state. `full_at`: when it is full again; `silent_until`: no call at all before.

    `pace` was the share of the rate in force at `paced_at`; `own` tells of a class of work (by the name of its
    priority) since when it may have a request of its own share again, in seconds since 1970.
    """

    full_at: datetime
    silent_until: datetime | None = None
    pace: float = 1.0
    paced_at: datetime | None = None
    own: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """How many requests may be made, and the lowest pace among their buckets; `in_force`: with the slow start."""

    count: int
    pace: float
    in_force: float


def room(bucket: Bucket, level: Level, *, now: datetime, priority: Priority) -> tuple[int, datetime]:
    """How many requests may be made now, and, if none, when the next one may. PURE."""
    if level.silent_until is not None and now < level.silent_until:
        return 0, level.silent_until
    available = bucket.burst - max((level.full_at - now).total_seconds(), 0.0) * bucket.rate
    over = available - bucket.floor(priority)
    if over >= 1 - 1e-6:
        return max(int(over * in_force(level, now=now) + 1e-6), 1), now
    wait = (1 - over) / bucket.rate
    until_own = max(level.own.get(priority.name, 0.0) - now.timestamp(), (1 - available) / bucket.rate)
    if until_own <= 1e-6:
        return 1, now
    return 0, now + timedelta(seconds=min(wait, until_own))


def drained(bucket: Bucket, level: Level, taken: int, *, now: datetime, priority: Priority) -> Level:
    """The level after `taken` requests; at a lower pace each one weighs more. PURE."""
    seconds = taken / (in_force(level, now=now) * bucket.rate)
    full_at = max(level.full_at, now) + timedelta(seconds=seconds)
    one = 1 / (OWN_SHARE * in_force(level, now=now) * bucket.rate)
    at = now.timestamp()
    again = min(max(level.own.get(priority.name, 0.0), at) + taken * one, at + max(one, OWN_SHARE_AFTER))
    return Level(full_at, level.silent_until, level.pace, level.paced_at, {**level.own, priority.name: again})


def in_force(level: Level, *, now: datetime) -> float:
    """The share of the rate in force: what was learned, times the slow start after a silence. PURE."""
    return learned(level, now=now) * ramp(level, now=now)


def learned(level: Level, *, now: datetime) -> float:
    """The pace by now: it rises by itself, from nothing to all of the rate in an hour. PURE."""
    if level.paced_at is None:
        return level.pace
    return min(level.pace + max((now - level.paced_at) / RECOVERY, 0.0), 1.0)


def ramp(level: Level, *, now: datetime) -> float:
    """10 % right after a silence, rising to all of it in two minutes. PURE."""
    if level.silent_until is None or now >= level.silent_until + RAMP:
        return 1.0
    return RAMP_START + (1 - RAMP_START) * max((now - level.silent_until) / RAMP, 0.0)


def take(db: Engine, buckets: Sequence[Bucket], wanted: int, *, priority: Priority) -> Grant:
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
) -> Grant:
    now = database.clock(tx)
    rooms = [room(bucket, levels[bucket.key], now=now, priority=priority) for bucket in buckets]
    granted = min(wanted, *(count for count, _ in rooms))
    if granted < 1:
        raise BudgetExhaustedError("The request budget is used up.", max(moment for _, moment in rooms))
    after = {one.key: drained(one, levels[one.key], granted, now=now, priority=priority) for one in buckets}
    values = [{"of": key, "full": level.full_at, "shares": level.own} for key, level in after.items()]
    tx.execute(_DRAIN, values)
    paces = ([of(level, now=now) for level in levels.values()] for of in (learned, in_force))
    return Grant(granted, *map(min, paces))


def room_in(tx: Connection, bucket: Bucket, *, priority: Priority) -> int:
    """How many requests could be made now. Until the transaction ends nobody else takes any from this bucket."""
    tx.execute(
        insert(request_budget).values(key=bucket.key, full_at=sa.func.clock_timestamp()).on_conflict_do_nothing()
    )
    level = _locked(tx, [bucket])[bucket.key]
    return room(bucket, level, now=database.clock(tx), priority=priority)[0]


def spend(tx: Connection, bucket: Bucket, count: int, *, priority: Priority) -> None:
    """Takes so many requests from a bucket that `room_in` has looked into."""
    level = _locked(tx, [bucket])[bucket.key]
    after = drained(bucket, level, count, now=database.clock(tx), priority=priority)
    tx.execute(_DRAIN, [{"of": bucket.key, "full": after.full_at, "shares": after.own}])


_DRAIN = (
    sa.update(request_budget)
    .values(full_at=sa.bindparam("full"), own=sa.bindparam("shares"))
    .where(request_budget.c.key == sa.bindparam("of"))
)


def silence(db: Engine, key: str, *, seconds: float | None) -> None:
    """After a 429: nobody calls under this key for `seconds` (Retry-After) or 65 s, then the rate ramps up.

    The pace falls by a quarter, once for all the calls that were on their way, and begins to recover at the end.
    """
    table, now = request_budget.c, sa.func.clock_timestamp()
    until = now + (timedelta(seconds=seconds) if seconds else SILENCE)
    statement = insert(request_budget).values(
        key=key, full_at=now, silent_until=until, pace=PACE_AFTER_429, paced_at=until
    )
    again = sa.func.coalesce(table.silent_until > now, sa.false())
    lowered = sa.case((again, table.pace), else_=sa.func.greatest(LEAST_PACE, _learned() * PACE_AFTER_429))
    ends = sa.func.greatest(table.silent_until, until)
    changed = {"silent_until": ends, "pace": lowered, "paced_at": ends}
    with database.transaction(db) as tx:
        tx.execute(statement.on_conflict_do_update(index_elements=["key"], set_=changed))


def slow_down(db: Engine, key: str) -> bool:
    """Answers have become slow, which some limits say before they say 429: the pace is halved.

    False where somebody did so a moment ago.
    """
    table, now = request_budget.c, sa.func.clock_timestamp()
    statement = (
        sa.update(request_budget)
        .values(pace=sa.func.greatest(LEAST_PACE, _learned() * PACE_WHEN_SLOW), paced_at=now)
        .where(table.key == key, sa.or_(table.paced_at.is_(None), table.paced_at < now - SLOWED_ONCE_IN))
    )
    with database.transaction(db) as tx:
        return tx.execute(statement).rowcount == 1


def _learned() -> "sa.ColumnElement[float]":
    """`learned` in SQL, for updates that nobody may come between."""
    table = request_budget.c
    gone_by = sa.extract("epoch", sa.func.clock_timestamp() - table.paced_at)
    risen = sa.func.greatest(sa.func.coalesce(gone_by, 0), 0) / RECOVERY.total_seconds()
    return sa.func.least(1.0, table.pace + risen)


def _locked(tx: Connection, buckets: Sequence[Bucket]) -> dict[str, Level]:
    """The levels with their rows locked, always in the order of the keys, so that no two takers wait crosswise."""
    rows = tx.execute(_LOCKED, {"keys": sorted(bucket.key for bucket in buckets)})
    return {row.key: Level(row.full_at, row.silent_until, row.pace, row.paced_at, row.own) for row in rows}


_LOCKED = (
    sa.select(request_budget)
    .where(request_budget.c.key.in_(sa.bindparam("keys", expanding=True)))
    .order_by(request_budget.c.key)
    .with_for_update()
)


def _begin(db: Engine, buckets: Sequence[Bucket]) -> None:
    """Buckets that nobody named before start full; in a transaction of its own, which holds no other meanwhile."""
    keys = sorted(bucket.key for bucket in buckets)
    new = [{"key": key, "full_at": sa.func.clock_timestamp()} for key in keys]
    with database.transaction(db) as tx:
        tx.execute(insert(request_budget).values(new).on_conflict_do_nothing())
