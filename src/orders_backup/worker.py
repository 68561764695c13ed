"""Everything in the background, on one page: the Celery app, every task, and the tick.

PostgreSQL holds the work; a message only rings the bell. Tasks are short, idempotent by their claim, and never
retried by Celery. Any number of workers and schedulers may run.
"""

import argparse
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, task_prerun
from kombu.exceptions import OperationalError as KombuError
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import due, log, settings
from orders_backup import runtime as runtimes
from orders_backup.accounts import connect, sweeper, tokens
from orders_backup.errors import BudgetExhaustedError, DatabaseUnavailableError, OrdersBackupError, SettingsError
from orders_backup.exports import jobs
from orders_backup.exports import state as export_state
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.sync import backfill, dispatch, extras, pull, state, sweeps
from orders_backup.tables import account_tokens, device_flows, exports, syncs

QUEUE = "orders-backup"
TICK_SECONDS = 0.5
AGAIN_SECONDS = 0.1
"""After a tick that rang: workers take work quickly, and no more of it is rung for than they have slots."""
WAKE_SECONDS = 1.0
"""A resumed account goes on after so long."""

TABLES = {"poll_device": device_flows, "refresh_token": account_tokens, "sync": syncs, "export": exports}
"""Each table of claimable work and the task that is rung for it."""
SYNCS = {
    "journal": pull.pull,
    "listing": backfill.work_on_listing,
    "sweep": sweeps.sweep,
    "extras": extras.work_on_extras,
}
"""What each standing job of an account does."""
TOKENS_AGAIN_AFTER = timedelta(seconds=5)
"""A refresh that a crash interrupted has 60 seconds in all, so its bell is rung again sooner."""

logger = structlog.get_logger()


def celery_app(config: Settings) -> Celery:
    """The app as producer and consumer need it; what each setting prevents is told in docs/decisions."""
    app = Celery("orders_backup", broker=config.broker_url, set_as_current=False)
    is_amqp = config.broker_url.startswith("amqp")
    redis_options = {
        "visibility_timeout": 300,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
    app.conf.update(
        task_default_queue=QUEUE,
        task_default_queue_type="quorum" if is_amqp else "classic",
        task_default_exchange_type="topic" if is_amqp else "direct",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_soft_shutdown_timeout=10,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_eta_task_limit=10,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=10,
        broker_transport_options={"confirm_publish": True} if is_amqp else redis_options,
    )
    return app


def register(app: Celery, runtime: Runtime) -> None:
    """The tasks. Each takes identifiers, makes one call, and leaves every decision to the room it calls."""
    task: Callable[..., Callable[[Callable[..., None]], Any]] = app.task

    @task(name="poll_device", shared=False)
    def poll_device(account_id: str) -> None:
        _run("poll_device", account_id, lambda: connect.poll(runtime, UUID(account_id)))

    @task(name="refresh_token", shared=False)
    def refresh_token(account_id: str) -> None:
        _run("refresh_token", account_id, lambda: tokens.refresh_due(runtime, UUID(account_id)))

    @task(name="sync", shared=False)
    def sync(account_id: str, kind: str) -> None:
        _run(f"sync_{kind}", account_id, lambda: SYNCS[kind](runtime, UUID(account_id)))

    @task(name="export", shared=False)
    def export(export_id: str) -> None:
        _run("export", export_id, lambda: jobs.work(runtime, UUID(export_id)))


def _run(task: str, account_id: str, work: Callable[[], None]) -> None:
    """The entry point's last word on failures: what is known by name stays due, what is not is logged whole."""
    structlog.contextvars.bind_contextvars(task=task)
    try:
        work()
    except BudgetExhaustedError:
        logger.info("task_postponed", account_id=account_id)
    except OrdersBackupError as error:
        logger.warning("task_failed", account_id=account_id, code=error.code, error=str(error))
    except Exception:
        logger.exception("task_crashed", account_id=account_id)
    finally:
        structlog.contextvars.clear_contextvars()


def tick(runtime: Runtime, app: Celery, *, wake: bool) -> int:
    """Rings for everything that is due, and says how much that was. What cannot be sent is rung for again later."""
    rung: list[tuple[str, dict[str, Any]]] = []
    with database.transaction(runtime.db) as tx:
        tx.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '5s'"))  # should this scheduler freeze
        if wake:
            state.wake(tx)
        for task, table in TABLES.items():
            rung += [(task, key) for key in _ring(tx, runtime.settings, table)]
    for task, key in rung:
        arguments = {name: str(value) for name, value in key.items()}
        app.send_task(task, kwargs=arguments, queue=QUEUE, retry=False)
    return len(rung)


def _ring(tx: Connection, config: Settings, table: sa.Table) -> list[due.Key]:
    """Syncs by turns and no more than the workers can soon take; logins, which are few and urgent, all at once; and
    few exports, which are large."""
    if table is syncs:
        polls = dispatch.polls(config.allegro_client_id, config.rate_limit_client)
        return dispatch.ring(tx, slots=due.slots(tx), polls=polls)
    if table is exports:
        return export_state.ring(tx)
    return due.ring(tx, table, again_after=TOKENS_AGAIN_AFTER if table is account_tokens else due.RING_AGAIN_AFTER)


def run_scheduler(config: Settings) -> None:
    """Ticks until SIGTERM or SIGINT."""
    runtime = runtimes.build(config, pool_size=2)
    app = celery_app(config)
    stopped = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopped.set())
    logger.info("scheduler_started")
    pause, woken_at = 0.0, -WAKE_SECONDS
    while not stopped.wait(pause):
        pause, began = TICK_SECONDS, time.monotonic()
        wake = began - woken_at >= WAKE_SECONDS
        try:
            if tick(runtime, app, wake=wake):
                pause = AGAIN_SECONDS
            woken_at = began if wake else woken_at
        except (DatabaseUnavailableError, KombuError, OSError) as error:
            logger.warning("tick_failed", error=type(error).__name__)
    runtime.close()
    logger.info("scheduler_stopped")


def run_worker(config: Settings, *, concurrency: int) -> None:
    """Consumes until SIGTERM. Threads: the work waits on the network and on PostgreSQL; claims contain a crash."""
    runtime = runtimes.build(config, pool_size=concurrency * 2 + 2)
    app = celery_app(config)
    register(app, runtime)
    presence = due.Presence(runtime.db, concurrency)
    task_prerun.connect(lambda **_: presence.tell(), weak=False)  # the tick rings for as many as workers have slots
    setup_logging.connect(lambda **_: None, weak=False)  # Celery leaves the logs as log.configure made them
    warnings.filterwarnings("ignore", category=SecurityWarning)  # root is harmless here: messages are JSON, never code
    logger.info("worker_started", concurrency=concurrency)
    name = f"--hostname=worker-{os.getpid()}@%h"
    options = ["--pool=threads", f"--concurrency={concurrency}", name, "--without-gossip", "--without-mingle"]
    stopped = threading.Event()
    sweeping = threading.Thread(target=sweeper.run, args=(runtime, stopped), name="sweeper", daemon=True)
    sweeping.start()
    try:
        app.worker_main(["--quiet", "worker", *options])
    finally:
        stopped.set()
        sweeping.join(timeout=5)
        runtime.close()


def main() -> None:
    """`python -m orders_backup.worker worker|scheduler`."""
    parser = argparse.ArgumentParser(prog="orders_backup.worker")
    parser.add_argument("role", choices=["worker", "scheduler"])
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--data-dir", type=Path, default=None)
    options = parser.parse_args()
    try:
        config = settings.load(data_dir=options.data_dir)
        if not config.broker_url:
            raise SettingsError("BROKER_URL is not set. Set it, or start `orders-backup up`.")
        log.configure(log_format=config.log_format, level=config.log_level)
        if options.role == "worker":
            run_worker(config, concurrency=options.concurrency)
        else:
            run_scheduler(config)
    except OrdersBackupError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
