"""When to look: how many calls an order costs, what is never asked for, and how lists become rarer."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders_backup.budget import Bucket, Level, Priority, drained, room
from orders_backup.settings import Settings
from orders_backup.sync import extras_plan as plan
from orders_backup.sync.extras_plan import Order

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def order(
    status: str | None = "READY_FOR_PROCESSING", fulfillment: str | None = "NEW", *, is_gone: bool = False
) -> Order:
    return Order(START, status, fulfillment, is_gone)


def looks(kind: str, *, found_after: float) -> list[float]:
    """The ages in days at which an order is looked at whose document has something in it from that age on."""
    ages: list[float] = []
    read_at = None
    while due_at := plan.next_look(kind, order(), read_at=read_at, found=bool(ages) and ages[-1] >= found_after):
        read_at = due_at
        ages.append((due_at - START) / DAY)
    return ages


@pytest.mark.parametrize(
    ("kind", "found_after", "ages"),
    [
        ("shipments", 99, [1, 2, 4, 8, 16, 32, 45]),
        ("shipments", 1, [1, 4, 16, 45]),
        ("shipments", 3, [1, 2, 4, 16, 45]),
        ("invoices", 99, [2, 8, 45]),
        ("invoices", 2, [2, 16, 45]),
    ],
)
def test_an_order_costs_few_calls_and_ever_fewer(kind: str, found_after: float, ages: list[float]) -> None:
    assert looks(kind, found_after=found_after) == ages


@given(age=st.floats(46, 4000), found=st.booleans(), kind=st.sampled_from(plan.OF_ORDERS))
def test_an_old_order_is_looked_at_once(age: float, found: bool, kind: str) -> None:
    now = START + age * DAY
    due_at = plan.next_look(kind, order(), read_at=None, found=False)
    assert due_at is not None
    assert due_at < now
    assert plan.next_look(kind, order(), read_at=now, found=found) is None


def test_of_two_old_orders_the_newer_fell_due_later() -> None:
    older, newer = order(), Order(START + DAY, "READY_FOR_PROCESSING", "SENT", is_gone=False)
    first = plan.next_look("shipments", older, read_at=None, found=False)
    second = plan.next_look("shipments", newer, read_at=None, found=False)
    assert first is not None
    assert second is not None
    assert first < second


@pytest.mark.parametrize("status", ["BOUGHT", "FILLED_IN", "CANCELLED"])
def test_what_is_not_paid_has_nothing(status: str) -> None:
    assert plan.next_look("shipments", order(status), read_at=None, found=False, changed_at=START) is None
    assert plan.next_look("shipments", order(is_gone=True), read_at=None, found=False) is None


@pytest.mark.parametrize("status", ["SOMETHING_NEW", None])
def test_an_unknown_status_is_looked_at(status: str | None) -> None:
    assert plan.next_look("invoices", order(status), read_at=None, found=False) is not None


@pytest.mark.parametrize(
    ("fulfillment", "read", "expected"),
    [
        ("SENT", None, 600),
        ("SENT", 599, 600),
        ("SENT", 600, 86_400),
        ("PROCESSING", None, 86_400),
        (None, None, 86_400),
    ],
)
def test_a_parcel_that_was_handed_over_is_looked_for_soon_and_once(
    fulfillment: str | None, read: float | None, expected: float
) -> None:
    read_at = None if read is None else START + timedelta(seconds=read)
    due_at = plan.next_look("shipments", order(fulfillment=fulfillment), read_at=read_at, found=False, changed_at=START)
    assert due_at == START + timedelta(seconds=expected)


def test_a_late_change_is_looked_at_even_after_the_last_rung() -> None:
    changed_at = START + 100 * DAY
    returned = order(fulfillment="RETURNED")
    known = {"read_at": START + 46 * DAY, "found": True}
    assert plan.next_look("shipments", returned, changed_at=changed_at, **known) == changed_at + plan.SETTLED  # type: ignore[arg-type]
    assert plan.next_look("invoices", returned, changed_at=changed_at, **known) is None  # type: ignore[arg-type]


def test_lists_are_read_hourly_daily_and_weekly_the_wider_for_the_narrower() -> None:
    listed: dict[str, datetime | None] = {span.name: None for span in plan.SPANS}
    read = []
    for hour in range(24 * 14):
        now = START + timedelta(hours=hour)
        span = plan.span_due(listed, now=now)
        assert span is not None
        read.append(span.name)
        listed |= dict.fromkeys(plan.covered(span.name), now)
        assert plan.next_list_at(listed, now=now) == now + timedelta(hours=1)
        assert plan.span_due(listed, now=now) is None
    assert (read.count("all"), read.count("open"), read.count("recent")) == (2, 12, 24 * 14 - 14)
    assert read[0] == read[24 * 7] == "all"


def test_failures_are_tried_again_ever_more_seldom_and_never_given_up() -> None:
    waits = [plan.after_failure(failures, now=START) - START for failures in range(7)]
    hours = [1, 2, 4, 8, 16, 720, 720]
    assert waits == [timedelta(hours=one) for one in hours]


def test_a_bookmark_is_where_the_feed_goes_on_unless_a_kind_is_new() -> None:
    mark = plan.bookmark(7, 9, {"shipments", "invoices"})
    assert plan.opened(mark, {"shipments", "invoices"}) == plan.opened(mark, {"invoices"}) == (7, 9)
    assert plan.opened(plan.bookmark(7, 9, {"invoices"}), {"shipments", "invoices"}) == (0, 0)
    assert plan.opened(None, {"invoices"}) == (0, 0)


def test_the_shipped_limit_stays_below_the_limits_of_allegros_resources() -> None:
    bucket = Bucket("extras", Settings().rate_limit_extras)
    level, granted = Level(START, None), []
    for tick in range(3000):
        now = START + timedelta(milliseconds=tick)
        while (free := room(bucket, level, now=now, priority=Priority.EXTRAS)[0]) > 0:
            level = drained(bucket, level, free, now=now, priority=Priority.EXTRAS)
            granted += [tick] * free
    most = max(sum(tick <= one < tick + 1000 for one in granted) for tick in granted)
    assert 15 < most <= 25
