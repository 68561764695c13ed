"""Everything in the background, on one page: the Celery app, every task, and the tick.

PostgreSQL holds the work; a message only rings the bell. Tasks are short, idempotent by their claim, and never
retried by Celery. Any number of workers and schedulers may run.
"""

import argparse
import atexit
import os
import secrets
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from celery import Celery
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_shutting_down
from sqlalchemy.engine import Connection

from orders_backup import bell, canary, counters, due, liveness, log, metrics, refusal, roster, settings, traces
from orders_backup import db as database
from orders_backup import runtime as runtimes
from orders_backup.accounts import connect, sweeper, tokens
from orders_backup.alerts import watch as watching
from orders_backup.alerts import watchman
from orders_backup.backups import fit, ledger, making, presence
from orders_backup.backups import job as archiving
from orders_backup.backups import state as archive_state
from orders_backup.bell import QUEUE, celery_app
from orders_backup.canary import Hearing
from orders_backup.errors import BudgetExhaustedError, DatabaseUnavailableError, OrdersBackupError, SettingsError
from orders_backup.exports import jobs
from orders_backup.exports import state as export_state
from orders_backup.liveness import Departure
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.sync import alarms, backfill, dispatch, extras, pull, state, sweeps
from orders_backup.tables import account_tokens, archives, backups, device_flows, exports, syncs, watches, webhooks
from orders_backup.webhooks import deliver as deliveries
from orders_backup.webhooks import outbox

TICK_SECONDS = 0.5
AGAIN_SECONDS = 0.1
"""After a tick that rang: workers take work quickly, and no more of it is rung for than they have slots."""
WAKE_SECONDS = 1.0
"""A resumed account goes on after so long."""
LOOK_SECONDS = 15.0
"""After so long the scheduler looks again whether accounts have something new for their archives."""
TICK_WITHIN = 60.0
"""Seconds after which a tick does not end any more, and the scheduler does."""

ASIDE = "aside"
"""The name of threads that do what may take hours, so that no slot of the syncs does. One works at a time, the others
end at once."""

TABLES = {
    "poll_device": device_flows,
    "refresh_token": account_tokens,
    "sync": syncs,
    "deliver": webhooks,
    "export": exports,
    "archive": archives,
    "backup": backups,
    "watch": watches,
}
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


def register(app: Celery, runtime: Runtime, hearing: Hearing | None = None) -> None:
    """The tasks. Each takes identifiers, makes one call, and leaves every decision to the room it calls."""
    hands = hearing or Hearing(hands=1)
    task: Callable[..., Callable[[Callable[..., None]], Any]] = app.task

    @task(name="poll_device", shared=False)
    def poll_device(account_id: str) -> None:
        _run(hands, "poll_device", {"account_id": account_id}, lambda: connect.poll(runtime, UUID(account_id)))

    @task(name="refresh_token", shared=False)
    def refresh_token(account_id: str) -> None:
        _run(hands, "refresh_token", {"account_id": account_id}, lambda: tokens.refresh_due(runtime, UUID(account_id)))

    @task(name="sync", shared=False)
    def sync(account_id: str, kind: str) -> None:
        work = SYNCS[kind]
        _run(hands, "sync", {"account_id": account_id, "kind": kind}, lambda: work(runtime, UUID(account_id)))

    @task(name="deliver", shared=False)
    def deliver(webhook_id: str) -> None:
        _run(hands, "deliver", {"webhook_id": webhook_id}, lambda: deliveries.deliver(runtime, UUID(webhook_id)))

    @task(name="export", shared=False)
    def export(export_id: str) -> None:
        work = partial(jobs.work, runtime, UUID(export_id), sign=hands.sign_of_life())
        _run(hands, "export", {"export_id": export_id}, work)

    @task(name="archive", shared=False)
    def archive(account_id: str) -> None:
        work = partial(archiving.work, runtime, UUID(account_id), sign=hands.sign_of_life())
        _run(hands, "archive", {"account_id": account_id}, work)

    @task(name="backup", shared=False)
    def backup(backup_id: str) -> None:
        def aside() -> None:
            work = partial(making.work, runtime, UUID(backup_id), sign=hands.sign_of_life())
            _run(hands, "backup", {"backup_id": backup_id}, work, beside=True)

        threading.Thread(target=aside, name=ASIDE, daemon=True).start()

    @task(name="watch", shared=False)
    def watch(kind: str) -> None:
        work = partial(watching.work, runtime, watching.ROUNDS[kind])
        _run(hands, "watch", {"kind": kind}, work)


def _run(hands: Hearing, task: str, key: dict[str, str], work: Callable[[], None], *, beside: bool = False) -> None:
    """The entry point's last word on failures: what is known by name stays due, what is not is logged with
    its place in the code."""
    ids = {name: value for name, value in key.items() if name.endswith("_id") and log.FIELDS[name](value)}
    name = "_".join([task, *([key["kind"]] if "kind" in key else [])])
    structlog.contextvars.bind_contextvars(task=name, trace_id=log.new_trace_id(), **ids)
    claimed: list[due.Lease] = []
    due.CLAIMED.set(claimed)
    hands.began(time.monotonic(), claimed, beside=beside)
    outcome = "done"
    try:
        with traces.span(name, "CONSUMER", **ids):
            work()
    except BudgetExhaustedError:
        outcome = "postponed"
        logger.info("task_postponed")
    except OrdersBackupError as error:
        outcome = "failed"
        logger.warning("task_failed", code=error.code, error=type(error.__cause__ or error).__name__)
    except Exception:
        outcome = "crashed"
        logger.exception("task_crashed")
    finally:
        metrics.TASKS.labels(name, outcome).inc()
        hands.ended()
        structlog.contextvars.clear_contextvars()


def tick(runtime: Runtime, app: Celery, *, wake: bool, look: bool = False) -> int:
    """Rings for everything that is due, and says how much that was. Raises where the broker is away, and, when it
    looks, DatabaseUnfinishedError where nobody may work on this database."""
    rung: list[tuple[str, due.Key]] = []
    if look:
        fit.require(runtime.db)
    with database.transaction(runtime.db) as tx:
        tx.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = '5s'"))  # should this scheduler freeze
        if wake:
            state.wake(tx)
            outbox.wake(tx)
        if look:
            watching.begin(tx)
        if look and runtime.store is not None:
            archive_state.wake(tx)
            ledger.wake(tx, runtime.settings)
        for task, table in TABLES.items():
            rung += [(task, key) for key in _ring(tx, runtime.settings, table)]
    for place, (task, key) in enumerate(rung):
        arguments = {name: str(value) for name, value in key.items()}
        try:
            app.send_task(task, kwargs=arguments, queue=QUEUE, retry=False)
        except bell.AWAY:
            _unring(runtime, rung[place:])
            raise
    return len(rung)


def _unring(runtime: Runtime, unsent: Sequence[tuple[str, due.Key]]) -> None:
    """Nobody was told, so it is told at once when the broker is back. A doubled message would be harmless."""
    with database.transaction(runtime.db) as tx:
        for task, table in TABLES.items():
            due.unring(tx, table, [key for name, key in unsent if name == task])


def _ring(tx: Connection, config: Settings, table: sa.Table) -> list[due.Key]:
    """Syncs by turns and no more than the workers can soon take; logins, which are few and urgent, all at once; few
    exports, which are large; and one backup."""
    if table is syncs:
        polls = dispatch.polls(config.allegro_client_id, config.rate_limit_client)
        return dispatch.ring(tx, slots=roster.slots(tx), polls=polls)
    if table is webhooks:
        return outbox.ring(tx, slots=roster.slots(tx))
    if table is archives:
        return archive_state.ring(tx, slots=roster.slots(tx))
    if table is exports:
        return export_state.ring(tx)
    if table is backups:
        return ledger.ring(tx)
    return due.ring(tx, table, again_after=TOKENS_AGAIN_AFTER if table is account_tokens else due.RING_AGAIN_AFTER)


def run_scheduler(config: Settings, *, pulse: Path | None = None) -> None:
    """Ticks until SIGTERM or SIGINT. Ends itself where a tick does not end."""
    app = celery_app(config)
    refusal.refuse_unsafe(app, lease=config.lease)
    runtime = runtimes.build(config, pool_size=2)
    stopped = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopped.set())
    logger.info("scheduler_started")
    is_safe, pause, woken_at, looked_at, ended_at = False, 0.0, -WAKE_SECONDS, -LOOK_SECONDS, time.monotonic()
    rounds = alarms.Rounds()

    def verdict(now: float) -> str | None:
        return "stuck" if now - ended_at > TICK_WITHIN else None

    liveness.start_looking(verdict, pulse=pulse, leave=liveness.leave_at_once)
    watchman.keep_watch(runtime, stopped)
    while not stopped.wait(pause):
        pause, began = TICK_SECONDS, time.monotonic()
        wake, look = began - woken_at >= WAKE_SECONDS, began - looked_at >= LOOK_SECONDS
        try:
            is_safe = is_safe or refusal.check_broker(app)
            app.reach()
            if tick(runtime, app, wake=wake, look=look):
                pause = AGAIN_SECONDS
            woken_at, looked_at = began if wake else woken_at, began if look else looked_at
            if look:
                rounds.go_on(runtime.db, at=began)
        except (DatabaseUnavailableError, *bell.AWAY) as error:
            logger.warning("tick_failed", error=type(error).__name__)
        ended_at = time.monotonic()
    runtime.close()
    logger.info("scheduler_stopped")


def run_worker(config: Settings, *, concurrency: int, pulse: Path | None = None) -> None:
    """Consumes until SIGTERM. Threads: the work waits on the network and on PostgreSQL; claims contain a crash."""
    app, hearing = celery_app(config), Hearing(hands=concurrency)
    refusal.refuse_unsafe(app, lease=config.lease)
    runtime = runtimes.build(config, pool_size=concurrency * 2 + 6)
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    register(app, runtime, hearing)
    own_queue = canary.listen(app, name, hearing)
    setup_logging.connect(lambda **_: None, weak=False)  # Celery leaves the logs as log.configure made them
    worker_shutting_down.connect(lambda **_: runtime.stopping.set(), weak=False)
    warnings.filterwarnings("ignore", category=SecurityWarning)  # root is harmless here: messages are JSON, never code
    logger.info("worker_started", concurrency=concurrency)
    canary.start_singing(app, own_queue, hearing, runtime)
    departure = Departure(
        runtime.stopping,
        of_no_use=hearing.verdict,
        undone=hearing.working_on,
        farewell=lambda: _leave_behind(runtime, name, hearing.working_on()),
    )
    liveness.start_looking(departure.verdict, pulse=pulse, leave=departure.leave)
    ended = threading.Event()
    reporting = counters.keep_reporting(runtime.db, ended)
    sweeping = threading.Thread(target=sweeper.run, args=(runtime, ended), name="sweeper", daemon=True)
    sweeping.start()
    if runtime.store is not None:
        threading.Thread(target=presence.keep_looking, args=(runtime, ended), name="bucket", daemon=True).start()
    options = ["--pool=threads", f"--concurrency={concurrency}", f"--hostname={name}@%h"]
    try:
        app.worker_main(["--quiet", "worker", *options, "--without-gossip", "--without-mingle", "--without-heartbeat"])
    finally:
        ended.set()
        _wait_for_what_is_aside()
        sweeping.join(timeout=5)
        reporting.join(timeout=5)
        departure.farewell()
        runtime.close()
    if not runtime.stopping.is_set():  # nobody asked it to: whoever started it starts another
        sys.exit(liveness.EX_SOFTWARE)


def _wait_for_what_is_aside() -> None:
    """It ends at its next page once the process is asked to; what does not is given back by the farewell."""
    deadline = time.monotonic() + liveness.STOP_WITHIN
    for thread in [one for one in threading.enumerate() if one.name == ASIDE]:
        thread.join(max(deadline - time.monotonic(), 0))


def _leave_behind(runtime: Runtime, name: str, undone: Sequence[Sequence[due.Lease]]) -> None:
    """What a worker does not finish is due for the others at once; and its name goes from the roster."""
    try:
        with database.transaction(runtime.db) as tx:
            for lease in [lease for task in undone for lease in task]:
                due.give_back(tx, lease)
            roster.strike(tx, name)
    except DatabaseUnavailableError:
        logger.info("farewell_failed")


def main() -> None:
    """`python -m orders_backup.worker worker|scheduler`."""
    parser = argparse.ArgumentParser(prog="orders_backup.worker")
    parser.add_argument("role", choices=["worker", "scheduler"])
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--pulse", type=Path, default=None, help="a file to touch every two seconds while alive")
    options = parser.parse_args()
    try:
        config = settings.load(data_dir=options.data_dir)
        if not config.broker_url:
            raise SettingsError("BROKER_URL is not set. Set it, or start `orders-backup up`.")
        log.configure(log_format=config.log_format, level=config.log_level)
        log.catch_all()
        if config.otel_exporter_otlp_endpoint:
            atexit.register(traces.configure(config.otel_exporter_otlp_endpoint, service=options.role))
        if options.role == "worker":
            run_worker(config, concurrency=options.concurrency, pulse=options.pulse)
        else:
            run_scheduler(config, pulse=options.pulse)
    except OrdersBackupError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
