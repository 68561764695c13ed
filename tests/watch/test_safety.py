"""How safe what is stored is: metrics and the doctor say the same, and say nothing where nothing is wanted."""

from datetime import timedelta
from typing import Any

import pytest
from tests.shop import Shop
from tests.watch.test_doctor import look, well
from tests.watch.test_metrics import scraped

from orders_backup import db as database
from orders_backup import doctor
from orders_backup.alerts import facts, fires
from orders_backup.alerts.picture import Picture
from orders_backup.runtime import Runtime

__all__ = ["well"]

GOOD = """INSERT INTO backups (backup_id, kind, asked_by, state, created_at, started_at, finished_at, verified_at,
                               bytes, report)
          VALUES (gen_random_uuid(), 'dump', 'schedule', 'succeeded', now(), now(), now(), now(), 4711, NULL),
                 (gen_random_uuid(), 'drill_sample', 'schedule', 'succeeded', now(), now(), now(), now(), NULL, '{}'),
                 (gen_random_uuid(), 'drill_whole', 'schedule', 'succeeded', now(), now(), now(), now(), NULL, '{}')"""
ARCHIVED = """INSERT INTO archives (account_id, versions, cursor_xid)
              SELECT id, 1, pg_current_xact_id() FROM accounts"""
LATE = """INSERT INTO order_changes (account_id, order_id, version, kinds, cause, stored_at)
          SELECT id, 'x', 1, '{}', 'test', now() - interval '20 min' FROM accounts"""
FAILED_DRILL = """INSERT INTO backups (backup_id, kind, asked_by, state, finished_at, error_code, last_error, report)
                  VALUES (gen_random_uuid(), 'drill_sample', 'x', 'failed', now(), 'drill_failed', 'One.', '{}')"""


def with_bucket(runtime: Runtime, **changed: Any) -> Runtime:
    """The same, which is told of a bucket; nobody asks it here."""
    told = {"s3_bucket": "a-bucket", **changed}
    values = {name: getattr(runtime, name) for name in Runtime.__slots__}
    return Runtime(**values | {"settings": runtime.settings.model_copy(update=told)})


def told(runtime: Runtime) -> dict[str, float]:
    found = {
        (name, *(value for _, value in labels)): value
        for (name, labels), value in scraped(runtime).items()
        if name.startswith(("backup_", "drill_", "archive_"))
    }
    return {" ".join(name): value for name, value in found.items()}


def findings(runtime: Runtime) -> set[str]:
    return set(look(runtime)) - {"storage_not_set"}


@pytest.fixture
def safe(well: Shop) -> Shop:
    """A shop whose archive is level, and of which there are a backup and both drills."""
    well.change(GOOD)
    well.change(ARCHIVED)
    return well


def test_without_a_bucket_nothing_is_told(safe: Shop) -> None:
    safe.change("UPDATE backups SET started_at = now() - interval '9 years'")
    assert told(safe.runtime) == {}
    assert findings(safe.runtime) == set()


def test_all_is_well_where_all_is_well(safe: Shop) -> None:
    runtime = with_bucket(safe.runtime)
    found = told(runtime)
    assert found.pop("backup_bytes") == 4711
    failed = {name: found.pop(name) for name in list(found) if name.startswith("drill_failed")}
    assert failed == {"drill_failed sample": 0, "drill_failed whole": 0, "drill_failed dump": 0}
    assert set(found) == {"backup_age_seconds", "drill_age_seconds sample", "drill_age_seconds whole"} | {
        "archive_age_seconds"
    }
    assert max(found.values()) < 600
    assert findings(runtime) == set()


HOURS = 3600.0
CASES = {
    "an old backup": (
        "UPDATE backups SET started_at = now() - interval '27 h' WHERE kind = 'dump'",
        ("backup_age_seconds", 27 * HOURS),
        "backup_missing",
    ),
    "a backup that is no longer there": (
        "UPDATE backups SET state = 'removed', created_at = now() - interval '30 h' WHERE kind = 'dump'",
        ("backup_age_seconds", 30 * HOURS),
        "backup_missing",
    ),
    "a first backup that cannot be made": (
        "UPDATE backups SET state = 'queued', error_code = 'x', last_error = 'No pg_dump.' WHERE kind = 'dump'",
        ("backup_age_seconds", 0),
        "backup_missing",
    ),
    "an old drill": (
        "UPDATE backups SET finished_at = now() - interval '9 days' WHERE kind = 'drill_sample'",
        ("drill_age_seconds sample", 9 * 24 * HOURS),
        "drill_missing",
    ),
    "drills that never came to a report": (
        "UPDATE backups SET report = NULL, created_at = now() - interval '9 days' WHERE kind = 'drill_whole'",
        ("drill_age_seconds whole", 9 * 24 * HOURS),
        "drill_missing",
    ),
    "a failed drill": (FAILED_DRILL, ("drill_failed sample", 1), "drill_failed"),
    "an order that waits for its archive": (
        LATE,
        ("archive_age_seconds", 1200),
        "archive_behind",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_safe_is_told_by_metrics_and_doctor(safe: Shop, case: str) -> None:
    statement, (name, value), code = CASES[case]
    safe.change(statement)
    runtime = with_bucket(safe.runtime)
    assert value <= told(runtime)[name] < value + 600
    found = look(runtime)
    assert code in found
    assert (found[code].severity, found[code].remedy) == doctor.KNOWN[code]
    assert set(found) - {"storage_not_set"} == {code}


def test_a_drill_of_everything_that_passes_settles_what_failed_before(safe: Shop) -> None:
    safe.change(FAILED_DRILL)
    assert findings(with_bucket(safe.runtime)) == {"drill_failed"}
    safe.change("UPDATE backups SET finished_at = now() WHERE kind = 'drill_whole'")
    assert findings(with_bucket(safe.runtime)) == set()


def test_the_doctor_tells_why_there_is_no_backup(safe: Shop) -> None:
    safe.change("UPDATE backups SET state = 'failed', error_code = 'x', last_error = 'No pg_dump.' WHERE kind = 'dump'")
    assert look(with_bucket(safe.runtime))["backup_missing"].sentence.endswith("No pg_dump.")


def test_what_nobody_wants_is_not_missed(safe: Shop) -> None:
    never = dict.fromkeys(("backup_interval", "drill_interval", "drill_whole_interval"), timedelta(0))
    safe.change("UPDATE backups SET finished_at = now() - interval '9 days', started_at = now() - interval '9 days'")
    runtime = with_bucket(safe.runtime, **never)
    assert findings(runtime) == set()
    assert not [name for name in told(runtime) if "age" in name and name != "archive_age_seconds"]


def test_a_new_installation_with_nothing_to_rehearse_misses_no_drill(safe: Shop) -> None:
    safe.change("DELETE FROM backups WHERE kind <> 'dump'")
    safe.change("UPDATE backups SET created_at = now() - interval '9 days'")
    safe.change("UPDATE archives SET versions = 0")
    assert findings(with_bucket(safe.runtime)) == set()


def test_an_account_that_comes_back_is_not_behind(safe: Shop) -> None:
    safe.change(LATE)
    safe.change("UPDATE accounts SET reason = 'restoring'")
    assert told(with_bucket(safe.runtime))["archive_age_seconds"] == 0


def test_alerts_fire_by_the_same_rows(safe: Shop) -> None:
    def firing(**changed: Any) -> set[str]:
        runtime = with_bucket(safe.runtime, **changed)
        with database.transaction(runtime.db) as tx:
            now = database.clock(tx)
            picture = Picture(now=now, began_at=now, events_interval=now - now, backups=facts.backups(runtime, tx))
        rules = (fires.backup_missing, fires.backup_failed, fires.drill_missing, fires.drill_failed)
        return {one.rule for rule in rules for one in rule(picture) or []}

    assert firing() == set()
    safe.change("UPDATE backups SET started_at = started_at - interval '27 h' WHERE kind = 'dump'")
    assert firing() == {"backup_missing"}
    assert firing(backup_interval=timedelta(days=2)) == set()
    assert firing(backup_interval=timedelta(0)) == set()
    safe.change(FAILED_DRILL)
    assert firing() == {"backup_missing", "drill_failed"}
    safe.change("UPDATE backups SET finished_at = finished_at - interval '9 days' WHERE kind <> 'dump'")
    assert firing() == {"backup_missing", "drill_missing", "drill_failed"}
