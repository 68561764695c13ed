"""Counts that differ: the order behind it is found by halving, with few calls, and nothing is believed unasked."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.sync import plan, state
from orders_backup.sync.plan import Window
from orders_backup.tables import orders

LIST = "/order/checkout-forms"
MANY = 100_000
NEIGHBOURS = 2_000


def lists(shop: Shop) -> int:
    return sum(count for (path, _), count in shop.world.counts.items() if path == LIST)


def take_over(shop: Shop, *, without: Sequence[int], near: Sequence[int] = ()) -> None:
    """The heads of a year's orders, as if they had been read, but for some by their rank. The bytes of those in reach
    of a page that lists a missing one, or one of `near`, are known, so that these count as unchanged."""
    shelf = shop.world._state.sellers[shop.seller_id].shelf.bought
    known = {rank for one in (*without, *near) for rank in range(one - NEIGHBOURS, one + NEIGHBOURS)}
    rows = []
    for rank, order in enumerate(shelf):
        if rank in without:
            continue
        if rank in known:
            shop.world.body(order.id)
        bought = datetime.fromtimestamp(order.bought / 1000, UTC)
        sha256 = bytes.fromhex(order.sha) if rank in known else b""
        rows.append((shop.account_id, order.id, 1, 1, sha256, bought, bought, "{}"))
    columns = ("account_id", "order_id", "version", "versions", "sha256", "read_at", "ordered_at", "line_item_ids")
    with database.transaction(shop.runtime.db) as tx:
        database.copy(tx, orders, columns, rows)
    shop.change("ANALYZE orders")


def search(shop: Shop) -> UUID:
    """A run that compares the year but for its last month by count."""
    with database.transaction(shop.runtime.db) as tx:
        now = plan.in_milliseconds(shop.runtime.clock.now())
        ended = state.open_run(tx, shop.account_id, "backfill")
        state.begin_run(tx, ended, [], account_id=shop.account_id, now=now)
        state.finish_run(tx, ended, error=None, now=now)
        state.pin_cursor(tx, shop.account_id, "1")
        run_id = state.open_run(tx, shop.account_id, "full")
        parts = [Window(now - plan.REACH, now - plan.RECENT, "count")]
        state.begin_run(tx, run_id, parts, account_id=shop.account_id, now=now)
    for _ in range(20):
        shop.work_on_listing()
        if shop.value("SELECT finished_at FROM sync_history WHERE id = :run", run=run_id) is not None:
            return run_id
    raise AssertionError("the search did not end")


@pytest.fixture
def large(make_shop: Callable[[int], Shop]) -> Shop:
    """A seller with a hundred thousand orders of a year, none of them here yet."""
    return make_shop(MANY)


def test_one_order_missing_among_a_hundred_thousand_is_found_with_25_calls(large: Shop) -> None:
    """In the oldest part it takes still fewer: what is not in the newer half is in the older one, without a call."""
    most = {300: 16, 45_678: 25, 91_000: 25}
    take_over(large, without=[], near=list(most))
    for rank, calls in most.items():
        form = large.world.orders(large.seller_id)[rank]
        large.change("DELETE FROM orders WHERE order_id = :order", order=form)
        before = lists(large)
        run_id = search(large)
        assert lists(large) - before <= calls
        assert large.versions(form) == [large.world.body(form)]
        assert large.value("SELECT status FROM sync_history WHERE id = :run", run=run_id) == "succeeded"
        rows = large.rows("SELECT status FROM sync_windows WHERE run_id = :run AND status <> 'split'", run=run_id)
        assert {row[0] for row in rows} == {"verified"}


def test_several_missing_orders_are_all_found(large: Shop) -> None:
    missing = [9_000, 9_001, 30_000, 52_000, 77_000, 90_500]
    forms = [large.world.orders(large.seller_id)[rank] for rank in missing]
    take_over(large, without=missing)
    before = lists(large)
    search(large)
    assert lists(large) - before <= 25 * len(missing)
    assert [form for form in forms if not large.versions(form)] == []


def test_a_deduced_count_alone_proves_nothing(make_shop: Callable[[int], Shop]) -> None:
    """Every window that was verified by count was asked for itself."""
    shop = make_shop(1_500)
    shop.backfill()
    form = shop.world.orders(shop.seller_id)[1_000]
    for table in ("orders", "order_versions"):
        shop.change(f"DELETE FROM {table} WHERE order_id = :order", order=form)
    shop.sweep("full")
    verified = "SELECT count(*) FROM sync_windows WHERE status = 'verified' AND method = 'count'"
    assert shop.value(f"{verified} AND depth > 0") > 1
    assert shop.value(f"{verified} AND started_at IS NULL") == 0


def test_a_whole_month_missing_is_listed_and_not_searched(level: Shop) -> None:
    for table in ("order_versions", "orders"):
        level.change(
            f"""DELETE FROM {table} WHERE order_id IN (SELECT order_id FROM orders
                 WHERE ordered_at < clock_timestamp() - interval '40 days')"""
        )
    kept = level.value("SELECT count(*) FROM orders")
    before = lists(level)
    level.sweep("full")
    assert level.value("SELECT count(*) FROM orders") > kept + 150
    assert lists(level) - before <= 1 + 1 + 4
    assert level.certificate().complete


def test_a_lie_about_a_half_is_found_out(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(1_500)
    shop.backfill()
    form = shop.world.orders(shop.seller_id)[400]
    for table in ("orders", "order_versions"):
        shop.change(f"DELETE FROM {table} WHERE order_id = :order", order=form)
    shop.world.faults("wrong_total", path=LIST, times=6, delta=2)
    for _ in range(4):
        shop.sweep("full")
        if shop.versions(form):
            break
    assert shop.versions(form) == [shop.world.body(form)]
    assert shop.certificate().open_questions == []


@given(pages=st.integers(2, 2_000), missing=st.integers(1, 500))
def test_searching_is_chosen_only_where_it_is_cheaper(pages: int, missing: int) -> None:
    listed = pages * plan.PAGE
    halvings = (pages - 1).bit_length()
    if plan.is_worth_searching(listed=listed, stored=listed - missing):
        assert missing * 2 * (halvings - 1) < pages


def test_a_page_or_less_is_never_searched() -> None:
    assert not plan.is_worth_searching(listed=100, stored=99)
    assert not plan.is_worth_searching(listed=0, stored=5)


def test_a_window_is_cut_only_inside() -> None:
    window = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), "count", ("NEW",))
    assert plan.cut(window, window.since) == []
    assert plan.cut(window, window.until) == []
    newer, older = plan.cut(window, datetime(2026, 1, 1, 7, 0, 0, 123_456, tzinfo=UTC))
    assert (older.since, older.until, newer.until) == (window.since, newer.since, window.until)
    assert newer.since.microsecond == 123_000
    assert newer.fulfillment == older.fulfillment == ("NEW",)
