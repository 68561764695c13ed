"""Claimable work: rung once, claimed once, fenced, settled – and what a worker that wakes up too late may still do."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from orders_backup import db as database
from orders_backup import due
from orders_backup.due import Key, Lease
from orders_backup.errors import LeaseLostError
from orders_backup.tables import accounts, syncs

SECOND = timedelta(seconds=1)
AT_ONCE = timedelta(0)
NOW = sa.func.clock_timestamp()


@pytest.fixture
def db(shared_db: Engine) -> Engine:
    """That database, empty."""
    with database.transaction(shared_db) as tx:
        tx.execute(sa.text("TRUNCATE accounts CASCADE"))
    return shared_db


@pytest.fixture
def job(db: Engine) -> Key:
    """One piece of work that is due."""
    return add(db)


def test_of_eight_who_claim_at_once_one_wins(db: Engine, job: Key) -> None:
    at_once = threading.Barrier(8)

    def try_it(_: int) -> Lease | None:
        at_once.wait()
        return claim(db, job)

    with ThreadPoolExecutor(8) as pool:
        won = [lease for lease in pool.map(try_it, range(8)) if lease]
    assert [lease.generation for lease in won] == [1]


@pytest.mark.parametrize("due_in", [timedelta(hours=1), None])
def test_what_is_not_due_cannot_be_claimed_and_is_not_rung(db: Engine, due_in: timedelta | None) -> None:
    job = add(db, due_in=due_in)
    assert claim(db, job) is None
    assert ring(db) == []


def test_what_does_not_exist_cannot_be_claimed(db: Engine) -> None:
    assert claim(db, {"account_id": uuid4(), "kind": "journal"}) is None


def test_a_held_lease_is_not_claimed_and_an_expired_one_is(db: Engine, job: Key) -> None:
    first = claim(db, job)
    assert first
    assert claim(db, job) is None
    change(db, job, leased_until=NOW - SECOND)
    second = claim(db, job)
    assert second
    assert second.generation == first.generation + 1


def test_a_worker_that_wakes_up_after_its_work_was_taken_writes_nothing(db: Engine, job: Key) -> None:
    late = claim(db, job, lease=AT_ONCE)
    second = claim(db, job)
    assert late
    assert second
    before = row(db, job)
    with pytest.raises(LeaseLostError), database.transaction(db) as tx:  # noqa: PT012
        due.fence(tx, late, extend=SECOND)
        tx.execute(sa.update(syncs).values(cursor="written too late"))
    with pytest.raises(LeaseLostError), database.transaction(db) as tx:
        due.settle(tx, late, due_at=None, cursor="settled too late")
    with pytest.raises(LeaseLostError), database.transaction(db) as tx:  # noqa: PT012
        tx.execute(sa.update(syncs).values(cursor="written before the fence"))
        due.fence(tx, late, extend=SECOND)
    assert row(db, job) == before
    settle(db, second)


def test_a_settled_job_cannot_be_settled_again_once_somebody_claimed_it(db: Engine, job: Key) -> None:
    first = claim(db, job)
    assert first
    settle(db, first, due_at=first.now)
    assert claim(db, job)
    with pytest.raises(LeaseLostError):
        settle(db, first)


def test_an_expired_lease_that_nobody_took_may_still_finish(db: Engine, job: Key) -> None:
    lease = claim(db, job, lease=AT_ONCE)
    assert lease
    with database.transaction(db) as tx:
        due.fence(tx, lease, extend=timedelta(minutes=1))
    assert claim(db, job) is None
    settle(db, lease)


def test_a_fence_holds_the_work_until_its_transaction_ends(db: Engine, job: Key) -> None:
    lease = claim(db, job, lease=AT_ONCE)
    assert lease
    with ThreadPoolExecutor(1) as pool:
        with database.transaction(db) as tx:
            due.fence(tx, lease, extend=timedelta(minutes=1))
            second = pool.submit(claim, db, job)
            assert not is_done(second.result)
        assert second.result() is None


def test_a_fence_that_is_rolled_back_extends_nothing(db: Engine, job: Key) -> None:
    lease = claim(db, job, lease=AT_ONCE)
    assert lease
    with pytest.raises(ZeroDivisionError), database.transaction(db) as tx:  # noqa: PT012
        due.fence(tx, lease, extend=timedelta(minutes=1))
        raise ZeroDivisionError
    assert claim(db, job)


def test_due_work_is_told_once_and_again_when_nobody_acted_on_it(db: Engine, job: Key) -> None:
    assert ring(db) == [job]
    assert ring(db) == []
    change(db, job, rung_at=NOW - due.RING_AGAIN_AFTER + SECOND)
    assert ring(db) == []
    change(db, job, rung_at=NOW - due.RING_AGAIN_AFTER - SECOND)
    assert ring(db) == [job]
    assert ring(db) == []


def test_work_that_somebody_holds_is_not_told_until_the_lease_expires(db: Engine, job: Key) -> None:
    assert claim(db, job)
    assert ring(db) == []
    change(db, job, leased_until=NOW - SECOND)
    assert ring(db) == [job]


def test_the_work_of_a_crashed_worker_is_told_again_as_soon_as_its_lease_runs_out(db: Engine, job: Key) -> None:
    assert ring(db) == [job]
    assert claim(db, job, lease=timedelta(milliseconds=50)) is not None
    assert ring(db) == []
    time.sleep(0.06)
    assert ring(db) == [job]


def test_settled_work_is_told_as_soon_as_it_is_due_again(db: Engine, job: Key) -> None:
    assert ring(db) == [job]
    lease = claim(db, job)
    assert lease
    settle(db, lease, due_at=lease.now)
    assert ring(db) == [job]


def test_the_longest_due_is_told_first_and_no_more_than_the_limit(db: Engine) -> None:
    jobs = [add(db, due_in=-minutes * timedelta(minutes=1)) for minutes in (1, 3, 2)]
    assert {tuple(key.items()) for key in ring(db, limit=2)} == {tuple(jobs[1].items()), tuple(jobs[2].items())}
    assert ring(db, limit=2) == [jobs[0]]


def test_many_ringers_at_once_tell_each_row_once(db: Engine) -> None:
    jobs = [add(db) for _ in range(120)]
    at_once = threading.Barrier(8)

    def keep_ringing(_: int) -> list[Key]:
        at_once.wait()
        told = []
        for _ in range(40):
            told += ring(db, limit=5)
        return told

    with ThreadPoolExecutor(8) as pool:
        told = [str(key) for some in pool.map(keep_ringing, range(8)) for key in some]
    assert sorted(told) == sorted(str(key) for key in jobs)


def test_what_a_ringer_that_died_wanted_to_tell_is_told_by_the_next(db: Engine, job: Key) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction(db) as tx:  # noqa: PT012
        assert due.ring(tx, syncs) == [job]
        raise ZeroDivisionError
    assert ring(db) == [job]


def test_work_settled_with_no_moment_sleeps_until_somebody_makes_it_due(db: Engine, job: Key) -> None:
    lease = claim(db, job)
    assert lease
    settle(db, lease, due_at=None)
    assert row(db, job)["due_at"] is None
    assert (claim(db, job), ring(db)) == (None, [])
    make_due(db, job)
    assert ring(db) == [job]
    assert claim(db, job)


def test_failures_are_counted_by_whoever_settles_and_told_to_the_next(db: Engine, job: Key) -> None:
    lease = claim(db, job)
    assert lease
    assert lease.failures == 0
    with database.transaction(db) as tx:
        due.settle(tx, lease, due_at=lease.now, failures=3, last_error="Allegro is unavailable.", cursor="7")
    again = claim(db, job)
    assert again
    assert (again.failures, row(db, job)["last_error"], row(db, job)["cursor"]) == (3, "Allegro is unavailable.", "7")
    settle(db, again)
    assert (row(db, job)["failures"], row(db, job)["last_error"]) == (0, None)


def test_making_work_due_never_puts_it_off_and_never_gives_it_to_a_second_worker(db: Engine) -> None:
    waiting, later = add(db, due_in=-timedelta(hours=2)), add(db, due_in=timedelta(hours=2))
    before = row(db, waiting)["due_at"]
    make_due(db, waiting)
    make_due(db, later)
    assert row(db, waiting)["due_at"] == before
    assert claim(db, later)
    make_due(db, later)
    assert claim(db, later) is None


def test_work_that_is_given_back_is_rung_for_at_once(db: Engine, job: Key) -> None:
    assert ring(db) == [job]
    lease = claim(db, job)
    assert lease
    assert ring(db) == []
    give_back(db, lease)
    assert ring(db) == [job]


def test_who_lost_a_lease_gives_nothing_back(db: Engine, job: Key) -> None:
    lost = claim(db, job, lease=AT_ONCE)
    assert lost
    mine = claim(db, job)
    assert mine
    give_back(db, lost)
    assert claim(db, job) is None
    settle(db, mine)


def test_only_the_named_work_is_claimed_fenced_and_settled(db: Engine, job: Key) -> None:
    other = add(db)
    sibling = job | {"kind": "listing"}
    change_all = sa.insert(syncs).values(**sibling, due_at=NOW - SECOND)
    with database.transaction(db) as tx:
        tx.execute(change_all)
    untouched = [row(db, other), row(db, sibling)]
    lease = claim(db, job)
    assert lease
    with database.transaction(db) as tx:
        due.fence(tx, lease, extend=SECOND)
    settle(db, lease)
    assert [row(db, other), row(db, sibling)] == untouched


def add(db: Engine, *, due_in: timedelta | None = -SECOND) -> Key:
    """One more account with a journal to follow, due then; None: asleep."""
    account_id = uuid4()
    key = {"account_id": account_id, "kind": "journal"}
    with database.transaction(db) as tx:
        seller = {"id": account_id, "user_id": uuid4(), "name": "shop", "status": "pending"}
        tx.execute(sa.insert(accounts).values(seller))
        tx.execute(sa.insert(syncs).values(**key, due_at=None if due_in is None else NOW + due_in))
    return key


def ring(db: Engine, *, limit: int = 200) -> list[Key]:
    with database.transaction(db) as tx:
        return due.ring(tx, syncs, limit=limit)


def claim(db: Engine, key: Key, *, lease: timedelta = timedelta(minutes=1)) -> Lease | None:
    with database.transaction(db) as tx:
        return due.claim(tx, syncs, key, lease=lease)


def settle(db: Engine, lease: Lease, **values: Any) -> None:
    with database.transaction(db) as tx:
        due.settle(tx, lease, **{"due_at": None, **values})


def give_back(db: Engine, lease: Lease) -> None:
    with database.transaction(db) as tx:
        due.give_back(tx, lease)


def make_due(db: Engine, key: Key) -> None:
    with database.transaction(db) as tx:
        due.make_due(tx, syncs, key)


def change(db: Engine, key: Key, **values: object) -> None:
    """Moves the row's times, as if some had passed."""
    with database.transaction(db) as tx:
        tx.execute(sa.update(syncs).values(values).where(*is_row(key)))


def row(db: Engine, key: Key) -> dict[str, Any]:
    with database.transaction(db) as tx:
        return dict(tx.execute(sa.select(syncs).where(*is_row(key))).mappings().one())


def is_row(key: Key) -> list[sa.ColumnElement[bool]]:
    return [syncs.c[name] == value for name, value in key.items()]


def is_done(result: Any) -> bool:
    """Whether it comes within a fifth of a second."""
    try:
        result(timeout=0.2)
    except TimeoutError:
        return False
    return True
