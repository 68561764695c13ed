"""The Celery app as it must be set: every unsafe combination is refused, and a publisher never hangs."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from kombu.connection import Connection
from structlog.testing import capture_logs
from tests.journeys import services

from orders_backup import bell, local, refusal, worker
from orders_backup.bell import Bell
from orders_backup.errors import SettingsError
from orders_backup.settings import Settings

LEASE = timedelta(seconds=45)
REDIS, AMQP = "redis://127.0.0.1:9/0", "amqp://guest:guest@127.0.0.1:9//"


def app_for(url: str, **settings: Any) -> Any:
    app = bell.celery_app(Settings(broker_url=url, lease=LEASE))
    app.conf.update(settings)
    return app


def with_options(**options: Any) -> Callable[[Any], None]:
    return lambda app: app.conf.broker_transport_options.update(options)


@pytest.mark.parametrize("url", [REDIS, AMQP])
def test_the_app_as_it_is_made_is_safe(url: str) -> None:
    refusal.refuse_unsafe(app_for(url), lease=LEASE)


@pytest.mark.parametrize(
    ("url", "settings", "says"),
    [
        (REDIS, {"task_acks_late": False}, "task_acks_late must be on"),
        (REDIS, {"task_reject_on_worker_lost": False}, "task_acks_late needs task_reject_on_worker_lost"),
        (AMQP, {"task_reject_on_worker_lost": None}, "task_acks_late needs task_reject_on_worker_lost"),
        (AMQP, {"worker_prefetch_multiplier": 4}, "worker_prefetch_multiplier must be 1"),
        (REDIS, {"worker_prefetch_multiplier": 0}, "worker_prefetch_multiplier must be 1"),
        (REDIS, {"result_backend": "redis://127.0.0.1:9/1"}, "no result backend"),
        (REDIS, {"task_ignore_result": False}, "no result backend"),
        (
            AMQP,
            {"worker_cancel_long_running_tasks_on_connection_loss": False},
            "worker_cancel_long_running_tasks_on_connection_loss must be on",
        ),
        (REDIS, {"accept_content": ["json", "pickle"]}, "must be json alone"),
        (REDIS, {"task_serializer": "pickle"}, "must be json alone"),
        (REDIS, {"worker_eta_task_limit": None}, "ETA and beat must not be used"),
        (REDIS, {"beat_schedule": {"tick": {"task": "sync", "schedule": 1.0}}}, "ETA and beat must not be used"),
        (REDIS, {"worker_enable_remote_control": True}, "worker_enable_remote_control must be off"),
        (AMQP, {"broker_channel_error_retry": False}, "broker_channel_error_retry on"),
        (REDIS, {"worker_consumer": "celery.worker.consumer:Consumer"}, "worker_consumer must be"),
        (AMQP, {"broker_transport_options": {}}, "RabbitMQ needs confirm_publish"),
        (AMQP, {"task_queues": None}, "needs the type quorum"),
        (AMQP, {"task_queues": [bell.queue(bell.QUEUE, "topic", {"x-queue-type": "quorum"})]}, "x-delivery-limit"),
    ],
)
def test_an_unsafe_setting_is_refused_in_one_sentence(url: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        refusal.refuse_unsafe(app_for(url, **settings), lease=LEASE)
    assert str(refused.value).count(".") - str(refused.value).count("bell:") <= 2


@pytest.mark.parametrize(
    ("change", "lease", "says"),
    [
        (with_options(visibility_timeout=899), LEASE, "visibility_timeout must be at least 900 s"),
        (with_options(visibility_timeout=900), timedelta(minutes=4), "visibility_timeout must be at least 1200 s"),
        (lambda app: app.conf.broker_transport_options.pop("visibility_timeout"), LEASE, "visibility_timeout"),
        (with_options(socket_timeout=None), LEASE, "need socket_timeout"),
    ],
)
def test_unsafe_options_of_redis_are_refused(change: Callable[[Any], None], lease: timedelta, says: str) -> None:
    app = app_for(REDIS)
    change(app)
    with pytest.raises(SettingsError, match=says):
        refusal.refuse_unsafe(app, lease=lease)


def test_messages_stay_invisible_for_five_times_a_long_lease() -> None:
    app = bell.celery_app(Settings(broker_url=REDIS, lease=timedelta(minutes=10)))
    assert app.conf.broker_transport_options["visibility_timeout"] == 3000


@pytest.mark.parametrize("run", [partial(worker.run_worker, concurrency=1), worker.run_scheduler])
def test_neither_worker_nor_scheduler_starts_with_an_unsafe_setting(
    run: Callable[[Settings], None], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "celery_app", lambda config: app_for(config.broker_url, task_acks_late=False))
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("it started"))
    with pytest.raises(SettingsError, match="task_acks_late must be on"):
        run(settings)


def test_two_unsafe_settings_are_told_in_two_sentences() -> None:
    app = app_for(REDIS, task_reject_on_worker_lost=False, worker_prefetch_multiplier=2)
    with pytest.raises(SettingsError, match=r"counts as done\. worker_prefetch_multiplier"):
        refusal.refuse_unsafe(app, lease=LEASE)


@pytest.mark.parametrize(("versions", "is_safe"), [(("5.7.0", "5.8.1"), True), (("5.6.3", "5.7.0"), False)])
def test_versions_whose_workers_go_deaf_are_refused(versions: tuple[str, str], is_safe: bool) -> None:
    assert (refusal.unsafe_versions(*versions) == []) is is_safe


@pytest.mark.parametrize("later", [{"countdown": 5}, {"eta": "2030-01-01T00:00:00Z"}, {"countdown": 0}])
def test_a_message_for_later_is_refused_where_it_is_sent(later: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="Set due_at in PostgreSQL instead"):
        app_for(REDIS).send_task("sync", queue=bell.QUEUE, **later)


# A real broker


@contextmanager
def client(url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(url) as connected:
        yield connected


def test_a_broker_that_drops_messages_when_memory_is_short_is_refused(tmp_path: Path) -> None:
    with local.start_broker(tmp_path) as server, client(server.url) as valkey:
        assert refusal.check_broker(app_for(server.url))
        valkey.config_set("maxmemory-policy", "volatile-lru")
        with pytest.raises(SettingsError, match=r"maxmemory-policy is volatile-lru\. Set it to noeviction"):
            refusal.check_broker(app_for(server.url))


def test_a_broker_that_may_not_be_asked_is_trusted_aloud(tmp_path: Path) -> None:
    with local.start_broker(tmp_path) as server, client(server.url) as valkey:
        valkey.acl_setuser(
            "app",
            enabled=True,
            passwords=["+secret"],
            keys=["*"],
            channels=["*"],
            categories=["+@all"],
            commands=["-info"],
        )
        with capture_logs() as logs:
            assert refusal.check_broker(app_for(f"redis://app:secret@127.0.0.1:{server.port}/0"))
    assert [line["event"] for line in logs] == ["broker_policy_refused"]


def test_a_rabbitmq_whose_queue_is_not_ours_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with services.broker("rabbitmq", tmp_path) as url:
        with Connection(url) as connection:  # type: ignore[no-untyped-call]
            connection.channel().queue_declare(bell.QUEUE, durable=True, auto_delete=False)
        with pytest.raises(SettingsError, match="rabbitmqctl delete_queue orders-backup"):
            refusal.check_broker(app_for(url))
        with Connection(url) as connection:  # type: ignore[no-untyped-call]
            connection.channel().queue_delete(bell.QUEUE)
        assert refusal.check_broker(app_for(url))


@pytest.mark.parametrize("url", [REDIS, AMQP])
def test_a_broker_that_is_away_is_asked_again(url: str) -> None:
    assert refusal.check_broker(app_for(url)) is False


@pytest.mark.parametrize("url", [REDIS, AMQP])
def test_a_publisher_says_at_once_that_the_broker_is_away(url: str) -> None:
    app, began = app_for(url), time.monotonic()
    with pytest.raises(bell.AWAY):
        app.send_task("sync", queue=bell.QUEUE)
    with pytest.raises(bell.AWAY):
        app.reach()
    assert time.monotonic() - began < bell.PUBLISH_WITHIN


def test_a_publisher_does_not_wait_for_a_frozen_valkey(tmp_path: Path) -> None:
    with local.start_broker(tmp_path) as server:
        _publish_to_frozen(app_for(server.url), server.child.pid)


@pytest.mark.external
def test_a_publisher_does_not_wait_for_a_frozen_rabbitmq(tmp_path: Path) -> None:
    with services.broker("rabbitmq", tmp_path) as url:
        _publish_to_frozen(app_for(url), services.pid_of_rabbitmq(tmp_path))


def _publish_to_frozen(app: Bell, pid: int | None) -> None:
    assert pid is not None
    app.send_task("sync", queue=bell.QUEUE)
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:  # each of its threads has to notice
        time.sleep(0.01)
    began = time.monotonic()
    try:
        with pytest.raises(bell.AWAY):
            app.send_task("sync", queue=bell.QUEUE)
        assert time.monotonic() - began < bell.PUBLISH_WITHIN + 3
    finally:
        os.kill(pid, signal.SIGCONT)
    app.reach()
    app.send_task("sync", queue=bell.QUEUE)
