"""The certificate: never complete without evidence, and every reason is named."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from tests.shop import Shop

from orders_backup import gauges
from orders_backup.accounts import warnings
from orders_backup.sync import alarms, plan, proof
from orders_backup.sync.proof import Evidence, Proven

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def window(since: datetime, until: datetime, status: str = "verified") -> Proven:
    names = [name for name in Proven.__dataclass_fields__ if name not in {"method", "checked_at", "note"}]
    found: dict[str, Any] = dict.fromkeys(names, 0)
    found |= {"window_from": since, "window_to": until, "status": status}
    return Proven(method="ids", checked_at=NOW, note=None, **found)


WHOLE = Evidence(
    now=NOW,
    status="active",
    is_paused=False,
    is_backfilled=True,
    began_at=NOW - timedelta(hours=1),
    checked_at=NOW,
    ids_checked_at=NOW,
    followed_at=NOW,
    windows=[window(NOW - 100 * DAY, NOW), window(NOW - plan.REACH - DAY, NOW - 100 * DAY)],
    owed=0,
    set_aside=0,
    unreadable=0,
    acknowledged=0,
    contradicted=0,
)


def test_whole_evidence_leaves_no_question() -> None:
    assert proof.questions(WHOLE) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "disconnected"}, "disconnected"),
        ({"status": "reauthorization_required"}, "connect again"),
        ({"status": "pending"}, "not connected"),
        ({"is_paused": True}, "paused"),
        ({"is_backfilled": False}, "history"),
        ({"began_at": None, "checked_at": None, "ids_checked_at": None, "windows": []}, "No run"),
        ({"windows": [window(NOW - plan.REACH - DAY, NOW, "unstable")]}, "kept changing"),
        ({"windows": [window(NOW - 100 * DAY, NOW)]}, "no window"),
        ({"windows": [window(NOW - 100 * DAY, NOW), window(NOW - 400 * DAY, NOW - 101 * DAY)]}, "no window"),
        ({"windows": [window(NOW - 400 * DAY, NOW - DAY)]}, "no window"),
        ({"checked_at": NOW - 36 * DAY, "ids_checked_at": NOW - 36 * DAY}, "36 days old"),
        ({"ids_checked_at": NOW - 40 * DAY}, "order by order 40 days ago"),
        ({"ids_checked_at": None}, "never compared"),
        ({"followed_at": NOW - 2 * DAY}, "last followed 2 days ago"),
        ({"owed": 3}, "3 orders are named"),
        ({"set_aside": 1}, "set aside"),
        ({"unreadable": 1}, "set aside"),
        ({"contradicted": 2}, "still there"),
    ],
)
def test_whatever_is_lacking_is_named_and_nothing_else(change: dict[str, Any], reason: str) -> None:
    found = proof.questions(replace(WHOLE, **change))
    assert len(found) == 1
    assert reason in found[0]


def test_a_disconnected_account_is_not_complete_and_says_why(level: Shop) -> None:
    assert level.certificate().open_questions == []
    level.change("UPDATE accounts SET status = 'disconnected' WHERE id = :account")
    assert "disconnected" in level.certificate().open_questions[0]


def test_old_evidence_is_not_complete_and_names_its_age(level: Shop) -> None:
    moved = {"sync_history": ("started_at", "finished_at"), "sync_windows": ("window_from", "window_to")}
    for table, names in moved.items():
        level.change(f"UPDATE {table} SET " + ", ".join(f"{name} = {name} - interval '36 d'" for name in names))
    assert [reason for reason in level.certificate().open_questions if "36 days" in reason]


def test_counts_alone_do_not_renew_a_certificate(level: Shop) -> None:
    level.change("UPDATE sync_history SET finished_at = finished_at - interval '36 d'")
    level.sweep("full")
    certificate = level.certificate()
    assert certificate.kind == "full"
    assert certificate.by_count == 1
    assert "order by order" in certificate.open_questions[0]
    level.sweep("reconcile")
    assert level.certificate().open_questions == []


def test_the_certificate_tells_what_each_net_caught(level: Shop) -> None:
    level.world.buys(level.seller_id, silently=True)
    level.follow()
    level.sweep_hourly()
    caught = level.certificate().discoveries
    assert [(one.net, one.what, one.orders) for one in caught] == [("updated_sweep", "missing", 1)]


def test_the_backfill_catches_nothing(level: Shop) -> None:
    assert level.certificate().discoveries == []


@pytest.mark.parametrize(("kind", "net"), [("full", "full"), ("reconcile", "certificate")])
def test_what_a_run_over_the_list_catches_is_named_after_it(level: Shop, kind: str, net: str) -> None:
    level.world.buys(level.seller_id, silently=True)
    level.follow()
    level.sweep(kind)
    assert level.discoveries() == {(net, "missing"): 1}


# The monthly certificate


def kinds(shop: Shop) -> list[str]:
    return [str(row[0]) for row in shop.rows("SELECT kind FROM sync_history ORDER BY requested_at")]


def test_the_year_is_listed_again_after_a_month_by_itself(level: Shop) -> None:
    level.work_on_listing()
    assert kinds(level)[-1] == "full"
    level.change("UPDATE sync_history SET finished_at = finished_at - interval '30 d' WHERE kind = 'backfill'")
    level.work_on_listing()
    assert kinds(level)[-1] == "reconcile"
    level.work_on_listing()
    assert kinds(level)[-1] == "full"


def test_a_status_changed_on_an_old_order_is_found_by_the_certificate(level: Shop) -> None:
    form = level.world.orders(level.seller_id)[100]
    level.world.ships(form, "RETURNED", silently=True)
    level.change("UPDATE sync_history SET finished_at = finished_at - interval '30 d' WHERE kind = 'backfill'")
    level.work_on_listing()
    assert level.versions(form)[-1] == level.world.body(form)


def test_a_certificate_that_failed_is_tried_again_after_a_day_and_full_syncs_go_on() -> None:
    due_at = plan.certificate_due_at(UUID(int=0), proven_at=NOW - 31 * DAY, tried_at=NOW)
    assert due_at == NOW + DAY


def test_certificates_of_accounts_are_spread_over_two_days() -> None:
    found = {plan.certificate_due_at(UUID(int=number), proven_at=NOW, tried_at=NOW) for number in range(1000)}
    assert len(found) == 1000
    assert min(found) > NOW + 28 * DAY
    assert max(found) == NOW + 30 * DAY


def test_a_long_interval_does_not_put_the_certificate_off(level: Shop) -> None:
    level.change("UPDATE accounts SET sync_interval_seconds = 31536000")
    level.work_on_listing()
    due_in = level.value("SELECT due_at - clock_timestamp() FROM syncs WHERE kind = 'listing'")
    assert timedelta(days=27) < due_in <= timedelta(days=30)


# Warnings in the log


def warned(logs: list[Any]) -> list[tuple[str, str]]:
    return [(str(one["event"]), str(one["log_level"])) for one in logs if "code" in one and "account_id" in one]


def look_around(shop: Shop) -> None:
    """A round of the scheduler."""
    alarms.Rounds().go_on(shop.runtime.db, at=0.0)


def test_orders_near_the_cliff_are_logged_as_an_error_once_a_day(level: Shop) -> None:
    level.change("UPDATE accounts SET connected_at = connected_at - interval '3 d'")
    level.change("UPDATE sync_windows SET status = 'unstable'")
    with capture_logs() as logs:
        look_around(level)
        look_around(level)
    assert warned(logs).count(("cliff_neared", "error")) == 1
    level.change("UPDATE warnings_given SET day = day - 1")
    with capture_logs() as logs:
        look_around(level)
    assert warned(logs).count(("cliff_neared", "error")) == 1


def test_a_cliff_is_logged_although_the_history_never_loads(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(10)
    shop.change("UPDATE accounts SET connected_at = connected_at - interval '3 d'")
    with capture_logs() as logs:
        look_around(shop)
    assert ("cliff_neared", "error") in warned(logs)


@pytest.mark.parametrize(
    "resting", ["paused = true", "status = 'reauthorization_required'", "name = 'an account that is synced'"]
)
def test_a_journal_that_was_not_followed_for_45_days_is_logged_and_counted_whatever_keeps_it(
    level: Shop, resting: str
) -> None:
    level.change(f"UPDATE accounts SET {resting}")
    level.change("UPDATE syncs SET succeeded_at = succeeded_at - interval '46 d' WHERE kind = 'journal'")
    figure = b'orders_backup_accounts_warned{code="journal_gap_near"} '
    with capture_logs() as logs:
        look_around(level)
        look_around(level)
    told = [one for one in logs if one.get("code") == "journal_gap_near"]
    assert [(one["event"], one["log_level"]) for one in told] == [("account_warned", "warning")]
    assert figure + b"1.0" in gauges.exposition(level.runtime)
    level.change("UPDATE warnings_given SET day = day - 1")  # just after midnight
    assert figure + b"1.0" in gauges.exposition(level.runtime)
    level.change("UPDATE syncs SET succeeded_at = now() WHERE kind = 'journal'")
    look_around(level)
    assert figure + b"0.0" in gauges.exposition(level.runtime)
    assert level.value("SELECT count(*) FROM warnings_given WHERE code = 'journal_gap_near'") == 0
    assert level.value("SELECT count(*) FROM sync_history WHERE kind = 'reconcile'") == 0


def test_nobody_is_warned_of_a_seller_who_left(level: Shop) -> None:
    level.change("UPDATE accounts SET status = 'disconnected'")
    level.change("UPDATE syncs SET succeeded_at = succeeded_at - interval '46 d' WHERE kind = 'journal'")
    with capture_logs() as logs:
        look_around(level)
    assert warned(logs) == []


def test_a_round_meets_every_account_once_an_hour_and_some_at_a_time(
    level: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "AT_ONCE", 2)
    level.change("""INSERT INTO accounts (id, user_id, name, status, seller_id, connected_at)
                    SELECT gen_random_uuid(), gen_random_uuid(), 'shop', 'active', n::text, now() - interval '50 d'
                      FROM generate_series(1, 5) n""")
    rounds, counts = alarms.Rounds(), []
    for at in (0.0, 15.0, 30.0, 45.0, 3_599.0, 3_600.0):
        rounds.go_on(level.runtime.db, at=at)
        counts.append(level.value("SELECT count(DISTINCT account_id) FROM warnings_given"))
        if at == 45.0:
            level.change("DELETE FROM warnings_given")
    assert counts[2:5] == [5, 5, 0]
    assert {counts[0], counts[5]} <= {1, 2}


def test_every_warning_is_counted() -> None:
    assert set(gauges.WARNINGS) == {code for code, _ in warnings.RULES}
