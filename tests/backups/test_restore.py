"""What comes back from the archive: everything, once, told to nobody, with its login; nothing where it is damaged."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.backups.conftest import bodies, brought_back, everything, execute, given_settings, keep, over, read, stored
from tests.hostile import corpus
from tests.shop import Shop
from tests.storage import Bucket

from orders_backup import db as database
from orders_backup import store
from orders_backup.accounts import connect, journal, recovery, returning, tokens
from orders_backup.accounts.calls import Calls, Route
from orders_backup.allegro import client
from orders_backup.backups import anew, listing, reading, restore, shelf, state
from orders_backup.backups import run as runs
from orders_backup.budget import Priority
from orders_backup.errors import BackupDamagedError, ConflictError, LeaseLostError, NotFoundError, SettingsError
from orders_backup.orders import feed
from orders_backup.runtime import Runtime
from orders_backup.webhooks import endpoints, outbox

ROOT = Path(__file__).parents[2]
Make = Callable[[], Runtime]


def same(one: Runtime, other: Runtime) -> None:
    before, after = everything(one), everything(other)
    for name, rows in before.items():
        assert rows, name
        assert after[name] == rows, name


@pytest.fixture
def busy(few: Shop) -> Shop:
    """A shop in which everything has happened that an archive has to hold."""
    world, seller = few.world, few.seller_id
    first, second, third, gone = (world.buys(seller) for _ in range(4))
    few.follow()
    world.pays(first)
    world.cancels(second)
    few.follow()
    world.merges(third, gone)
    few.follow()
    few.follow()
    world.returns(first)
    few.look()
    execute(few.runtime.db, "UPDATE accounts SET sync_interval_seconds = 7200")
    read(few, b"<html>not an order", b'{"id": "pretty",\n "status": "BOUGHT"}', b'{"id":"late","v":2}', second=9)
    read(few, b'{"id":"late","v":1}', second=1)
    for number, document in enumerate(corpus.ORDERS.values()):
        read(few, document.replace(b"hostile", f"hostile-{number}".encode()))
    return few


# The whole way


def test_everything_comes_back_into_an_empty_installation(busy: Shop, make_installation: Make) -> None:
    keep(busy.runtime)
    other = make_installation()
    assert [one.status for one in restore.restore_all(other) if one.phase == "finished"] == ["active"]
    same(busy.runtime, other)
    assert execute(other.db, "SELECT count(*) FROM restored_states") == [(0,)]


def test_a_seller_goes_on_without_connecting_again_and_the_proof_is_complete(
    few: Shop, make_installation: Make
) -> None:
    keep(few.runtime)
    missed = few.world.buys(few.seller_id)
    other = make_installation()
    brought_back(other, few.account_id)
    there = Shop(few.world, other, few.seller_id, few.account_id)
    assert there.value("SELECT generation FROM account_tokens") == few.value("SELECT generation FROM account_tokens")
    there.backfill()
    there.follow()
    assert there.versions(missed) == [few.world.body(missed)]
    assert there.differences() == []
    assert there.certificate().complete
    with database.transaction(other.db) as tx:
        other.clock.set(database.clock(tx))
    calls = Calls(other, few.account_id, priority=Priority.LIVE)
    assert calls.ask(Route.DEFAULT, lambda token: client.me(other.allegro, token))[0] == few.seller_id


def test_what_is_found_by_its_tracking_number_is_found_by_it_again(few: Shop, make_installation: Make) -> None:
    few.look()
    keep(few.runtime)
    other = make_installation()
    brought_back(other, few.account_id)
    query = "SELECT order_id, words::text FROM orders ORDER BY order_id"
    assert execute(other.db, query) == execute(few.runtime.db, query)


def test_a_paused_and_a_disconnected_account_come_back_as_they_were(few: Shop, make_installation: Make) -> None:
    execute(few.runtime.db, "UPDATE accounts SET paused = true, status = 'disconnected'")
    keep(few.runtime)
    other = make_installation()
    assert brought_back(other, few.account_id).status == "disconnected"
    assert execute(other.db, "SELECT paused, reason FROM accounts") == [(True, None)]
    assert execute(other.db, "SELECT count(*) FROM account_tokens") == [(0,)]


def test_an_account_without_a_login_in_the_journal_says_so(few: Shop, make_installation: Make, bucket: Bucket) -> None:
    keep(few.runtime)
    mine = bucket.store(prefix="orders-backup")
    store.delete(mine, store.names(mine, "tokens/"))
    other = make_installation()
    assert brought_back(other, few.account_id).status == "reauthorization_required"
    assert execute(other.db, "SELECT reason FROM accounts") == [("restored_without_login",)]


def test_one_of_two_accounts_comes_back_alone(
    few: Shop, make_shop: Callable[[int], Shop], make_installation: Make
) -> None:
    second = make_shop(3)
    second.backfill()
    keep(few.runtime)
    other = make_installation()
    brought_back(other, second.account_id)
    assert execute(other.db, "SELECT DISTINCT account_id FROM order_versions") == [(second.account_id,)]


def test_the_archive_goes_on_where_it_was_and_takes_nothing_twice(few: Shop, make_installation: Make) -> None:
    keep(few.runtime)
    other = make_installation()
    brought_back(other, few.account_id)
    keep(other)
    assert len(bodies(other, few.account_id)) == 12
    form = few.world.buys(few.seller_id)
    there = Shop(few.world, other, few.seller_id, few.account_id)
    there.backfill()
    keep(other)
    assert bodies(other, few.account_id) == stored(other, few.account_id)
    third = make_installation()
    brought_back(third, few.account_id)
    assert Shop(few.world, third, few.seller_id, few.account_id).versions(form) == [few.world.body(form)]


# Nobody is told


def test_no_webhook_is_told_of_what_comes_back(few: Shop, make_installation: Make) -> None:
    keep(few.runtime)
    other = make_installation()
    options: Any = {"description": "", "event_types": [], "account_ids": [], "content": "thin"}
    with database.transaction(other.db) as tx:
        endpoints.make(tx, other.vault, user_id=None, url="https://example.com/hook", **options)
    brought_back(other, few.account_id)
    read(few, b'{"id":"only-in-the-archive"}')
    keep(few.runtime)
    brought_back(other, few.account_id, into_existing=True)
    assert execute(other.db, "SELECT count(*) FROM orders") == [(13,)]
    with database.transaction(other.db) as tx:
        outbox.wake(tx)
    assert execute(other.db, "SELECT due_at FROM webhooks") == [(None,)]


def test_a_reader_of_the_feed_from_its_beginning_gets_all_of_it(few: Shop, make_installation: Make) -> None:
    keep(few.runtime)
    other = make_installation()
    brought_back(other, few.account_id)
    found = []
    for one in (few.runtime, other):
        with database.snapshot(one.db) as tx:
            told, _, _ = feed.page(tx, seen_by=None, account_id=None, after=feed.START, limit=1000)
        found.append([(change.order_id, change.version, change.kinds, change.cause) for change in told])
    assert found[0] == found[1]
    assert len(found[0]) >= 12


# Into what is there


def test_an_account_with_orders_is_left_alone_without_the_word(few: Shop) -> None:
    keep(few.runtime)
    before = everything(few.runtime)
    with pytest.raises(ConflictError, match="--into-existing"):
        brought_back(few.runtime, few.account_id)
    with pytest.raises(ConflictError, match="--into-existing"):
        list(restore.restore_all(few.runtime))
    assert everything(few.runtime) == before


def test_with_the_word_an_account_gets_what_it_lacks_and_nothing_twice(busy: Shop) -> None:
    keep(busy.runtime)
    before = everything(busy.runtime)
    assert brought_back(busy.runtime, busy.account_id, into_existing=True).added == 0
    assert everything(busy.runtime) == before
    lost = busy.rows("SELECT order_id FROM orders WHERE versions = 1 ORDER BY order_id LIMIT 3")
    for table in ("orders", "order_versions", "order_changes", "order_events"):
        statement = f"DELETE FROM {table} WHERE order_id = ANY (:ids)"
        execute(busy.runtime.db, statement, ids=[row[0] for row in lost])
    assert brought_back(busy.runtime, busy.account_id, into_existing=True).added == 3
    after = everything(busy.runtime)
    for name in ("order_versions unpacked", "order_events unpacked", "unreadable_orders"):
        assert after[name] == before[name]


@pytest.mark.parametrize("when", ["at rest", "at work", "on its way", "about to begin anew"])
def test_bytes_that_return_in_a_merge_are_in_the_archive_too(
    few: Shop, make_installation: Make, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The archive has A and B; the older database has seen A before and after B, and once more by confirming it."""
    first, second = b'{"id":"order","v":"A"}', b'{"id":"order","v":"B"}'
    read(few, first, second=1)
    keep(few.runtime)
    older = make_installation()
    brought_back(older, few.account_id)
    read(few, second, second=5)
    keep(few.runtime)
    there = Shop(few.world, older, few.seller_id, few.account_id)
    read(there, first, second=9)
    keep(older)
    read(there, b'{"id":"another"}')
    put = runs.put_manifest

    def puts(*arguments: Any) -> None:
        """The merge comes before the manifest that is written now, or after it was put and before that was noted."""
        if when == "at work":
            brought_back(older, few.account_id, into_existing=True)
        put(*arguments)

    def notes(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "put_manifest", puts)
        if when == "at work":
            with pytest.raises(LeaseLostError):
                keep(older)
        if when == "on its way":
            patch.setattr(state, "advance", notes)
            with pytest.raises(KeyboardInterrupt):
                keep(older)
    if when == "about to begin anew":
        anew.begin(older, few.account_id)
    if when != "at work":
        brought_back(older, few.account_id, into_existing=True)
    assert there.versions("order") == [first, second, first]
    keep(older)
    begins = restore.source(older, few.account_id).links[0].manifest.first
    assert (begins > 1) is (when == "about to begin anew")
    fresh = make_installation()
    brought_back(fresh, few.account_id)
    assert Shop(few.world, fresh, few.seller_id, few.account_id).versions("order") == [first, second, first]
    assert execute(fresh.db, "SELECT order_data->>'v' FROM orders WHERE order_id = 'order'") == [("A",)]
    assert execute(fresh.db, "SELECT count(*) FROM orders WHERE order_id = 'another'") == [(1,)]


def test_a_user_who_connected_the_seller_again_is_told(few: Shop, make_installation: Make) -> None:
    keep(few.runtime)
    other = make_installation()
    statement = """INSERT INTO accounts (id, user_id, name, status, seller_id)
                   VALUES (gen_random_uuid(), :user, 'x', 'active', :seller)"""
    execute(other.db, statement, user=few.value("SELECT user_id FROM accounts"), seller=few.seller_id)
    with pytest.raises(ConflictError, match="another account id"):
        brought_back(other, few.account_id)


def test_of_an_older_database_the_archive_gets_the_newer_versions_back_under_other_numbers(
    few: Shop, make_installation: Make
) -> None:
    """Two databases gave the same numbers to different bytes; both are in the archive."""
    read(few, b'{"id":"order","v":1}', second=1)
    keep(few.runtime)
    older = make_installation()
    brought_back(older, few.account_id)
    there = Shop(few.world, older, few.seller_id, few.account_id)
    read(few, b'{"id":"order","v":2}', second=2)
    keep(few.runtime)
    read(there, b'{"id":"order","v":3}', second=3)
    keep(older)
    fresh = make_installation()
    brought_back(fresh, few.account_id)
    query = "SELECT version, versions, order_data->>'v' FROM orders WHERE order_id = 'order'"
    assert execute(fresh.db, query) == [(3, 3, "3")]
    assert Shop(few.world, fresh, few.seller_id, few.account_id).versions("order") == [
        b'{"id":"order","v":1}',
        b'{"id":"order","v":2}',
        b'{"id":"order","v":3}',
    ]


# Crashes


@pytest.mark.parametrize("phase", ["bytes", "heads", "login"])
def test_a_killed_restore_goes_on_where_it_was(busy: Shop, make_installation: Make, phase: str) -> None:
    keep(busy.runtime, step_records=20)
    other = make_installation()
    config, secrets = given_settings(other)
    command = [sys.executable, "-m", "tests.backups.killed", config, str(busy.account_id), phase]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **secrets}, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert execute(other.db, "SELECT phase FROM restores") == [(phase,)]
    assert execute(other.db, "SELECT status, reason FROM accounts") == [("disconnected", "restoring")]
    assert [one.status for one in restore.restore_all(other) if one.phase == "finished"] == ["active"]
    same(busy.runtime, other)
    assert list(restore.restore_all(other)) == []


@pytest.mark.parametrize("into_existing", [False, True])
def test_a_document_that_does_not_fit_its_hash_is_left_out_told_and_keeps_no_other_out(
    few: Shop, make_installation: Make, monkeypatch: pytest.MonkeyPatch, into_existing: bool
) -> None:
    """A program that did not look put it into the archive."""
    other = make_installation()
    if into_existing:
        keep(few.runtime)
        brought_back(other, few.account_id)
        read(few, *(b'{"id":"new-%d"}' % number for number in range(3)))
    spoiled = few.value("SELECT max(order_id) FROM orders")
    execute(few.runtime.db, "UPDATE order_versions SET sha256 = '\\x00' WHERE order_id = :id", id=spoiled)
    with monkeypatch.context() as patch:
        codec = few.runtime.codec
        opened = lambda tx, _, row: row.body and codec.decompress(tx, row.dictionary_id, row.body)  # noqa: E731
        patch.setattr(reading, "_document", opened)
        keep(few.runtime)
    assert "SHA-256" in str(listing.verify(few.runtime)[0].problem)
    done = brought_back(other, few.account_id, into_existing=into_existing)
    assert done.refused == 1
    held = {row[0] for row in execute(other.db, "SELECT order_id FROM orders")}
    assert held == {row[0] for row in few.rows("SELECT order_id FROM orders")} - {spoiled}


@pytest.mark.parametrize("into_existing", [False, True])
def test_a_day_that_is_put_together_meanwhile_disturbs_neither_a_restore_nor_a_proof(
    few: Shop, make_installation: Make, monkeypatch: pytest.MonkeyPatch, into_existing: bool
) -> None:
    for number in range(3):
        read(few, b'{"id":"order-%d"}' % number, second=number)
        keep(few.runtime)
    content, read_ = shelf.content, [0]

    def content_(*arguments: Any) -> Iterator[bytes]:
        read_[0] += 1
        if read_[0] == 2:
            over(few.runtime)
            keep(few.runtime)
        return content(*arguments)

    monkeypatch.setattr(shelf, "content", content_)
    if into_existing:
        assert listing.verify(few.runtime)[0].problem is None
    else:
        other = make_installation()
        assert brought_back(other, few.account_id).status == "active"
        assert execute(other.db, "SELECT count(*) FROM orders") == [(15,)]
    assert execute(few.runtime.db, "SELECT days_to FROM archives") == [(3,)]


def test_bytes_that_are_an_order_by_now_are_not_unreadable_after_a_merge(few: Shop) -> None:
    """A newer program reads what an older one could not."""
    statement = """INSERT INTO unreadable_orders (account_id, sha256, read_at, body)
                   SELECT account_id, sha256, read_at, :body FROM order_versions WHERE order_id = 'odd'"""
    read(few, b'{"id":"odd"}')
    execute(few.runtime.db, statement, body=b'{"id":"odd"}')
    keep(few.runtime)
    execute(few.runtime.db, "DELETE FROM unreadable_orders")
    brought_back(few.runtime, few.account_id, into_existing=True)
    assert execute(few.runtime.db, "SELECT count(*) FROM unreadable_orders") == [(0,)]


def test_an_interrupted_restore_of_all_begins_no_other_account(
    few: Shop, make_shop: Callable[[int], Shop], make_installation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    put_back, shutdown = returning.put_back, ThreadPoolExecutor.shutdown

    def put_back_(*arguments: Any) -> None:
        assert may_go_on.wait(60)
        put_back(*arguments)

    def shutdown_(pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Those who have begun go on when the others were told, or would be waited for."""
        if wait:
            may_go_on.set()
        shutdown(pool, wait, cancel_futures=cancel_futures)
        may_go_on.set()

    for _ in range(3):
        make_shop(1).backfill()
    keep(few.runtime)
    other = make_installation()
    with monkeypatch.context() as patch:
        patch.setattr(returning, "put_back", put_back_)
        patch.setattr(ThreadPoolExecutor, "shutdown", shutdown_)
        going = restore.restore_all(other)
        next(going)
        going.close()
    [(begun,)] = execute(other.db, "SELECT count(*) FROM restores")
    assert begun <= restore.AT_ONCE
    for _ in restore.restore_all(other):
        pass
    assert execute(other.db, "SELECT count(*) FROM restores WHERE phase = 'finished'") == [(4,)]


# While it comes back


def interrupted(runtime: Runtime, account_id: UUID) -> None:
    """A restore that ended in its middle."""
    for one in restore.restore(runtime, account_id):
        if one.phase == "bytes":
            return


def test_an_account_that_comes_back_is_neither_connected_nor_disconnected(few: Shop, make_installation: Make) -> None:
    keep(few.runtime)
    other = make_installation()
    interrupted(other, few.account_id)
    with pytest.raises(ConflictError, match="coming back"):
        connect.begin_again(other, few.account_id)
    with pytest.raises(ConflictError, match="coming back"), database.transaction(other.db) as tx:
        connect.disconnect(tx, few.account_id)
    assert execute(other.db, "SELECT status, reason FROM accounts") == [("disconnected", "restoring")]
    assert brought_back(other, few.account_id).status == "active"
    connect.begin_again(other, few.account_id)


@pytest.mark.parametrize("agrees", [True, False])
def test_a_device_flow_that_was_begun_before_waits_until_the_account_is_back(few: Shop, agrees: bool) -> None:
    keep(few.runtime)
    connect.begin_again(few.runtime, few.account_id)
    execute(few.runtime.db, "UPDATE accounts SET status = 'disconnected', reason = 'restoring'")
    polled = "UPDATE device_flows SET due_at = clock_timestamp(), leased_until = NULL"
    if agrees:
        few.world.approves(few.world.devices()[-1]["user_code"], few.seller_id)
    else:
        polled += ", expires_at = now() - interval '1 h'"
    execute(few.runtime.db, polled)
    connect.poll(few.runtime, few.account_id)
    [waiting] = execute(few.runtime.db, "SELECT status, reason FROM accounts")
    assert waiting == ("disconnected", "restoring")
    execute(few.runtime.db, "UPDATE accounts SET reason = NULL")
    execute(few.runtime.db, polled)
    connect.poll(few.runtime, few.account_id)
    [(status,)] = execute(few.runtime.db, "SELECT status FROM accounts")
    assert status == ("active" if agrees else "disconnected")


def test_a_login_that_is_newer_than_the_journals_stays(few: Shop) -> None:
    """It was refreshed here, and lost its disk before the bucket had it."""
    execute(few.runtime.db, "UPDATE account_tokens SET due_at = clock_timestamp()")
    tokens.refresh_due(few.runtime, few.account_id)
    shutil.rmtree(journal.spool_folder(few.runtime))
    found = recovery.bring_back(few.runtime, few.account_id)
    assert found is not None
    assert found.generation == 2
    assert few.value("SELECT generation FROM account_tokens") == 2


def test_an_account_that_is_not_waiting_any_more_is_not_put_back_into(few: Shop) -> None:
    keep(few.runtime)
    execute(few.runtime.db, "INSERT INTO restores (account_id) SELECT id FROM accounts")
    with pytest.raises(ConflictError, match="--into-existing"):
        brought_back(few.runtime, few.account_id)
    assert brought_back(few.runtime, few.account_id, into_existing=True).added == 0
    assert returning.log_in(few.runtime, few.account_id, status="disconnected") == "active"
    assert execute(few.runtime.db, "SELECT status FROM accounts") == [("active",)]


# What is damaged, or not there


def test_nothing_is_written_where_the_archive_is_damaged(few: Shop, make_installation: Make, bucket: Bucket) -> None:
    keep(few.runtime)
    part = next(file for file in bucket.files() if file.suffix == ".zst")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    other = make_installation()
    with pytest.raises(BackupDamagedError):
        brought_back(other, few.account_id)
    assert execute(other.db, "SELECT count(*) FROM accounts") == [(0,)]


def test_an_account_that_was_never_archived_and_an_installation_without_a_bucket_are_told(few: Shop) -> None:
    with pytest.raises(NotFoundError):
        brought_back(few.runtime, few.account_id)
    object.__setattr__(few.runtime, "store", None)
    with pytest.raises(SettingsError, match="S3_BUCKET"):
        brought_back(few.runtime, few.account_id)
