"""The hourly sweep: what the journal kept silent about arrives within the hour, for a handful of calls."""

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.shop import Shop

from allegro_simulator.http import Request, Response
from orders_backup.sync import nets, plan, pull, sweeps

LIST = "/order/checkout-forms"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CUT_OFF = b'{"checkoutForms":['


def lists(shop: Shop) -> int:
    return sum(count for (path, _), count in shop.world.counts.items() if path == LIST)


def calls(shop: Shop) -> int:
    return sum(shop.world.counts.values())


def order_bought(shop: Shop, days_ago: float, *, fulfillment: str) -> str:
    """The id of an order that was bought at least so long ago and is in this fulfilment status."""
    return str(
        shop.value(
            """SELECT order_id FROM orders WHERE account_id = :account AND fulfillment_status = :status
                  AND status <> 'CANCELLED' AND ordered_at < clock_timestamp() - make_interval(secs => :age)
                ORDER BY ordered_at DESC LIMIT 1""",
            status=fulfillment,
            age=days_ago * 86400,
        )
    )


def hours_until_the_next(shop: Shop) -> float:
    """From the end of the last sweep on."""
    row = shop.rows("""
        SELECT extract(epoch FROM s.due_at - max(h.finished_at)) FROM syncs s JOIN sync_history h USING (account_id)
         WHERE s.kind = 'sweep' AND h.kind = 'sweep' GROUP BY s.due_at
    """)
    return float(row[0][0]) / 3600


def test_a_sweep_waits_for_the_end_of_the_backfill(shop: Shop) -> None:
    shop.follow()
    before = calls(shop)
    shop._due_now()
    sweeps.sweep(shop.runtime, shop.account_id)
    assert calls(shop) == before
    assert shop.value("SELECT count(*) FROM sync_history WHERE kind = 'sweep'") == 0
    assert shop.value("SELECT due_at > clock_timestamp() FROM syncs WHERE kind = 'sweep'")


def test_a_purchase_without_an_event_is_found_by_its_change(level: Shop) -> None:
    form = level.world.buys(level.seller_id, silently=True)
    level.follow()
    assert level.versions(form) == []
    level.sweep_hourly()
    assert level.versions(form) == [level.world.body(form)]
    assert level.discoveries() == {("updated_sweep", "missing"): 1}


def test_a_change_without_an_event_is_found_by_its_change(level: Shop) -> None:
    form = level.world.buys(level.seller_id)
    level.follow()
    level.world.fills_in(form, silently=True)
    level.world.pays(form, silently=True)
    level.follow()
    level.sweep_hourly()
    assert level.versions(form)[-1] == level.world.body(form)
    assert level.discoveries() == {("updated_sweep", "changed"): 1}


def test_an_open_order_that_was_sent_without_an_event_is_read(level: Shop) -> None:
    form = order_bought(level, 0.1, fulfillment="NEW")
    level.world.ships(form, "SENT", silently=True)
    level.sweep_hourly()
    assert level.versions(form)[-1] == level.world.body(form)
    assert level.discoveries() == {("open_sweep", "changed"): 1}


def test_an_order_that_became_open_again_without_an_event_is_read(level: Shop) -> None:
    form = order_bought(level, 3, fulfillment="SENT")
    level.world.ships(form, "PROCESSING", silently=True)
    level.sweep_hourly()
    assert level.versions(form)[-1] == level.world.body(form)
    assert level.discoveries() == {("open_sweep", "changed"): 1}


def test_an_old_order_that_changed_its_status_is_found_at_night(level: Shop) -> None:
    form = order_bought(level, 100, fulfillment="PICKED_UP")
    level.sweep_hourly()
    level.world.ships(form, "RETURNED", silently=True)
    level.change("UPDATE sync_history SET requested_at = requested_at - interval '20 h' WHERE kind = 'sweep'")
    level.sweep_hourly()
    assert level.versions(form)[-1] == level.world.body(form)
    assert level.discoveries() == {("open_sweep", "changed"): 1}


def test_a_quiet_sellers_hour_costs_two_calls_of_the_list(level: Shop) -> None:
    level.sweep_hourly()
    before = lists(level)
    level.sweep_hourly()
    assert lists(level) - before == 2


def test_many_open_orders_cost_a_count_for_each_status(level: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "LISTED_UP_TO", 0)
    level.sweep_hourly()
    before = lists(level)
    level.sweep_hourly()
    assert lists(level) - before == 1 + len(nets.OPEN)
    form = order_bought(level, 0.1, fulfillment="NEW")
    level.world.ships(form, "PROCESSING", silently=True)
    level.sweep_hourly()
    assert level.versions(form)[-1] == level.world.body(form)


def test_changes_are_swept_from_where_the_sweep_before_began(level: Shop) -> None:
    level.sweep_hourly()
    swept_to = datetime.fromisoformat(level.value("SELECT cursor FROM syncs WHERE kind = 'sweep'"))
    began = level.value("SELECT max(started_at) FROM sync_history WHERE kind = 'sweep'")
    assert swept_to == began - nets.OVERLAP


def test_more_changes_than_a_page_are_swept_although_they_move_meanwhile(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(400)
    shop.backfill()
    paid = [str(row[0]) for row in shop.rows("SELECT order_id FROM orders WHERE status = 'READY_FOR_PROCESSING'")]
    assert len(paid) > 250
    for form in paid:
        shop.world.surcharges(form, silently=True)
    shop.follow()
    shop.sweep_hourly()
    assert shop.differences() == []


def test_a_sweep_interrupted_in_its_changes_goes_on_where_it_was(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(400)
    shop.backfill()
    shop.follow()
    for row in shop.rows("SELECT order_id FROM orders WHERE status = 'READY_FOR_PROCESSING'"):
        shop.world.surcharges(str(row[0]), silently=True)
    shop.sweep_hourly()
    assert shop.value("SELECT count(*) FROM sync_history WHERE kind = 'sweep'") == 1
    listed = shop.value("SELECT listed FROM sync_history WHERE kind = 'sweep'")
    cursor = shop.value("SELECT cursor FROM syncs WHERE kind = 'sweep'")
    shop.change("UPDATE sync_history SET finished_at = NULL, status = 'running' WHERE kind = 'sweep'")
    shop._due_now()
    sweeps.sweep(shop.runtime, shop.account_id)
    assert shop.value("SELECT cursor FROM syncs WHERE kind = 'sweep'") == cursor
    assert shop.value("SELECT listed FROM sync_history WHERE kind = 'sweep'") == listed


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ignored_filter", {"names": ("fulfillment.status",)}),
        ("ignored_filter", {}),
        ("shifted_page", {"by": 1}),
        ("shifted_page", {"by": 1_000_000}),
        ("shifted_page", {"by": 1_000_000, "delta": -1_000_000}),
        ("wrong_total", {"delta": -3}),
        ("wrong_total", {"delta": 3}),
    ],
)
def test_an_unsound_answer_makes_no_debts_and_hides_nothing(level: Shop, kind: str, options: dict[str, Any]) -> None:
    level.sweep_hourly()
    form = order_bought(level, 0.1, fulfillment="NEW")
    level.world.ships(form, "SENT", silently=True)
    level.world.faults(kind, path=LIST, times=2, **options)
    before = level.world.counts.get((f"{LIST}/{{id}}", 200), 0)
    level.sweep_hourly()
    level.sweep_hourly()
    assert level.versions(form)[-1] == level.world.body(form)
    assert level.world.counts.get((f"{LIST}/{{id}}", 200), 0) - before <= 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("shifted_page", {"by": 1}),
        ("shifted_page", {"by": 1_000_000}),
        ("shifted_page", {"by": 1_000_000, "delta": -1_000_000}),
        ("wrong_total", {"delta": -2}),
    ],
)
def test_an_unsound_page_of_changes_is_read_again(level: Shop, kind: str, options: dict[str, Any]) -> None:
    level.sweep_hourly()
    lost = level.world.buys(level.seller_id, silently=True)
    level.follow()
    for _ in range(2):
        level.world.buys(level.seller_id)
        level.follow()
    level.world.faults(kind, path=LIST, times=1, **options)
    level.sweep_hourly()
    assert level.discoveries() == {("updated_sweep", "missing"): 1}
    assert level.versions(lost) == [level.world.body(lost)]


def test_a_page_of_changes_that_is_unreadable_once_is_read_again(level: Shop) -> None:
    level.sweep_hourly()
    lost = level.world.buys(level.seller_id, silently=True)
    level.world.faults("answer", path=LIST, times=1, body=CUT_OFF)
    level.sweep_hourly()
    assert level.versions(lost) == [level.world.body(lost)]
    assert level.value("SELECT count(*) FROM sync_history WHERE kind = 'reconcile'") == 0


def test_a_page_of_changes_that_stays_unreadable_has_every_order_listed(level: Shop) -> None:
    level.sweep_hourly()
    old = order_bought(level, 100, fulfillment="PICKED_UP")
    level.world.surcharges(old, silently=True)
    level.change("UPDATE syncs SET due_at = clock_timestamp() + interval '1 h' WHERE kind = 'listing'")
    level.world.faults("answer", path=LIST, times=2, body=CUT_OFF)
    level.sweep_hourly()
    assert level.value("SELECT last_error FROM syncs WHERE kind = 'sweep'") is None
    assert level.value("SELECT status FROM sync_history WHERE kind = 'reconcile'") == "queued"
    level.work_on_listing()
    assert level.versions(old)[-1] == level.world.body(old)


def test_a_filter_by_change_that_is_ignored_for_good_fails_the_sweep_and_moves_nothing(level: Shop) -> None:
    level.sweep_hourly()
    cursor = level.value("SELECT cursor FROM syncs WHERE kind = 'sweep'")
    level.world.faults("ignored_filter", path=LIST, times=None, names=("updatedAt.gte",))
    level._due_now()
    sweeps.sweep(level.runtime, level.account_id)
    assert level.value("SELECT failures FROM syncs WHERE kind = 'sweep'") == 1
    assert level.value("SELECT cursor FROM syncs WHERE kind = 'sweep'") == cursor


def with_updated_at(body: bytes, moment: str) -> bytes:
    return re.sub(rb'"updatedAt":"[^"]+"', f'"updatedAt":"{moment}"'.encode(), body)


@pytest.mark.parametrize("moment", ["2024-01-01T00:00:00.000Z", "9999-01-01T00:00:00.000Z"])
def test_an_order_with_a_wrong_time_of_change_keeps_no_other_from_being_swept(level: Shop, moment: str) -> None:
    level.sweep_hourly()
    liar, *others = [level.world.buys(level.seller_id, silently=True) for _ in range(120)]
    level.world.plants(liar, with_updated_at(level.world.body(liar), moment), silently=True)
    level.sweep_hourly()
    assert [one for one in [liar, *others] if level.versions(one) != [level.world.body(one)]] == []
    assert level.value("SELECT failures FROM syncs WHERE kind = 'sweep'") == 0
    later = level.world.buys(level.seller_id, silently=True)
    level.sweep_hourly()
    assert level.versions(later) == [level.world.body(later)]


def test_a_filter_that_is_ignored_for_good_fails_the_sweep_and_owes_nothing(level: Shop) -> None:
    level.sweep_hourly()
    level.world.faults("ignored_filter", path=LIST, times=None, names=("fulfillment.status",))
    level.sweep_hourly()
    assert level.value("SELECT count(*) FROM owed_orders") == 0
    last = "SELECT status FROM sync_history WHERE kind = 'sweep' ORDER BY requested_at DESC LIMIT 1"
    assert level.value(last) == "failed"
    level._due_now()
    sweeps.sweep(level.runtime, level.account_id)
    assert level.value(last) == "failed"
    assert 0.89 <= hours_until_the_next(level) <= 1.11
    assert "outside" in level.value("SELECT note FROM sync_windows WHERE status = 'unstable'")


def test_a_sweep_whose_lease_was_lost_does_not_count_its_calls(level: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = level.world.handle

    def taken_over(request: Request) -> Response:
        answer = handle(request)
        level.change("UPDATE syncs SET lease_generation = lease_generation + 1 WHERE kind = 'sweep'")
        return answer

    monkeypatch.setattr(level.world, "handle", taken_over)
    level._due_now()
    sweeps.sweep(level.runtime, level.account_id)
    assert level.value("SELECT calls FROM sync_history WHERE kind = 'sweep'") == 0


def test_accounts_that_were_connected_together_do_not_sweep_together_for_ever(level: Shop) -> None:
    hours = []
    for _ in range(8):
        level._due_now()
        sweeps.sweep(level.runtime, level.account_id)
        hours.append(hours_until_the_next(level))
    assert all(0.89 <= one <= 1.11 for one in hours)
    assert max(hours) - min(hours) > 0.01


def test_the_counts_of_a_sweep_add_up(level: Shop) -> None:
    form = order_bought(level, 0.1, fulfillment="NEW")
    level.world.ships(form, "SENT", silently=True)
    level.world.buys(level.seller_id, silently=True)
    level.sweep_hourly()
    row = level.rows(
        "SELECT listed, inserted, updated, unchanged, set_aside, gone FROM sync_history WHERE kind = 'sweep'"
    )[0]
    assert row[0] == sum(row[1:])
    assert row[1] == 1


def test_an_event_that_appears_below_the_cursor_is_counted_as_the_overlaps_catch(level: Shop) -> None:
    level.world.buys(level.seller_id)
    hidden = level.world.buys(level.seller_id)
    level.world.buys(level.seller_id)
    journal = level.world._state.sellers[level.seller_id].journal
    late = next(event for event in journal.events if event.order.id == hidden)
    journal.events.remove(late)
    level.follow()
    assert level.versions(hidden) == []
    journal.events.append(late)
    journal.events.sort(key=lambda event: event.id)
    level.follow()
    assert level.versions(hidden) == [level.world.body(hidden)]
    assert level.discoveries() == {("overlap", "changed"): 1}


def test_what_the_first_overlap_shows_is_nobodys_catch(level: Shop) -> None:
    assert level.value("SELECT count(*) FROM order_events") > 0
    assert level.discoveries() == {}


@pytest.mark.parametrize("seed", [1, 2])
def test_with_a_poor_journal_every_last_state_is_here_after_one_sweep(level: Shop, seed: int) -> None:
    """Of the events 5 % are missing, 5 % come twice, 10 % are shuffled, 1 % is restored late."""
    draw, world = random.Random(seed), level.world
    for _ in range(120):
        chance = draw.random()
        if chance < 0.05:
            world.loses_event(level.seller_id)
        if 0.05 <= chance < 0.15:
            world.reorders(level.seller_id)
        else:
            world.happens(level.seller_id, 1)
        if 0.15 <= chance < 0.2:
            world.duplicates_event(level.seller_id)
        if 0.2 <= chance < 0.21:
            world.restores_lost_events(level.seller_id)
        if draw.random() < 0.1:
            level.follow()
    level.follow()
    level.sweep_hourly()
    level.follow()
    truth = {form: one for form, one in world.truth(level.seller_id).items() if not one.gone and not one.hidden}
    behind = [form for form, one in truth.items() if level.versions(form)[-1:] != [one.current]]
    assert behind == []


def test_few_open_orders_are_listed_and_many_counted_by_status() -> None:
    few, many = nets.open_orders(NOW, held=500), nets.open_orders(NOW, held=501)
    assert [(one.method, one.fulfillment) for one in few] == [("ids", nets.OPEN)]
    assert [(one.method, one.fulfillment) for one in many] == [("count", (status,)) for status in nets.OPEN]


def test_a_status_nobody_knows_yet_is_counted_too() -> None:
    found = nets.older_orders(NOW, ["DELIVERED", "SENT"])
    assert {one.fulfillment for one in found} == {(status,) for status in [*nets.STATUSES, "DELIVERED"]}
    assert {(one.since, one.until) for one in found} == {(NOW - plan.REACH, NOW - plan.RECENT)}


def test_what_the_journal_could_not_tell_yet_is_no_catch() -> None:
    assert nets.is_caught(NOW - timedelta(minutes=5), followed_at=NOW)
    assert not nets.is_caught(NOW - timedelta(seconds=10), followed_at=NOW)
    assert not nets.is_caught(NOW - timedelta(days=1), followed_at=None)
    assert nets.is_caught(None, followed_at=NOW)


def test_the_worker_knows_every_standing_job() -> None:
    from orders_backup import worker  # noqa: PLC0415 - the only test that needs Celery
    from orders_backup.sync import state  # noqa: PLC0415

    assert set(worker.SYNCS) == set(state.RUN_KINDS)
    assert worker.SYNCS["journal"] is pull.pull
