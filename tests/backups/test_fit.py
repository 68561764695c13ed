"""A database that was filled from a dump: nobody works on it before it fits its cluster, whatever interrupts that."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from tests.backups.conftest import bodies, everything, execute, keep, read, stored
from tests.shop import Shop

from orders_backup import bell, local, worker
from orders_backup import db as database
from orders_backup.backups import dumps, fit, refill
from orders_backup.backups.dumps import Dump
from orders_backup.errors import ConflictError, DatabaseUnfinishedError
from orders_backup.local import postgres
from orders_backup.runtime import Runtime
from orders_backup.webhooks import endpoints

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MakeEmpty = Callable[..., Runtime]


class Died(BaseException):
    """A process that ends here."""


def dies(*_: Any, **__: Any) -> Any:
    raise Died


def create(runtime: Runtime) -> Dump:
    return dumps.create(runtime, postgres.find(), now=NOW)


@pytest.fixture
def ahead(few: Shop) -> Shop:
    """A shop of a cluster that has given very high numbers; its archive has everything but the last order."""
    keep(few.runtime)
    for statement in (
        "UPDATE order_changes SET xid = '9000000000'",
        """UPDATE archives SET cursor_xid = '9000000001', position =
           (SELECT jsonb_object_agg(key, jsonb_set(value, '{0}', '9000000001')) FROM jsonb_each(position))""",
    ):
        execute(few.runtime.db, statement)
    read(few, b'{"id":"not-in-the-archive"}')
    execute(few.runtime.db, "UPDATE order_changes SET xid = '9000000002' WHERE order_id = 'not-in-the-archive'")
    return few


def refused(runtime: Runtime, words: str) -> None:
    """Neither the scheduler nor `up` works on it."""
    with pytest.raises(DatabaseUnfinishedError, match=words):
        worker.tick(runtime, bell.celery_app(runtime.settings), wake=True, look=True)
    with pytest.raises(DatabaseUnfinishedError, match=words):
        local.migrate(runtime.settings)


def goes_on(few: Shop, other: Runtime) -> None:
    """What is new there is in the archive, and everything else."""
    keep(other)
    read(Shop(few.world, other, few.seller_id, few.account_id), b'{"id":"new"}')
    keep(other)
    assert set(bodies(other, few.account_id)) == set(stored(other, few.account_id))


@pytest.mark.parametrize("where", ["_restored", "untell"])
def test_a_restore_that_died_is_gone_on_with_and_nobody_works_on_it_before(
    ahead: Shop, make_empty: MakeEmpty, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    made, before = create(ahead.runtime), everything(ahead.runtime)
    other = make_empty()
    with monkeypatch.context() as patch:
        patch.setattr(refill, where, dies)
        with pytest.raises(Died):
            refill.refill(other, postgres.find(), made)
    refused(other, made.id)
    refill.refill(other, postgres.find(), made)
    fit.require(other.db)
    assert everything(other) == before
    goes_on(ahead, other)
    with pytest.raises(ConflictError, match="not empty"):
        refill.refill(other, postgres.find(), made)


def test_a_dump_that_was_restored_by_hand_is_refused_until_it_is_finished(ahead: Shop, make_empty: MakeEmpty) -> None:
    made, before = create(ahead.runtime), everything(ahead.runtime)
    other = make_empty()
    with database.transaction(other.db) as tx:
        tx.execute(sa.text(refill._ROLE))
    refill._restored(other, postgres.find(), made)
    refused(other, "finish-restore")
    assert everything(other) == before
    read(Shop(ahead.world, other, ahead.seller_id, ahead.account_id), b'{"id":"stored-by-an-older-program-since"}')
    refill.finish(other)
    fit.require(other.db)
    goes_on(ahead, other)


def test_an_archive_that_is_ahead_of_its_cluster_says_so_and_passes_over_nothing(ahead: Shop) -> None:
    keep(ahead.runtime)
    read(ahead, b'{"id":"new"}')
    execute(ahead.runtime.db, "UPDATE archives SET due_at = clock_timestamp(), leased_until = NULL")
    keep(ahead.runtime)
    [(failures, error, cursor)] = execute(
        ahead.runtime.db, "SELECT failures, last_error, cursor_xid::text FROM archives"
    )
    assert (failures > 0, cursor) == (True, "9000000001")
    assert "another cluster" in error


def test_a_database_at_an_earlier_point_in_time_tells_nothing_twice_and_its_archive_goes_on(few: Shop) -> None:
    """Its cluster is the same, so everything but what was told fits."""
    keep(few.runtime)
    options: Any = {"description": "", "event_types": [], "account_ids": [], "content": "thin"}
    with database.transaction(few.runtime.db) as tx:
        hook, _ = endpoints.make(tx, few.runtime.vault, user_id=None, url="https://example.com/hook", **options)
        statement = """INSERT INTO webhook_deliveries (webhook_id, seq, type, kinds, cause, occurred_at, due_at)
                       VALUES (:hook, 7, 'x', '{}', 'event', now(), now())"""
        tx.execute(sa.text(statement), {"hook": hook})
    kept = "SELECT position, cursor_xid FROM archives"
    before, changes = execute(few.runtime.db, kept), execute(few.runtime.db, "SELECT xid, seq FROM order_changes")
    refill.finish(few.runtime)
    assert execute(few.runtime.db, kept) == before
    assert execute(few.runtime.db, "SELECT xid, seq FROM order_changes") == changes
    assert execute(few.runtime.db, "SELECT status, due_at FROM webhook_deliveries") == [("failed", None)]
    read(few, b'{"id":"new"}')
    [(first, last)] = execute(few.runtime.db, "SELECT min(seq), max(seq) FROM order_changes")
    assert last > first + 1_000_000
