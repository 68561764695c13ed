"""The whole database as one sealed file, and an empty one filled from it: all of it, or nothing."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.backups.conftest import bodies, everything, execute, journaled, keep, read, stored
from tests.shop import Shop
from tests.storage import Bucket

from orders_backup import db as database
from orders_backup import store as stores
from orders_backup import vault
from orders_backup.accounts import tokens
from orders_backup.backups import dumps, fit, listing, refill, retention, sealing, state
from orders_backup.backups.dumps import Dump
from orders_backup.backups.retention import Keep
from orders_backup.errors import (
    BackupDamagedError,
    BackupFailedError,
    ConflictError,
    SettingsError,
    StorageUnavailableError,
)
from orders_backup.local import postgres
from orders_backup.orders import feed
from orders_backup.runtime import Runtime
from orders_backup.tables import metadata
from orders_backup.webhooks import endpoints, outbox

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY = bytes(range(32))


def create(runtime: Runtime) -> Dump:
    return dumps.create(runtime, postgres.find(), now=NOW)


# There and back


def test_an_empty_database_is_filled_with_all_that_was_there(few: Shop, make_empty: Callable[..., Runtime]) -> None:
    few.look()
    read(few, b"<html>", b'{"id":"pretty",\n"v":1}')
    made = create(few.runtime)
    before, tables = everything(few.runtime), {}
    for table in metadata.tables:
        tables[table] = execute(few.runtime.db, f"SELECT count(*) FROM {table}")
    other = make_empty()
    assert dumps.everything(other) == [made]
    refill.refill(other, postgres.find(), made)
    assert everything(other) == before
    for table, rows in tables.items():
        assert execute(other.db, f"SELECT count(*) FROM {table}") == rows, table
    there = Shop(few.world, other, few.seller_id, few.account_id)
    form = few.world.buys(few.seller_id)
    there.follow()
    assert there.versions(form) == [few.world.body(form)]
    assert there.differences() == []


def test_what_was_refreshed_after_the_backup_is_the_login_there(few: Shop, make_empty: Callable[..., Runtime]) -> None:
    made = create(few.runtime)
    execute(few.runtime.db, "UPDATE account_tokens SET due_at = clock_timestamp()")
    tokens.refresh_due(few.runtime, few.account_id)
    journaled(few.runtime)
    other = make_empty()
    refill.refill(other, postgres.find(), made)
    query = "SELECT generation FROM account_tokens"
    assert execute(other.db, query) == execute(few.runtime.db, query) == [(2,)]


def test_rows_of_a_cluster_that_was_ahead_are_followed_and_told_to_nobody(
    few: Shop, make_empty: Callable[..., Runtime]
) -> None:
    keep(few.runtime)
    read(few, b'{"id":"not-in-the-archive"}')
    options: Any = {"description": "", "event_types": [], "account_ids": [], "content": "thin"}
    with database.transaction(few.runtime.db) as tx:
        endpoints.make(tx, few.runtime.vault, user_id=None, url="https://example.com/hook", **options)
    ahead = "9000000000"
    for table in ("order_changes", "order_events"):
        execute(
            few.runtime.db,
            f"UPDATE {table} SET xid = CAST(:ahead AS text)::xid8 WHERE xid >= (SELECT cursor_xid FROM archives)",
            ahead=ahead,
        )
    execute(few.runtime.db, "UPDATE webhooks SET cursor_xid = CAST(:ahead AS text)::xid8", ahead=ahead)
    execute(
        few.runtime.db,
        """INSERT INTO exports (export_id, format, filter, status, horizon)
           VALUES (gen_random_uuid(), 'jsonl', '{}', 'finished', CAST(:ahead AS bigint))""",
        ahead=ahead,
    )
    made = create(few.runtime)
    other = make_empty()
    refill.refill(other, postgres.find(), made)
    with database.transaction(other.db) as tx:
        outbox.wake(tx)
    assert execute(other.db, "SELECT due_at FROM webhooks") == [(None,)]
    assert execute(other.db, "SELECT horizon FROM exports") == [(0,)]  # its cursor reads the feed from the beginning
    there = Shop(few.world, other, few.seller_id, few.account_id)
    read(there, b'{"id":"new"}')
    with database.transaction(other.db) as tx:
        outbox.wake(tx)
    assert execute(other.db, "SELECT due_at IS NULL FROM webhooks") == [(False,)]
    with database.snapshot(other.db) as tx:
        told, _, _ = feed.page(tx, seen_by=None, account_id=None, after=feed.START, limit=1000)
    assert [one.order_id for one in told][-2:] == ["not-in-the-archive", "new"]
    keep(other)
    assert bodies(other, few.account_id) == stored(other, few.account_id)


@pytest.mark.parametrize("is_put", [False, True])
def test_a_manifest_that_was_on_its_way_brings_no_position_of_the_old_cluster_back(
    few: Shop, make_empty: Callable[..., Runtime], monkeypatch: pytest.MonkeyPatch, is_put: bool
) -> None:
    keep(few.runtime)
    read(few, b'{"id":"on-its-way"}')

    def dies(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((state, "advance") if is_put else (stores, "put")), dies)
        with pytest.raises(KeyboardInterrupt):
            keep(few.runtime)
    execute(
        few.runtime.db,
        """UPDATE archives SET pending_values = pending_values || jsonb_build_object('cursor_xid', 9000000000,
              'position', (SELECT jsonb_object_agg(key, jsonb_set(value, '{0}', '9000000000'))
                             FROM jsonb_each(pending_values->'position')))""",
    )
    other = make_empty()
    refill.refill(other, postgres.find(), create(few.runtime))
    execute(other.db, "UPDATE archives SET due_at = clock_timestamp(), leased_until = NULL")
    keep(other)
    read(Shop(few.world, other, few.seller_id, few.account_id), b'{"id":"new"}')
    keep(other)
    assert set(bodies(other, few.account_id)) == set(stored(other, few.account_id))


def test_a_message_that_waited_is_not_sent_again_by_itself(few: Shop, make_empty: Callable[..., Runtime]) -> None:
    options: Any = {"description": "", "event_types": [], "account_ids": [], "content": "thin"}
    with database.transaction(few.runtime.db) as tx:
        hook, _ = endpoints.make(tx, few.runtime.vault, user_id=None, url="https://example.com/hook", **options)
        statement = """INSERT INTO webhook_deliveries (webhook_id, seq, type, kinds, cause, occurred_at, due_at)
                       VALUES (:hook, 7, 'x', '{}', 'event', now(), now())"""
        tx.execute(sa.text(statement), {"hook": hook})
    [(seq,)] = execute(few.runtime.db, "SELECT max(seq) FROM order_changes")
    other = make_empty()
    refill.refill(other, postgres.find(), create(few.runtime))
    assert execute(other.db, "SELECT status, due_at FROM webhook_deliveries") == [("failed", None)]
    read(Shop(few.world, other, few.seller_id, few.account_id), b'{"id":"new"}')
    assert execute(other.db, "SELECT max(seq) > :seq FROM order_changes", seq=seq + 1_000_000) == [(True,)]


# Nothing, or all


def test_a_database_that_is_not_empty_is_left_alone(few: Shop) -> None:
    made, before = create(few.runtime), everything(few.runtime)
    with pytest.raises(ConflictError, match="not empty"):
        refill.refill(few.runtime, postgres.find(), made)
    assert everything(few.runtime) == before


def damage(few: Shop, mine: stores.Store, made: Dump, kind: str) -> None:
    file, manifest = dumps._file(made.id), dumps._manifest(made.id)
    content, told = stores.get(mine, file), stores.get(mine, manifest)
    assert content is not None
    assert told is not None
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    other = create(few.runtime)
    damages: dict[str, Callable[[], object]] = {
        "a bit": lambda: stores.put(mine, file, bytes(flipped)),
        "a missing file": lambda: stores.delete(mine, [file]),
        "an end that is missing": lambda: stores.put(mine, file, content[:-40]),
        "the file of another backup": lambda: stores.put(mine, file, stores.get(mine, dumps._file(other.id)) or b""),
        "a manifest that was changed": lambda: stores.put(mine, manifest, told.replace(b'"backup":1', b'"backup":2')),
        "the manifest of another backup": lambda: stores.put(
            mine, manifest, stores.get(mine, dumps._manifest(other.id)) or b""
        ),
        "an empty manifest": lambda: stores.put(mine, manifest, b""),
    }
    damages[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "a bit",
        "a missing file",
        "an end that is missing",
        "the file of another backup",
        "a manifest that was changed",
        "the manifest of another backup",
        "an empty manifest",
    ],
)
def test_a_damaged_backup_fills_nothing(
    few: Shop, make_empty: Callable[..., Runtime], bucket: Bucket, kind: str
) -> None:
    made = create(few.runtime)
    damage(few, bucket.store(prefix="orders-backup"), made, kind)
    other = make_empty()
    with pytest.raises(BackupDamagedError):
        refill.refill(other, postgres.find(), dumps.get(other, made.id))
    assert [one.id for one in listing.verify_dumps(few.runtime) if one.problem] == [made.id]
    fit.require(other.db)
    with database.transaction(other.db) as tx:
        assert refill.is_empty(tx)


def test_a_backup_opens_with_its_key_alone_and_an_older_key_still_opens_it(
    few: Shop, make_empty: Callable[..., Runtime]
) -> None:
    made = create(few.runtime)
    old, new = few.runtime.settings.encryption_keys.get_secret_value(), vault.new_key().replace("key1", "key2")
    rotated = make_empty(encryption_keys=SecretStr(f"{new},{old}"))
    assert dumps.everything(rotated) == [made]
    assert sum(map(len, dumps.read(rotated, made))) == made.dump_bytes
    with pytest.raises(BackupDamagedError, match="key1"):
        list(dumps.read(make_empty(encryption_keys=SecretStr(new)), made))
    other = make_empty(encryption_keys=SecretStr(vault.new_key()))
    with pytest.raises(BackupDamagedError):
        list(dumps.read(other, made))


def test_a_backup_that_fails_leaves_no_manifest(few: Shop, bucket: Bucket, tmp_path: Path) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\nhead -c 3000000 /dev/zero\necho 'the disk is on fire' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises((BackupFailedError, StorageUnavailableError), match="on fire"):
        dumps.create(few.runtime, tmp_path, now=NOW)
    assert dumps.everything(few.runtime) == []
    bucket.stop()
    with pytest.raises(StorageUnavailableError):
        create(few.runtime)
    bucket.start()
    assert dumps.everything(few.runtime) == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:p@db:5433/orders?sslmode=require", {"PGHOST": "db", "PGPORT": "5433", "PGSSLMODE": "require"}),
        (
            "postgresql:///orders?host=10.0.0.5&port=7",
            {"PGHOST": "10.0.0.5", "PGPORT": "7", "PGSSLMODE": "verify-full"},
        ),
        ("postgresql:///orders?host=a:1&host=b:2", {"PGHOST": "a,b", "PGPORT": "1,2"}),
        ("postgresql:///orders?service=mine&target_session_attrs=primary", {"PGTARGETSESSIONATTRS": "primary"}),
        ("postgres:///orders?keepalives_idle=5", {"PGDATABASE": "orders", "PGPASSFILE": "/secret"}),
    ],
)
def test_postgres_own_programs_are_told_where_the_driver_goes(
    url: str, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGPASSFILE", "/secret")
    found = dumps.environment(database.connect(url))
    assert told.items() <= found.items()
    assert set(found) - set(os.environ) <= {
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGPASSWORD",
        "PGDATABASE",
        *told,
        "PGSERVICE",
    }


@pytest.mark.parametrize("url", ["postgresql://db/orders?sslpassword=x", "postgresql://db"])
def test_what_they_cannot_be_told_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGDATABASE", raising=False)
    with pytest.raises(SettingsError):
        dumps.environment(database.connect(url))


def test_a_program_that_says_very_much_is_not_stopped_by_it(few: Shop, tmp_path: Path) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x >&2\necho >&2; echo 'much' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(BackupFailedError, match="much"):
        dumps.create(few.runtime, tmp_path, now=NOW)


def test_no_order_and_no_token_stands_readable_in_the_bucket(few: Shop, bucket: Bucket) -> None:
    create(few.runtime)
    secret = few.value("SELECT order_id FROM orders LIMIT 1").encode()
    files = [file for file in bucket.files() if "database" in file.parts]
    assert len(files) == 2
    assert all(secret not in file.read_bytes() for file in files)


# Sealing


@given(st.lists(st.binary(max_size=300)), st.integers(min_value=60, max_value=200))
def test_any_stream_opens_to_what_it_was(chunks: list[bytes], segment: int) -> None:
    kept, sealing.SEGMENT = sealing.SEGMENT, segment
    try:
        sealed = b"".join(sealing.seal(KEY, chunks, bound_to=b"a"))
        assert b"".join(sealing.open_(KEY, [sealed], bound_to=b"a")) == b"".join(chunks)
        for wrong in (sealed[:-1], sealed + b"x", sealed[:segment], b"", sealed[:1] + sealed[2:]):
            if wrong != sealed:
                with pytest.raises(BackupDamagedError):
                    list(sealing.open_(KEY, [wrong], bound_to=b"a"))
        with pytest.raises(BackupDamagedError):
            list(sealing.open_(KEY, [sealed], bound_to=b"b"))
    finally:
        sealing.SEGMENT = kept


# What stays


def test_the_newest_of_days_weeks_and_months_stay() -> None:
    """Twice a day for 400 days, the last at noon of Monday, 23 November."""
    made = [Dump(str(n), NOW - timedelta(hours=12 * n), "", "", "", 0, "", 0, "", {}) for n in range(2 * 400)]
    gone = {one.id for one in retention.spent(made, Keep(daily=3, weekly=2, monthly=2))}
    stays = [f"{one.made_at:%m-%d %H}" for one in made if one.id not in gone]
    assert stays == ["11-23 12", "11-22 12", "11-21 12", "10-31 12"]
    assert retention.spent(made[:1], Keep(0, 0, 0)) == []
