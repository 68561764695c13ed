"""One claimed sync from claim to settlement: what pull and listing share, and the one place of their failures."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import structlog
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import due, metrics
from orders_backup.accounts.calls import Calls
from orders_backup.budget import Priority
from orders_backup.due import Lease
from orders_backup.errors import (
    AllegroError,
    AllegroForbiddenError,
    AllegroLimitError,
    BudgetExhaustedError,
    LeaseLostError,
    OrdersBackupError,
    ReauthorizationRequiredError,
    SyncStoppedError,
    TokenBusyError,
)
from orders_backup.orders import archive, changes
from orders_backup.orders.archive import Recorded
from orders_backup.orders.changes import Reading
from orders_backup.runtime import Runtime
from orders_backup.sync import dispatch, owed, plan, state
from orders_backup.sync.plan import Debt

SLICE = timedelta(seconds=20)
"""How long a job works at a stretch; then it is due again at once, so that others get their turn."""
TURN = timedelta(minutes=2)
"""How long it goes on, slice after slice, while nobody waits for a turn: coming back costs up to a second of budget."""
TOKEN_PAUSE = timedelta(seconds=3)
FORBIDDEN_PAUSE = timedelta(minutes=5)

Q = TypeVar("Q")
A = TypeVar("A")

log = structlog.get_logger()


@dataclass(slots=True)
class Job:
    """A claimed sync of one account. `cursor` is the journal's at the claim, `followed_at` when it last
    ended well; `slice_ends_at` is the end of its slice."""

    runtime: Runtime
    account_id: UUID
    kind: str
    lease: Lease
    cursor: str | None
    followed_at: datetime | None
    interval: timedelta
    slice_ends_at: datetime
    calls: Calls
    values: dict[str, object] = field(default_factory=dict)
    new_events: int = 0

    def now(self) -> datetime:
        return self.runtime.clock.now()

    @property
    def ends_at(self) -> datetime:
        """No page is begun after this: the slice is over, or the process is asked to end."""
        return datetime.min.replace(tzinfo=UTC) if self.runtime.stopping.is_set() else self.slice_ends_at

    def fence(self, tx: Connection) -> None:
        """Raises LeaseLostError, and SyncStoppedError where the account was paused or may not be synced any more."""
        due.fence(tx, self.lease, extend=self.runtime.settings.lease)
        if not dispatch.is_wanted(tx, self.account_id):
            raise SyncStoppedError("This account was paused or disconnected.")


def work(runtime: Runtime, account_id: UUID, kind: str, *, priority: Priority, body: Callable[[Job], datetime]) -> None:
    """Claims the sync, runs `body`, and settles with the moment it returns; a failure becomes a later moment.

    Nothing is raised for what we know by name, except where the database is away: then the lease runs out.
    """
    with database.transaction(runtime.db) as tx:
        claimed = state.claim(
            tx, account_id, kind, lease=runtime.settings.lease, interval=runtime.settings.sync_interval
        )
        if claimed is None:
            return
        runtime.clock.set(claimed.lease.now)
    calls = Calls(runtime, account_id, priority=priority)
    ends_at = claimed.lease.now + SLICE
    known = (claimed.cursor, claimed.followed_at, claimed.interval)
    job = Job(runtime, account_id, kind, claimed.lease, *known, ends_at, calls)
    try:
        due_at = _turn(job, body, priority)
    except (BudgetExhaustedError, TokenBusyError) as error:
        retry_at = error.retry_at if isinstance(error, BudgetExhaustedError) else job.now() + TOKEN_PAUSE
        _settle(job, due_at=retry_at, failures=job.lease.failures, last_error=None)
    except LeaseLostError:
        log.warning("sync_lease_lost", account_id=str(account_id), kind=kind)
    except SyncStoppedError:
        _settle(job, due_at=None, failures=0, last_error=None)
    except AllegroError as error:
        failures = job.lease.failures + 1
        _settle(job, due_at=job.now() + _pause(error, failures), failures=failures, last_error=str(error))
        trace = {"allegro_trace_id": error.trace_id, "http_status": error.http_status}
        log.warning("sync_failed", account_id=str(account_id), kind=kind, code=error.code, failures=failures, **trace)
    except ReauthorizationRequiredError as error:
        _settle(
            job,
            due_at=job.now() + plan.backoff(job.lease.failures),
            failures=job.lease.failures + 1,
            last_error=str(error),
        )
    else:
        _settle(job, due_at=due_at, failures=0, last_error=None, at_once=True)
    finally:
        runtime.drift.write(runtime.db)


def _turn(job: Job, body: Callable[[Job], datetime], priority: Priority) -> datetime:
    """Slice after slice, as long as there is more to do at once and nobody waits; the moment to go on after that."""
    while True:
        due_at = body(job)
        now = job.now()
        is_over = now - job.lease.now > TURN or job.runtime.stopping.is_set()
        if due_at > now or is_over or not job.calls.made:
            return due_at
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            if dispatch.somebody_waits(tx, job.kind):
                return due_at
        job.slice_ends_at = now + SLICE
        job.calls = Calls(job.runtime, job.account_id, priority=priority)


def tell_of(run_id: UUID | None) -> None:
    """From now on this task's lines in the log name the run that it works on: by its id whoever asked for it finds
    them, and the run's row is the truth, not the message that rang."""
    if run_id is None:
        structlog.contextvars.unbind_contextvars("run_id")
    else:
        structlog.contextvars.bind_contextvars(run_id=str(run_id))


def side_by_side(questions: Sequence[Q], ask: Callable[[Q], A]) -> "list[A | OrdersBackupError]":
    """The answers in the order of the questions, all on the way at once; a known failure stands for its answer. What
    their lines in the log say of the work goes with them into the threads.

    What was served is stored before a failure is raised: Allegro may never serve it again.
    """

    def answer(question: Q) -> A | OrdersBackupError:
        try:
            return ask(question)
        except OrdersBackupError as error:
            return error

    if len(questions) <= 1:
        return [answer(question) for question in questions]
    with ThreadPoolExecutor(len(questions), thread_name_prefix="call") as pool:
        asked = [(copy_context(), question) for question in questions]
        return list(pool.map(lambda one: one[0].run(answer, one[1]), asked))


def record(
    tx: Connection, job: Job, readings: Sequence[changes.Reading | changes.Unreadable], *, cause: str
) -> tuple[Recorded, set[str]]:
    """Archives readings, strikes the debts that all of them pay, and owes what they made doubtful.

    Second: the ids of the orders whose debts are paid.
    """
    recorded = archive.record(tx, job.runtime.codec, job.account_id, readings, cause=cause)
    for what in ("inserted", "updated", "unchanged", "set_aside"):
        metrics.ORDERS.labels(what).inc(getattr(recorded, what))
    readable = [one for one in readings if isinstance(one, Reading)]
    struck: list[str] = []
    bodies = ((one.facts.order_id, one.body) for one in readable)
    job.runtime.drift.see("order", job.account_id, bodies, sampled=cause == "backfill")
    if readable:
        ids, sent_at = [one.facts.order_id for one in readable], min(one.sent_at for one in readable)
        struck = owed.paid(tx, job.account_id, ids, sent_at=sent_at)
        if struck:
            archive.events_processed(tx, job.account_id, struck)
    doubtful = [Debt(order_id, None, False, []) for order_id in recorded.maybe_superseded]
    owed.owe(tx, job.account_id, doubtful, cause="merge", now=job.now())
    return recorded, set(struck)


def _settle(job: Job, *, due_at: datetime | None, failures: int, last_error: str | None, at_once: bool = False) -> None:
    """Gives the sync back. `at_once`: a run that was asked for meanwhile makes it due now; a job that has to wait,
    for the budget or after a failure, waits all the same."""
    try:
        with database.transaction(job.runtime.db) as tx:
            due.fence(tx, job.lease, extend=job.runtime.settings.lease)  # a run that is asked for now waits for us
            waiting = state.unfinished(tx, job.account_id, state.RUN_KINDS.get(job.kind, ()))
            if at_once and due_at is not None and waiting is not None and waiting.status == "queued":
                due_at = min(due_at, job.now())
            due.settle(tx, job.lease, due_at=due_at, failures=failures, last_error=last_error, **job.values)
    except LeaseLostError:
        log.warning("sync_lease_lost", account_id=str(job.account_id), kind=job.kind)


def _pause(error: AllegroError, failures: int) -> timedelta:
    """How long to wait after a failure; a little chance keeps many accounts from coming back together."""
    if isinstance(error, AllegroLimitError):
        return timedelta(seconds=error.retry_after or 65)
    pause = FORBIDDEN_PAUSE if isinstance(error, AllegroForbiddenError) else plan.backoff(failures)
    return pause * random.uniform(0.8, 1.2)  # noqa: S311 – spread, not secrecy
