"""History by windows: everything, byte for byte, with few calls, through interruptions and unsound pages."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.sync import plan, state

LIST = "/order/checkout-forms"


def lists(shop: Shop) -> int:
    return sum(count for (path, _), count in shop.world.counts.items() if path == LIST)


def minutes_until_the_next_listing(shop: Shop) -> float:
    """From the end of the last one on."""
    row = shop.rows("""
        SELECT extract(epoch FROM s.due_at - max(h.finished_at)) FROM syncs s JOIN sync_history h USING (account_id)
         WHERE s.kind = 'listing' AND h.kind IN ('backfill', 'full', 'reconcile') GROUP BY s.due_at
    """)
    return float(row[0][0]) / 60


def test_every_order_is_kept_byte_for_byte_with_one_call_a_page(shop: Shop) -> None:
    shop.backfill()
    assert shop.differences() == []
    assert lists(shop) == 3 + 1, "three pages, and one that finds nothing beyond the twelve months"
    assert shop.value("SELECT count(*) FROM order_changes WHERE account_id = :account") == 250


def test_an_empty_shop_is_proven_empty(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(0)
    shop.backfill()
    certificate = shop.certificate()
    assert certificate.complete
    assert certificate.listed == 0


def test_the_cursor_is_pinned_before_the_first_page(shop: Shop) -> None:
    shop.work_on_listing()
    first = [call.path for call in shop.world.calls if call.path in {LIST, "/order/event-stats"}]
    assert first[0] == "/order/event-stats"
    assert first[1] == LIST


def test_what_is_bought_during_the_backfill_is_not_lost(shop: Shop) -> None:
    shop.world.faults("status", code=503, path=LIST, times=2)
    shop.work_on_listing()
    late = shop.world.buys(shop.seller_id)
    shop.backfill()
    shop.follow()
    assert shop.versions(late) == [shop.world.body(late)]
    assert shop.differences() == []


def test_an_interrupted_backfill_goes_on_at_its_page(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(1_200)
    shop.work_on_listing()
    shop.change(
        """UPDATE sync_windows SET status = 'open', next_offset = 891, listed = 892,
                  last_order_id = (SELECT order_id FROM orders ORDER BY ordered_at, order_id OFFSET 891 LIMIT 1),
                  fingerprint = (SELECT sum(hashtextextended(order_id, 0)) FROM
                                 (SELECT order_id FROM orders ORDER BY ordered_at, order_id LIMIT 892) AS listed)
            WHERE account_id = :account AND total_count > 0"""
    )
    shop.change("""UPDATE sync_history SET status = 'running', finished_at = NULL WHERE account_id = :account""")
    before = lists(shop)
    shop.backfill()
    assert lists(shop) - before == 4
    assert shop.differences() == []


def test_an_outage_in_the_middle_leaves_the_backfill_due_and_nothing_lost(shop: Shop) -> None:
    shop.world.goes_down()
    shop.work_on_listing()
    assert shop.value("SELECT failures FROM syncs WHERE account_id = :account AND kind = 'listing'") == 1
    shop.world.comes_back()
    shop.backfill()
    assert shop.differences() == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("wrong_total", {"delta": 7}),
        ("shifted_page", {"by": 3}),
        ("ignored_filter", {}),
        ("truncated", {}),
        ("html", {}),
        ("reset", {}),
    ],
)
def test_an_unsound_page_has_its_window_read_again(shop: Shop, kind: str, options: dict[str, Any]) -> None:
    shop.world.faults(kind, path=LIST, times=1, **options)
    shop.backfill()
    certificate = shop.certificate()
    assert certificate.complete
    assert (certificate.listed, certificate.stored) == (250, 250)
    assert shop.differences() == []


def test_a_list_that_never_holds_still_is_never_called_complete(shop: Shop) -> None:
    shop.world.faults("shifted_page", path=LIST, times=None, by=1)
    for _ in range(8):
        shop.work_on_listing()
    assert not shop.certificate().complete
    assert shop.value("SELECT max(error) FROM sync_history WHERE account_id = :account") is not None
    shop.world.clear_faults()
    for _ in range(3):
        shop.sweep("reconcile")
    assert shop.certificate().complete


def test_what_cannot_be_proven_is_listed_again_ever_later(level: Shop) -> None:
    level.world.faults("shifted_page", path=LIST, times=None, by=1)
    minutes = []
    for _ in range(4):
        level.work_on_listing()
        minutes.append(minutes_until_the_next_listing(level))
    assert minutes == [pytest.approx(wait, rel=0.1) for wait in (2.5, 5, 10, 20)]
    assert level.value("SELECT failures FROM syncs WHERE kind = 'listing'") == 0
    level.world.clear_faults()
    level.work_on_listing()
    level.world.faults("shifted_page", path=LIST, times=None, by=1)
    level.work_on_listing()
    assert minutes_until_the_next_listing(level) == pytest.approx(2.5, rel=0.1)


KINDS = "SELECT kind FROM sync_history WHERE kind <> 'sweep' ORDER BY requested_at DESC LIMIT 1"
RUNS = "SELECT string_agg(kind || ':' || status, ' ' ORDER BY requested_at) FROM sync_history WHERE kind <> 'sweep'"


def test_a_backfill_is_tried_again_until_it_is_proven(shop: Shop) -> None:
    shop.world.faults("shifted_page", path=LIST, times=None, by=1)
    shop.work_on_listing()
    shop.world.clear_faults()
    with database.transaction(shop.runtime.db) as tx:
        state.request(tx, shop.account_id, "full")
    for _ in range(3):
        shop.work_on_listing()
    assert shop.value(RUNS) == "backfill:failed full:succeeded backfill:succeeded full:succeeded"
    assert shop.certificate().complete
    assert shop.differences() == []


def test_what_the_backfill_could_not_prove_is_listed_again_and_nothing_else(shop: Shop) -> None:
    """Orders older than Allegro guarantees among it, too: no later run looks at these."""
    shop.work_on_listing()
    shop.change("UPDATE sync_windows SET status = 'unstable' WHERE window_from < '2015-01-01'")
    shop.change("UPDATE sync_history SET status = 'failed', error = 'A window kept changing.' WHERE kind = 'backfill'")
    before = lists(shop)
    shop.work_on_listing()
    assert shop.value(RUNS) == "backfill:failed backfill:succeeded"
    assert lists(shop) == before + 1
    assert minutes_until_the_next_listing(shop) == pytest.approx(0, abs=0.1)


def test_an_order_with_a_wrong_time_of_purchase_keeps_no_other_from_being_compared(shop: Shop) -> None:
    """Its window can never be proven, and so the backfill neither."""
    liar, lost = shop.world.orders(shop.seller_id)[10], shop.world.orders(shop.seller_id)[200]
    body = re.sub(rb'"boughtAt":"[^"]+"', b'"boughtAt":"2019-01-01T00:00:00.000Z"', shop.world.body(liar))
    shop.world.plants(liar, body, silently=True)
    for _ in range(3):
        shop.work_on_listing()
    for table in ("orders", "order_versions"):
        shop.change(f"DELETE FROM {table} WHERE order_id = :order", order=lost)
    kinds = []
    for _ in range(6):
        shop.work_on_listing()
        kinds.append(shop.value(KINDS))
    assert kinds == ["full", *["backfill"] * 5]
    assert shop.versions(lost) == [shop.world.body(lost)]
    assert shop.versions(liar) == [body]
    assert not shop.certificate().complete
    older = (f"{name} = {name} - interval '25 h'" for name in ("requested_at", "started_at", "finished_at"))
    shop.change(f"UPDATE sync_history SET {', '.join(older)}")
    shop.work_on_listing()
    assert shop.value(KINDS) == "reconcile"


def test_what_cannot_be_proven_waits_at_most_an_hour() -> None:
    waits = [plan.unproven_again(failed) for failed in range(1, 1000)]
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(hours=1)


def test_what_cannot_be_proven_is_not_tried_without_end_where_an_account_has_its_own_interval(level: Shop) -> None:
    level.change("UPDATE accounts SET sync_interval_seconds = 600")
    level.change("UPDATE syncs SET succeeded_at = succeeded_at - interval '1 day' WHERE kind = 'listing'")
    level.world.faults("shifted_page", path=LIST, times=None, by=1)
    minutes = []
    for _ in range(5):
        level.work_on_listing()
        minutes.append(minutes_until_the_next_listing(level))
        with database.transaction(level.runtime.db) as tx:
            state.wake(tx)
        assert minutes_until_the_next_listing(level) == minutes[-1]
    assert minutes == [pytest.approx(wait, rel=0.1) for wait in (2.5, 5, 10, 10, 10)]


def test_an_interval_that_was_made_shorter_counts_from_the_last_full_sync(level: Shop) -> None:
    level.sweep()
    level.change("UPDATE syncs SET due_at = clock_timestamp() + interval '6 h' WHERE kind = 'listing'")
    level.change("UPDATE accounts SET sync_interval_seconds = 600")
    with database.transaction(level.runtime.db) as tx:
        state.wake(tx)
    assert minutes_until_the_next_listing(level) == pytest.approx(10, rel=0.1)


def test_a_listing_that_succeeded_is_known_as_such_though_another_run_waits(shop: Shop) -> None:
    with database.transaction(shop.runtime.db) as tx:
        state.wake(tx)
        state.request(tx, shop.account_id, "reconcile")
    shop.work_on_listing()
    assert shop.value("SELECT status FROM sync_history WHERE kind = 'backfill'") == "succeeded"
    assert shop.value("SELECT status FROM sync_history WHERE kind = 'reconcile'") == "queued"
    assert shop.value("SELECT succeeded_at FROM syncs WHERE kind = 'listing'") is not None


def test_more_orders_than_a_list_can_page_are_reached_by_halves(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(10_300)
    shop.backfill()
    assert shop.value("SELECT count(*) FROM orders WHERE account_id = :account") == 10_300
    assert shop.certificate().complete
    assert lists(shop) <= 1.05 * 103


def test_the_counts_of_a_run_add_up(shop: Shop) -> None:
    shop.backfill()
    row = shop.rows(
        "SELECT listed, inserted, expected, status FROM sync_history WHERE account_id = :account AND kind = 'backfill'"
    )[0]
    assert tuple(row) == (250, 250, 250, "succeeded")
