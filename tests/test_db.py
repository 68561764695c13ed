"""Transactions commit whole or not at all, and PostgreSQL's failures become ours, without anybody's data in them."""

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError
from tests.conftest import _temporary_database

from orders_backup import db as database
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.tables import metadata, request_budget


@pytest.fixture
def db(shared_db: Engine) -> Engine:
    """That database, empty."""
    with database.transaction(shared_db) as tx:
        tx.execute(sa.text("TRUNCATE request_budget"))
    return shared_db


@pytest.fixture
def empty_db(postgres_url: str) -> Iterator[Engine]:
    """A database in which nothing was ever migrated."""
    with _temporary_database(postgres_url) as (_, url):
        engine = database.connect(url)
        yield engine
        engine.dispose()


def test_a_transaction_keeps_everything_or_nothing(db: Engine) -> None:
    with database.transaction(db) as tx:
        add(tx, "kept")
    with pytest.raises(ZeroDivisionError), database.transaction(db) as tx:  # noqa: PT012
        add(tx, "lost")
        raise ZeroDivisionError
    assert keys(db) == ["kept"]


def test_a_broken_rule_of_the_database_is_no_outage(db: Engine) -> None:
    with pytest.raises(IntegrityError), database.transaction(db) as tx:  # noqa: PT012
        add(tx, "once")
        add(tx, "once")
    assert keys(db) == []


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_way_to_write_the_address_works(db: Engine, scheme: str) -> None:
    address = db.url.render_as_string(hide_password=False).partition("://")[2]
    engine = database.connect(f"{scheme}://{address}")
    with database.transaction(engine) as tx:
        assert tx.execute(sa.text("SELECT 1")).scalar_one() == 1
    engine.dispose()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timezone", "UTC"),
        ("statement_timeout", "1min"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "15s"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_user_timeout", "15000"),
    ],
)
def test_no_statement_and_no_lock_can_hang_for_ever(db: Engine, name: str, value: str) -> None:
    with database.transaction(db) as tx:
        assert tx.execute(sa.text(f"SHOW {name}")).scalar_one() == value


def test_a_link_on_which_nobody_answers_is_given_up(db: Engine) -> None:
    """What it prevents is done for real in the campaign of all faults: half-open links to PostgreSQL."""
    with database.transaction(db) as tx, socket.socket(fileno=os.dup(database.cursor(tx).connection.fileno())) as link:
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 10
        assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


def test_a_database_that_is_away_is_said_in_one_line_without_the_password() -> None:
    engine = database.connect("postgresql://someone:hunter2@127.0.0.1:9/nothing")
    with pytest.raises(DatabaseUnavailableError) as away, database.transaction(engine):
        pytest.fail("there is no database")
    assert str(away.value).startswith("PostgreSQL: ")
    assert "\n" not in str(away.value)
    assert "hunter2" not in f"{away.value!s}{away.value!r}"


def test_a_connection_that_is_killed_is_an_outage_and_the_next_transaction_works(db: Engine) -> None:
    with pytest.raises(DatabaseUnavailableError), database.transaction(db) as tx:  # noqa: PT012
        add(tx, "lost")
        kill(db, tx)
        add(tx, "never sent")
    with database.transaction(db) as tx:
        add(tx, "kept")
    assert keys(db) == ["kept"]


def test_a_connection_that_dies_before_the_commit_is_an_outage_and_nothing_is_kept(db: Engine) -> None:
    with pytest.raises(DatabaseUnavailableError), database.transaction(db) as tx:  # noqa: PT012
        add(tx, "lost")
        kill(db, tx)
    assert keys(db) == []


def test_a_pool_of_dead_connections_is_noticed_before_use(db: Engine, postgres_url: str) -> None:
    killer = database.connect(postgres_url)
    with ExitStack() as stack:
        pids = [pid_of(stack.enter_context(database.transaction(db))) for _ in range(5)]
    with database.transaction(killer) as tx:
        for pid in pids:
            tx.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    killer.dispose()
    assert keys(db) == []


def test_new_connections_that_are_dead_as_well_are_an_outage(db: Engine, postgres_url: str) -> None:
    killer, engine = database.connect(postgres_url), database.connect(db.url.render_as_string(hide_password=False))

    @sa.event.listens_for(engine, "connect")
    def end_at_once(connection: "psycopg.Connection[Any]", _: object) -> None:
        with database.transaction(killer) as tx:
            tx.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": connection.info.backend_pid})

    with pytest.raises(DatabaseUnavailableError, match="as soon as they are made"), database.transaction(engine):
        pass
    engine.dispose()
    killer.dispose()


def test_a_statement_that_takes_too_long_is_an_outage_that_tells_no_parameter(db: Engine) -> None:
    with pytest.raises(DatabaseUnavailableError) as slow, database.transaction(db) as tx:  # noqa: PT012
        tx.execute(sa.text("SET LOCAL statement_timeout = '50ms'"))
        tx.execute(sa.text("SELECT pg_sleep(5), CAST(:email AS text)"), {"email": "anna@example.pl"})
    assert "anna@example.pl" not in str(slow.value)
    assert "pg_sleep" not in str(slow.value)


def test_a_lock_that_is_never_freed_is_an_outage_and_not_a_hang(db: Engine) -> None:
    with database.transaction(db) as tx:
        add(tx, "locked")
    with database.transaction(db) as holder:
        holder.execute(sa.select(request_budget).with_for_update())
        with pytest.raises(DatabaseUnavailableError), database.transaction(db) as tx:  # noqa: PT012
            tx.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            tx.execute(sa.select(request_budget).with_for_update())


def test_an_outage_for_which_the_driver_has_no_words_is_an_outage_too(db: Engine) -> None:
    with pytest.raises(DatabaseUnavailableError), database.transaction(db):
        raise psycopg.OperationalError


def test_a_snapshot_sees_one_moment_of_the_whole_database(db: Engine) -> None:
    with database.snapshot(db) as tx:
        before = keys_in(tx)
        with database.transaction(db) as other:
            add(other, "later")
        assert keys_in(tx) == before == []
    assert keys(db) == ["later"]


def test_a_snapshot_cannot_write(db: Engine) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"), database.snapshot(db) as tx:
        add(tx, "x")


def test_after_a_snapshot_the_same_connection_can_write_again(db: Engine) -> None:
    with database.snapshot(db):
        pass
    with database.transaction(db) as tx:
        add(tx, "x")
    assert keys(db) == ["x"]


def test_several_who_migrate_at_once_do_it_once(empty_db: Engine) -> None:
    with database.transaction(empty_db) as tx:
        assert not database.is_migrated(tx)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(database.migrate, empty_db) for _ in range(4)]:
            done.result()
    with database.transaction(empty_db) as tx:
        assert database.is_migrated(tx)
        assert set(sa.inspect(tx).get_table_names()) == {*metadata.tables, "alembic_version"}


def test_a_migration_that_is_cut_off_leaves_nothing(empty_db: Engine) -> None:
    def cut_off(tx: Connection, _: object, statement: str, *__: object) -> None:
        if "CREATE TABLE order_versions" in statement:
            kill(empty_db, tx)

    sa.event.listen(empty_db, "before_cursor_execute", cut_off)
    with pytest.raises(DatabaseUnavailableError):
        database.migrate(empty_db)
    sa.event.remove(empty_db, "before_cursor_execute", cut_off)
    with database.transaction(empty_db) as tx:
        assert sa.inspect(tx).get_table_names() == []
    database.migrate(empty_db)
    with database.transaction(empty_db) as tx:
        assert database.is_migrated(tx)


def test_the_clock_is_the_databases_and_goes_on_within_a_transaction(db: Engine) -> None:
    with database.transaction(db) as tx:
        first, second = database.clock(tx), database.clock(tx)
    assert first < second
    assert first.tzinfo is UTC


def test_a_clock_that_was_told_the_time_goes_on_from_there() -> None:
    clock = database.Clock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    clock.set(long_ago)
    first = clock.now()
    assert long_ago <= first <= clock.now() < long_ago + timedelta(seconds=5)


def add(tx: Connection, key: str) -> None:
    tx.execute(sa.insert(request_budget).values(key=key, full_at=sa.func.now()))


def keys_in(tx: Connection) -> list[str]:
    return list(tx.execute(sa.select(request_budget.c.key)).scalars())


def keys(db: Engine) -> list[str]:
    with database.transaction(db) as tx:
        return keys_in(tx)


def pid_of(tx: Connection) -> int:
    pid: int = tx.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    return pid


def kill(db: Engine, tx: Connection) -> None:
    """PostgreSQL ends this connection, as when the server is restarted."""
    driver = tx.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    with db.connect() as other:
        other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": driver.info.backend_pid})


def test_a_slow_answer_does_not_turn_the_clock_back() -> None:
    clock = database.Clock()
    told_late = datetime.now(UTC)
    time.sleep(0.2)
    clock.set(datetime.now(UTC))
    before = clock.now()
    clock.set(told_late)
    assert before <= clock.now() < before + timedelta(seconds=0.15)


def test_a_database_that_was_set_back_by_minutes_is_followed() -> None:
    clock = database.Clock()
    clock.set(datetime.now(UTC))
    clock.set(datetime.now(UTC) - timedelta(minutes=5))
    assert clock.now() < datetime.now(UTC) - timedelta(minutes=4)


def test_the_latest_reading_of_the_clock_wins() -> None:
    clock = database.Clock()
    clock.set(datetime.now(UTC) - timedelta(seconds=3))
    clock.set(datetime.now(UTC))
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=0.2)


def test_the_text_of_a_failure_holds_no_value_of_its_statement(db: Engine) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught, database.transaction(db) as tx:
        tx.execute(sa.text("SELECT 1 / 0 FROM nowhere WHERE name = :name"), {"name": "planted"})
    assert "planted" not in str(caught.value)
