"""How often a journal is polled: by what happened in it of late, within bounds, and to the letter where one asks so."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shop import Shop

from orders_backup.sync import plan
from orders_backup.sync.plan import Interval, Rhythm

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
USUAL = plan.interval(150 * SECOND, None, None)
UNTIL_DUE = "SELECT extract(epoch FROM due_at - clock_timestamp())::float FROM syncs WHERE kind = 'journal'"


def polled(bounds: Interval, happens_every: timedelta | None, *, during: timedelta) -> list[timedelta]:
    """The intervals between polls of a journal in which something happens so often."""
    now, known, last = START, Rhythm(0.0, None), None
    found = []
    while now < START + during:
        since = last or START
        came = 0 if happens_every is None else (now - START) // happens_every - (since - START) // happens_every
        known = plan.rhythm(known, events=came, since=last, now=now)
        last, wait = now, plan.poll_after(known, bounds, now=now)
        found.append(wait)
        now += wait
    return found


def test_a_journal_in_which_something_happens_now_and_then_is_polled_at_the_usual_interval() -> None:
    assert set(polled(USUAL, timedelta(minutes=20), during=timedelta(hours=12))) == {150 * SECOND}


def test_a_busy_journal_is_polled_every_thirty_seconds_and_no_more_often() -> None:
    found = polled(USUAL, SECOND, during=timedelta(hours=1))
    assert min(found) == 30 * SECOND
    assert found.count(30 * SECOND) > 100


def test_the_busier_the_more_often() -> None:
    means = [
        sum(found, timedelta(0)) / len(found)
        for found in (polled(USUAL, every * SECOND, during=timedelta(hours=3)) for every in (20, 60, 100, 600))
    ]
    assert means == sorted(means)
    assert means[0] < 60 * SECOND < means[2]


def test_a_journal_in_which_nothing_happens_is_polled_more_and_more_rarely_up_to_ten_minutes() -> None:
    found = polled(USUAL, None, during=timedelta(days=1))
    assert found == sorted(found)
    assert found[0] == 150 * SECOND
    assert found[-1] == timedelta(minutes=10)


def test_what_became_busy_is_quiet_again_soon() -> None:
    busy = Rhythm(1.0, START)
    later = plan.rhythm(busy, events=0, since=START, now=START + timedelta(minutes=45))
    assert plan.poll_after(later, USUAL, now=START + timedelta(minutes=45)) == 150 * SECOND


@given(st.floats(1, 19.9), st.floats(0, 100), st.floats(0, 1e6))
def test_a_very_short_interval_is_kept_to_the_letter(seconds: float, rate: float, idle: float) -> None:
    bounds = plan.interval(timedelta(seconds=seconds), None, None)
    known = Rhythm(rate, START)
    assert plan.poll_after(known, bounds, now=START + timedelta(seconds=idle)) == timedelta(seconds=seconds)


@given(
    st.floats(1, 1e6),
    st.none() | st.floats(1, 1e6),
    st.none() | st.floats(1, 1e6),
    st.floats(0, 100),
    st.floats(0, 1e7),
)
def test_the_bounds_hold_whatever_happens(
    usual: float, shortest: float | None, longest: float | None, rate: float, idle: float
) -> None:
    bounds = plan.interval(
        usual * SECOND, shortest * SECOND if shortest else None, longest * SECOND if longest else None
    )
    assert bounds.shortest <= bounds.usual <= bounds.longest
    wait = plan.poll_after(Rhythm(rate, START), bounds, now=START + idle * SECOND)
    assert bounds.shortest <= wait <= bounds.longest


def test_a_busy_seller_is_polled_sooner_than_one_to_whom_nothing_happens(level: Shop) -> None:
    usual = level.value(UNTIL_DUE)
    assert usual == pytest.approx(150, abs=30)
    for _ in range(3):
        for _ in range(10):
            level.world.buys(level.seller_id)
        level.change("UPDATE syncs SET succeeded_at = succeeded_at - interval '100 s' WHERE kind = 'journal'")
        level.follow()
    assert level.value(UNTIL_DUE) < 60
    level.change(
        "UPDATE syncs SET event_rate = 0, event_at = event_at - interval '1 day',"
        " succeeded_at = succeeded_at - interval '1 h' WHERE kind = 'journal'"
    )
    level.follow()
    assert level.value(UNTIL_DUE) == pytest.approx(600, abs=30)


def test_while_calls_are_short_who_is_level_leaves_them_to_others() -> None:
    assert plan.while_short(SECOND, in_force=1.0) == SECOND
    assert plan.while_short(SECOND, in_force=0.25) == 4 * SECOND
    assert plan.while_short(SECOND, in_force=0.005) == plan.TO_THE_LETTER
    assert plan.while_short(150 * SECOND, in_force=0.005) == 150 * SECOND


def test_after_a_429_a_journal_that_is_level_is_polled_more_rarely_for_a_while(level: Shop) -> None:
    settings = level.runtime.settings.model_copy(update={"events_interval": SECOND})
    level.runtime = dataclasses.replace(level.runtime, settings=settings)
    level.follow()
    assert level.value(UNTIL_DUE) < 1
    level.change(
        "UPDATE request_budget SET silent_until = clock_timestamp() - interval '1 s' WHERE key LIKE 'client:%'"
    )
    level.follow()
    assert 5 < level.value(UNTIL_DUE) < 10
