"""The sweeper: what a crash left is mended without broker and scheduler, and nothing waits for a person."""

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest
import sqlalchemy as sa
from tests.accounts.test_journal import HOURS, Login, make_login
from tests.clockwork import make_clockwork
from tests.storage import Bucket, bucket

from orders_backup import db as database
from orders_backup.accounts import connect, journal, pairs, sweeper, tokens
from orders_backup.accounts.sweeper import Sweep
from orders_backup.allegro import oauth
from orders_backup.errors import (
    AllegroUnavailableError,
    DatabaseUnavailableError,
    LeaseLostError,
    OrdersBackupError,
    ReauthorizationRequiredError,
    TokenBusyError,
    TokenRefusedError,
)
from orders_backup.settings import Settings

__all__ = ["bucket", "make_clockwork", "make_login"]

TOKEN = "/auth/oauth/token"


@pytest.fixture
def login(make_login: Callable[[Settings | None], Login]) -> Login:
    return make_login(None)


def test_an_open_refresh_is_finished_by_any_worker_well_inside_the_grace(login: Login) -> None:
    login.world.faults("lost_token_answer")
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    login.clockwork.passes(14)
    login.sweeps()
    assert login.generation == 1
    login.clockwork.passes(3)
    login.sweeps()
    assert login.generation == 2
    assert login.calls() == login.seller_id


def test_a_pair_that_the_database_could_not_take_is_on_the_disk_and_stored_hours_later(login: Login) -> None:
    def away(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("UPDATE account_tokens SET generation"):
            raise psycopg.OperationalError("the database is away")

    sa.event.listen(login.runtime.db, "before_cursor_execute", away)
    with pytest.raises(DatabaseUnavailableError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    sa.event.remove(login.runtime.db, "before_cursor_execute", away)
    assert login.generation == 1
    login.clockwork.passes(2 * HOURS)
    login.sweeps()
    assert login.generation == 2
    assert len(login.world.tokens) == 1
    assert login.calls() == login.seller_id


def test_a_pair_in_the_spool_wakes_an_account_that_was_given_up(login: Login) -> None:
    with database.transaction(login.runtime.db) as tx:
        row = pairs.found(tx, login.account_id)
    assert row is not None
    old = login.runtime.vault.open(row.refresh_sealed, login.account_id, 1, "refresh")
    pair = oauth.refresh(login.runtime.oauth, old)
    login.clockwork.passes(2 * HOURS)
    login.works_until_settled()
    assert login.status == "reauthorization_required"
    sealed = pairs.seal(login.runtime, login.account_id, 2, pair, now=login.clockwork.now())
    journal.spooled(login.runtime, login.account_id, 2, sealed)
    login.sweeps()
    assert login.status == "active"
    assert login.calls() == login.seller_id


def test_the_thread_carries_what_is_left_before_it_ends(login: Login) -> None:
    stopped = threading.Event()
    thread = threading.Thread(target=sweeper.run, args=(login.runtime, stopped))
    thread.start()
    tokens.refresh(login.runtime, login.account_id, seen=1)
    stopped.set()
    thread.join(20)
    assert not thread.is_alive()
    assert [int(name[:12]) for name in login.files()][-1] == 2
    assert list(journal.waiting(login.runtime)) == []


def test_what_a_crash_left_half_written_is_removed_after_a_day(login: Login) -> None:
    folder = journal.spool_folder(login.runtime)
    left = [folder / f"{login.account_id}.{name}" for name in ("x.1-2.draft", "device-abc.json")]
    for path in left:
        path.write_bytes(b"{}")
    login.sweeps()
    assert all(path.exists() for path in left)
    for path in left:
        os.utime(path, (time.time() - 90_000,) * 2)
    login.sweeps()
    assert not any(path.exists() for path in left)


def test_a_failure_of_one_step_keeps_no_other_from_its_work(
    make_login: Callable[[Settings | None], Login], settings: Settings, bucket: Bucket
) -> None:
    login = make_login(bucket.settings(settings))
    bucket.stop()
    login.world.faults("lost_token_answer")
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    login.clockwork.passes(17)
    login.sweeps()
    assert login.generation == 2


def test_a_first_round_that_has_much_to_do_ends_in_time_and_the_next_goes_on(
    login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    login.clockwork.passes(HOURS)
    login.loses_its_disk()
    sweep = Sweep(login.runtime)
    with monkeypatch.context() as patched:
        patched.setattr(sweeper, "AT_MOST", -1.0)
        sweep.round()
        assert login.files() == []
    sweep.round()
    assert len(login.files()) == 1
    with database.transaction(login.runtime.db) as tx:
        connect.disconnect(tx, login.account_id)
    with monkeypatch.context() as patched:
        patched.setattr(sweeper, "AT_MOST", -1.0)
        sweep.round()
        assert not login.files()[0].endswith("forgotten")
    sweep.round()
    assert [name[13:] for name in login.files()] == ["forgotten"]


# The protocol


def test_the_last_call_of_a_long_outage_is_still_inside_its_grace(login: Login) -> None:
    """Allegro is away for half an hour; the last call before it comes back is processed, and its answer lost."""
    login.clockwork.passes(10.5 * HOURS)
    login.world.faults("status", code=503, path=TOKEN, times=None)
    sweep, began = Sweep(login.runtime), login.clockwork.ahead
    while login.clockwork.ahead - began < HOURS / 2:
        login.clockwork.passes(5)
        sweep.round()
        with_bell(login)
    login.world.clear_faults()
    login.world.faults("lost_token_answer")
    for _ in range(24):
        login.clockwork.passes(5)
        with_bell(login)
    assert login.status == "active"
    assert login.generation == 2
    assert login.calls() == login.seller_id


def with_bell(login: Login) -> None:
    try:
        tokens.refresh_due(login.runtime, login.account_id)
    except OrdersBackupError:
        return


def test_an_outage_of_days_is_waited_out(login: Login) -> None:
    login.world.goes_down(status=503)
    with database.transaction(login.runtime.db) as tx:
        tx.execute(sa.text("UPDATE account_tokens SET failures = 5000"))
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    login.clockwork.passes(3 * HOURS)
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    login.world.comes_back()
    login.clockwork.passes(30)
    assert tokens.refresh(login.runtime, login.account_id, seen=1).generation == 2


def test_wrong_credentials_are_tried_ever_more_rarely_and_cost_no_login(login: Login) -> None:
    login.world._state.client_secret = "another"
    asked = []
    for _ in range(1200):
        login.clockwork.passes(3)
        try:
            tokens.refresh_due(login.runtime, login.account_id)
        except TokenRefusedError:
            asked.append(login.clockwork.ahead)
        except OrdersBackupError:
            continue
        if not asked:
            tokens_due_now(login)
    assert 5 < len(asked) < 30
    assert asked[-1] - asked[-2] > 200
    assert login.status == "active"


def tokens_due_now(login: Login) -> None:
    with database.transaction(login.runtime.db) as tx:
        tx.execute(sa.text("UPDATE account_tokens SET due_at = clock_timestamp()"))


def test_one_refusal_after_an_outage_is_no_verdict(login: Login) -> None:
    login.world.goes_down(status=503)
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    login.world.comes_back()
    login.world.rejects_tokens(login.seller_id)
    login.clockwork.passes(2 * HOURS)
    with pytest.raises(TokenRefusedError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    assert login.status == "active"
    login.clockwork.passes(20)
    with pytest.raises(ReauthorizationRequiredError):
        tokens.refresh(login.runtime, login.account_id, seen=1)


def test_nobody_calls_at_the_very_end_of_the_grace(login: Login) -> None:
    login.world.faults("lost_token_answer")
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    login.clockwork.passes(56)
    with pytest.raises(TokenBusyError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    assert len(login.world.tokens) == 1


def test_who_waits_for_another_workers_refresh_takes_no_permit(login: Login) -> None:
    login.world.faults("lost_token_answer")
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(login.runtime, login.account_id, seen=1)
    query = "SELECT full_at FROM request_budget WHERE key = 'client:simulator'"
    before = login.value(query)
    for _ in range(10):
        with pytest.raises(TokenBusyError):
            tokens.refresh(login.runtime, login.account_id, seen=1)
    assert login.value(query) == before


# Locks


def test_losing_forgetting_and_connecting_at_once_never_wait_crosswise(login: Login) -> None:
    """A deadlock is a failure here: PostgreSQL ends one of the two with an error."""
    barrier, draw = threading.Barrier(3), random.Random(1)

    def loses() -> None:
        now, refusal = login.clockwork.now(), TokenRefusedError("invalid_grant", http_status=400)
        begun = tokens._Begun(login.generation, "token", now, now, 0, was_refused=True)
        tokens._settled(login.runtime, login.account_id, begun, refusal, is_final=True)

    def forgets() -> None:
        time.sleep(draw.uniform(0, 0.08))  # somewhere among the steps of the others
        with database.transaction(login.runtime.db) as tx:
            connect.disconnect(tx, login.account_id)

    def connects() -> None:
        with suppress(LeaseLostError):
            connect.poll(login.runtime, login.account_id)

    def at_once(work: Callable[[], None]) -> None:
        barrier.wait()
        work()

    with ThreadPoolExecutor(3) as pool:
        for _ in range(25):
            connect.begin_again(login.runtime, login.account_id)
            login.world.approves(login.world.devices()[-1]["user_code"], login.seller_id)
            login.clockwork.passes(20)
            list(pool.map(at_once, [loses, forgets, connects]))
