"""Backups and drills by the service itself: asked for in time, made by one alone, taken over from the dead."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from tests.backups.conftest import execute, given_settings, keep
from tests.shop import Shop
from tests.storage import Bucket

from orders_backup import bell, programs, worker
from orders_backup import db as database
from orders_backup import store as stores
from orders_backup.backups import dumps, heart, ledger, making, presence, refill, restore, scratch, smoke, tools
from orders_backup.backups.ledger import Backup
from orders_backup.canary import STUCK_AFTER, Hearing
from orders_backup.errors import (
    BackupFailedError,
    ConflictError,
    LeaseLostError,
    ProgramMissingError,
    StorageUnavailableError,
)
from orders_backup.runtime import Runtime

ROOT = Path(__file__).parents[2]


def ask(runtime: Runtime, kind: str = ledger.DUMP, *, of: UUID | None = None) -> UUID:
    with database.transaction(runtime.db) as tx:
        return ledger.ask(tx, kind, of=of, by="test")


def shown(runtime: Runtime, backup_id: UUID) -> Backup:
    with database.transaction(runtime.db) as tx:
        return ledger.get(tx, backup_id)


def made(runtime: Runtime, kind: str = ledger.DUMP, *, of: UUID | None = None) -> Backup:
    backup_id = ask(runtime, kind, of=of)
    making.work(runtime, backup_id)
    return shown(runtime, backup_id)


def wake(runtime: Runtime, **changed: Any) -> list[str]:
    """What is asked for by now and not begun."""
    with database.transaction(runtime.db) as tx:
        ledger.wake(tx, runtime.settings.model_copy(update=changed))
    return [row[0] for row in execute(runtime.db, "SELECT kind FROM backups WHERE state = 'queued' ORDER BY kind")]


def later(runtime: Runtime, **by: int) -> None:
    """So much time goes by."""
    execute(
        runtime.db,
        """UPDATE backups SET created_at = created_at - :by, started_at = started_at - :by,
                              finished_at = finished_at - :by, due_at = due_at - :by, leased_until = leased_until - :by,
                              rung_at = rung_at - :by""",
        by=timedelta(**by),
    )


def parts_of(runtime: Runtime) -> list[str]:
    """The dumps of which anything lies in the bucket."""
    assert runtime.store is not None
    return stores.folders(runtime.store, dumps.FOLDER)


# When


def test_a_backup_is_asked_for_once_a_day_and_an_hour_after_a_failure(few: Shop) -> None:
    runtime = few.runtime
    assert wake(runtime) == wake(runtime) == ["dump"]
    execute(runtime.db, "UPDATE backups SET state = 'succeeded', due_at = NULL")
    later(runtime, hours=23)
    assert wake(runtime) == []
    later(runtime, hours=1)
    assert wake(runtime) == ["dump"]
    execute(runtime.db, "UPDATE backups SET state = 'failed', due_at = NULL WHERE state = 'queued'")
    assert wake(runtime) == []
    later(runtime, minutes=61)
    assert wake(runtime) == ["dump"]


def test_a_backup_that_lasts_longer_than_its_interval_is_not_asked_for_twice(few: Shop) -> None:
    wake(few.runtime)
    execute(few.runtime.db, "UPDATE backups SET state = 'running'")
    later(few.runtime, days=3)
    assert wake(few.runtime) == []


def test_drills_are_asked_for_once_the_archives_hold_what_is_alive(few: Shop) -> None:
    runtime = few.runtime
    assert wake(runtime) == ["dump"]
    execute(runtime.db, "UPDATE order_changes SET stored_at = stored_at - interval '1 h'")
    with database.transaction(runtime.db) as tx:
        tx.execute(sa.text("INSERT INTO archives (account_id, versions) SELECT id, 1 FROM accounts"))
    assert wake(runtime) == ["dump"]
    execute(runtime.db, "DELETE FROM archives")
    keep(runtime)
    assert wake(runtime) == ["drill_sample", "drill_whole", "dump"]
    execute(runtime.db, "UPDATE backups SET state = 'succeeded', due_at = NULL")
    later(runtime, days=1)
    assert wake(runtime) == ["drill_sample", "dump"]
    later(runtime, days=6)
    assert wake(runtime) == ["drill_sample", "drill_whole", "dump"]


def test_zero_is_never(few: Shop) -> None:
    keep(few.runtime)
    never = dict.fromkeys(("backup_interval", "drill_interval", "drill_whole_interval"), timedelta(0))
    assert wake(few.runtime, **never) == []


def test_several_schedulers_ask_for_one(few: Shop) -> None:
    keep(few.runtime)
    threads = [threading.Thread(target=wake, args=(few.runtime,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert execute(few.runtime.db, "SELECT kind, count(*) FROM backups GROUP BY 1 ORDER BY 1") == [
        ("drill_sample", 1),
        ("drill_whole", 1),
        ("dump", 1),
    ]


def test_the_scheduler_asks_where_there_is_a_bucket_and_rings_for_one_at_a_time(few: Shop) -> None:
    keep(few.runtime)
    sent: list[Any] = []

    class App:
        def send_task(self, task: str, **_: Any) -> None:
            sent.append(task)

    app: Any = App()
    worker.tick(replace(few.runtime, store=None), app, wake=False, look=True)
    assert execute(few.runtime.db, "SELECT count(*) FROM backups") == [(0,)]
    for _ in range(3):
        worker.tick(few.runtime, app, wake=False, look=True)
    assert sent.count("backup") == 1
    assert execute(few.runtime.db, "SELECT count(*) FROM backups") == [(3,)]


def test_what_waits_already_is_not_asked_for_again_and_is_due_at_once(few: Shop) -> None:
    first = ask(few.runtime)
    execute(few.runtime.db, "UPDATE backups SET due_at = due_at + interval '1 h'")
    assert ask(few.runtime) == first
    assert execute(few.runtime.db, "SELECT due_at <= clock_timestamp() FROM backups") == [(True,)]
    assert ask(few.runtime, ledger.SAMPLE) != first


# Made


def test_the_row_tells_what_lies_in_the_bucket(few: Shop) -> None:
    row = made(few.runtime)
    [dump] = dumps.everything(few.runtime)
    assert (row.state, row.dump_id, row.bytes, row.failures) == ("succeeded", dump.id, dump.bytes, 0)
    assert (row.error_code, row.last_error) == (None, None)
    assert row.verified_at == row.finished_at
    assert row.started_at == dump.made_at


def test_a_doubled_message_makes_nothing(few: Shop) -> None:
    row = made(few.runtime)
    making.work(few.runtime, row.backup_id)
    assert len(dumps.ids(few.runtime)) == 1


def test_a_large_dump_lies_there_in_parts_and_each_is_proven(few: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dumps, "PART_BYTES", 3000)
    row = made(few.runtime)
    [dump] = dumps.everything(few.runtime)
    assert dump.parts > 3
    assert sum(map(len, dumps.read(few.runtime, dump))) == dump.dump_bytes
    assert few.runtime.store is not None
    stores.delete(few.runtime.store, [dumps._file(dump.id, dump.parts)])
    drilled = made(few.runtime, ledger.OF_DUMP, of=row.backup_id)
    assert drilled.state == "failed"
    dumps.remove(few.runtime, [dump])
    assert parts_of(few.runtime) == []


def test_a_part_that_the_bucket_did_not_take_is_put_again(few: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    put, refused = stores.put_large, [0]

    def put_(store: stores.Store, key: str, content: bytes) -> None:
        refused[0] += 1
        if refused[0] in {1, 2}:
            raise StorageUnavailableError("for a moment")
        put(store, key, content)

    monkeypatch.setattr(stores, "put_large", put_)
    monkeypatch.setattr(dumps, "PUT_AGAIN_AFTER", (0.0, 0.0))
    assert made(few.runtime).state == "succeeded"


def test_a_bucket_that_is_away_is_told_and_tried_again(few: Shop, bucket: Bucket) -> None:
    backup_id = ask(few.runtime)
    bucket.stop()
    making.work(few.runtime, backup_id)
    row = shown(few.runtime, backup_id)
    assert (row.state, row.error_code, row.failures) == ("queued", "storage_unavailable", 1)
    bucket.start()
    making.work(few.runtime, backup_id)
    assert shown(few.runtime, backup_id).state == "queued"  # not before its time
    later(few.runtime, minutes=2)
    making.work(few.runtime, backup_id)
    row = shown(few.runtime, backup_id)
    assert (row.state, row.error_code, row.last_error) == ("succeeded", None, None)


def fake(folder: Path, version: str) -> str:
    folder.mkdir()
    for name in tools.NEEDED:
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("case", ["missing", "older"])
def test_programs_that_do_not_fit_are_told_by_the_row_and_after_some_tries_it_failed(
    few: Shop, tmp_path: Path, case: str
) -> None:
    place = str(tmp_path / "nowhere") if case == "missing" else fake(tmp_path / "old", "9.6.24")
    poor = replace(few.runtime, settings=few.runtime.settings.model_copy(update={"postgres_bin": place}))
    backup_id = ask(poor)
    for number in range(1, making.MOST_FAILURES + 1):
        making.work(poor, backup_id)
        row = shown(poor, backup_id)
        assert row.error_code == ("pg_dump_missing" if case == "missing" else "pg_dump_outdated")
        assert "POSTGRES_BIN" in str(row.last_error)
        assert row.state == ("queued" if number < making.MOST_FAILURES else "failed")
        later(poor, hours=1)
    assert row.finished_at is not None
    assert parts_of(poor) == []


def test_the_programs_of_the_servers_own_version_come_first(
    few: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.transaction(few.runtime.db) as tx:
        own = tools.find(few.runtime, tx)
        newer, older = Path(fake(tmp_path / "newer", "99.1")), Path(fake(tmp_path / "older", "9.6"))
        monkeypatch.setattr(programs, "folders", lambda _: iter([older, newer, own]))
        assert tools.find(few.runtime, tx) == own
        monkeypatch.setattr(programs, "folders", lambda _: iter([older, newer]))
        assert tools.find(few.runtime, tx) == newer
        (newer / "pg_restore").unlink()
        monkeypatch.setattr(programs, "folders", lambda _: iter([newer]))
        with pytest.raises(ProgramMissingError):
            tools.find(few.runtime, tx)


# By one alone


def test_while_one_is_made_no_other_is(few: Shop) -> None:
    first, second = ask(few.runtime), ask(few.runtime, ledger.SAMPLE)
    with database.transaction(few.runtime.db) as tx:
        assert ledger.claim(tx, first, lease=timedelta(seconds=45)) is not None
        assert ledger.ring(tx) == []
    making.work(few.runtime, second)
    assert shown(few.runtime, second).state == "queued"
    with (
        pytest.raises(ConflictError, match="already"),
        making.begun(few.runtime, ledger.DUMP, by="cli:somebody"),
    ):
        pass
    later(few.runtime, minutes=1)
    with database.transaction(few.runtime.db) as tx:
        assert ledger.ring(tx) == [{"backup_id": first}] or ledger.ring(tx) == [{"backup_id": second}]


def test_of_two_who_claim_at_once_one_gets_it(few: Shop) -> None:
    ids = [ask(few.runtime), ask(few.runtime, ledger.SAMPLE), ask(few.runtime, ledger.WHOLE)]
    taken: list[UUID] = []

    def claim(backup_id: UUID) -> None:
        with database.transaction(few.runtime.db) as tx:
            if ledger.claim(tx, backup_id, lease=timedelta(seconds=45)) is not None:
                taken.append(backup_id)

    threads = [threading.Thread(target=claim, args=(one,)) for one in ids * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


# The dead, the late, those who are asked to end


def killed(few: Shop, backup_id: UUID, moment: str) -> None:
    settings, secrets = given_settings(few.runtime)
    command = [sys.executable, "-m", "tests.backups.killed_making", settings, str(backup_id), moment]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **secrets}, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["between two parts", "before the manifest", "after the manifest"])
def test_the_backup_of_a_worker_that_was_killed_is_made_by_another(few: Shop, moment: str) -> None:
    backup_id = ask(few.runtime)
    killed(few, backup_id, moment)
    before = shown(few.runtime, backup_id)
    assert before.state == "running"
    assert parts_of(few.runtime) == [before.dump_id]
    making.work(few.runtime, backup_id)
    assert shown(few.runtime, backup_id) == before  # its lease holds for a while
    later(few.runtime, minutes=1)
    making.work(few.runtime, backup_id)
    after = shown(few.runtime, backup_id)
    assert after.state == "succeeded"
    assert (after.dump_id == before.dump_id) is (moment == "after the manifest")
    assert parts_of(few.runtime) == [after.dump_id] == dumps.ids(few.runtime)


def test_a_worker_that_dies_each_time_is_not_followed_for_ever(few: Shop) -> None:
    backup_id = ask(few.runtime)
    for _ in range(making.MOST_FAILURES):
        with database.transaction(few.runtime.db) as tx:
            assert ledger.claim(tx, backup_id, lease=timedelta(seconds=1)) is not None
        later(few.runtime, minutes=1)
    making.work(few.runtime, backup_id)
    row = shown(few.runtime, backup_id)
    assert (row.state, row.error_code) == ("failed", "backup_failed")
    assert "died" in str(row.last_error)


def test_what_a_killed_drill_left_is_removed_by_the_next_and_nothing_of_others(few: Shop) -> None:
    keep(few.runtime)
    others = f"orders_backup_drill_{uuid4().hex}"
    scratch._alone(few.runtime.db, f"CREATE DATABASE {others}")
    count = "SELECT count(*) FROM pg_database WHERE starts_with(datname, :prefix)"
    prefix = scratch._prefix(few.runtime.settings)
    try:
        backup_id = ask(few.runtime, ledger.SAMPLE)
        killed(few, backup_id, "in a drill")
        assert execute(few.runtime.db, count, prefix=prefix) == [(1,)]
        later(few.runtime, minutes=1)
        making.work(few.runtime, backup_id)
        assert shown(few.runtime, backup_id).state == "succeeded"
        assert execute(few.runtime.db, count, prefix=prefix) == [(0,)]
        assert execute(few.runtime.db, count, prefix=others) == [(1,)]
    finally:
        scratch._alone(few.runtime.db, f"DROP DATABASE {others}")


def test_a_worker_that_wakes_up_late_puts_no_manifest_and_writes_nothing(
    few: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_id, read_ = ask(few.runtime), dumps.read

    def overtaken(runtime: Runtime, dump: dumps.Dump) -> Any:
        yield from read_(runtime, dump)
        execute(few.runtime.db, "UPDATE backups SET lease_generation = lease_generation + 1")
        time.sleep(0.3)

    monkeypatch.setattr(dumps, "read", overtaken)
    monkeypatch.setattr(heart, "BEAT_EVERY", 0.05)
    with pytest.raises(LeaseLostError):
        making.work(few.runtime, backup_id)
    assert dumps.ids(few.runtime) == []
    assert shown(few.runtime, backup_id).state == "running"


def test_a_process_that_was_frozen_asks_before_it_goes_on(few: Shop) -> None:
    backup_id = ask(few.runtime)
    with database.transaction(few.runtime.db) as tx:
        claimed = ledger.claim(tx, backup_id, lease=timedelta(seconds=45))
    assert claimed is not None
    one = heart.Heart(few.runtime, claimed[0], lambda _: None)
    one.alive()
    execute(few.runtime.db, "UPDATE backups SET lease_generation = lease_generation + 1")
    one.alive()
    one.beat_at -= 60
    with pytest.raises(LeaseLostError):
        one.alive()


def test_a_long_step_keeps_its_lease_and_one_that_hangs_for_hours_does_not(
    few: Shop,
) -> None:
    backup_id, signs = ask(few.runtime), list[float]()
    with database.transaction(few.runtime.db) as tx:
        claimed = ledger.claim(tx, backup_id, lease=timedelta(seconds=1))
    assert claimed is not None
    one = heart.Heart(few.runtime, claimed[0], signs.append)
    leased = "SELECT leased_until > clock_timestamp() + interval '40 s' FROM backups"
    assert execute(few.runtime.db, leased) == [(False,)]
    one.moved_at -= heart.QUIET_FOR - 60
    one.beat()
    assert (execute(few.runtime.db, leased), len(signs)) == ([(True,)], 1)
    execute(few.runtime.db, "UPDATE backups SET leased_until = clock_timestamp()")
    one.moved_at -= 120
    one.beat()
    assert (execute(few.runtime.db, leased), len(signs)) == ([(False,)], 1)


def test_a_worker_that_is_asked_to_end_leaves_it_to_the_others(few: Shop) -> None:
    backup_id = ask(few.runtime)
    few.runtime.stopping.set()
    making.work(few.runtime, backup_id)
    row = shown(few.runtime, backup_id)
    assert (row.state, row.failures, row.finished_at) == ("queued", 0, None)
    few.runtime.stopping.clear()
    making.work(few.runtime, backup_id)
    assert shown(few.runtime, backup_id).state == "succeeded"


def test_a_person_who_interrupts_leaves_nothing_that_goes_on(few: Shop) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        making.begun(few.runtime, ledger.DUMP, by="cli:somebody"),
    ):
        raise KeyboardInterrupt
    assert execute(few.runtime.db, "SELECT state, due_at, asked_by FROM backups") == [("failed", None, "cli:somebody")]


# Beside the syncs


@pytest.mark.filterwarnings("ignore:Task name")
def test_a_backup_takes_no_slot_from_the_syncs_and_is_not_stuck(few: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    hands, goes_on, begun = Hearing(hands=1), threading.Event(), threading.Event()
    app = bell.celery_app(few.runtime.settings)
    worker.register(app, few.runtime, hands)

    def lasting(_runtime: Runtime, _backup_id: UUID, *, sign: Callable[[float], None]) -> None:
        begun.set()
        goes_on.wait(30)
        sign(time.monotonic() + STUCK_AFTER)
        goes_on.clear()
        begun.set()
        goes_on.wait(30)

    monkeypatch.setattr(making, "work", lasting)
    app.tasks["backup"].run(backup_id=str(uuid4()))  # and comes back at once
    assert begun.wait(30)
    now = time.monotonic()
    assert len(hands.working_on()) == 1
    hands.sent(now)
    assert hands.waiting_since == now  # so the one hand is free
    hands.heard(now)
    begun.clear()
    goes_on.set()
    assert begun.wait(30)
    assert hands.verdict(now + STUCK_AFTER + 60) is None
    assert hands.verdict(now + 3 * STUCK_AFTER) == "stuck"
    goes_on.set()
    for thread in [one for one in threading.enumerate() if one.name == worker.ASIDE]:
        thread.join(30)
    assert hands.working_on() == []
    assert hands.beside == set()


# What lies in the bucket


def test_dumps_that_others_put_there_or_took_away_show_in_the_rows(few: Shop) -> None:
    theirs = dumps.create(few.runtime, tools_of(few.runtime), now=datetime.now(UTC) - timedelta(days=2))
    mine = made(few.runtime)
    rows = {row[0]: row[1:] for row in execute(few.runtime.db, "SELECT dump_id, asked_by, state, bytes FROM backups")}
    assert rows[theirs.id] == (ledger.FOUND, "succeeded", theirs.bytes)
    assert rows[mine.dump_id] == ("test", "succeeded", mine.bytes)
    dumps.remove(few.runtime, [theirs])
    presence.level(few.runtime)
    presence.level(few.runtime)
    query = "SELECT state FROM backups WHERE dump_id = :id"
    assert execute(few.runtime.db, query, id=theirs.id) == [("removed",)]
    assert execute(few.runtime.db, query, id=mine.dump_id) == [("succeeded",)]


def test_a_dump_that_is_finished_while_somebody_looks_is_not_taken_for_gone(
    few: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = dumps.ids

    def slow(runtime: Runtime) -> list[str]:
        found = ids(runtime)
        with monkeypatch.context() as patch:
            patch.setattr(dumps, "ids", ids)
            made(runtime)
        return found

    monkeypatch.setattr(dumps, "ids", slow)
    presence.level(few.runtime)
    assert execute(few.runtime.db, "SELECT state FROM backups") == [("succeeded",)]


def test_an_emptied_bucket_is_noticed_by_itself_and_counts_again_when_it_is_back(
    few: Shop, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, mine = made(few.runtime), bucket.store(prefix="orders-backup")
    kept = {key: stores.get(mine, key) or b"" for key in stores.names(mine, dumps.FOLDER)}
    stores.delete(mine, list(kept))
    monkeypatch.setattr(presence, "LOOK_EVERY", 0.05)
    ended = threading.Event()
    looking = threading.Thread(target=presence.keep_looking, args=(few.runtime, ended))
    looking.start()

    def until(state: str) -> None:
        for _ in range(600):
            if shown(few.runtime, row.backup_id).state == state:
                return
            time.sleep(0.05)
        raise AssertionError(state)

    try:
        until("removed")
        bucket.stop()
        time.sleep(0.2)
        bucket.start()
        for key, content in kept.items():
            stores.put(mine, key, content)
        until("succeeded")
    finally:
        ended.set()
        looking.join()


def tools_of(runtime: Runtime) -> Path:
    with database.transaction(runtime.db) as tx:
        return tools.find(runtime, tx)


def test_older_dumps_go_by_the_rule_of_days_weeks_and_months(few: Shop) -> None:
    first, second = made(few.runtime), made(few.runtime)
    assert shown(few.runtime, first.backup_id).state == "removed"
    assert dumps.ids(few.runtime) == [second.dump_id]


def test_a_database_restored_from_a_dump_knows_that_dump_and_goes_on(
    few: Shop, make_empty: Callable[..., Runtime]
) -> None:
    row = made(few.runtime)
    other = make_empty()
    refill.refill(other, tools_of(few.runtime), dumps.get(other, str(row.dump_id)))
    there = shown(other, row.backup_id)
    assert (there.state, there.dump_id) == ("running", row.dump_id)  # as it was when it was dumped
    making.work(other, row.backup_id)
    assert shown(other, row.backup_id).state == "succeeded"
    assert dumps.ids(other) == [row.dump_id]


# Drills


def test_a_drill_of_everything_rehearses_the_archives_and_the_newest_dump(few: Shop) -> None:
    keep(few.runtime)
    dump = made(few.runtime)
    execute(few.runtime.db, "UPDATE backups SET verified_at = NULL")
    row = made(few.runtime, ledger.WHOLE)
    assert (row.state, row.report and row.report["findings"]) == ("succeeded", [])
    assert row.report is not None
    assert row.report["versions"] == 24
    assert shown(few.runtime, dump.backup_id).verified_at is not None


def test_the_dump_of_an_installation_without_accounts_passes_its_drill(online: Runtime) -> None:
    drilled = made(online, ledger.OF_DUMP, of=made(online).backup_id)
    assert (drilled.state, drilled.last_error) == ("succeeded", None)
    assert made(online, ledger.SAMPLE).error_code == "drill_failed"  # nothing was rehearsed


def test_a_dump_that_cannot_be_filled_in_is_no_backup_any_more_until_it_can(few: Shop, bucket: Bucket) -> None:
    dump = made(few.runtime)
    [part] = [file for file in bucket.files() if file.name == "000001.sealed"]
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    drilled = made(few.runtime, ledger.OF_DUMP, of=dump.backup_id)
    assert (drilled.state, drilled.error_code) == ("failed", "drill_failed")
    row = shown(few.runtime, dump.backup_id)
    assert (row.state, row.error_code) == ("failed", "backup_damaged")
    part.write_bytes(content)
    assert made(few.runtime, ledger.OF_DUMP, of=dump.backup_id).state == "succeeded"
    row = shown(few.runtime, dump.backup_id)
    assert (row.state, row.error_code, row.last_error) == ("succeeded", None, None)


def test_a_dump_whose_manifest_was_changed_fails_its_drill(few: Shop, bucket: Bucket) -> None:
    dump = made(few.runtime)
    [manifest] = [file for file in bucket.files() if file.name == f"{dump.dump_id}.json"]
    manifest.write_bytes(manifest.read_bytes().replace(b'"parts":1', b'"parts":2'))
    assert made(few.runtime, ledger.OF_DUMP, of=dump.backup_id).error_code == "drill_failed"


def test_heads_that_do_not_follow_from_the_history_fail_the_drill_of_a_dump(few: Shop) -> None:
    execute(few.runtime.db, "UPDATE orders SET version = 7 WHERE order_id = (SELECT min(order_id) FROM orders)")
    dump = made(few.runtime)
    drilled = made(few.runtime, ledger.OF_DUMP, of=dump.backup_id)
    assert drilled.error_code == "drill_failed"
    assert "do not show their newest version" in str(drilled.report)


def test_a_report_holds_nothing_personal(few: Shop) -> None:
    keep(few.runtime)
    row = made(few.runtime, ledger.SAMPLE)
    login = few.value("SELECT buyer_login FROM orders LIMIT 1")
    assert row.report is not None
    assert login not in str(row.report)
    assert set(row.report) == {"id", "began_at", "seconds", "accounts", "versions", "findings"}


def test_another_server_may_hold_the_scratch_databases(few: Shop) -> None:
    keep(few.runtime)
    url = sa.make_url(few.runtime.settings.database_url).set(database="postgres").render_as_string(hide_password=False)
    config = few.runtime.settings.model_copy(update={"drill_database_url": url})
    assert made(replace(few.runtime, settings=config), ledger.SAMPLE).state == "succeeded"
    config = config.model_copy(update={"drill_database_url": "postgresql://nobody@127.0.0.1:9/none"})
    row = made(replace(few.runtime, settings=config), ledger.SAMPLE)
    assert (row.state, row.error_code) == ("queued", "backup_failed")
    assert "DRILL_DATABASE_URL" in str(row.last_error)


# The service itself over what came back


def test_the_api_over_what_came_back_shows_the_very_bytes(few: Shop, make_installation: Callable[[], Runtime]) -> None:
    keep(few.runtime)
    other = make_installation()
    for _ in restore.restore(other, few.account_id):
        pass
    asked = [few.account_id]
    assert list(smoke.findings(few.runtime, other, asked, alive=lambda: None)) == []
    execute(
        other.db,
        "UPDATE order_versions v SET body = o.body, dictionary_id = o.dictionary_id FROM order_versions o"
        " WHERE o.order_id = (SELECT min(order_id) FROM order_versions)",
    )
    told = list(smoke.findings(few.runtime, other, asked, alive=lambda: None))
    assert len(told) >= smoke.ORDERS - 1
    assert {account for account, _ in told} == {few.account_id}
    assert "other bytes" in told[0][1]
    execute(other.db, "ALTER TABLE order_versions RENAME TO away")
    told = list(smoke.findings(few.runtime, other, asked, alive=lambda: None))
    assert "answers 500" in told[0][1]


def test_an_api_that_does_not_start_is_told(few: Shop, make_installation: Callable[[], Runtime]) -> None:
    other = make_installation()
    broken = replace(other, settings=other.settings.model_copy(update={"database_url": "nonsense"}))
    with pytest.raises(BackupFailedError, match="does not start"):
        list(smoke.findings(few.runtime, broken, [few.account_id], alive=lambda: None))
