"""Health: each part is proven by using it."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from tests.journeys import services
from tests.storage import Bucket, bucket

from orders_backup import api, bell, counters, health, local, metrics
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


def test_a_bucket_is_proven_by_an_object_and_keeps_none_of_it(
    runtime: Runtime, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "STORAGE_EVERY", 0)
    held = {name: getattr(runtime, name) for name in Runtime.__slots__} | {"store": bucket.store()}
    probe = health.Probe(Runtime(**held))
    for _ in range(3):  # the same object each time, whose versions a bucket may keep
        assert probe.look().parts["storage"] == "ok"
        assert len(bucket.files()) == 1
    probe.close()
    assert bucket.files() == []
    assert health.look_at_storage(bucket.store(secret="wrong"), "health/x") == "does not answer"
    bucket.stop()
    assert health.look_at_storage(bucket.store(), "health/x") == "does not answer"
    probe.close()


# Who probes


class Part:
    """A part that can be made to fail and to hang, and that counts who looked."""

    def __init__(self, *states: str) -> None:
        self.states, self.looks = list(states), 0
        self.hangs, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()

    def look(self) -> health.Health:
        self.looks += 1
        self.hangs.set()
        assert self.goes_on.wait(10)
        return health.Health({"part": self.states[min(self.looks, len(self.states)) - 1]})


def states(found: list[health.Health | None]) -> list[str | None]:
    return [one.parts["part"] if one else None for one in found]


def test_what_is_well_is_believed_for_a_while_and_what_is_not_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part("does not answer", "ok", "does not answer")
    lately = health.Lately(part.look, 60)
    assert states([lately.found() for _ in range(3)]) == ["does not answer"] * 3
    assert part.looks == 1
    monkeypatch.setattr(health, "FAILED_FOR", 0)
    assert states([lately.found() for _ in range(3)]) == ["ok"] * 3
    assert part.looks == 2
    lately.seconds = 0
    assert states([lately.found()]) == ["does not answer"]


def test_who_asks_while_somebody_looks_is_told_what_was_found_last_and_waits_for_nothing() -> None:
    part = Part("ok", "does not answer")
    lately = health.Lately(part.look, 0)
    assert states([lately.found()]) == ["ok"]
    part.goes_on.clear()
    part.hangs.clear()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(lately.found)
        assert part.hangs.wait(5)
        assert states([lately.found() for _ in range(40)]) == ["ok"] * 40
        part.goes_on.set()
        assert states([looking.result()]) == ["does not answer"]
    assert part.looks == 2


def test_who_asks_while_nothing_is_known_waits_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FIRST_WITHIN", 0.05)
    part = Part("ok")
    lately = health.Lately(part.look, 60)
    part.goes_on.clear()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(lately.found)
        assert part.hangs.wait(5)
        assert states([lately.found()]) == [None]
        monkeypatch.setattr(health, "FIRST_WITHIN", 10)
        threading.Timer(0.05, part.goes_on.set).start()
        assert states([lately.found(), looking.result()]) == ["ok", "ok"]
    assert part.looks == 1


def test_a_broker_that_hangs_keeps_nobody_from_the_storage(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FIRST_WITHIN", 0)
    part = Part("ok")
    part.goes_on.clear()
    monkeypatch.setattr(health, "look_at_broker", lambda _: part.look().parts["part"])
    probe = health.Probe(runtime)
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(probe.look)
        assert part.hangs.wait(5)
        assert probe.look().parts == {"database": "ok", "migrations": "ok", "broker": "unknown", "storage": "not set"}
        part.goes_on.set()
        assert looking.result().failing == {}


def test_many_probes_cost_one_write_and_load_the_migrations_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "DATABASE_EVERY", 60)
    before, probe = writes(runtime), health.Probe(runtime)
    database._head.cache_clear()
    for _ in range(5):
        assert probe.look().failing == {}
    assert writes(runtime) == before + 1
    health.Probe(runtime).look()
    assert database._head.cache_info().misses == 1


def test_a_process_is_alive_while_all_its_threads_wait(runtime: Runtime) -> None:
    """As they do where PostgreSQL stands still."""
    freed = threading.Event()
    app = api.create_app(runtime)
    app.add_api_route("/held", lambda: freed.wait(30))

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
            held = [asyncio.create_task(http.get("/held")) for _ in range(60)]
            await asyncio.sleep(0.2)
            try:
                return (await asyncio.wait_for(http.get("/healthz"), 5)).status_code
            finally:
                freed.set()
                await asyncio.gather(*held)

    assert asyncio.run(ask()) == 200
