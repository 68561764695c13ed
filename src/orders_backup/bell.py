"""The bell: the Celery app as it must be set. Rings nothing by itself.

What each setting prevents is told in docs/decisions/0010-celery.md. Waiting is PostgreSQL's business, so a
message that asks for a later moment is refused where it is sent.
"""

import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from celery import Celery
from celery.utils.threads import bound_open_broker_sockets
from celery.worker.consumer import Consumer
from kombu.connection import Connection
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

AWAY = (KombuError, OSError)
"""What sending raises while the broker is away, or took too long."""

logger = structlog.get_logger()


class Bell(Celery):  # type: ignore[misc]
    """Celery that waits for no broker for ever, and that sends nothing for later."""

    has_declared: bool = False

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        """Raises where the broker is away, within seconds; SettingsError for a message with a moment of its own."""
        if options.get("eta") is not None or options.get("countdown") is not None:
            raise SettingsError(f"The task {name} was sent with an ETA or countdown. Set due_at in PostgreSQL instead.")
        once: dict[str, Any] = {"retry": False, "confirm_timeout": PUBLISH_WITHIN, "ignore_result": True}
        if self.is_amqp:
            once["declare"] = [work_queue(amqp=True).exchange]
        send = super().send_task
        return self._with_producer(lambda producer: send(name, *args, **(once | options), producer=producer))

    def reach(self) -> None:
        """Raises where the broker does not answer, within seconds: better before work counts as told than after.

        Whoever empties Valkey or Redis takes the routes as well, so they are told again of the queue. RabbitMQ is told
        once: a queue that was deleted and is made anew at once stays tied to consumers that do not know of it.
        """

        def ask(producer: Any) -> None:
            if self.is_amqp and self.has_declared:
                producer.connection.channel().close()
            else:
                work_queue(amqp=self.is_amqp)(producer.channel).declare()  # type: ignore[no-untyped-call]
                self.has_declared = True

        self._with_producer(ask)

    def waiting(self) -> int:
        """How many messages of the queue of all work nobody has fetched yet."""
        count = self._with_producer(lambda one: one.channel.queue_declare(QUEUE, passive=self.is_amqp).message_count)
        return int(count)

    @property
    def is_amqp(self) -> bool:
        return is_amqp(str(self.conf.broker_url))

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
    """Celery's consumer without the 28 queues of delayed delivery, and quick to come back to its broker."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The same steps but one."""

        default_steps = [step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step]  # noqa: RUF012

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
        "visibility_timeout": int(least_visibility(lease)),
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": PUBLISH_WITHIN,
        "socket_connect_timeout": PUBLISH_WITHIN,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "max_retries": 0,  # of a publisher; it would wait for a broker that is away
    }


def least_visibility(lease: timedelta) -> float:
    """Seconds for which an unacknowledged message must stay invisible, where work is claimed for `lease`."""
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


def round_trip(url: str, *, within: float) -> bool:
    """Sends a message to a queue of its own, and says whether it came back within so many seconds. Raises AWAY."""
    name, until = f"{QUEUE}.probe.{secrets.token_hex(8)}", time.monotonic() + within
    waits = ("read_timeout", "write_timeout") if is_amqp(url) else ("socket_connect_timeout", "socket_timeout")
    options = {"connect_timeout": within, "transport_options": dict.fromkeys(waits, within) | {"max_retries": 0}}
    broker: Any = Connection(url, **options)  # type: ignore[no-untyped-call]
    own = {"exclusive": True, "durable": False, "auto_delete": True}
    mine: Any = Queue(name, Exchange(""), routing_key=name, **own)  # type: ignore[no-untyped-call]
    with broker:
        try:
            mine = mine(broker.channel())
            mine.declare()
            broker.Producer().publish("probe", exchange="", routing_key=name, retry=False)
            while (message := mine.get(no_ack=True)) is None and time.monotonic() < until:
                time.sleep(0.01)
            mine.delete()
        except (*broker.connection_errors, *broker.channel_errors) as error:
            raise KombuError(type(error).__name__) from error
        return message is not None and message.payload == "probe"
