"""Whose turn it is: no seller and no kind of work keeps others waiting, and the broker never holds much."""

from collections import Counter
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from orders_backup import db as database
from orders_backup import due, roster
from orders_backup.budget import Bucket
from orders_backup.due import Key, Lease
from orders_backup.roster import Report
from orders_backup.sync import dispatch, state
from orders_backup.tables import accounts, request_budget, sync_history, syncs, worker_slots

PLENTY = Bucket("polls", 1_000_000)
SLOTS = 8


@pytest.fixture
def db(shared_db: Engine) -> Engine:
    """That database, empty."""
    with database.transaction(shared_db) as tx:
        tx.execute(sa.text("TRUNCATE accounts, request_budget, worker_slots CASCADE"))
    return shared_db


def test_the_broker_never_holds_more_than_twice_as_many_messages_as_there_are_slots(db: Engine) -> None:
    add(db, 40, "journal")
    add(db, 40, "listing")
    add(db, 40, "listing", failures=2)
    told = sum(len(ring(db)) for _ in range(5))
    assert SLOTS <= told <= 2 * SLOTS + SLOTS // 4


def test_as_many_are_told_again_as_were_taken(db: Engine) -> None:
    add(db, 40, "journal")
    first = ring(db)
    for key in first[:5]:
        assert claim(db, key)
    assert len(ring(db)) == 5


@pytest.mark.parametrize("kind", dispatch.LASTING)
def test_journals_are_told_of_however_much_else_is_due_for_longer(db: Engine, kind: str) -> None:
    add(db, 300, kind, due_for=timedelta(hours=1))
    add(db, SLOTS, "journal", due_for=timedelta(seconds=1))
    told = ring(db)
    assert Counter(key["kind"] for key in told)["journal"] == SLOTS


def test_every_standing_job_but_the_journal_is_of_those_that_last() -> None:
    assert {"journal", *dispatch.LASTING} == set(state.RUN_KINDS)


@pytest.mark.parametrize("kind", dispatch.LASTING)
def test_of_what_lasts_no_kind_takes_the_last_slot(db: Engine, kind: str) -> None:
    add(db, 100, kind)
    assert len(ring(db)) == SLOTS // 2 - 1
    other = next(one for one in dispatch.LASTING if one != kind)
    add(db, 100, other)
    assert [key["kind"] for key in ring(db)] == [other]


def test_what_the_polls_may_spend_is_spent_on_journals_alone(db: Engine) -> None:
    few = Bucket("polls", 100)
    for kind in dispatch.LASTING:
        add(db, 100, kind)
    assert len(ring(db, slots=100, polls=few)) == 50
    add(db, 100, "journal")
    assert len(ring(db, slots=100, polls=few)) == few.burst


def test_listings_never_hold_more_than_half_of_the_slots(db: Engine) -> None:
    add(db, 100, "listing")
    add(db, 100, "listing", succeeded=True)
    held = [claim(db, key) for _ in range(10) for key in ring(db)]
    assert len(held) == SLOTS // 2


def test_backfills_leave_a_slot_to_full_syncs_and_full_syncs_to_backfills(db: Engine) -> None:
    backfills = add(db, 100, "listing")
    assert len(ring(db)) == SLOTS // 2 - 1
    fulls = add(db, 100, "listing", succeeded=True)
    assert [key["account_id"] in fulls for key in ring(db)] == [True]
    assert not set(fulls) & set(backfills)


def test_a_freed_slot_goes_to_the_kind_that_holds_fewer(db: Engine) -> None:
    add(db, 100, "listing")
    fulls = add(db, 100, "listing", succeeded=True)
    held = [claim(db, key) for _ in range(3) for key in ring(db)]
    assert len(held) == SLOTS // 2
    for _ in range(20):
        kinds = Counter(lease.key["account_id"] in fulls for lease in held if lease)
        assert min(kinds[True], kinds[False]) >= 1
        most = kinds.most_common(1)[0][0]
        done = next(lease for lease in held if lease and (lease.key["account_id"] in fulls) is most)
        settle(db, done)
        held = [lease for lease in held if lease is not done] + [claim(db, key) for key in ring(db)]
    assert len(held) == SLOTS // 2


def test_where_there_is_one_slot_for_what_lasts_every_kind_of_it_comes_to_it(db: Engine) -> None:
    add(db, 80, "listing", due_for=timedelta(hours=1))
    fulls = add(db, 80, "listing", succeeded=True)
    add(db, 80, "sweep")
    add(db, 80, "extras")
    kinds = set()
    for _ in range(80):
        [key] = ring(db, slots=2)
        lease = claim(db, key)
        assert lease
        kinds.add((key["kind"], key["account_id"] in fulls))
        settle(db, lease)
    assert kinds == {("listing", True), ("listing", False), ("sweep", False), ("extras", False)}


def test_accounts_that_fail_are_tried_in_a_quarter_of_the_slots_and_delay_nobody(db: Engine) -> None:
    poison = add(db, 50, "journal", failures=3, due_for=timedelta(hours=1))
    well = add(db, 5, "journal", due_for=timedelta(seconds=1))
    told = [key["account_id"] for _ in range(5) for key in ring(db)]
    assert set(well) <= set(told)
    assert len(set(poison) & set(told)) == SLOTS // 4


def test_whoever_was_served_waits_behind_all_that_became_due_before(db: Engine) -> None:
    ids = add(db, 9, "listing")
    served: list[UUID] = []
    while len(served) < 27:
        for key in ring(db):
            lease = claim(db, key)
            assert lease
            served.append(key["account_id"])
            settle(db, lease)
    assert Counter(served) == dict.fromkeys(ids, 3)


def test_what_somebody_asked_for_comes_first(db: Engine) -> None:
    add(db, 50, "journal", due_for=timedelta(hours=1))
    [asked] = add(db, 1, "journal", due_for=timedelta(0))
    with database.transaction(db) as tx:
        run = {"id": uuid4(), "account_id": asked, "kind": "incremental", "status": "queued"}
        tx.execute(sa.insert(sync_history).values(run))
    assert asked in {key["account_id"] for key in ring(db)}


def test_a_full_sync_that_somebody_asked_for_hastens_no_journal(db: Engine) -> None:
    add(db, 50, "journal", due_for=timedelta(hours=1))
    [asked] = add(db, 1, "journal", due_for=timedelta(0))
    with database.transaction(db) as tx:
        run = {"id": uuid4(), "account_id": asked, "kind": "reconcile", "status": "queued"}
        tx.execute(sa.insert(sync_history).values(run))
    assert asked not in {key["account_id"] for key in ring(db)}


def test_a_full_sync_that_somebody_asked_for_goes_before_those_due_for_longer(db: Engine) -> None:
    add(db, 50, "listing", due_for=timedelta(hours=1), succeeded=True)
    [polled, asked] = add(db, 2, "listing", due_for=timedelta(0), succeeded=True)
    with database.transaction(db) as tx:
        rows = [(polled, "incremental"), (asked, "full")]
        runs = [{"id": uuid4(), "account_id": one, "kind": kind, "status": "queued"} for one, kind in rows]
        tx.execute(sa.insert(sync_history), runs)
    told = {key["account_id"] for key in ring(db)}
    assert asked in told
    assert polled not in told


def test_journals_are_polled_no_more_than_their_share_of_the_limit_allows(db: Engine) -> None:
    add(db, 200, "journal")
    few = Bucket("polls", 100)
    told = ring(db, slots=1000, polls=few)
    assert len(told) == few.burst
    assert ring(db, slots=1000, polls=few) == []
    with database.transaction(db) as tx:
        waited = timedelta(seconds=1 / few.rate + 0.01)
        tx.execute(sa.update(request_budget).values(full_at=request_budget.c.full_at - waited))
    assert len(ring(db, slots=1000, polls=few)) == 1


def test_half_of_the_clients_limit_is_enough_for_ten_thousand_sellers_at_the_usual_interval() -> None:
    bucket = dispatch.polls("client", 9000)
    assert bucket.rate * 150 > 10_000
    assert bucket.rate <= 0.5 * Bucket("client", 9000).rate + 0.1


def test_two_schedulers_tell_of_each_sync_once(db: Engine) -> None:
    add(db, 4, "journal")
    with database.transaction(db) as one, database.transaction(db) as other:
        first = dispatch.ring(one, slots=2, polls=Bucket("a", 10_000))
        second = dispatch.ring(other, slots=2, polls=Bucket("b", 10_000))
    told = [str(key) for key in [*first, *second]]
    assert len(told) == len(set(told)) == 4


def test_a_message_that_is_lost_is_sent_again(db: Engine) -> None:
    add(db, 100, "journal")
    assert len(ring(db)) == len(ring(db, after=due.RING_AGAIN_AFTER + timedelta(seconds=1)))


def test_a_worker_is_counted_while_it_is_at_work_and_one_is_assumed(db: Engine) -> None:
    with database.transaction(db) as tx:
        assert roster.slots(tx) == roster.SLOTS
        for report in (Report("one", 3), Report("other", 4), Report("one", 3)):
            roster.put(tx, report)
        assert roster.slots(tx) == 7
        gone = sa.update(worker_slots).values(seen_at=worker_slots.c.seen_at - roster.PRESENT_FOR)
        tx.execute(gone.where(worker_slots.c.slots == 4))
        assert roster.slots(tx) == 3
        roster.strike(tx, "one")
        assert roster.slots(tx) == roster.SLOTS


def test_somebody_waits_only_where_work_of_the_same_length_is_due_and_not_held(db: Engine) -> None:
    def waits(kind: str) -> bool:
        with database.transaction(db) as tx:
            return dispatch.somebody_waits(tx, kind)

    add(db, 1, "listing")
    add(db, 1, "journal", due_for=-timedelta(minutes=1))
    assert waits("listing")
    assert not waits("journal")
    for key in ring(db):
        assert claim(db, key)
    assert not waits("listing")


def add(
    db: Engine,
    count: int,
    kind: str,
    *,
    due_for: timedelta = timedelta(minutes=1),
    failures: int = 0,
    succeeded: bool = False,
) -> list[UUID]:
    """So many accounts with a sync that has been due for so long; each a little longer than the next."""
    ids = [uuid4() for _ in range(count)]
    with database.transaction(db) as tx:
        now = database.clock(tx)
        sellers = [{"id": one, "user_id": uuid4(), "name": "shop", "status": "pending"} for one in ids]
        tx.execute(sa.insert(accounts), sellers)
        rows = [
            {
                "account_id": one,
                "kind": kind,
                "due_at": now - due_for - timedelta(milliseconds=count - number),
                "failures": failures,
                "succeeded_at": now if succeeded else None,
            }
            for number, one in enumerate(ids)
        ]
        tx.execute(sa.insert(syncs), rows)
    return ids


def ring(db: Engine, *, slots: int = SLOTS, polls: Bucket = PLENTY, after: timedelta = timedelta(0)) -> list[Key]:
    with database.transaction(db) as tx:
        tx.execute(sa.update(syncs).values(rung_at=syncs.c.rung_at - after))
        return dispatch.ring(tx, slots=slots, polls=polls)


def claim(db: Engine, key: Key) -> Lease | None:
    with database.transaction(db) as tx:
        return due.claim(tx, syncs, key, lease=timedelta(minutes=1))


def settle(db: Engine, lease: Lease) -> None:
    """A slice has ended, and there is more to do."""
    with database.transaction(db) as tx:
        due.settle(tx, lease, due_at=database.clock(tx))
