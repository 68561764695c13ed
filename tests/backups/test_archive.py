"""The archive in the bucket: everything that is new, once, soon; whole through crashes; a chain that tells damage."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.backups.conftest import (
    archived,
    bodies,
    brought_back,
    execute,
    keep,
    look,
    over,
    read,
    stored,
)
from tests.shop import Shop
from tests.storage import Bucket

from orders_backup import db as database
from orders_backup import store as stores
from orders_backup import worker
from orders_backup.backups import anew, job, listing, manifests, reading, restore, shelf, state
from orders_backup.backups import run as runs
from orders_backup.backups.manifests import Link
from orders_backup.backups.records import Change, Extra, State, Version
from orders_backup.errors import BackupDamagedError, LeaseLostError, NotFoundError, StorageUnavailableError
from orders_backup.orders import archive, changes
from orders_backup.runtime import Runtime

ROOT = Path(__file__).parents[2]


class Died(BaseException):
    """A process that ends here."""


def chain(shop: Shop) -> list[Link]:
    return shelf.chain(restore.store_of(shop.runtime), shop.account_id)


def due(runtime: Runtime) -> int:
    """How many archives have something to do."""
    with database.transaction(runtime.db) as tx:
        state.wake(tx)
        return int(tx.execute(sa.text("SELECT count(*) FROM archives WHERE due_at IS NOT NULL")).scalar_one())


def void(_: object) -> None:
    """Of what is called for its effect."""


def example(few: Shop, bucket: Bucket, out: Path) -> list[bytes]:
    """What the program of the documentation makes of the archive."""
    folder = bucket.folder / "orders-backup" / "archive" / str(few.account_id)
    script = ROOT / "docs" / "examples" / "read_archive.py"
    subprocess.run([sys.executable, "-I", str(script), str(folder), str(out)], check=True, timeout=60)
    return sorted(file.read_bytes() for file in out.glob("*.json"))


def order(number: int, **fields: Any) -> bytes:
    return json.dumps({"id": f"order-{number:03}", **fields}).encode()


# What is in it


def test_an_archive_holds_every_version_byte_for_byte_and_then_what_is_new(few: Shop) -> None:
    keep(few.runtime)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    form = few.world.buys(few.seller_id)
    few.follow()
    few.world.pays(form)
    few.follow()
    keep(few.runtime)
    assert len(bodies(few.runtime, few.account_id)) == 14
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    assert [one.manifest.first for one in chain(few)] == [1, 2]
    assert chain(few)[-1].manifest.counts["version"] == 2


def test_a_backlog_goes_out_in_steps_and_a_slice_gives_the_slot_back(few: Shop) -> None:
    keep(few.runtime, step_records=5)
    steps = len(chain(few))
    assert steps == 3
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    read(few, *(order(number) for number in range(30)))
    keep(few.runtime, step_records=5, slice_seconds=-1)
    assert len(chain(few)) == steps
    assert due(few.runtime) == 1


def test_an_order_that_is_gone_and_one_that_is_back_are_in_it(few: Shop) -> None:
    keep(few.runtime)
    first, second = few.world.buys(few.seller_id), few.world.buys(few.seller_id)
    few.follow()
    few.world.merges(first, second)
    few.follow()
    few.follow()
    keep(few.runtime)
    found = {one.order_id: one for one, _ in archived(few.runtime, few.account_id) if isinstance(one, State)}
    assert set(found) == {first, second}
    assert all(one.gone_at for one in found.values())
    execute(few.runtime.db, "UPDATE orders SET gone_at = read_at - interval '1 s' WHERE order_id = :id", id=first)
    with database.transaction(few.runtime.db) as tx:
        body = few.versions(first)[-1]
        now = database.clock(tx)
        archive.record(tx, few.runtime.codec, few.account_id, [changes.read(now, body)], cause="test")
    keep(few.runtime)
    back = [one for one, _ in archived(few.runtime, few.account_id) if isinstance(one, State)][-1]
    assert (back.order_id, back.gone_at, back.superseded_by) == (first, None, None)


def test_a_renamed_account_is_in_the_next_step_though_nothing_else_is_new(few: Shop) -> None:
    keep(few.runtime)
    execute(few.runtime.db, "UPDATE accounts SET name = 'Żółw'")
    keep(few.runtime)
    last = chain(few)[-1].manifest
    assert (last.first, last.account.name, last.parts) == (2, "Żółw", [])


def test_a_program_of_thirty_lines_reads_it_without_ours(few: Shop, bucket: Bucket, tmp_path: Path) -> None:
    read(few, b'{"id":"odd",\n"a":"\x00\\ud800"}', b'{"id":"deep","a":' + b"[" * 3000 + b"]" * 3000 + b"}")
    keep(few.runtime)
    over(few.runtime)
    keep(few.runtime)
    read(few, order(1))
    keep(few.runtime)
    script = ROOT / "docs" / "examples" / "read_archive.py"
    assert len([line for line in script.read_text().splitlines() if line.strip()]) <= 35
    assert example(few, bucket, tmp_path) == stored(few.runtime, few.account_id)


def test_that_program_keeps_what_two_databases_gave_one_number(
    few: Shop, bucket: Bucket, tmp_path: Path, make_installation: Callable[[], Runtime]
) -> None:
    keep(few.runtime)
    older = make_installation()
    brought_back(older, few.account_id)
    read(few, b'{"id":"order","v":1}', second=1)
    keep(few.runtime)
    read(Shop(few.world, older, few.seller_id, few.account_id), b'{"id":"order","v":2}', second=2)
    keep(older)
    assert {b'{"id":"order","v":1}', b'{"id":"order","v":2}'} <= set(example(few, bucket, tmp_path))


@pytest.mark.parametrize("damage", ["sha256 = '\\x00'", "body = '\\x00'"])
def test_a_document_that_is_not_what_was_stored_is_left_out_told_and_keeps_no_other_out(
    few: Shop, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    few.look()
    lost = few.value("SELECT max(order_id) FROM orders")
    execute(few.runtime.db, f"UPDATE order_versions SET {damage} WHERE order_id = :id", id=lost)
    execute(few.runtime.db, f"UPDATE order_extra_versions SET {damage}")
    capsys.readouterr()
    keep(few.runtime)
    extras = len(execute(few.runtime.db, "SELECT 1 FROM order_extra_versions"))
    assert capsys.readouterr().out.count("archive_document_refused") == extras + 1 > 1
    found = [one for one, _ in archived(few.runtime, few.account_id)]
    assert sum(isinstance(one, Version) for one in found) == 11
    assert not any(isinstance(one, Extra) for one in found)
    assert [one.order_id for one in found if isinstance(one, Change) and one.kinds == ["order.created"]] == [lost]
    assert listing.verify(few.runtime)[0].problem is None


def test_a_page_of_large_documents_ends_by_their_size_not_by_how_well_they_are_packed(
    few: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(few, *(order(number, filling="x" * 100_000) for number in range(4)))
    monkeypatch.setattr(reading, "PAGE_BYTES", 200_000)
    monkeypatch.setattr(reading, "FETCHED_AT_ONCE", 1)
    with database.snapshot(few.runtime.db) as tx:
        below = reading.horizon(tx)
        page = reading.page(tx, few.runtime.codec, few.account_id, reading.CHANGES, None, below=below)
    assert page.has_more
    assert sum(len(line) > 100_000 for line in page.lines) <= 3


# When


def test_an_account_of_which_nothing_is_new_has_nothing_to_do(few: Shop) -> None:
    keep(few.runtime)
    assert due(few.runtime) == 0
    few.follow()
    assert due(few.runtime) == 0


def test_what_is_new_is_due_within_five_minutes_and_not_at_once_after_a_step(few: Shop) -> None:
    keep(few.runtime)
    read(few, order(1))
    assert due(few.runtime) == 1
    [(wait,)] = execute(few.runtime.db, "SELECT extract(epoch FROM due_at - made_at) FROM archives")
    assert wait == state.EVERY_SECONDS == 150
    assert runs.LEASE.total_seconds() + worker.LOOK_SECONDS + float(wait) < 300


def test_a_clock_that_was_days_ahead_once_silences_no_archive(few: Shop) -> None:
    keep(few.runtime)
    execute(few.runtime.db, "UPDATE archives SET made_at = clock_timestamp() + interval '3 days'")
    read(few, order(1))
    assert due(few.runtime) == 1
    [(wait,)] = execute(few.runtime.db, "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM archives")
    assert wait <= state.EVERY_SECONDS


@pytest.mark.parametrize("table", ["order_events", "order_extra_versions", "unreadable_orders", "orders"])
def test_whatever_is_new_in_any_table_makes_the_archive_due(few: Shop, table: str) -> None:
    few.look()
    read(few, b"<html>")
    keep(few.runtime)
    assert due(few.runtime) == 0
    column = "state_xid" if table == "orders" else "xid"
    statement = f"UPDATE {table} SET {column} = pg_current_xact_id() WHERE ctid = (SELECT min(ctid) FROM {table})"
    execute(few.runtime.db, statement)
    assert due(few.runtime) == 1


def test_what_an_older_transaction_stores_later_is_not_passed_over(few: Shop) -> None:
    keep(few.runtime)
    begun, may_commit = threading.Event(), threading.Event()

    def slow() -> None:
        with database.transaction(few.runtime.db) as tx:
            tx.execute(sa.text("SELECT pg_current_xact_id()"))
            begun.set()
            assert may_commit.wait(30)
            statement = (
                "INSERT INTO order_events (account_id, event_id, event_data) SELECT id, '1', :body FROM accounts"
            )
            tx.execute(sa.text(statement), {"body": few.runtime.codec.compress(b'{"slow":1}')[1]})
            statement = "UPDATE order_events SET dictionary_id = :id WHERE event_id = '1'"
            tx.execute(sa.text(statement), {"id": few.runtime.codec.compress(b"")[0]})

    thread = threading.Thread(target=slow)
    thread.start()
    assert begun.wait(30)
    read(few, order(1))
    keep(few.runtime)
    may_commit.set()
    thread.join()
    keep(few.runtime)
    found = [body for _, body in archived(few.runtime, few.account_id)]
    assert b'{"slow":1}' in found
    assert found.count(order(1)) == 1


def test_without_a_bucket_there_is_nothing_to_do(few: Shop) -> None:
    look(few.runtime)
    object.__setattr__(few.runtime, "store", None)
    job.work(few.runtime, few.account_id)
    assert execute(few.runtime.db, "SELECT due_at, number FROM archives") == [(None, 0)]


# Crashes and outages


@pytest.mark.parametrize("where", ["in the file", "before the manifest", "after the manifest", "before the row"])
def test_a_worker_that_dies_leaves_one_truth_and_the_next_goes_on(
    few: Shop, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(few.runtime)
    read(few, *(order(number) for number in range(5)))

    def dies(*_: Any, **__: Any) -> Any:
        raise Died

    with monkeypatch.context() as patch:
        if where == "in the file":
            patch.setattr(reading, "PAGE_ROWS", 2)
            patch.setattr(runs.Run, "alive", dies)
        elif where == "before the manifest":
            patch.setattr(stores, "put", dies)
        elif where == "after the manifest":
            patch.setattr(state, "advance", dies)
        else:
            patch.setattr(state, "intend", dies)
        with pytest.raises(Died):
            keep(few.runtime)
    for one in chain(few):
        for part in one.manifest.parts:
            assert list(shelf.content(restore.store_of(few.runtime), shelf.key_of(few.account_id, one, part), part))
    execute(few.runtime.db, "UPDATE archives SET due_at = clock_timestamp(), leased_until = NULL")
    keep(few.runtime)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    assert [one.manifest.first for one in chain(few)] == [1, 2]


def test_a_worker_that_wakes_up_late_writes_nothing_and_changes_no_manifest(
    few: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(few.runtime)
    read(few, order(1))
    late: list[Callable[[], None]] = []
    put = runs.put_manifest

    def put_(*arguments: Any) -> None:
        late.append(lambda: put(*arguments))
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(runs, "put_manifest", put_)
        with pytest.raises(Died):
            keep(few.runtime)
    execute(few.runtime.db, "UPDATE archives SET due_at = clock_timestamp(), leased_until = NULL")
    keep(few.runtime)
    before = chain(few)
    with pytest.raises(LeaseLostError):
        late[0]()
    assert chain(few) == before


def test_a_bucket_that_is_away_is_tried_again_and_costs_nothing(few: Shop, bucket: Bucket) -> None:
    bucket.stop()
    keep(few.runtime)
    [(failures, error)] = execute(few.runtime.db, "SELECT failures, last_error FROM archives")
    assert failures == 1
    assert "does not answer" in error
    bucket.start()
    keep(few.runtime)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    assert execute(few.runtime.db, "SELECT failures FROM archives") == [(0,)]


def test_a_doubled_message_does_nothing(few: Shop) -> None:
    keep(few.runtime)
    job.work(few.runtime, few.account_id)
    assert len(chain(few)) == 1


# Two databases


def test_an_older_database_goes_on_behind_what_the_archive_holds_and_says_so(
    few: Shop, make_installation: Callable[[], Runtime], capsys: pytest.CaptureFixture[str]
) -> None:
    keep(few.runtime)
    older = make_installation()
    brought_back(older, few.account_id)
    read(few, order(1))
    keep(few.runtime)
    there = Shop(few.world, older, few.seller_id, few.account_id)
    read(there, order(2))
    keep(older)
    assert "archive_ahead_found" in capsys.readouterr().out
    assert {order(1), order(2)} <= set(bodies(few.runtime, few.account_id))
    assert [one.manifest.first for one in chain(few)] == [1, 2, 3]


def test_an_older_database_finds_its_place_after_the_steps_became_a_day(
    few: Shop, make_installation: Callable[[], Runtime]
) -> None:
    keep(few.runtime)
    older = make_installation()
    brought_back(older, few.account_id)
    for number in range(3):
        read(few, order(number))
        keep(few.runtime)
    over(few.runtime)
    keep(few.runtime)
    there = Shop(few.world, older, few.seller_id, few.account_id)
    read(there, order(9))
    keep(older)
    assert {order(0), order(1), order(2), order(9)} <= set(bodies(few.runtime, few.account_id))


def test_two_databases_that_write_one_step_at_once_overwrite_no_file_of_each_other(
    few: Shop, make_installation: Callable[[], Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clone of the database has everything in common with it, the generation of the lease, too."""
    keep(few.runtime)
    clone = make_installation()
    brought_back(clone, few.account_id)
    execute(clone.db, "UPDATE archives SET lease_generation = 1")
    read(few, order(1))
    read(Shop(few.world, clone, few.seller_id, few.account_id), order(2), order(3))
    put = runs.put_manifest

    def put_(run: runs.Run, *arguments: Any) -> None:
        """The clone stores its file before this manifest is put, and gets no further."""
        if run.runtime is clone:
            raise Died
        with pytest.raises(Died):
            keep(clone)
        put(run, *arguments)

    monkeypatch.setattr(runs, "put_manifest", put_)
    keep(few.runtime)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)


# A day that is over


def test_the_steps_of_a_day_become_one_file_that_holds_the_same(few: Shop, bucket: Bucket) -> None:
    for number in range(3):
        read(few, order(number))
        keep(few.runtime)
    before = archived(few.runtime, few.account_id)
    over(few.runtime)
    assert due(few.runtime) == 1
    keep(few.runtime)
    assert archived(few.runtime, few.account_id) == before
    [day] = chain(few)
    assert (day.manifest.first, day.manifest.last, len(day.manifest.parts)) == (1, 3, 1)
    assert [file.name for file in bucket.files() if "steps" in file.parts] == []
    read(few, order(7))
    keep(few.runtime)
    over(few.runtime)
    read(few, order(8))
    keep(few.runtime)
    assert [(one.manifest.first, one.manifest.last) for one in chain(few)] == [(1, 3), (4, 4), (5, 5)]
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)


@pytest.mark.parametrize("where", ["before the manifest", "after the manifest", "before the removal"])
def test_a_worker_that_dies_while_a_day_is_put_together_loses_nothing(
    few: Shop, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        read(few, order(number))
        keep(few.runtime)
    over(few.runtime)

    def dies(*_: Any, **__: Any) -> Any:
        raise Died

    names = {"before the manifest": "put", "before the removal": "delete"}
    with monkeypatch.context() as patch:
        if where in names:
            patch.setattr(stores, names[where], dies)
        else:
            patch.setattr(state, "advance", dies)
        with pytest.raises(Died):
            keep(few.runtime)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    execute(few.runtime.db, "UPDATE archives SET due_at = clock_timestamp(), leased_until = NULL")
    keep(few.runtime)
    assert [(one.manifest.first, one.manifest.last) for one in chain(few)] == [(1, 3)]
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)


def test_a_bucket_that_lets_nothing_be_removed_keeps_the_steps(few: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(few.runtime)
    over(few.runtime)

    def refuses(*_: Any) -> None:
        raise StorageUnavailableError("refused")

    monkeypatch.setattr(stores, "delete", refuses)
    keep(few.runtime)
    assert execute(few.runtime.db, "SELECT days_to, failures FROM archives") == [(1, 0)]
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)


def spoil(few: Shop, bucket: Bucket, name: str) -> None:
    """The first step of a day that is over loses a bit, a file or its manifest."""
    keep(few.runtime)
    over(few.runtime)
    mine = bucket.store(prefix="orders-backup")
    suffix = ".json" if name == "a missing manifest" else ".zst"
    key = next(key for key in stores.names(mine, f"archive/{few.account_id}/steps/") if key.endswith(suffix))
    if name == "a bit":
        stores.put(mine, key, (stores.get(mine, key) or b"")[:-1] + b"x")
    else:
        stores.delete(mine, [key])


SPOILED = ("a bit", "a missing file", "a missing manifest")


@pytest.mark.parametrize("damage", SPOILED)
def test_a_damaged_day_is_not_put_together_is_told_and_keeps_nothing_new_out(
    few: Shop, bucket: Bucket, damage: str
) -> None:
    spoil(few, bucket, damage)
    read(few, order(1))
    keep(few.runtime)
    [row] = execute(few.runtime.db, "SELECT failures, days_to, number, last_error FROM archives")
    assert row[:3] == (1, 0, 2), row
    assert "missing" in row[3] or "cannot be unpacked" in row[3]
    [step] = [file for file in bucket.files() if file.name == "0000000002.json"]
    assert manifests.link(step.read_bytes()).manifest.counts == {"version": 1}


def test_a_damaged_day_is_read_again_after_an_hour_and_what_is_new_does_not_wait_for_it(
    few: Shop, bucket: Bucket
) -> None:
    spoil(few, bucket, "a bit")
    keep(few.runtime)
    wait = "SELECT round(extract(epoch FROM due_at - clock_timestamp()) / 60) FROM archives"
    with database.transaction(few.runtime.db) as tx:
        state.wake(tx)
    assert execute(few.runtime.db, wait) == [(60,)]
    read(few, order(1))
    with database.transaction(few.runtime.db) as tx:
        state.wake(tx)
    assert execute(few.runtime.db, wait) < [(3,)]


# A chain that begins anew


@pytest.mark.parametrize("damage", SPOILED)
def test_an_archive_that_begins_anew_holds_everything_and_goes_on(
    few: Shop, bucket: Bucket, tmp_path: Path, damage: str
) -> None:
    spoil(few, bucket, damage)
    read(few, order(1))
    keep(few.runtime)
    before = set(bucket.files())
    anew.begin(few.runtime, few.account_id)
    keep(few.runtime)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    assert listing.verify(few.runtime)[0].problem is None
    over(few.runtime)
    read(few, order(2))
    keep(few.runtime)
    assert [(one.manifest.first, one.manifest.last) for one in chain(few)] == [(4, 4), (5, 5)]
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    assert before <= set(bucket.files())
    assert example(few, bucket, tmp_path) == stored(few.runtime, few.account_id)


def test_a_bucket_that_was_changed_gets_everything_when_the_archive_begins_anew(
    few: Shop, bucket: Bucket, make_installation: Callable[[], Runtime]
) -> None:
    keep(few.runtime)
    object.__setattr__(few.runtime, "store", bucket.store(prefix="elsewhere"))
    over(few.runtime)
    keep(few.runtime)
    assert execute(few.runtime.db, "SELECT failures FROM archives") == [(1,)]
    anew.begin(few.runtime, few.account_id)
    keep(few.runtime)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    assert execute(few.runtime.db, "SELECT failures FROM archives") == [(0,)]
    other = make_installation()
    object.__setattr__(other, "store", few.runtime.store)
    brought_back(other, few.account_id)
    over(other)
    read(Shop(few.world, other, few.seller_id, few.account_id), order(3))
    keep(other)
    assert bodies(other, few.account_id) == stored(other, few.account_id)
    assert listing.verify(other)[0].problem is None


def test_a_worker_in_the_middle_of_a_step_does_not_disturb_a_new_beginning(
    few: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has announced its manifest, and puts it only after the new chain has begun."""
    keep(few.runtime)
    read(few, order(1))
    late: list[Callable[[], None]] = []
    with monkeypatch.context() as patch:
        put = stores.put

        def stops(*arguments: Any, **how: Any) -> None:
            late.append(lambda: void(put(*arguments, **how)))
            raise Died

        patch.setattr(stores, "put", stops)
        with pytest.raises(Died):
            keep(few.runtime)
    anew.begin(few.runtime, few.account_id)
    late[0]()
    keep(few.runtime)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
    assert execute(few.runtime.db, "SELECT failures FROM archives") == [(0,)]


def test_another_database_of_the_past_goes_on_in_the_new_chain_with_all_it_has(
    few: Shop, make_installation: Callable[[], Runtime]
) -> None:
    keep(few.runtime)
    other = make_installation()
    brought_back(other, few.account_id)
    there = Shop(few.world, other, few.seller_id, few.account_id)
    read(there, order(1))
    keep(other)
    anew.begin(few.runtime, few.account_id)
    keep(few.runtime)
    assert order(1) not in bodies(few.runtime, few.account_id)
    execute(other.db, "UPDATE archives SET number = 3, days_to = 0")  # its next step is the new chain's first
    read(there, order(2))
    keep(other)
    assert {order(1), order(2)} <= set(bodies(other, few.account_id))


def test_an_archive_that_never_was_cannot_begin_anew(few: Shop) -> None:
    with pytest.raises(NotFoundError):
        anew.begin(few.runtime, few.account_id)


# Damage


def damaged(few: Shop, mine: stores.Store) -> dict[str, Callable[[], object]]:
    """Each changes the bucket in one way."""
    keys = stores.names(mine, f"archive/{few.account_id}/steps/")
    parts = [key for key in keys if key.endswith(".zst")]
    steps = [key for key in keys if key.endswith(".json")]

    def content(key: str) -> bytes:
        found = stores.get(mine, key)
        assert found is not None
        return found

    def flipped(key: str) -> None:
        bytes_ = bytearray(content(key))
        bytes_[len(bytes_) // 2] ^= 4
        stores.put(mine, key, bytes(bytes_))

    def swapped() -> None:
        stores.put(mine, steps[2], content(steps[2]).replace(str(few.account_id).encode(), str(UUID(int=1)).encode()))

    return {
        "a bit of a file": lambda: flipped(parts[1]),
        "a bit of a manifest": lambda: flipped(steps[1]),
        "a missing file": lambda: stores.delete(mine, [parts[0]]),
        "a file that was cut off": lambda: stores.put(mine, parts[2], content(parts[2])[:-7]),
        "a gap in the chain": lambda: stores.delete(mine, [steps[1]]),
        "a missing beginning": lambda: stores.delete(mine, [steps[0]]),
        "an older manifest": lambda: stores.put(mine, steps[2], content(steps[1])),
        "another account's": swapped,
        "files that changed places": lambda: stores.put(mine, parts[1], content(parts[2])),
    }


DAMAGES = (
    "a bit of a file",
    "a bit of a manifest",
    "a missing file",
    "a file that was cut off",
    "a gap in the chain",
    "a missing beginning",
    "an older manifest",
    "another account's",
    "files that changed places",
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_noticed(few: Shop, bucket: Bucket, damage: str) -> None:
    for number in range(3):
        read(few, order(number))
        keep(few.runtime)
    mine = bucket.store(prefix="orders-backup")
    assert len(bodies(few.runtime, few.account_id)) == 15
    damaged(few, mine)[damage]()
    with pytest.raises(BackupDamagedError):
        archived(few.runtime, few.account_id)


def test_a_chain_that_lost_its_end_is_told_from_what_the_database_knows(few: Shop, bucket: Bucket) -> None:
    for number in range(2):
        read(few, order(number))
        keep(few.runtime)
    [(number, head)] = execute(few.runtime.db, "SELECT number, head FROM archives")
    manifests.require_step(chain(few), number, head)
    mine = bucket.store(prefix="orders-backup")
    stores.delete(mine, [shelf.step(few.account_id, 2)])
    with pytest.raises(BackupDamagedError, match="ends at 1"):
        manifests.require_step(chain(few), number, head)
