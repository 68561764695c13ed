"""The doctor: every finding is found where it holds and nowhere else."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.shop import Shop

from allegro_simulator.world import World
from orders_backup import doctor, gauges, vault
from orders_backup.doctor import Finding
from orders_backup.runtime import Runtime
from orders_backup.settings import parse_keys

ROOT = Path(__file__).parents[2]


def look(runtime: Runtime, **other: Any) -> dict[str, Finding]:
    held = {name: getattr(runtime, name) for name in Runtime.__slots__} | other
    return {one.code: one for one in doctor.examine(Runtime(**held))}


@pytest.fixture
def well(level: Shop) -> Shop:
    """A shop that nothing is wrong with, and a worker that is heard."""
    level.change("INSERT INTO worker_slots (worker, slots, canary_done_at) VALUES ('w', 8, clock_timestamp())")
    return level


def test_nothing_is_wrong_where_nothing_is_wrong(well: Shop) -> None:
    assert set(look(well.runtime)) == {"storage_not_set"}


class Case(NamedTuple):
    """What is done to the database, and what the doctor has to find then, of the account or not."""

    code: str
    statement: str
    of_account: bool = True


CASES = [
    Case("no_worker", "DELETE FROM worker_slots", of_account=False),
    Case("no_worker", "UPDATE worker_slots SET canary_done_at = now() - interval '2 min'", of_account=False),
    Case("work_waits", "UPDATE syncs SET due_at = now() - interval '11 min' WHERE kind = 'sweep'", of_account=False),
    Case(
        "client_silent",
        "INSERT INTO request_budget (key, full_at, silent_until) VALUES"
        " ('client:simulator', now(), now() + interval '1 min')"
        " ON CONFLICT (key) DO UPDATE SET silent_until = excluded.silent_until",
        of_account=False,
    ),
    Case(
        "schema_drift",
        "INSERT INTO schema_drift (path, kind, value, seen) VALUES ('order.x', 'new_field', 'text', 1)",
        of_account=False,
    ),
    Case("reauthorization_required", "UPDATE accounts SET status = 'reauthorization_required'"),
    Case("sealed_value", "UPDATE account_tokens SET refresh_sealed = refresh_sealed || '\\x00'"),
    Case("sealed_value", "DELETE FROM account_tokens"),
    Case("sync_failing", "UPDATE syncs SET failures = 3, last_error = 'Allegro answered 503.' WHERE kind = 'journal'"),
    Case("journal_stale", "UPDATE syncs SET succeeded_at = now() - interval '16 min' WHERE kind = 'journal'"),
    Case(
        "journal_stale",
        "UPDATE syncs SET succeeded_at = NULL WHERE kind = 'journal';"
        " UPDATE accounts SET connected_at = now() - interval '1 h'",
    ),
    Case("journal_gap_near", "UPDATE syncs SET succeeded_at = now() - interval '46 days' WHERE kind = 'journal'"),
    Case(
        "certificate_old",
        "UPDATE accounts SET connected_at = now() - interval '50 days';"
        " UPDATE sync_history SET finished_at = now() - interval '36 days'",
    ),
    Case(
        "cliff_near",
        "UPDATE accounts SET connected_at = now() - interval '50 days';"
        " UPDATE sync_windows SET checked_at = now() - interval '40 days'",
    ),
    Case("not_proven", "UPDATE sync_history SET status = 'failed' WHERE kind = 'backfill'"),
    Case(
        "orders_owed",
        "INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at)"
        " SELECT id, 'a', 'event', now() - interval '2 h', now() FROM accounts",
    ),
    Case(
        "set_aside",
        "INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at, set_aside_at)"
        " SELECT id, 'a', 'event', now(), now(), now() FROM accounts",
    ),
    Case("paused", "UPDATE accounts SET paused = true"),
    Case(
        "webhook_disabled",
        "INSERT INTO webhooks (webhook_id, url, secret_sealed, cursor_xid, status, reason)"
        " SELECT id, 'https://example.com', '', '1', 'disabled', 'failing' FROM accounts",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.code}" for number, case in enumerate(CASES)])
def test_what_is_wrong_is_found_and_named(well: Shop, case: Case) -> None:
    for statement in case.statement.split(";"):
        well.change(statement)
    found = look(well.runtime)
    assert case.code in found
    one = found[case.code]
    assert one.about == (well.account_id if case.of_account else None)
    assert (one.severity, one.remedy) == doctor.KNOWN[case.code]
    assert set(found) - {case.code, "storage_not_set"} <= {"journal_stale", "not_proven"}


def test_a_run_over_a_range_hides_no_failed_run_over_everything(well: Shop) -> None:
    well.change("UPDATE sync_history SET status = 'failed' WHERE kind = 'backfill'")
    well.change("UPDATE accounts SET connected_at = now() - interval '2 days'")
    well.change(
        """INSERT INTO sync_history (id, account_id, kind, status, finished_at, range_from, range_to)
           VALUES (gen_random_uuid(), :account, 'reconcile', 'succeeded', now(), now() - interval '9 days', now())"""
    )
    assert "not_proven" in look(well.runtime)
    assert b"orders_backup_accounts_unproven 1.0" in gauges.exposition(well.runtime)


def test_a_journal_that_is_rarely_read_because_little_happens_is_not_late(well: Shop) -> None:
    def is_late(minutes: int) -> tuple[bool, bool]:
        well.change(
            "UPDATE syncs SET poll_seconds = 3600, succeeded_at = now() - make_interval(mins => :m)"
            " WHERE kind = 'journal'",
            m=minutes,
        )
        is_counted = b"orders_backup_journals_stale 1.0" in gauges.exposition(well.runtime)
        return "journal_stale" in look(well.runtime), is_counted

    assert is_late(179) == (False, False)
    assert is_late(181) == (True, True)
    well.change("UPDATE syncs SET poll_seconds = 150 WHERE kind = 'journal'")
    assert "journal_stale" in look(well.runtime)


PARTS: dict[str, Callable[[Shop], dict[str, Any]]] = {
    "client_missing": lambda shop: {"settings": shop.runtime.settings.model_copy(update={"allegro_client_id": ""})},
    "broker_failing": lambda shop: {
        "settings": shop.runtime.settings.model_copy(update={"broker_url": "redis://127.0.0.1:9/0"})
    },
    "sealed_value": lambda _: {"vault": vault.from_keys(parse_keys(vault.new_key()))},
}


@pytest.mark.parametrize("code", PARTS)
def test_what_is_wrong_with_the_parts_is_found(well: Shop, code: str) -> None:
    assert set(look(well.runtime, **PARTS[code](well))) == {code, "storage_not_set"}


def test_a_schema_of_another_program_is_found_and_nothing_more_is_asked(well: Shop) -> None:
    well.change("UPDATE alembic_version SET version_num = '0000'")
    well.change("UPDATE accounts SET status = 'reauthorization_required'")
    assert set(look(well.runtime)) == {"migrations_failing", "storage_not_set"}


@pytest.mark.parametrize("status", [500, 503])
def test_an_allegro_that_is_away_is_found(well: Shop, world: World, status: int) -> None:
    world.goes_down(status=status)
    assert set(look(well.runtime)) == {"allegro_unreachable", "storage_not_set"}


def test_a_disk_that_is_nearly_full_is_found(well: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    assert set(look(well.runtime)) == {"disk_short", "storage_not_set"}


def test_the_accounts_of_whoever_left_are_not_looked_at(well: Shop) -> None:
    well.change("UPDATE accounts SET status = 'disconnected'")
    well.change("UPDATE syncs SET failures = 9, succeeded_at = NULL")
    assert set(look(well.runtime)) == {"storage_not_set"}


def test_every_finding_is_documented_with_its_severity_and_nothing_else_is() -> None:
    section = (ROOT / "docs/operating.md").read_text().partition("## Doctor\n")[2].partition("\n## ")[0]
    documented = {
        code: row.split("|")[2].strip()
        for row in section.splitlines()
        if row.startswith("| `")
        for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])
    }
    assert documented == {code: severity for code, (severity, _) in doctor.KNOWN.items()}


def test_every_finding_was_seen() -> None:
    elsewhere = {"settings_refused", "database_failing", "storage_failing"}  # by the command line, and with the parts
    seen = {case.code for case in CASES} | set(PARTS) | elsewhere
    seen |= {"migrations_failing", "storage_not_set", "allegro_unreachable", "disk_short"}
    assert seen == set(doctor.KNOWN)
