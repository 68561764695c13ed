"""What refuses Celery where it is not set as it must be, and a broker that would lose messages.

What each setting prevents is told in docs/decisions/0010-celery.md.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import celery
import kombu
import structlog
from amqp.exceptions import PreconditionFailed  # type: ignore[import-untyped]
from celery import Celery

from orders_backup import bell
from orders_backup.bell import Bell
from orders_backup.errors import SettingsError

NEEDS = (5, 7)

Conf = Any
Rule = tuple[Callable[[Conf], bool], str]

logger = structlog.get_logger()


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
    rules = _AMQP if bell.is_amqp(str(conf.broker_url)) else _REDIS
    found = [sentence for breaks, sentence in _ALWAYS + rules if breaks(conf)]
    if not bell.is_amqp(str(conf.broker_url)):
        least = bell.least_visibility(lease)
        if conf.broker_transport_options.get("visibility_timeout", 0) < least:
            found.append(
                f"visibility_timeout must be at least {least:.0f} s, {bell.VISIBLE_AFTER} times the longest task:"
                " a task that takes longer runs twice at once."
            )
    return found


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
        f"The queue {bell.QUEUE} needs the type quorum, x-delivery-limit and dead letters: it ends with its node.",
    ),
)

_REDIS: tuple[Rule, ...] = (
    (
        lambda conf: not conf.broker_transport_options.get("socket_timeout"),
        "Valkey and Redis need socket_timeout: a publisher waits for ever for a broker that hangs.",
    ),
)


def _is_bounded_quorum(conf: Conf) -> bool:
    found = next((one for one in conf.task_queues or () if one.name == bell.QUEUE), None)
    arguments = (found.queue_arguments or {}) if found is not None else {}
    needed = {"x-delivery-limit", "x-dead-letter-exchange"}
    return arguments.get("x-queue-type") == "quorum" and needed <= set(arguments)


def check_broker(app: Bell) -> bool:
    """Asks Valkey or Redis whether it throws messages away when memory is short, and RabbitMQ whether the queue it has
    is ours. False: it is away, ask again.

    Raises SettingsError. Where the broker may not be asked, that is logged, and it counts as asked.
    """
    if app.is_amqp:
        return _has_our_queue(app)
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


def _has_our_queue(app: Bell) -> bool:
    try:
        app.reach()
    except bell.AWAY as error:
        if not isinstance(error.__cause__, PreconditionFailed):
            return False
        raise SettingsError(
            f"RabbitMQ has a queue {bell.QUEUE} with other settings, which may lose messages. Delete it there"
            f" (rabbitmqctl delete_queue {bell.QUEUE}): it is made anew, and no work is lost with it."
        ) from None
    return True
