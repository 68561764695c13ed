"""Health: each part is proven by using it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from tests.journeys import services
from tests.storage import Bucket, bucket

from orders_backup import bell, counters, health, local, metrics
from orders_backup import db as database
from orders_backup.runtime import Runtime

__all__ = ["bucket"]


def writes(runtime: Runtime) -> float:
    with database.transaction(runtime.db) as tx:
        return counters.totals(tx).get(("orders_backup_readiness_checks_total", "{}"), 0.0)


def test_a_healthy_service_is_proven_by_a_write_and_a_message(runtime: Runtime) -> None:
    metrics.TALLY.tell(metrics.TALLY.untold())
    found = health.Probe(runtime).look()
    assert found.parts == {"database": "ok", "migrations": "ok", "broker": "ok", "storage": "not set"}
    assert found.failing == {}
    assert found.workers == "none has answered yet"
    assert writes(runtime) == 1


def test_a_database_that_takes_no_writes_is_not_healthy(runtime: Runtime, db: Engine) -> None:
    with db.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        name = admin.execute(sa.text("SELECT current_database()")).scalar_one()
        admin.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    runtime.db.dispose()
    assert health.Probe(runtime).look().failing == {"database": "cannot be written to"}


def test_a_database_that_is_away_is_named(runtime: Runtime) -> None:
    away = database.connect("postgresql://nobody@127.0.0.1:9/none")
    held = {name: getattr(runtime, name) for name in Runtime.__slots__} | {"db": away}
    found = health.Probe(Runtime(**held)).look()
    assert found.failing == {"database": "does not answer", "migrations": "unknown"}
    away.dispose()


def test_workers_that_fell_silent_are_told_and_decide_nothing(runtime: Runtime, db: Engine) -> None:
    with database.transaction(db) as tx:
        tx.execute(
            sa.text("""INSERT INTO worker_slots (worker, slots, canary_done_at)
                              VALUES ('w', 8, clock_timestamp() - interval '90 s')""")
        )
    found = health.Probe(runtime).look()
    assert found.failing == {}
    assert found.workers.startswith("none has answered for 9")


# The broker


@pytest.mark.parametrize("url", ["redis://127.0.0.1:9/0", "amqp://guest:guest@127.0.0.1:9//"])
def test_a_broker_that_is_away_is_named(url: str) -> None:
    assert health.look_at_broker(url) == "does not answer"


def test_a_broker_that_nobody_named_is_not_healthy() -> None:
    assert health.look_at_broker("") == "BROKER_URL is not set"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[tuple[str, "redis.Redis"]]:
    """A broker of this test alone: its address, and a way to look into it."""
    with local.start_broker(tmp_path) as server:
        client = redis.Redis.from_url(server.url)
        yield server.url, client
        client.close()


def test_a_message_goes_to_the_broker_and_back_and_leaves_nothing_there(broker: tuple[str, "redis.Redis"]) -> None:
    url, inside = broker
    assert bell.round_trip(url, within=2)
    assert inside.keys() == []


@pytest.mark.external
def test_a_message_goes_to_rabbitmq_and_back(tmp_path: Path) -> None:
    with services.broker("rabbitmq", tmp_path) as url:
        assert bell.round_trip(url, within=5)
        assert health.look_at_broker(url) == "ok"


def test_a_broker_that_has_no_room_for_messages_is_not_healthy(broker: tuple[str, "redis.Redis"]) -> None:
    url, inside = broker
    inside.config_set("maxmemory", 1)
    assert health.look_at_broker(url) == "does not answer"


@contextmanager
def mute() -> Iterator[str]:
    """A broker that takes connections and never says a word."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []
    thread = threading.Thread(target=lambda: held.append(listener.accept()[0]), daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    for one in (*held, listener):
        one.close()


@pytest.mark.parametrize("scheme", ["redis://{}/0", "amqp://guest:guest@{}//"])
def test_a_broker_that_takes_connections_and_answers_nothing_is_found_out(scheme: str) -> None:
    with mute() as address:
        began = time.monotonic()
        assert health.look_at_broker(scheme.format(address)) == "does not answer"
        assert time.monotonic() - began < 20


# Object storage


def test_a_bucket_is_proven_by_an_object_and_keeps_none_of_it(bucket: Bucket) -> None:
    assert health.look_at_storage(bucket.store()) == "ok"
    assert bucket.files() == []
    assert health.look_at_storage(bucket.store(secret="wrong")) == "does not answer"
    bucket.stop()
    assert health.look_at_storage(bucket.store()) == "does not answer"


def test_what_is_well_is_believed_for_a_while_and_what_is_not_is_looked_at_again(runtime: Runtime) -> None:
    probe = health.Probe(runtime)
    looks: list[str] = []

    def look(state: str) -> str:
        looks.append(state)
        return state

    assert [probe._lately("broker", 60, lambda: look("does not answer")) for _ in range(2)] == ["does not answer"] * 2
    assert probe._lately("broker", 60, lambda: look("ok")) == "ok"
    assert probe._lately("broker", 60, lambda: look("does not answer")) == "ok"
    assert looks == ["does not answer", "does not answer", "ok"]
