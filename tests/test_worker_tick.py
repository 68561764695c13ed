"""The tick where the broker is away, and what a worker leaves behind: no work waits for a message that nobody sent."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from kombu.exceptions import OperationalError

from orders_backup import bell, due, roster, worker
from orders_backup import db as database
from orders_backup.canary import Hearing
from orders_backup.due import Key
from orders_backup.roster import Report
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.tables import account_tokens, accounts, device_flows, syncs, worker_slots

NOBODY = Settings(broker_url="redis://127.0.0.1:9/0")


class Falling:
    """A broker that takes so many messages and is away then."""

    def __init__(self, takes: int) -> None:
        self.takes, self.taken = takes, list[tuple[str, Any]]()

    def send_task(self, name: str, *, kwargs: dict[str, str], **_: object) -> None:
        if len(self.taken) == self.takes:
            raise OperationalError("away")
        self.taken.append((name, kwargs))


@pytest.fixture
def work(runtime: Runtime) -> Runtime:
    """Two syncs of each of three accounts are due, and a login is under way."""
    ids = [uuid4() for _ in range(3)]
    with database.transaction(runtime.db) as tx:
        now = database.clock(tx)
        sellers = [{"id": one, "user_id": uuid4(), "name": "shop", "status": "pending"} for one in ids]
        tx.execute(sa.insert(accounts), sellers)
        kinds = ("journal", "sweep")
        tx.execute(
            sa.insert(syncs), [{"account_id": one, "kind": kind, "due_at": now} for one in ids for kind in kinds]
        )
        flow = {"account_id": ids[0], "device_code_sealed": b"", "user_code": "a"}
        uris = {"verification_uri": "b", "verification_uri_complete": "c"}
        tx.execute(sa.insert(device_flows), [{**flow, **uris, "interval_seconds": 5, "expires_at": now, "due_at": now}])
    return runtime


def told(runtime: Runtime) -> list[Key]:
    """What counts as rung for."""
    with database.transaction(runtime.db) as tx:
        tables = (syncs, device_flows, account_tokens)
        return [
            dict(row._mapping)
            for table in tables
            for row in tx.execute(sa.select(*table.primary_key.columns).where(table.c.rung_at.is_not(None)))
        ]


def test_what_could_not_be_sent_does_not_count_as_told(work: Runtime) -> None:
    with pytest.raises(bell.AWAY):
        worker.tick(work, bell.celery_app(NOBODY), wake=False)
    assert told(work) == []


@pytest.mark.parametrize("takes", [1, 4])
def test_of_a_tick_that_was_cut_short_the_next_sends_the_rest_and_no_more(work: Runtime, takes: int) -> None:
    broker: Any = Falling(takes)
    with pytest.raises(bell.AWAY):
        worker.tick(work, broker, wake=False)
    assert len(told(work)) == takes
    again: Any = Falling(100)
    assert worker.tick(work, again, wake=False) == 7 - takes
    sent = [str(message) for message in [*broker.taken, *again.taken]]
    assert len(sent) == len(set(sent)) == 7


def test_a_scheduler_warns_of_accounts_that_nobody_syncs(runtime: Runtime, tmp_path: Path) -> None:
    with database.transaction(runtime.db) as tx:
        tx.execute(
            sa.text("""INSERT INTO accounts (id, user_id, name, status, seller_id, paused, connected_at)
                       VALUES (gen_random_uuid(), gen_random_uuid(), 'shop', 'active', '1', true,
                               now() - interval '46 days')""")
        )
    named = runtime.settings.model_dump(include={"database_url", "broker_url", "data_dir"})
    environment = {name.upper(): str(value) for name, value in named.items()}
    environment |= {"ENCRYPTION_KEYS": runtime.settings.encryption_keys.get_secret_value(), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "orders_backup.worker", "scheduler"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as scheduler:
        assert scheduler.stdout is not None
        try:
            assert any('"journal_gap_near"' in line and "account_warned" in line for line in scheduler.stdout)
        finally:
            scheduler.terminate()


def test_what_a_worker_leaves_undone_is_due_for_the_others_at_once(work: Runtime) -> None:
    with database.transaction(work.db) as tx:
        roster.put(tx, Report("gone", 8))
        keys = due.ring(tx, syncs)
        leases = [due.claim(tx, syncs, key, lease=work.settings.lease) for key in keys]
    worker._leave_behind(work, "gone", [[lease] for lease in leases[:2] if lease])
    with database.transaction(work.db) as tx:
        assert sorted(map(str, due.ring(tx, syncs))) == sorted(map(str, keys[:2]))
        assert tx.execute(sa.select(sa.func.count()).select_from(worker_slots)).scalar_one() == 0


def test_a_worker_leaves_behind_what_its_tasks_claimed_and_nothing_that_others_hold(work: Runtime) -> None:
    with database.transaction(work.db) as tx:
        mine, others, *_ = due.ring(tx, syncs)
        assert due.claim(tx, syncs, others, lease=work.settings.lease)
    hearing, undone = Hearing(hands=2), list[Any]()

    def claims(key: Key) -> None:
        with database.transaction(work.db) as tx:
            due.claim(tx, syncs, key, lease=work.settings.lease)
        undone.extend(hearing.working_on())

    for key in (mine, others):
        worker._run(hearing, "sync", {name: str(value) for name, value in key.items()}, partial(claims, key))
    worker._leave_behind(work, "gone", undone)
    with database.transaction(work.db) as tx:
        assert due.ring(tx, syncs) == [mine]
    assert hearing.working_on() == []
