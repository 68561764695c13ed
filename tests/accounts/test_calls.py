"""A job's calls: every one of them within the budget, fewer while answers are slow, and patient for a moment only."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.accounts.calls import PATIENCE, Calls, Route
from orders_backup.allegro import client
from orders_backup.budget import Bucket, Priority
from orders_backup.errors import BudgetExhaustedError

PACES = "SELECT key, pace FROM request_budget WHERE pace < 1 ORDER BY key"


def calls(shop: Shop, *, priority: Priority = Priority.LIVE) -> Calls:
    with database.transaction(shop.runtime.db) as tx:
        shop.runtime.clock.set(database.clock(tx))
    return Calls(shop.runtime, shop.account_id, priority=priority)


def ask(shop: Shop, calls: Calls, times: int = 1) -> None:
    for _ in range(times):
        calls.ask(Route.DEFAULT, lambda token: client.me(shop.runtime.allegro, token))


def used_up(shop: Shop, wait: timedelta) -> None:
    """The client id's next request is `wait` away."""
    bucket = Bucket("client:simulator", shop.runtime.settings.rate_limit_client)
    empty = timedelta(seconds=(bucket.burst - 1) / bucket.rate)
    shop.change(
        "UPDATE request_budget SET full_at = clock_timestamp() + :w WHERE key = 'client:simulator'", w=wait + empty
    )


def test_a_call_takes_a_permit_of_the_client_the_class_and_the_account(shop: Shop) -> None:
    shop.change("TRUNCATE request_budget")
    ask(shop, calls(shop))
    keys = [str(row[0]) for row in shop.rows("SELECT key FROM request_budget ORDER BY key")]
    assert keys == [f"account:{shop.account_id}:default", "client:simulator", "client:simulator:default"]


def test_a_job_waits_for_the_budget_where_it_is_if_that_takes_a_moment(shop: Shop) -> None:
    one = calls(shop, priority=Priority.TOKEN)
    ask(shop, one)
    used_up(shop, timedelta(seconds=0.3))
    ask(shop, one)
    assert one.made == 2


def test_a_job_that_would_wait_longer_is_told_when_to_come_back(shop: Shop) -> None:
    one = calls(shop, priority=Priority.TOKEN)
    ask(shop, one)
    used_up(shop, timedelta(seconds=PATIENCE + 60))
    with pytest.raises(BudgetExhaustedError) as refused:
        ask(shop, one)
    assert refused.value.retry_at > shop.runtime.clock.now() + timedelta(seconds=PATIENCE + 50)
    assert one.made == 1


def test_permits_that_were_not_used_in_time_are_lost(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    one = calls(shop)
    assert one.permits(Route.ORDERS, 4) == 4
    taken = shop.value("SELECT full_at FROM request_budget WHERE key = 'client:simulator'")
    assert one.permits(Route.ORDERS, 4) == 4
    assert shop.value("SELECT full_at FROM request_budget WHERE key = 'client:simulator'") == taken
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    assert one.permits(Route.ORDERS, 4) == 4
    assert shop.value("SELECT full_at FROM request_budget WHERE key = 'client:simulator'") > taken


def test_an_account_that_is_answered_slowly_goes_at_half_its_pace_with_half_as_many_calls_at_once(shop: Shop) -> None:
    quick = calls(shop)
    ask(shop, quick, 10)
    assert shop.rows(PACES) == []
    shop.world.faults("slow", times=None, path="/me", seconds=0.6)
    slow = calls(shop)
    assert slow.in_flight == 4
    ask(shop, slow, 6)
    assert slow.in_flight == 2
    [(key, pace)] = shop.rows(PACES)
    assert (key, pace) == (f"account:{shop.account_id}:default", 0.5)
    later = calls(shop)
    ask(shop, later)
    assert later.in_flight == 2


def test_when_most_accounts_are_answered_slowly_the_whole_class_slows_down(
    shop: Shop, make_shop: Callable[[int], Shop]
) -> None:
    shops = [shop, *(make_shop(0) for _ in range(6))]
    for one in shops:
        ask(one, calls(one), 2)
    shop.world.faults("slow", times=None, path="/me", seconds=0.6)
    for one in shops:
        ask(one, calls(one))
    assert [row[0] for row in shop.rows(PACES)] == ["client:simulator:default"]


def test_slow_answers_of_one_account_slow_no_other(shop: Shop, make_shop: Callable[[int], Shop]) -> None:
    other = make_shop(0)
    ask(other, calls(other), 5)
    shop.world.faults("slow", times=6, path="/me", seconds=0.6)
    ask(shop, calls(shop), 6)
    after = calls(other)
    ask(other, after)
    assert after.in_flight == 4


def test_how_many_calls_are_under_way_can_be_set(shop: Shop) -> None:
    settings = shop.runtime.settings.model_copy(update={"calls_in_flight": 1})
    one = Calls(replace(shop.runtime, settings=settings), shop.account_id, priority=Priority.LIVE)
    assert one.in_flight == 1
