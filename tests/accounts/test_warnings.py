"""What an account's owner is warned about, and from which facts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.accounts import facts, warnings
from orders_backup.accounts.warnings import Facts, Span

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SINCE, UNTIL = warnings.cliff(NOW)
CALM = Facts(
    now=NOW,
    status="active",
    connected_at=NOW - 100 * DAY,
    followed_at=NOW,
    certified_at=NOW - DAY,
    set_aside=0,
    changed_at=NOW - 300 * DAY,
    owed_there=0,
    spans=[Span(SINCE - DAY, UNTIL + DAY, NOW - DAY)],
)


def codes(found: Facts) -> list[str]:
    return [warning.code for warning in warnings.all_of(found)]


def test_a_calm_account_has_no_warning() -> None:
    assert codes(CALM) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"spans": []}, "cliff_near"),
        ({"spans": [Span(SINCE - DAY, UNTIL - DAY, NOW)]}, "cliff_near"),
        ({"spans": [Span(SINCE + DAY, UNTIL + DAY, NOW)]}, "cliff_near"),
        ({"changed_at": NOW - timedelta(hours=1)}, "cliff_near"),
        ({"owed_there": 1}, "cliff_near"),
        ({"followed_at": NOW - 46 * DAY}, "journal_gap_near"),
        ({"followed_at": None}, "journal_gap_near"),
        ({"certified_at": NOW - 36 * DAY}, "certificate_old"),
        ({"certified_at": None}, "certificate_old"),
        ({"set_aside": 2}, "set_aside"),
        ({"status": "reauthorization_required"}, "reauthorization_required"),
    ],
)
def test_each_fact_gives_its_warning_alone(change: dict[str, Any], code: str) -> None:
    assert codes(replace(CALM, **change)) == [code]


@pytest.mark.parametrize(
    "change",
    [
        {"followed_at": NOW - 44 * DAY},
        {"certified_at": NOW - 34 * DAY},
        {"connected_at": NOW - timedelta(hours=2), "spans": [], "certified_at": None, "followed_at": None},
        {"connected_at": None, "spans": [], "certified_at": None, "followed_at": None},
        {"status": "disconnected", "spans": [], "certified_at": None, "followed_at": None},
        {"spans": [Span(SINCE, NOW - 355 * DAY, NOW), Span(NOW - 355 * DAY, UNTIL, NOW)]},
    ],
)
def test_what_is_no_danger_is_no_warning(change: dict[str, Any]) -> None:
    assert codes(replace(CALM, **change)) == []


@given(
    bounds=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)), max_size=12),
    start=st.integers(0, 30),
    length=st.integers(1, 15),
)
def test_uncovered_is_what_no_span_holds(bounds: list[tuple[int, int]], start: int, length: int) -> None:
    spans = [Span(NOW + first * DAY, NOW + (first + days) * DAY, NOW) for first, days in bounds]
    held = {day for first, days in bounds for day in range(first, first + days)}
    found = warnings.uncovered(NOW + start * DAY, NOW + (start + length) * DAY, spans)
    assert found is any(day not in held for day in range(start, start + length))


def warned(shop: Shop) -> list[str]:
    with database.transaction(shop.runtime.db) as tx:
        return [warning.code for warning in facts.warnings_of(tx, [shop.account_id])[shop.account_id]]


def test_an_account_that_is_level_has_no_warning(level: Shop) -> None:
    level.change("UPDATE accounts SET connected_at = connected_at - interval '3 d'")
    assert warned(level) == []


def test_an_order_on_the_cliff_that_changed_since_it_was_compared_is_warned_about(level: Shop) -> None:
    level.change("UPDATE accounts SET connected_at = connected_at - interval '3 d'")
    level.change(
        """UPDATE orders SET ordered_at = clock_timestamp() - interval '357 d', updated_at = clock_timestamp()
            WHERE order_id = (SELECT min(order_id) FROM orders)"""
    )
    assert warned(level) == ["cliff_near"]
    level.change("UPDATE sync_windows SET checked_at = clock_timestamp() WHERE status = 'verified'")
    assert warned(level) == []


def test_evidence_that_is_too_old_guards_nobody_from_the_cliff(level: Shop) -> None:
    level.change("UPDATE accounts SET connected_at = connected_at - interval '90 d'")
    level.change("UPDATE sync_windows SET checked_at = checked_at - interval '36 d'")
    assert warned(level) == ["cliff_near"]


def test_a_window_of_one_fulfilment_status_guards_nobody_from_the_cliff(level: Shop) -> None:
    level.change("UPDATE accounts SET connected_at = connected_at - interval '3 d'")
    level.change("UPDATE sync_windows SET fulfillment = 'NEW'")
    assert warned(level) == ["cliff_near"]
