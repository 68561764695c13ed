"""The request budget: what no minute may exceed, who leaves what to whom, and what happens after a 429."""

import bisect
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from orders_backup import budget
from orders_backup import db as database
from orders_backup.budget import Bucket, Level, Priority
from orders_backup.errors import BudgetExhaustedError, DatabaseUnavailableError
from orders_backup.tables import request_budget

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(seconds=60)
A_MOMENT = timedelta(milliseconds=1)
SYNCS = [one for one in Priority if one is not Priority.TOKEN]
"""Logins come before everything, and there is never more than a handful of them."""


@dataclass(frozen=True)
class Arrival:
    """Somebody asks for `wanted` requests `gap` after the last one, or (None) as soon as that one was told to.

    The unit of `gap` is the time in which the empty bucket fills up.
    """

    gap: float | None
    wanted: int
    priority: Priority = Priority.TOKEN
    refused_by_allegro: bool = False


@pytest.fixture
def db(shared_db: Engine) -> Engine:
    """That database, empty."""
    with database.transaction(shared_db) as tx:
        tx.execute(sa.text("TRUNCATE request_budget"))
    return shared_db


one_arrival = st.builds(
    Arrival,
    gap=st.none() | st.floats(0, 3) | st.sampled_from([0.0, 0.5, 1.0]),
    wanted=st.integers(1, 20) | st.just(10_000),
    priority=st.sampled_from(Priority),
    refused_by_allegro=st.sampled_from([False] * 19 + [True]),
)
arrivals = st.lists(one_arrival, max_size=60) | st.lists(one_arrival, min_size=1, max_size=3).map(lambda few: few * 20)
limits = st.integers(1, 10_000) | st.sampled_from([1, 2, 3, 10, 57, 58, 60, 85, 86, 100, 1000, 9000])
levels = st.builds(
    Level,
    full_at=st.floats(-200, 200).map(lambda s: START + timedelta(seconds=s)),
    silent_until=st.none() | st.floats(-300, 100).map(lambda s: START + timedelta(seconds=s)),
)


def play(bucket: Bucket, pattern: Sequence[Arrival]) -> list[tuple[datetime, int]]:
    """Plays a pattern of arrivals against one bucket and says what was granted when."""
    level, now, told = Level(START, None), START, START
    refill = timedelta(seconds=bucket.burst / bucket.rate)
    granted = []
    for arrival in pattern:
        now = max(now, told) if arrival.gap is None else now + arrival.gap * refill
        count, told = budget.room(bucket, level, now=now, priority=arrival.priority)
        count = min(count, arrival.wanted)
        if count:
            level = budget.drained(bucket, level, count, now=now, priority=arrival.priority)
            granted.append((now, count))
        if arrival.refused_by_allegro:
            level = replace(level, silent_until=now + budget.SILENCE)
    return granted


def busiest_minute(granted: Sequence[tuple[datetime, int]]) -> int:
    """The most that lies in any closed window of 60 s."""
    return max(
        (sum(count for at, count in granted if begin <= at <= begin + MINUTE) for begin, _ in granted), default=0
    )


def greedy(bucket: Bucket, level: Level, *, since: datetime, until: datetime, step: float) -> int:
    """What somebody gets who asks for everything all the time."""
    total, now = 0, since
    while now < until:
        count, _ = budget.room(bucket, level, now=now, priority=Priority.TOKEN)
        level = budget.drained(bucket, level, count, now=now, priority=Priority.TOKEN)
        total += count
        now += timedelta(seconds=step)
    return total


@given(limits, arrivals)
@example(9000, [Arrival(1, 10_000)] * 60)
@example(100, [Arrival(0.5, 10_000)] * 60)
@example(10, [Arrival(None, 1)] * 60)
@example(1, [Arrival(None, 1)] * 60)
@profile(deadline=None, max_examples=150)
def test_no_minute_ever_holds_more_than_the_limit(limit: int, pattern: list[Arrival]) -> None:
    assert busiest_minute(play(Bucket("one", limit), pattern)) <= limit


@pytest.mark.parametrize("limit", [60, 100, 1000, 9000])
def test_whoever_asks_all_the_time_gets_at_least_92_percent(limit: int) -> None:
    ten_minutes = greedy(
        Bucket("one", limit), Level(START, None), since=START, until=START + 10 * MINUTE, step=max(6 / limit, 0.1)
    )
    assert 0.92 * limit * 10 <= ten_minutes <= 0.97 * limit * 10 + limit * budget.BURST_SHARE


@given(limits)
@example(300)
def test_requests_that_arrive_late_do_not_make_a_minute_fuller_than_the_limit(limit: int) -> None:
    """What was taken in the two seconds before a minute may arrive in it."""
    until = START + MINUTE + timedelta(seconds=budget.DELAY)
    assert greedy(Bucket("one", limit), Level(START), since=START, until=until, step=0.2) <= limit


def test_work_that_others_would_starve_is_told_when_its_own_share_comes() -> None:
    bucket = Bucket("one", 9000)
    below = START + timedelta(seconds=(bucket.burst - 20) / bucket.rate)
    level = Level(below, own={Priority.BACKFILL.name: (START + timedelta(seconds=0.2)).timestamp()})
    count, told = budget.room(bucket, level, now=START, priority=Priority.BACKFILL)
    assert (count, told) == (0, START + timedelta(seconds=0.2))
    assert budget.room(bucket, level, now=told, priority=Priority.BACKFILL)[0] == 1


@given(limits, levels, st.sampled_from(Priority))
@profile(max_examples=200)
def test_whoever_waits_as_told_gets_a_request(limit: int, level: Level, priority: Priority) -> None:
    bucket, now = Bucket("one", limit), START
    count, told = budget.room(bucket, level, now=now, priority=priority)
    for _ in range(2):  # the second time is for whoever was told the end of a silence
        if not count:
            assert now <= told <= now + timedelta(hours=6)
            now = told + A_MOMENT
            count, told = budget.room(bucket, level, now=now, priority=priority)
    assert count >= 1


@given(limits, levels)
def test_the_more_urgent_never_has_less_room(limit: int, level: Level) -> None:
    rooms = [budget.room(Bucket("one", limit), level, now=START, priority=one) for one in Priority]
    assert [count for count, _ in rooms] == sorted((count for count, _ in rooms), reverse=True)
    assert [told for _, told in rooms] == sorted(told for _, told in rooms)


@given(st.integers(86, 10_000))
def test_a_backfill_that_takes_all_it_can_leaves_room_to_the_live_sync(limit: int) -> None:
    bucket = Bucket("one", limit)
    level = Level(START, None)
    while taken := budget.room(bucket, level, now=START, priority=Priority.BACKFILL)[0]:
        level = budget.drained(bucket, level, taken, now=START, priority=Priority.BACKFILL)
    left = {one: budget.room(bucket, level, now=START, priority=one)[0] for one in Priority}
    assert left[Priority.TOKEN] >= bucket.burst // 3 - 2  # one of its own share, and a microsecond of rounding
    assert left[Priority.LIVE] >= 1
    assert left[Priority.BACKFILL] == 0


@pytest.mark.parametrize("limit", [60, 100, 1000, 9000])
@pytest.mark.parametrize("starved", SYNCS)
def test_no_class_of_work_starves_while_all_others_take_what_they_can(limit: int, starved: Priority) -> None:
    bucket, level, now = Bucket("one", limit), Level(START), START
    others = [one for one in SYNCS if one is not starved]
    got: Counter[Priority] = Counter()
    while now < START + 10 * MINUTE:
        for one in [*others, starved]:
            count, _ = budget.room(bucket, level, now=now, priority=one)
            if count:
                level = budget.drained(bucket, level, count, now=now, priority=one)
                got[one] += count
        now += timedelta(seconds=max(3 / limit, 0.02))
    assert got[starved] >= 0.05 * bucket.rate * 600 - 1
    assert sum(got.values()) <= bucket.rate * 600 + bucket.burst


@pytest.mark.parametrize("limit", [60, 100, 1000, 9000])
@pytest.mark.parametrize("priority", Priority)
def test_work_that_wakes_up_late_by_half_a_request_still_gets_92_percent(limit: int, priority: Priority) -> None:
    """Whoever waits as told, comes 20 ms late and takes one request at a time, overflows no bucket."""
    bucket, level, now, total = Bucket("one", limit), Level(START), START, 0
    while now < START + 10 * MINUTE:
        count, told = budget.room(bucket, level, now=now, priority=priority)
        if count:
            level, total = budget.drained(bucket, level, 1, now=now, priority=priority), total + 1
        else:
            now = told + timedelta(milliseconds=20)
    assert total >= 0.92 * 10 * limit


@given(limits, st.floats(0.05, 1), st.floats(0, 2))
def test_a_pace_rises_to_the_whole_rate_in_an_hour_at_most(limit: int, pace: float, hours: float) -> None:
    level = Level(START, None, pace, START)
    then = START + timedelta(hours=hours)
    assert budget.learned(level, now=then) == pytest.approx(min(pace + hours, 1))
    slower = greedy(Bucket("one", limit), Level(START, None, pace), since=START, until=START + 10 * MINUTE, step=1)
    assert slower <= pace * Bucket("one", limit).rate * 600 + Bucket("one", limit).burst + 1


@given(limits, st.floats(0, 64.999), st.sampled_from(Priority))
def test_during_a_silence_nobody_calls_and_everyone_is_told_its_end(
    limit: int, after: float, priority: Priority
) -> None:
    until = START + budget.SILENCE
    now = START + timedelta(seconds=after)
    assert budget.room(Bucket("one", limit), Level(START, until), now=now, priority=priority) == (0, until)


def test_after_a_silence_the_rate_rises_from_a_tenth_to_all_of_it_in_two_minutes() -> None:
    bucket, level = Bucket("one", 9000), Level(START, START)
    at = {seconds: budget.ramp(level, now=START + timedelta(seconds=seconds)) for seconds in (0, 60, 119, 120, 500)}
    assert at[0] == pytest.approx(0.1)
    assert at[60] == pytest.approx(0.55)
    assert at[119] < 1
    assert at[120] == at[500] == 1
    first, second, fourth = (
        greedy(bucket, level, since=START + begin * MINUTE, until=START + (begin + 1) * MINUTE, step=0.05)
        for begin in (0, 1, 3)
    )
    assert first < 0.4 * 9000
    assert first < second < fourth
    assert fourth > 0.92 * 9000


def test_a_take_that_one_bucket_refuses_takes_nothing_from_the_other(db: Engine) -> None:
    client, account = Bucket("client", 9000), Bucket("account", 1)
    assert take(db, client, account, wanted=5) == 1
    before = levels_of(db)
    with pytest.raises(BudgetExhaustedError):
        take(db, client, account)
    assert levels_of(db) == before


def test_a_take_gets_what_the_tightest_bucket_has_and_drains_all_of_them_by_it(db: Engine) -> None:
    client, account = Bucket("client", 9000), Bucket("account", 100)
    assert take(db, client, account, wanted=50) == account.burst
    full_at = {key: full_at for key, full_at, _ in levels_of(db)}
    apart = (full_at["account"] - full_at["client"]).total_seconds()
    assert apart == pytest.approx(account.burst / account.rate - account.burst / client.rate, abs=1e-5)


def test_whoever_is_refused_is_told_the_latest_moment_of_all_buckets(db: Engine) -> None:
    fast, slow = Bucket("fast", 60), Bucket("slow", 1)
    take(db, fast, slow)
    take(db, fast)
    with pytest.raises(BudgetExhaustedError) as refused:
        take(db, fast, slow)
    with database.transaction(db) as tx:
        wait = refused.value.retry_at - database.clock(tx)
    assert timedelta(seconds=55) < wait <= timedelta(seconds=62)


def test_one_request_a_minute_is_still_granted_again_and_again(db: Engine) -> None:
    slow = Bucket("slow", 1)
    for _ in range(3):
        assert take(db, slow, priority=Priority.BACKFILL) == 1
        with pytest.raises(BudgetExhaustedError) as refused:
            take(db, slow)
        with database.transaction(db) as tx:
            pass_time(tx, refused.value.retry_at - database.clock(tx) + A_MOMENT)


def test_eight_threads_never_get_more_than_one_would(db: Engine) -> None:
    bucket = Bucket("client", 600)
    began = time.monotonic()
    ends_at = began + 1.5

    def keep_taking(priority: Priority) -> int:
        total = 0
        while time.monotonic() < ends_at:
            try:
                total += take(db, bucket, wanted=7, priority=priority)
            except BudgetExhaustedError:
                time.sleep(0.005)
        return total

    with ThreadPoolExecutor(8) as pool:
        total = sum(pool.map(keep_taking, [*Priority, *Priority]))
    most = bucket.burst + bucket.rate * (time.monotonic() - began)
    assert bucket.burst <= total <= most + 1e-3


def test_the_first_request_of_a_new_bucket_goes_to_one_of_eight_who_ask_at_once(db: Engine) -> None:
    at_once = threading.Barrier(8)

    def ask(_: int) -> int:
        at_once.wait()
        try:
            return take(db, Bucket("never seen", 1), wanted=3)
        except BudgetExhaustedError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(8))) == [0] * 7 + [1]


def test_takers_that_name_the_same_buckets_in_any_order_do_not_wait_crosswise(db: Engine) -> None:
    client, account = Bucket("client", 10_000), Bucket("account", 10_000)

    def ask(turn: int) -> int:
        pair = (client, account) if turn % 2 else (account, client)
        return sum(take(db, *pair) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 160


def test_no_call_may_be_made_while_the_database_is_away(database_that_is_away: Engine) -> None:
    with pytest.raises(DatabaseUnavailableError):
        take(database_that_is_away, Bucket("client", 9000))


def test_after_a_429_the_whole_client_id_is_silent_for_65_seconds(db: Engine) -> None:
    client, other = Bucket("client", 9000), Bucket("other client", 9000)
    budget.silence(db, client.key, seconds=None)
    for priority in Priority:
        with pytest.raises(BudgetExhaustedError) as refused:
            take(db, Bucket(f"account {priority}", 100), client, priority=priority)
    with database.transaction(db) as tx:
        left = refused.value.retry_at - database.clock(tx)
    assert timedelta(seconds=55) < left <= timedelta(seconds=65)
    assert take(db, other) == 1
    with database.transaction(db) as tx:
        pass_time(tx, left + A_MOMENT)
    assert take(db, client) == 1


def pace_of(db: Engine, key: str) -> float:
    with database.transaction(db) as tx:
        pace: float = tx.execute(sa.select(request_budget.c.pace).where(request_budget.c.key == key)).scalar_one()
    return pace


def test_every_429_lowers_the_pace_once_and_an_hour_brings_it_back(db: Engine) -> None:
    bucket = Bucket("client", 9000)
    for _ in range(4):  # calls that were on their way together
        budget.silence(db, bucket.key, seconds=10)
    assert pace_of(db, bucket.key) == budget.PACE_AFTER_429
    with database.transaction(db) as tx:
        pass_time(tx, timedelta(seconds=10, microseconds=1))
    budget.silence(db, bucket.key, seconds=10)
    assert pace_of(db, bucket.key) == pytest.approx(budget.PACE_AFTER_429**2, abs=0.01)
    with database.transaction(db) as tx:
        pass_time(tx, timedelta(hours=1))
    assert budget.take(db, [bucket], 1, priority=Priority.LIVE).pace == 1


def test_the_pace_never_falls_below_a_twentieth(db: Engine) -> None:
    for _ in range(30):
        budget.silence(db, "client", seconds=1)
        with database.transaction(db) as tx:
            pass_time(tx, timedelta(seconds=1, microseconds=1))
    assert pace_of(db, "client") == budget.LEAST_PACE


def test_slow_answers_that_many_notice_halve_the_pace_once(db: Engine) -> None:
    take(db, Bucket("class", 9000))
    assert [budget.slow_down(db, "class") for _ in range(3)] == [True, False, False]
    assert budget.take(db, [Bucket("class", 9000)], 1, priority=Priority.LIVE).pace == pytest.approx(0.5, abs=0.01)
    with database.transaction(db) as tx:
        pass_time(tx, budget.SLOWED_ONCE_IN + A_MOMENT)
    assert budget.slow_down(db, "class")
    assert pace_of(db, "class") == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("seconds", "expected"), [(300.0, 300), (2.5, 2.5), (0.0, 65), (None, 65)])
def test_a_silence_lasts_as_long_as_allegro_asked(db: Engine, seconds: float | None, expected: float) -> None:
    budget.silence(db, "client", seconds=seconds)
    assert silent_for(db, "client") == pytest.approx(expected, abs=2)


def test_a_short_silence_never_ends_a_longer_one(db: Engine) -> None:
    take(db, Bucket("client", 100))
    budget.silence(db, "client", seconds=300)
    budget.silence(db, "client", seconds=1)
    assert silent_for(db, "client") > 290
    budget.silence(db, "client", seconds=600)
    assert silent_for(db, "client") > 590


def test_a_silence_survives_whoever_takes_meanwhile(db: Engine) -> None:
    bucket = Bucket("client", 9000)
    with db.connect() as slow, ThreadPoolExecutor(1) as pool:
        slow.execute(sa.insert(request_budget).values(key=bucket.key, full_at=sa.func.now()))
        silencing = pool.submit(budget.silence, db, bucket.key, seconds=100)
        time.sleep(0.1)
        slow.commit()
        silencing.result()
    with pytest.raises(BudgetExhaustedError):
        take(db, bucket)


@pytest.fixture
def database_that_is_away() -> Engine:
    return database.connect("postgresql://nobody:secret@127.0.0.1:9/nothing")


def take(db: Engine, *buckets: Bucket, wanted: int = 1, priority: Priority = Priority.TOKEN) -> int:
    return budget.take(db, buckets, wanted, priority=priority).count


def levels_of(db: Engine) -> set[tuple[str, datetime, datetime | None]]:
    with database.transaction(db) as tx:
        return {(row.key, row.full_at, row.silent_until) for row in tx.execute(sa.select(request_budget))}


def silent_for(db: Engine, key: str) -> float:
    with database.transaction(db) as tx:
        left = sa.select(request_budget.c.silent_until - sa.func.clock_timestamp()).where(request_budget.c.key == key)
        wait: timedelta = tx.execute(left).scalar_one()
    return wait.total_seconds()


def pass_time(tx: sa.Connection, length: timedelta) -> None:
    """As if everything had happened that much earlier."""
    columns = ("full_at", "silent_until", "paced_at")
    tx.execute(sa.update(request_budget).values({name: request_budget.c[name] - length for name in columns}))


SHADOW = """
    CREATE SCHEMA shadow;
    CREATE TABLE shadow.clock AS SELECT timestamptz '2026-01-01' AS now;
    CREATE FUNCTION shadow.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT now FROM shadow.clock';
"""
"""PostgreSQL looks into the schemas of the search path in their order, also for functions of its own."""


@pytest.fixture
def timeless(make_database: Callable[[], str]) -> Iterator[Engine]:
    """A database whose clock moves only by hand."""
    url = make_database()
    engine = database.connect(url, pool_size=1)
    with database.transaction(engine) as tx:
        tx.execute(sa.text(SHADOW))
        name = sa.make_url(url).database
        tx.execute(sa.text(f"ALTER DATABASE {name} SET search_path = shadow, pg_catalog, public"))
    engine.dispose()
    engine = database.connect(url, pool_size=8)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("seed", [1, 2])
def test_many_workers_through_minutes_of_429s_never_exceed_the_limit_at_allegro(timeless: Engine, seed: int) -> None:
    """Each works on what it got up to DELAY later, so that what counts is when Allegro sees a request."""
    draw, limit, client = random.Random(seed), 300, Bucket("client", 300)
    seen: list[float] = []
    granted = 0
    silent_until = 0.0

    def ask(turn: tuple[int, Priority]) -> int:
        try:
            return take(timeless, client, Bucket(f"account:{turn[0]}", 200), wanted=turn[0], priority=turn[1])
        except BudgetExhaustedError:
            return 0

    with ThreadPoolExecutor(6) as pool:
        second = 0.0
        while second < 400:
            second += draw.choice([0.05, 0.2, 0.2, 0.5, 2.0])
            with database.transaction(timeless) as tx:
                tx.execute(
                    sa.text("UPDATE shadow.clock SET now = timestamptz '2026-01-01' + :s"),
                    {"s": timedelta(seconds=second)},
                )
            turns = [(draw.randint(1, 12), draw.choice(list(Priority))) for _ in range(draw.randint(1, 4))]
            got = sum(pool.map(ask, turns))
            assert not got or second >= silent_until - 0.001
            late = draw.choice([0.0, budget.DELAY])
            seen += [second + late] * got
            granted += got
            if draw.random() < 0.002:
                budget.silence(timeless, client.key, seconds=20)
                silent_until = second + 20
    assert granted > limit
    seen.sort()
    worst = max(bisect.bisect_right(seen, at + 60) - index for index, at in enumerate(seen))
    assert worst <= limit
