"""A claimed sync: it stops where the account is paused, and goes on slice after slice while nobody waits."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.budget import Priority
from orders_backup.sync import job as jobs
from orders_backup.sync import state
from orders_backup.sync.job import Job

LISTING = "SELECT due_at, leased_until FROM syncs WHERE account_id = :account AND kind = 'listing'"


def work(shop: Shop, body: Callable[[Job], datetime]) -> None:
    shop.change("UPDATE syncs SET due_at = clock_timestamp() + interval '1 day'")
    shop.change("UPDATE syncs SET due_at = clock_timestamp() WHERE account_id = :account AND kind = 'listing'")
    jobs.work(shop.runtime, shop.account_id, "listing", priority=Priority.BACKFILL, body=body)


def one_call(job: Job) -> None:
    job.calls.ask(Route.DEFAULT, lambda token: client.me(job.runtime.allegro, token))


@pytest.mark.parametrize("stop", ["paused = true", "status = 'disconnected'"])
def test_a_job_writes_nothing_once_its_account_was_stopped(level: Shop, stop: str) -> None:
    def body(job: Job) -> datetime:
        level.change(f"UPDATE accounts SET {stop} WHERE id = :account")
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
        raise AssertionError("the job went on")

    work(level, body)
    assert level.rows(LISTING) == [(None, None)]


def test_a_resumed_account_is_due_at_the_next_tick(level: Shop) -> None:
    level.change("UPDATE accounts SET paused = true WHERE id = :account")
    level.follow()
    assert level.value("SELECT due_at FROM syncs WHERE kind = 'journal'") is None
    level.change("UPDATE accounts SET paused = false WHERE id = :account")
    with database.transaction(level.runtime.db) as tx:
        state.wake(tx)
    assert level.value("SELECT due_at <= clock_timestamp() FROM syncs WHERE kind = 'journal'")


def test_a_run_that_is_asked_for_is_due_at_once_though_its_job_waits_for_the_budget(level: Shop) -> None:
    level.change("UPDATE syncs SET due_at = clock_timestamp() + interval '65 s', rung_at = clock_timestamp()")
    with database.transaction(level.runtime.db) as tx:
        state.request(tx, level.account_id, "incremental")
    assert level.value("SELECT due_at <= clock_timestamp() AND rung_at IS NULL FROM syncs WHERE kind = 'journal'")


def test_a_job_goes_on_slice_after_slice_while_nobody_waits(level: Shop) -> None:
    ends = []

    def body(job: Job) -> datetime:
        ends.append(job.ends_at)
        one_call(job)
        return job.now() if len(ends) < 4 else job.now() + timedelta(hours=1)

    work(level, body)
    assert len(ends) == 4
    assert ends == sorted(ends)
    assert level.value("SELECT due_at > clock_timestamp() + interval '50 min' FROM syncs WHERE kind = 'listing'")


def test_a_job_gives_way_after_its_slice_to_whoever_waits(level: Shop, make_shop: Callable[[int], Shop]) -> None:
    other = make_shop(0)
    with database.transaction(level.runtime.db) as tx:
        state.wake(tx)
    slices = []

    def body(job: Job) -> datetime:
        slices.append(1)
        one_call(job)
        return job.now()

    work(level, body)
    assert len(slices) == 1
    assert level.value("SELECT due_at <= clock_timestamp() FROM syncs WHERE account_id = :account AND kind = 'listing'")
    other.change("UPDATE syncs SET due_at = NULL WHERE account_id = :account")


def test_a_job_that_gets_nowhere_does_not_spin(level: Shop) -> None:
    slices = []

    def body(job: Job) -> datetime:
        slices.append(1)
        return job.now()

    work(level, body)
    assert len(slices) == 1
