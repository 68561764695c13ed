"""The bell: the Celery app as it must be set, and the check that refuses it otherwise. Rings nothing by itself.

What each setting prevents is told in docs/decisions/0010-celery.md. Waiting is PostgreSQL's business, so a
message that asks for a later moment is refused where it is sent.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import celery
import kombu
import structlog
from celery import Celery
from celery.utils.threads import bound_open_broker_sockets
from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import STOP_CONDITIONS
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError as KombuError

from orders_backup.errors import SettingsError
from orders_backup.settings import Settings

QUEUE = "orders-backup"
DEAD = "orders-backup.dead"
"""RabbitMQ only: where a message goes that was given back too often. For a person to look at; bounded."""

LONGEST_TASK = timedelta(minutes=3)
"""A turn of two minutes, its last slice, and the calls that were on their way when that ended."""
VISIBLE_AFTER = 5
"""Times the longest task: so late Valkey or Redis gives an unacknowledged message to another worker."""
DELIVERIES = 5
PUBLISH_WITHIN = 5
"""Seconds after which a broker that does not answer a publisher is away."""
CLOSE_WITHIN = 1
"""… and after which the connection to it is dropped without a farewell."""
REFUSED_WITHIN = 1
"""Seconds within which a refusal may mean that the connection was old, so that it is tried once more over another."""
RECONNECT_WITHIN = 4
"""Seconds between two attempts of a worker to reach a broker that was away; Celery's own would grow to 30."""
NEEDS = (5, 7)

AWAY = (KombuError, OSError)
"""What sending raises while the broker is away, or took too long."""

Conf = Any

logger = structlog.get_logger()


class Bell(Celery):  # type: ignore[misc]
    """Celery that waits for no broker for ever, and that sends nothing for later."""

    listener: "Listener | None" = None

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        """Raises where the broker is away, within seconds; SettingsError for a message with a moment of its own."""
        if options.get("eta") is not None or options.get("countdown") is not None:
            raise SettingsError(f"The task {name} was sent with an ETA or countdown. Set due_at in PostgreSQL instead.")
        once = {"retry": False, "confirm_timeout": PUBLISH_WITHIN, "ignore_result": True}
        send = super().send_task
        return self._with_producer(lambda producer: send(name, *args, **(once | options), producer=producer))

    def reach(self) -> None:
        """Raises where the broker does not answer, within seconds: better before work counts as told than after."""
        queue = next(one for one in self.conf.task_queues if one.name == QUEUE)
        self._with_producer(lambda producer: queue(producer.channel).declare())

    def _with_producer(self, act: Callable[[Any], Any]) -> Any:
        began = time.monotonic()
        try:
            return self._once(act)
        except AWAY:
            if time.monotonic() - began > REFUSED_WITHIN:
                raise
            return self._once(act)  # perhaps only the connection was old: the broker restarted since

    def _once(self, act: Callable[[Any], Any]) -> Any:
        with self.producer_or_acquire() as producer:
            connection = producer.connection
            try:
                _ = connection.default_channel  # connects, or raises
                bound_open_broker_sockets(connection, PUBLISH_WITHIN)
                return act(producer)
            except (*AWAY, *connection.connection_errors, *connection.channel_errors) as error:
                bound_open_broker_sockets(connection, CLOSE_WITHIN)
                raise KombuError(type(error).__name__) from error

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """Without heartbeats: nobody sends them while a publisher is idle, and RabbitMQ would hang up."""
        return super().connection_for_write(url, **({"heartbeat": 0} | options))


class Listener(Consumer):  # type: ignore[misc]
    """Celery's consumer without the 28 queues of delayed delivery; it comes back to its broker quickly, and always."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The same steps but one."""

        default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step]  # noqa: RUF012

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app.listener = self

    def start(self) -> None:
        """Until the worker is to stop. Celery's own ends where closing a connection that is lost already fails."""
        while self.blueprint.state not in STOP_CONDITIONS:
            try:
                super().start()
            except Exception as error:
                logger.warning("consumer_failed", error=type(error).__name__, exc_info=True)
                self._let_go()
                time.sleep(1)

    def _let_go(self) -> None:
        """What Celery does itself before it connects again."""
        self.connection = None
        self.on_close()
        self._cancel_connection_timer_entries()
        self.blueprint.restart(self)

    def hears_work(self) -> bool:
        """Whether the queue of all work is among those that are consumed."""
        consumer = self.task_consumer
        return consumer is not None and bool(consumer.consuming_from(QUEUE))

    def ensure_connected(self, conn: Any) -> Any:
        """The same, with attempts that lie closer together."""
        pauses = {"interval_start": 1, "interval_step": 1, "interval_max": RECONNECT_WITHIN}
        conn.ensure_connection = partial(conn.ensure_connection, **pauses)
        return super().ensure_connected(conn)


def celery_app(config: Settings) -> Bell:
    """The app as producer and consumer need it."""
    app = Bell("orders_backup", broker=config.broker_url, set_as_current=False)
    amqp = is_amqp(config.broker_url)
    app.conf.update(
        task_queues=[work_queue(amqp=amqp)],
        task_default_queue=QUEUE,
        task_default_exchange=QUEUE,
        task_default_routing_key=QUEUE,
        task_default_exchange_type="topic" if amqp else "direct",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_publish_retry=False,
        task_serializer="json",
        accept_content=["json"],
        worker_consumer="orders_backup.bell:Listener",
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_soft_shutdown_timeout=10,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_eta_task_limit=10,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_connection_timeout=PUBLISH_WITHIN,
        broker_heartbeat=10,
        broker_pool_acquire_timeout=10,
        broker_transport_options=_amqp_options() if amqp else _redis_options(config.lease),
    )
    return app


def _amqp_options() -> dict[str, Any]:
    return {"confirm_publish": True, "write_timeout": PUBLISH_WITHIN, "max_retries": 0}


def _redis_options(lease: timedelta) -> dict[str, Any]:
    return {
        "visibility_timeout": int(_least_visibility(lease)),
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": PUBLISH_WITHIN,
        "socket_connect_timeout": PUBLISH_WITHIN,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "max_retries": 0,  # of a publisher; it would wait for a broker that is away
    }


def _least_visibility(lease: timedelta) -> float:
    return VISIBLE_AFTER * max(LONGEST_TASK, lease).total_seconds()


def is_amqp(url: str) -> bool:
    return url.startswith("amqp")


def work_queue(*, amqp: bool) -> Queue:
    """The one queue of all work. On RabbitMQ: replicated, and a message that is given back again and again ends."""
    if not amqp:
        return queue(QUEUE, "direct")
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    return queue(QUEUE, "topic", {"x-queue-type": "quorum", "x-delivery-limit": DELIVERIES, **dead})


def dead_queue() -> Queue:
    """Where RabbitMQ lays what was given back too often; it forgets that itself."""
    week = 7 * 24 * 3600 * 1000
    return queue(DEAD, "", {"x-queue-type": "quorum", "x-max-length": 1000, "x-message-ttl": week})


def queue(name: str, kind: str, arguments: dict[str, Any] | None = None) -> Queue:
    """A queue behind an exchange of its name and `kind`; none: behind the broker's own, by name."""
    exchange = Exchange(name if kind else "", kind or "direct")  # type: ignore[no-untyped-call]
    return Queue(name, exchange, routing_key=name, queue_arguments=arguments)  # type: ignore[no-untyped-call]


# The check


def refuse_unsafe(app: Celery, *, lease: timedelta) -> None:
    """Raises SettingsError with a sentence for each setting under which work could be lost, doubled or stuck."""
    if sentences := [*unsafe_versions(celery.__version__, kombu.__version__), *unsafe(app.conf, lease=lease)]:
        raise SettingsError(" ".join(sentences))


def unsafe_versions(*versions: str) -> list[str]:
    """Before 5.7 workers went deaf after a broker's restart in ways that are mended since."""
    old = [one for one in versions if tuple(int(part) for part in one.split(".")[:2]) < NEEDS]
    return ["Celery and kombu must be 5.7 or newer: older workers stay deaf after a reconnect."] if old else []


def unsafe(conf: Conf, *, lease: timedelta) -> list[str]:
    """A sentence for each unsafe setting of a configuration, whoever set it."""
    rules = _AMQP if is_amqp(str(conf.broker_url)) else _REDIS
    found = [sentence for breaks, sentence in _ALWAYS + rules if breaks(conf)]
    if not is_amqp(str(conf.broker_url)):
        least = _least_visibility(lease)
        if conf.broker_transport_options.get("visibility_timeout", 0) < least:
            found.append(
                f"visibility_timeout must be at least {least:.0f} s, {VISIBLE_AFTER} times the longest task:"
                " a task that takes longer runs twice at once."
            )
    return found


Rule = tuple[Callable[[Conf], bool], str]

_ALWAYS: tuple[Rule, ...] = (
    (
        lambda conf: not conf.task_acks_late,
        "task_acks_late must be on: a task is lost with the worker that took it.",
    ),
    (
        lambda conf: conf.task_acks_late and not conf.task_reject_on_worker_lost,
        "task_acks_late needs task_reject_on_worker_lost: a killed worker's task counts as done.",
    ),
    (
        lambda conf: conf.worker_prefetch_multiplier != 1,
        "worker_prefetch_multiplier must be 1: messages wait behind a long task while other workers are free.",
    ),
    (
        lambda conf: bool(conf.result_backend) or not conf.task_ignore_result,
        "There must be no result backend, and task_ignore_result on: results belong into PostgreSQL.",
    ),
    (
        lambda conf: not conf.worker_cancel_long_running_tasks_on_connection_loss,
        "worker_cancel_long_running_tasks_on_connection_loss must be on: a broker's restart runs a task twice at once.",
    ),
    (
        lambda conf: set(conf.accept_content) != {"json"} or conf.task_serializer != "json",
        "accept_content and task_serializer must be json alone: other messages carry code.",
    ),
    (
        lambda conf: bool(conf.beat_schedule) or not conf.worker_eta_task_limit,
        "ETA and beat must not be used, and worker_eta_task_limit be set: what waits belongs into PostgreSQL.",
    ),
    (
        lambda conf: conf.worker_enable_remote_control or not conf.broker_channel_error_retry,
        "worker_enable_remote_control must be off, broker_channel_error_retry on: a broker's restart ends the worker.",
    ),
    (
        lambda conf: conf.worker_consumer != "orders_backup.bell:Listener",
        "worker_consumer must be orders_backup.bell:Listener: Celery's own comes back to its broker after up to 30 s.",
    ),
)

_AMQP: tuple[Rule, ...] = (
    (
        lambda conf: not conf.broker_transport_options.get("confirm_publish"),
        "RabbitMQ needs confirm_publish: messages count as sent that never arrived.",
    ),
    (
        lambda conf: not _is_bounded_quorum(conf),
        f"The queue {QUEUE} needs the type quorum, x-delivery-limit and a dead-letter exchange: it ends with its node.",
    ),
)

_REDIS: tuple[Rule, ...] = (
    (
        lambda conf: not conf.broker_transport_options.get("socket_timeout"),
        "Valkey and Redis need socket_timeout: a publisher waits for ever for a broker that hangs.",
    ),
)


def _is_bounded_quorum(conf: Conf) -> bool:
    found = next((one for one in conf.task_queues or () if one.name == QUEUE), None)
    arguments = (found.queue_arguments or {}) if found is not None else {}
    needed = {"x-delivery-limit", "x-dead-letter-exchange"}
    return arguments.get("x-queue-type") == "quorum" and needed <= set(arguments)


def check_broker(app: Celery) -> bool:
    """Asks Valkey or Redis whether it throws messages away when memory is short. False: it is away, ask again.

    Raises SettingsError. Where the broker may not be asked, that is logged, and it counts as asked.
    """
    if is_amqp(str(app.conf.broker_url)):
        return True
    with app.connection_for_write() as connection:
        try:
            told = connection.channel().client.info("memory")
        except connection.connection_errors:
            return False
        except connection.channel_errors as error:  # an ACL that forbids INFO
            logger.warning("broker_policy_refused", error=type(error).__name__)
            return True
    policy = told.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise SettingsError(f"The broker's maxmemory-policy is {policy}. Set it to noeviction: it would drop messages.")
    return True
