"""Workers, schedulers and brokers that freeze, go deaf, die and forget: all due work runs, soon, none of it twice.

Every test run plays them on Valkey and briefly; `make workers` on Valkey, Redis and RabbitMQ and at full length.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from tests.journeys import hurtable, services
from tests.journeys.crew import Crew, on_board

from allegro_simulator import server as simulator
from allegro_simulator.world import World
from orders_backup import liveness, local
from orders_backup import runtime as runtimes
from orders_backup.accounts import connect
from orders_backup.local import processes
from orders_backup.local.processes import Child
from orders_backup.settings import Settings

IN_FULL = os.environ.get("WORKERS") == "full"
BROKERS = [
    "valkey",
    *([pytest.param(kind, marks=pytest.mark.external) for kind in ("redis", "rabbitmq")] if IN_FULL else []),
]
FEW, MANY = 20, 1000 if IN_FULL else 300
STILL = 45 if IN_FULL else 8
AWAY_FOR = (*[0] * 20, 45) if IN_FULL else (0, 4)
CANARY = {} if IN_FULL else {"CANARY_EVERY": "2", "CANARY_DEAF_AFTER": "4"}


POLLS = "SELECT full_at FROM request_budget WHERE key LIKE 'polls:%'"


@pytest.fixture
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[services.Broker]:
    """A broker of this test alone, which can be killed, frozen and emptied."""
    with services.breakable(getattr(request, "param", "valkey"), tmp_path / "broker") as started:
        yield started


@pytest.fixture
def config(settings: Settings, broker: services.Broker) -> Settings:
    return settings.model_copy(update={"broker_url": broker.url})


# Workers


def test_a_frozen_worker_and_a_frozen_scheduler_are_replaced_and_the_work_is_done(config: Settings) -> None:
    assert processes.SILENT_AFTER + liveness.LOOK_EVERY + processes.FIRST_DELAY < 45
    with on_board(config) as crew:
        crew.start("worker", "scheduler")
        crew.until(crew.heard, "the worker has heard its canary")
        frozen = {name: crew.signal(name, signal.SIGSTOP) for name in ("worker", "scheduler")}
        for name in frozen:
            crew.children[name].silent_after = processes.SILENT_AFTER if IN_FULL else 5
        crew.owes(10)
        tell("frozen worker and scheduler", crew.does_all())
        for name, pid in frozen.items():
            assert crew.children[name].pid != pid
            assert any(line.startswith(f"{name} gave no sign of life") for line in crew.said)


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_a_worker_that_lives_and_hears_no_work_ends_itself_and_is_replaced(config: Settings) -> None:
    with on_board(config) as crew:
        worker = crew.children["worker"]
        hurt(worker)
        crew.start("worker", "scheduler")
        crew.until(crew.heard, "the worker has heard its canary")
        deaf = crew.signal("worker", signal.SIGWINCH)
        time.sleep(2)
        crew.owes(10)
        tell("deaf worker", crew.does_all())
        assert worker.pid != deaf
        assert any("worker ended with code 70" in line for line in crew.said)
        assert '"reason":"deaf"' in worker.log.read_text()


def test_a_worker_that_celery_ends_is_started_again(config: Settings) -> None:
    with on_board(config) as crew:
        hurt(crew.children["worker"])
        crew.start("worker", "scheduler")
        crew.until(crew.heard, "the worker has heard its canary")
        ended = crew.signal("worker", signal.SIGPROF)
        crew.owes(10)
        crew.does_all()
        assert crew.children["worker"].pid != ended
        assert any("worker ended with code 70" in line for line in crew.said)


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_however_often_and_long_the_broker_is_away_nobody_ends_and_after_it_all_due_work_runs(
    config: Settings, broker: services.Broker
) -> None:
    with on_board(config, workers=2, schedulers=2) as crew:
        crew.start(*crew.children)
        crew.until(lambda: crew.heard() == 2, "both workers have heard their canaries")
        pids = {name: child.pid for name, child in crew.children.items()}
        for seconds in AWAY_FOR:
            broker.kill()
            crew.owes(MANY if seconds else FEW)
            time.sleep(seconds / 2)  # a tick that was under way may have spent some
            spent = crew.rows(POLLS)
            time.sleep(seconds / 2)
            assert crew.undone() == (MANY if seconds else FEW)
            assert not seconds or crew.rows(POLLS) == spent
            broker.start()
            tell(f"{broker.kind} away for {seconds} s, {crew.undone()} due", crew.does_all(within=60))
            assert set(crew.runs()) == {1}
        crew.change("DELETE FROM worker_slots")
        crew.until(lambda: crew.heard() == 2, "both workers hear their canaries")
        assert {name: child.pid for name, child in crew.children.items()} == pids, crew.logs()


def test_a_worker_with_unsafe_settings_does_not_start(config: Settings, broker: services.Broker) -> None:
    with redis.Redis.from_url(broker.url) as valkey:
        valkey.config_set("maxmemory-policy", "allkeys-lru")
    with on_board(config) as crew:
        crew.start("worker", "scheduler")
        assert crew.children["worker"].wait(30)
        assert crew.children["scheduler"].wait(30)
        for child in crew.children.values():
            assert child.process is not None
            assert child.process.returncode != 0
            assert "Set it to noeviction" in child.last_words()


# Stopping


@contextmanager
def syncing(config: Settings, world: World, crew_of: int = 3) -> Iterator[tuple[Crew, list[str]]]:
    """A crew, and sellers whose first sync is under way with slow answers."""
    with ExitStack() as stack:
        url = stack.enter_context(simulator.running(world))
        urls = {"allegro_api_url": url, "allegro_auth_url": url, "rate_limit_orders": 100_000, "rate_limit_auth": 1000}
        settings = config.model_copy(update=urls)
        crew = stack.enter_context(on_board(settings))
        runtime = runtimes.build(settings)
        stack.callback(runtime.close)
        world.faults("slow", path="/order/checkout-forms", times=None, seconds=2)
        sellers = []
        for _ in range(crew_of):
            seller = world.add_seller(3000)
            connect.begin(runtime, user_id=uuid4(), name=seller.login)
            world.approves(world.devices()[-1]["user_code"], seller.id)
            sellers.append(seller.id)
        crew.start("worker", "scheduler")
        under_way = "SELECT count(*) FROM syncs WHERE kind = 'listing' AND leased_until > clock_timestamp()"
        crew.until(lambda: crew.rows(under_way)[0][0] == crew_of, "all are being synced")
        yield crew, sellers


LEASED = "SELECT count(*) FROM syncs WHERE leased_until IS NOT NULL"


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_a_worker_that_is_asked_to_stop_under_load_gives_all_its_work_back(config: Settings) -> None:
    with syncing(config, World(seed=3, device_interval=1)) as (crew, _):
        began = time.monotonic()
        assert crew.children["worker"].stop(within=local.STOP_WITHIN)
        took = time.monotonic() - began
        assert took < liveness.STOP_WITHIN
        assert crew.children["worker"].process.returncode == 0  # type: ignore[union-attr]
        assert crew.rows(LEASED)[0][0] == 0
        assert crew.rows("SELECT count(*) FROM worker_slots")[0][0] == 0
        assert "crashed" not in crew.logs()


def test_a_worker_that_cannot_end_its_calls_gives_its_work_back_before_it_is_killed(config: Settings) -> None:
    world = World(seed=3, device_interval=1)
    with syncing(config, world) as (crew, _):
        world.clear_faults()
        world.faults("slow", path="/order/checkout-forms", times=None, seconds=60)
        time.sleep(2)
        assert crew.children["worker"].stop(within=local.STOP_WITHIN)
        assert crew.rows(LEASED)[0][0] == 0


# Schedulers and brokers


def test_when_one_of_two_schedulers_is_killed_the_other_goes_on(config: Settings) -> None:
    with on_board(config, schedulers=2) as crew:
        crew.start(*crew.children)
        crew.until(crew.heard, "the worker has heard its canary")
        crew.signal("scheduler", signal.SIGKILL)
        crew.children["scheduler"].wait(5)
        crew.children["scheduler"].process = None  # nobody starts it again
        crew.owes(50)
        took = tell("takeover of a killed scheduler", crew.does_all())
        assert took < 15
        assert set(crew.runs()) == {1}


def test_a_killed_scheduler_is_started_again_and_goes_on(config: Settings) -> None:
    with on_board(config) as crew:
        crew.start(*crew.children)
        crew.until(crew.heard, "the worker has heard its canary")
        crew.signal("scheduler", signal.SIGKILL)
        crew.owes(50)
        took = tell("restart of a killed scheduler", crew.does_all())
        assert took < 15
        assert set(crew.runs()) == {1}


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_what_a_broker_forgot_before_any_worker_came_runs_within_a_minute(
    config: Settings, broker: services.Broker
) -> None:
    with on_board(config, workers=2, schedulers=2) as crew:
        crew.owes(MANY)
        crew.start("scheduler", "scheduler-2")
        crew.until(lambda: crew.unrung() < MANY, "some have been rung for")
        broker.empty()
        crew.start("worker", "worker-2")
        tell(f"{broker.kind} emptied before workers came, {MANY} due", crew.does_all(within=60))
        assert set(crew.runs()) == {1}


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_a_broker_that_forgets_everything_under_running_workers_loses_nothing(
    config: Settings, broker: services.Broker
) -> None:
    with on_board(config, workers=2) as crew:
        crew.start(*crew.children)
        crew.until(lambda: crew.heard() == 2, "both workers have heard their canaries")
        crew.owes(MANY)
        crew.until(lambda: crew.undone() < MANY, "the first have run")
        broker.empty()
        tell(f"{broker.kind} emptied under running workers, {MANY} due", crew.does_all(within=60))
        assert set(crew.runs()) == {1}


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_a_broker_that_stands_still_ends_nobody_and_after_it_all_due_work_runs(
    config: Settings, broker: services.Broker
) -> None:
    with on_board(config, workers=2, schedulers=2) as crew:
        crew.start(*crew.children)
        crew.until(lambda: crew.heard() == 2, "both workers have heard their canaries")
        pids = {name: child.pid for name, child in crew.children.items()}
        os.kill(broker.pid(), signal.SIGSTOP)
        try:
            crew.owes(MANY)
            time.sleep(STILL)
        finally:
            os.kill(broker.pid(), signal.SIGCONT)
        tell(f"{broker.kind} stood still for {STILL} s, {MANY} due", crew.does_all(within=60))
        assert {name: child.pid for name, child in crew.children.items()} == pids, crew.logs()


@pytest.mark.external
@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_virtual_host_that_was_made_anew_loses_nothing(config: Settings, broker: services.Broker) -> None:
    with on_board(config, workers=2) as crew:
        crew.start(*crew.children)
        crew.until(lambda: crew.heard() == 2, "both workers have heard their canaries")
        broker.reset()
        crew.owes(MANY)
        tell(f"virtual host made anew, {MANY} due", crew.does_all(within=60))
        assert set(crew.runs()) == {1}


def hurt(worker: Child) -> None:
    """The same program, which can be made deaf, and made to fail."""
    words = [word for word in worker.command if word != "-m"]
    worker.command = [hurtable.__file__ if word == "orders_backup.worker" else word for word in words]
    worker.environment = {**worker.environment, **CANARY}


def tell(what: str, seconds: float) -> float:
    """For people: how long it took until all due work had run."""
    print(f"{what}: all had run after {seconds:.1f} s")
    return seconds
