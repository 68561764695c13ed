"""A shop whose archive goes into a bucket, other installations that know nothing of it, and verbs for both."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from tests.conftest import _temporary_database
from tests.shop import Shop, level, make_shop, online, shop, world
from tests.storage import Bucket, bucket

from orders_backup import db as database
from orders_backup import runtime as runtimes
from orders_backup.accounts.sweeper import Sweep
from orders_backup.backups import job, restore, shelf, state
from orders_backup.backups.records import Record, Version
from orders_backup.backups.restore import Progress
from orders_backup.codec import Codec
from orders_backup.orders import archive, changes
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

__all__ = ["bucket", "level", "make_shop", "online", "shop", "world"]


@pytest.fixture
def settings(settings: Settings, bucket: Bucket) -> Settings:
    """The same with a bucket."""
    return bucket.settings(settings)


def look(runtime: Runtime) -> None:
    """What the scheduler does every 15 s, and that it is three minutes later already."""
    with database.transaction(runtime.db) as tx:
        state.wake(tx)
        tx.execute(
            sa.text("UPDATE archives SET due_at = clock_timestamp(), leased_until = NULL WHERE due_at IS NOT NULL")
        )


def keep(runtime: Runtime, **how: Any) -> None:
    """Everything that is new goes into the bucket."""
    look(runtime)
    with database.transaction(runtime.db) as tx:
        ids = tx.execute(sa.text("SELECT account_id FROM archives WHERE due_at IS NOT NULL")).scalars().all()
    for account_id in ids:
        job.work(runtime, account_id, **how)


def over(runtime: Runtime) -> None:
    """The day of what is in the bucket is over: those steps were made a day earlier each time."""
    execute(runtime.db, "UPDATE archives SET made_at = made_at - make_interval(days => 1000 - number::int)")


def given_settings(runtime: Runtime) -> tuple[str, dict[str, str]]:
    """The settings of an installation for another process: what may be seen, and its environment."""
    wanted = ("database_url", "data_dir", "s3_bucket", "s3_endpoint_url", "aws_access_key_id")
    secrets = ("encryption_keys", "aws_secret_access_key")
    config = runtime.settings
    told = {name: str(getattr(config, name)) for name in wanted}
    return json.dumps(told), {name.upper(): getattr(config, name).get_secret_value() for name in secrets}


def execute(db: Engine, statement: str, **values: object) -> list[Any]:
    with database.transaction(db) as tx:
        found = tx.execute(sa.text(statement), values)
        return list(found.all()) if found.returns_rows else []


def archived(runtime: Runtime, account_id: UUID) -> list[tuple[Record, bytes]]:
    """Every record of the account's archive, proven on the way."""
    store = restore.store_of(runtime)
    return [
        one
        for link in shelf.chain(store, account_id)
        for part in link.manifest.parts
        for one in shelf.read(store, shelf.key_of(account_id, link, part), part)
    ]


def bodies(runtime: Runtime, account_id: UUID) -> list[bytes]:
    """The documents of all versions in the archive, sorted."""
    return sorted(body for record, body in archived(runtime, account_id) if isinstance(record, Version))


def stored(runtime: Runtime, account_id: UUID) -> list[bytes]:
    """The documents of all versions in the database, sorted."""
    query = "SELECT dictionary_id, body FROM order_versions WHERE account_id = :account"
    with database.transaction(runtime.db) as tx:
        rows = tx.execute(sa.text(query), {"account": account_id}).all()
        return sorted(runtime.codec.decompress(tx, row[0], row[1]) for row in rows)


def read(shop: Shop, *documents: bytes, second: float = 0) -> None:
    """Archives what Allegro answered to requests of that second of a day this year."""
    at = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=second)
    with database.transaction(shop.runtime.db) as tx:
        archive.record(
            tx, shop.runtime.codec, shop.account_id, [changes.read(at, one) for one in documents], cause="test"
        )


@pytest.fixture
def few(make_shop: Callable[[int], Shop]) -> Shop:
    """A connected seller with twelve orders, after the backfill; his login is in the bucket."""
    made = make_shop(12)
    made.backfill()
    made.follow()
    journaled(made.runtime)
    return made


def journaled(runtime: Runtime) -> None:
    """Every login is in the bucket, too."""
    for _ in range(2):
        Sweep(runtime).round()


@pytest.fixture
def make_installation(
    make_database: Callable[[], str], tmp_path: Path, online: Runtime
) -> Iterator[Callable[[], Runtime]]:
    """One more installation with the same keys, bucket and Allegro: an empty database, and a disk of its own."""
    made: list[Runtime] = []

    def make() -> Runtime:
        folder = tmp_path / f"installation-{len(made)}"
        chosen = online.settings.model_copy(update={"database_url": make_database(), "data_dir": folder})
        built = runtimes.build(chosen, transport=online.allegro.http._transport)
        made.append(built)
        return built

    yield make
    for one in made:
        one.close()


@pytest.fixture
def make_empty(postgres_url: str, online: Runtime, tmp_path: Path) -> Iterator[Callable[..., Runtime]]:
    """An installation whose database has no tables."""
    made: list[Runtime] = []
    with _temporary_database(postgres_url) as (_, url):

        def make(**changed: Any) -> Runtime:
            chosen = {"database_url": url, "data_dir": tmp_path / "empty", **changed}
            made.append(
                runtimes.build(online.settings.model_copy(update=chosen), transport=online.allegro.http._transport)
            )
            return made[-1]

        yield make
        for one in made:
            one.close()


def brought_back(runtime: Runtime, account_id: UUID, **how: Any) -> Progress:
    *_, last = restore.restore(runtime, account_id, **how)
    return last


ROWS = {
    "orders": "account_id, order_id, version, versions, encode(sha256, 'hex'), status, fulfillment_status, buyer_login,"
    " marketplace, ordered_at, updated_at, total, currency, line_item_ids, gone_at, superseded_by, projection_lossy,"
    " order_data::text, words::text",
    "order_versions": "account_id, order_id, version, read_at, stored_at, replaced_seen_at, size,"
    " encode(sha256, 'hex')",
    "order_changes": "account_id, order_id, version, kinds, cause, row_number() OVER (ORDER BY xid, seq)",
    "order_events": "account_id, event_id, order_id, event_type, occurred_at, stored_at, processed_at IS NULL",
    "order_extras WHERE version > 0": "account_id, kind, document_id, order_id, version, versions,"
    " encode(sha256, 'hex'), found",
    "order_extra_versions": "account_id, kind, document_id, version, read_at, stored_at, size, encode(sha256, 'hex')",
    "unreadable_orders": "account_id, encode(sha256, 'hex'), read_at, encode(body, 'hex'), last_read_at, readings,"
    " last_error, acknowledged_at, acknowledged_reason",
    "accounts": "id, user_id, name, status, seller_id, seller_login, sync_interval_seconds, paused, extras, created_at,"
    " connected_at",
}
BYTES = {
    "order_versions": ("order_id", "body"),
    "order_events": ("event_id", "event_data"),
    "order_extra_versions": ("document_id", "body"),
}


def everything(runtime: Runtime) -> dict[str, list[Any]]:
    """What is here of all accounts, and every document unpacked."""
    found: dict[str, list[Any]] = {}
    for table, columns in ROWS.items():
        found[table] = sorted(map(repr, execute(runtime.db, f"SELECT {columns} FROM {table}")))
    codec = Codec()
    for table, (name, body) in BYTES.items():
        query = f"SELECT {name}, dictionary_id, {body} FROM {table}"
        with database.transaction(runtime.db) as tx:
            rows = tx.execute(sa.text(query)).all()
            found[f"{table} unpacked"] = sorted((row[0], codec.decompress(tx, row[1], row[2])) for row in rows)
    return found
