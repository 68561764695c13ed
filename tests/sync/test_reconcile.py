"""Sweeps and the certificate: what the journal lost is found, named and repaired, and nothing is claimed unproven."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.sync import plan, state


def test_a_lost_event_is_caught_by_the_sweep(level: Shop) -> None:
    level.world.loses_event(level.seller_id)
    form = level.world.buys(level.seller_id)
    level.follow()
    assert level.versions(form) == []
    level.sweep("reconcile")
    assert level.versions(form) == [level.world.body(form)]
    certificate = level.certificate()
    assert certificate.complete
    assert sum(window.found_missing for window in certificate.windows) == 1


def test_a_change_without_an_event_is_caught_by_the_sweep(level: Shop) -> None:
    form = str(level.value("SELECT order_id FROM orders WHERE account_id = :account ORDER BY ordered_at DESC LIMIT 1"))
    level.world.ships(form, "PICKED_UP", silently=True)
    level.sweep("full")
    assert level.versions(form)[-1] == level.world.body(form)
    assert sum(window.found_changed for window in level.certificate().windows) == 1


def test_an_old_order_missing_here_is_found_by_counting(level: Shop) -> None:
    row = level.rows("SELECT order_id FROM orders WHERE account_id = :account ORDER BY ordered_at OFFSET 20 LIMIT 1")
    form = str(row[0][0])
    for table in ("orders", "order_versions"):
        level.change(f"DELETE FROM {table} WHERE account_id = :account AND order_id = :order", order=form)
    level.sweep("full")
    assert level.versions(form) == [level.world.body(form)]
    assert level.certificate().complete


def test_an_order_that_allegro_gave_up_silently_is_explained_not_missed(level: Shop) -> None:
    first, second = level.world.orders(level.seller_id)[100:102]
    level.world.merges(first, second, silently=True)
    level.sweep("reconcile")
    gone = level.value("SELECT count(*) FROM orders WHERE account_id = :account AND gone_at IS NOT NULL")
    assert gone == 2
    assert level.certificate().complete
    assert len(level.versions(first)) >= 1


def test_without_a_finished_run_nothing_is_complete(shop: Shop) -> None:
    certificate = shop.certificate()
    assert not certificate.complete
    assert certificate.open_questions


def test_an_owed_order_keeps_the_certificate_open(level: Shop) -> None:
    level.world.buys(level.seller_id)
    level.world.faults("status", code=503, path="/order/checkout-forms/", times=None)
    level.follow()
    assert not level.certificate().complete


def test_the_certificate_names_every_window_without_gap_or_overlap(level: Shop) -> None:
    level.sweep("reconcile")
    windows = sorted(level.certificate().windows, key=lambda window: window.window_from)
    assert len(windows) >= 12
    assert all(a.window_to == b.window_from for a, b in pairwise(windows))


def test_a_sync_over_a_chosen_range_is_no_certificate_of_the_account(level: Shop) -> None:
    before = level.certificate().run_id
    now = datetime.now(UTC)
    with database.transaction(level.runtime.db) as tx:
        since, until = now - timedelta(days=60), now - timedelta(days=30)
        run_id = state.request(tx, level.account_id, "reconcile", range_from=since, range_to=until)
    level.work_on_listing()
    listed = level.value("SELECT listed FROM sync_history WHERE id = :run AND status = 'succeeded'", run=run_id)
    assert 0 < listed < 60
    assert level.certificate().run_id == before


def test_a_reconcile_that_runs_may_have_passed_what_is_meant_and_another_is_queued_once(level: Shop) -> None:
    def soon() -> dict[str, int]:
        with database.transaction(level.runtime.db) as tx:
            state.reconcile_soon(tx, level.account_id)
        query = "SELECT status, count(*) FROM sync_history WHERE kind = 'reconcile' GROUP BY status"
        return {str(status): int(count) for status, count in level.rows(query)}

    assert soon() == {"queued": 1}
    level.change("UPDATE sync_history SET status = 'running', started_at = clock_timestamp() WHERE kind = 'reconcile'")
    assert soon() == {"queued": 1, "running": 1}
    assert soon() == {"queued": 1, "running": 1}


@given(
    since=st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),
    days=st.floats(0.001, 900),
)
def test_months_cover_a_range_exactly_once(since: datetime, days: float) -> None:
    until = since + timedelta(days=days)
    windows = plan.months(since, until)
    assert windows[-1].since == since
    assert windows[0].until == until
    assert all(newer.since == older.until for newer, older in pairwise(windows))
    assert all(window.since < window.until for window in windows)


@given(
    since=st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC)),
    seconds=st.floats(0.01, 40_000_000),
    share=st.floats(0, 1),
)
def test_halves_cover_a_window_exactly_once(since: datetime, seconds: float, share: float) -> None:
    until = since + timedelta(seconds=seconds)
    window = plan.Window(since, until, "ids")
    newer, older = plan.halves(window, oldest=since + (until - since) * share * 0.5)
    assert (older.since, older.until, newer.until) == (since, newer.since, until)
    assert older.since < older.until < newer.until


@given(st.lists(st.integers(0, 5_000), max_size=300, unique=True))
def test_stretches_never_cost_more_than_single_reads(ranks: list[int]) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ranked = [plan.Ranked(str(rank), start + timedelta(minutes=rank), rank) for rank in ranks]
    found = plan.stretches(ranked)
    named = [order_id for stretch in found for order_id in stretch.order_ids]
    assert len(named) == len(set(named))
    for stretch in found:
        span = (stretch.until - stretch.since) / timedelta(minutes=1) + 1
        assert -(-span // 100) < len(stretch.order_ids)
