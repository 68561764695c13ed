"""The journal: every event once, every order it names read, the cheaper way, whatever comes late, twice or broken."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.shop import Shop

from orders_backup import db as database
from orders_backup import due, tables
from orders_backup.errors import LeaseLostError
from orders_backup.sync import owed, plan, pull, state
from orders_backup.sync.plan import Debt

ONE = "/order/checkout-forms/{id}"
LIST = "/order/checkout-forms"
OLD_CURSOR = "UPDATE syncs SET cursor = '1600000000000000'"


def calls(shop: Shop) -> Counter[str]:
    counted: Counter[str] = Counter()
    for (path, _), count in shop.world.counts.items():
        counted[path] += count
    return counted


def test_what_happens_at_allegro_arrives_as_versions(level: Shop) -> None:
    level.world.happens(level.seller_id, 25)
    level.follow()
    assert level.differences() == []
    assert level.value("SELECT count(*) FROM owed_orders WHERE account_id = :account") == 0
    assert level.value("SELECT count(*) FROM order_events WHERE processed_at IS NULL") == 0


def test_every_event_served_is_stored_once(level: Shop) -> None:
    level.world.happens(level.seller_id, 30)
    level.world.duplicates_event(level.seller_id)
    level.follow()
    level.follow()
    stored = {str(row[0]) for row in level.rows("SELECT event_id FROM order_events WHERE account_id = :account")}
    assert level.world.served_events(level.seller_id) <= stored


def test_a_repeated_event_makes_no_new_version(level: Shop) -> None:
    form = level.world.buys(level.seller_id)
    level.follow()
    level.world.duplicates_event(level.seller_id)
    level.follow()
    assert len(level.versions(form)) == 1


def test_an_address_that_allegro_forgets_is_kept(level: Shop) -> None:
    form = level.world.buys(level.seller_id)
    level.world.fills_in(form)
    level.world.pays(form)
    level.follow()
    paid = level.world.body(form)
    level.world.cancels(form)
    level.follow()
    assert level.versions(form) == [paid, level.world.body(form)]
    kinds = level.value(
        "SELECT kinds FROM order_changes WHERE account_id = :account AND order_id = :order AND version = 2", order=form
    )
    assert {"order.cancelled", "order.delivery_changed", "order.status_changed"} <= set(kinds)


def test_events_in_any_order_end_in_what_allegro_has_now(level: Shop) -> None:
    form = level.world.reorders(level.seller_id)
    level.follow()
    assert level.versions(form) == [level.world.body(form)]


def test_events_that_are_restored_late_are_read_when_they_come(level: Shop) -> None:
    level.world.loses_event(level.seller_id)
    form = level.world.buys(level.seller_id)
    level.follow()
    assert level.versions(form) == []
    level.world.restores_lost_events(level.seller_id)
    level.follow()
    assert level.versions(form) == [level.world.body(form)]


def test_a_merge_links_the_old_ids_to_the_new_form_and_keeps_their_data(level: Shop) -> None:
    first = level.world.buys(level.seller_id)
    second = level.world.buys(level.seller_id)
    level.follow()
    before = level.versions(first)
    merged = level.world.merges(first, second)
    level.follow()
    level.follow()
    linked = level.rows(
        "SELECT gone_at, superseded_by FROM orders WHERE account_id = :account AND order_id = :order", order=first
    )
    assert linked[0][0] is not None
    assert linked[0][1] == merged
    assert level.versions(first) == before
    assert (
        level.value(
            "SELECT count(*) FROM order_changes WHERE order_id = :order AND 'order.superseded' = ANY (kinds)",
            order=first,
        )
        == 1
    )


def test_a_form_that_is_gone_before_it_was_read_holds_nothing_up(level: Shop) -> None:
    first = level.world.buys(level.seller_id)
    second = level.world.buys(level.seller_id)
    level.world.merges(first, second)
    level.follow()
    assert level.value("SELECT count(*) FROM owed_orders WHERE account_id = :account") == 0
    assert level.value("SELECT sum(gone) FROM sync_history WHERE account_id = :account") == 2


def test_many_changed_orders_are_read_by_pages(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(600)
    shop.backfill()
    shop.follow()
    before = calls(shop)
    paid = shop.rows(
        "SELECT order_id FROM orders WHERE account_id = :account AND status = 'READY_FOR_PROCESSING' LIMIT 200"
    )
    for row in paid:
        shop.world.surcharges(str(row[0]))
    shop.follow()
    after = calls(shop)
    assert shop.differences() == []
    assert after[ONE] - before[ONE] <= 2
    assert after[LIST] - before[LIST] <= 3


def test_many_fulfilment_changes_are_read_by_pages_of_purchase_time(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(600)
    shop.backfill()
    shop.follow()
    before = calls(shop)
    newest = shop.rows("SELECT order_id FROM orders WHERE account_id = :account ORDER BY ordered_at DESC LIMIT 150")
    for row in newest:
        shop.world.ships(str(row[0]), "SENT")
    shop.follow()
    after = calls(shop)
    assert shop.differences() == []
    assert after[ONE] - before[ONE] + after[LIST] - before[LIST] <= 5


def test_an_order_that_fails_alone_is_set_aside_after_five_tries_and_the_rest_arrives(level: Shop) -> None:
    poison = level.world.buys(level.seller_id)
    level.world.faults("status", code=500, path=f"{LIST}/{poison}", times=None)
    for _ in range(5):
        good = level.world.buys(level.seller_id)
        level.follow()
        assert level.versions(good) == [level.world.body(good)]
    assert level.value("SELECT set_aside_at FROM owed_orders WHERE order_id = :order", order=poison) is not None
    assert not level.certificate().complete
    level.world.clear_faults()
    level.world.duplicates_event(level.seller_id)
    level.sweep()
    assert level.versions(poison) == [level.world.body(poison)]
    assert level.certificate().complete


def test_an_outage_sets_nothing_aside(level: Shop) -> None:
    form = level.world.buys(level.seller_id)
    level.world.faults("status", code=503, path=f"{LIST}/", times=None)
    for _ in range(8):
        level.follow()
    assert level.value("SELECT failures FROM owed_orders WHERE order_id = :order", order=form) == 0
    level.world.clear_faults()
    level.follow()
    assert level.versions(form) == [level.world.body(form)]


@pytest.mark.parametrize("kind", ["reset", "truncated", "html"])
def test_a_broken_answer_of_the_journal_moves_no_cursor(level: Shop, kind: str) -> None:
    cursor = level.value("SELECT cursor FROM syncs WHERE account_id = :account AND kind = 'journal'")
    form = level.world.buys(level.seller_id)
    level.world.faults(kind, path="/order/events", times=1 if kind == "html" else 2)
    level.follow()
    assert level.value("SELECT cursor FROM syncs WHERE account_id = :account AND kind = 'journal'") == cursor
    level.follow()
    assert level.versions(form) == [level.world.body(form)]


def test_an_order_read_as_garbage_is_owed_until_it_can_be_read_and_its_bytes_are_kept(level: Shop) -> None:
    form = level.world.buys(level.seller_id)
    level.world.faults("html", path=f"{LIST}/{form}")
    level.follow()
    assert level.value("SELECT count(*) FROM owed_orders WHERE order_id = :order", order=form) == 1
    level.follow()
    assert level.versions(form) == [level.world.body(form)]


def test_a_worker_whose_lease_ran_out_writes_nothing(level: Shop) -> None:
    level.change("UPDATE syncs SET due_at = clock_timestamp() WHERE account_id = :account")
    key = {"account_id": level.account_id, "kind": "journal"}
    with database.transaction(level.runtime.db) as tx:
        stale = due.claim(tx, tables.syncs, key, lease=timedelta(seconds=30))
    assert stale is not None
    level.change("UPDATE syncs SET leased_until = clock_timestamp() - interval '1 s' WHERE account_id = :account")
    level.world.buys(level.seller_id)
    pull.pull(level.runtime, level.account_id)
    with database.transaction(level.runtime.db) as tx, pytest.raises(LeaseLostError):
        due.fence(tx, stale, extend=timedelta(seconds=30))
    with database.transaction(level.runtime.db) as tx, pytest.raises(LeaseLostError):
        state.move_cursor(tx, stale, seen="0", cursor="1")


def test_a_429_silences_the_whole_application(level: Shop) -> None:
    level.world.buys(level.seller_id)
    level.world.faults("status", code=429, path="/order/events")
    level.follow()
    before = sum(level.world.counts.values())
    level.follow()
    level.work_on_listing()
    assert sum(level.world.counts.values()) == before


def test_a_paused_account_sleeps_and_wakes_where_it_was(level: Shop) -> None:
    level.change("UPDATE accounts SET paused = true WHERE id = :account")
    form = level.world.buys(level.seller_id)
    level.follow()
    assert level.versions(form) == []
    level.change("UPDATE accounts SET paused = false WHERE id = :account")
    level.follow()
    assert level.versions(form) == [level.world.body(form)]


def test_a_run_that_was_asked_for_ends_even_if_nothing_happened(level: Shop) -> None:
    with database.transaction(level.runtime.db) as tx:
        run_id = state.request(tx, level.account_id, "incremental")
        assert state.request(tx, level.account_id, "incremental") == run_id
    level.follow()
    assert level.value("SELECT status FROM sync_history WHERE id = :run", run=run_id) == "succeeded"


def test_debts_that_no_page_can_pay_are_read_one_by_one(level: Shop) -> None:
    """Orders that vanished silently are owed together; whatever the budget of the list, each is asked for by its id."""
    open_ones = (
        "SELECT order_id FROM orders WHERE account_id = :account AND status <> 'CANCELLED' ORDER BY ordered_at DESC"
    )
    forms = [str(row[0]) for row in level.rows(f"{open_ones} LIMIT 12")]
    for first, second in zip(forms[::2], forms[1::2], strict=True):
        level.world.merges(first, second, silently=True)
    with database.transaction(level.runtime.db) as tx:
        state.request(tx, level.account_id, "reconcile")
    level.work_on_listing()
    before = calls(level)
    level.follow()
    after = calls(level)
    assert after[LIST] == before[LIST]
    assert after[ONE] - before[ONE] >= 12
    level.sweep("reconcile")
    assert level.value("SELECT count(*) FROM orders WHERE gone_at IS NOT NULL") == 12
    assert level.certificate().complete


def test_without_budget_for_pages_orders_are_read_one_by_one(level: Shop) -> None:
    paid = level.rows("SELECT order_id FROM orders WHERE status = 'READY_FOR_PROCESSING' LIMIT 5")
    for row in paid:
        level.world.surcharges(str(row[0]))
    level.change("UPDATE request_budget SET full_at = clock_timestamp() + interval '1 h' WHERE key LIKE '%orders'")
    level.follow()
    assert level.differences() == []
    assert level.value("SELECT count(*) FROM owed_orders") == 0


def test_an_order_replaced_by_two_is_owed_once(level: Shop) -> None:
    first = level.world.buys(level.seller_id)
    level.follow()
    debt = plan.Debt(first, None, False, [])
    with database.transaction(level.runtime.db) as tx:
        owed.owe(tx, level.account_id, [debt, debt], cause="merge", now=level.runtime.clock.now())
    assert level.value("SELECT count(*) FROM owed_orders WHERE order_id = :order", order=first) == 1


def test_four_orders_that_always_fail_do_not_keep_the_others_waiting(level: Shop) -> None:
    poison = [level.world.buys(level.seller_id) for _ in range(4)]
    for form in poison:
        level.world.faults("status", code=500, path=f"{LIST}/{form}", times=None)
    level.world.faults("status", code=500, path=LIST, times=None)
    level.follow()
    level.world.clear_faults()
    for form in poison:
        level.world.faults("status", code=500, path=f"{LIST}/{form}", times=None)
    paid = str(level.value("SELECT order_id FROM orders WHERE status = 'READY_FOR_PROCESSING' LIMIT 1"))
    level.world.ships(paid, "PICKED_UP")
    for _ in range(3):
        level.follow()
    assert level.versions(paid)[-1] == level.world.body(paid)


def test_a_cursor_older_than_the_journal_has_everything_listed_again(level: Shop) -> None:
    level.change(f"{OLD_CURSOR}, succeeded_at = clock_timestamp() - interval '56 days' WHERE kind = 'journal'")
    level.follow()
    level.follow()
    assert level.value("SELECT count(*) FROM sync_history WHERE kind = 'reconcile'") == 1


def test_a_seller_to_whom_nothing_happens_is_not_listed_again_and_again(level: Shop) -> None:
    level.change(f"{OLD_CURSOR} WHERE kind = 'journal'")
    level.follow()
    assert level.value("SELECT count(*) FROM sync_history WHERE kind = 'reconcile'") == 0


@pytest.mark.parametrize("cursor", ["(extract(epoch FROM now() - interval '57 d') * 1000000)::bigint::text", "'0'"])
def test_a_gap_in_the_journal_has_everything_listed_once_a_day_until_the_journal_can_be_read(
    level: Shop, cursor: str
) -> None:
    """Nobody followed the journal for 56 days, and it may have dropped what lies between."""
    level.world.buys(level.seller_id, silently=True)
    level.change(f"""UPDATE syncs SET cursor = {cursor},
                           succeeded_at = now() - interval '56 d' WHERE kind = 'journal'""")
    level.world.faults("status", code=503, path="/order/events", times=None)
    for _ in range(3):
        level.follow()
        level.work_on_listing()
    assert level.differences() == []
    assert level.value("SELECT count(*) FROM sync_history WHERE kind = 'reconcile'") == 1
    level.change("UPDATE sync_history SET requested_at = requested_at - interval '25 h' WHERE kind = 'reconcile'")
    level.follow()
    assert level.value("SELECT count(*) FROM sync_history WHERE kind = 'reconcile'") == 2
    level.world.clear_faults()
    for _ in range(2):
        level.follow()
        level.work_on_listing()
    assert level.value("SELECT count(*) FROM sync_history WHERE kind = 'reconcile'") == 2


def test_asking_for_a_run_and_a_job_at_work_do_not_wait_for_each_other(level: Shop) -> None:
    """The job holds its row and writes rows that name the account; whoever asks holds the account and wants the row."""
    debt = Debt("x", None, False, [])
    with ThreadPoolExecutor(1) as pool:
        with database.transaction(level.runtime.db) as tx:
            tx.execute(sa.text("UPDATE syncs SET failures = 0 WHERE kind = 'listing'"))
            asked = pool.submit(request, level, "reconcile")
            while not level.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not asked.done()
            owed.owe(tx, level.account_id, [debt], cause="event", now=level.runtime.clock.now())
        assert asked.result(30)


def request(shop: Shop, kind: str) -> UUID:
    with database.transaction(shop.runtime.db) as tx:
        return state.request(tx, shop.account_id, kind)


def test_a_run_that_waits_does_not_make_a_job_spin_that_has_no_budget(level: Shop) -> None:
    with database.transaction(level.runtime.db) as tx:
        state.request(tx, level.account_id, "incremental")
    level.change("UPDATE syncs SET cursor = NULL WHERE kind = 'journal'")
    level.change("UPDATE request_budget SET full_at = clock_timestamp() + interval '1 h' WHERE key LIKE '%events'")
    level.follow()
    assert level.value("SELECT due_at > clock_timestamp() + interval '1 min' FROM syncs WHERE kind = 'journal'")


def test_a_full_overlap_does_not_hold_the_journal_back(level: Shop) -> None:
    for _ in range(40):
        level.world.happens(level.seller_id, 30)
    level.follow()
    before = calls(level)["/order/events"]
    form = level.world.buys(level.seller_id)
    level.follow()
    assert level.versions(form) == [level.world.body(form)]
    assert calls(level)["/order/events"] - before == 1
