"""Looking at what is due order by order, and what becomes of answers and failures: stored, tried again, or a rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client, wire
from orders_backup.allegro.client import OneOrder
from orders_backup.errors import (
    AllegroAnswerError,
    AllegroError,
    AllegroForbiddenError,
    AllegroNotFoundError,
    AllegroUnavailableError,
    OrdersBackupError,
)
from orders_backup.orders import archive, extras
from orders_backup.orders.extras import Document
from orders_backup.sync import extras_plan as plan
from orders_backup.sync import extras_state as extras_sql
from orders_backup.sync import job as jobs
from orders_backup.sync.extras_state import Known
from orders_backup.sync.job import Job

CAUSE = "extras"
MOST_BYTES = 4 * 1024 * 1024
"""Of one document: a thousand times what one holds at Allegro."""

log = structlog.get_logger()


@dataclass(slots=True)
class Tried:
    """What a slice came to. `landed`: kinds that were answered; `denied`: orders of a kind that were refused."""

    landed: set[str] = field(default_factory=set)
    resting: set[str] = field(default_factory=set)
    denied: dict[str, set[str]] = field(default_factory=dict)
    inserted: int = 0
    updated: int = 0


def look(job: Job, kinds: set[str], tried: Tried) -> None:
    """Asks for a few orders at a time, those that fell due last first, until the slice ends."""
    while (asked := kinds - tried.resting) and job.now() < job.ends_at:
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            due = extras_sql.due(tx, job.account_id, asked, now=job.now(), limit=job.calls.in_flight)
            for one in due:
                if plan.is_over(one.order):
                    extras.postpone(tx, job.account_id, (one.kind, one.order_id), due_at=None, failures=0, error=None)
        if not due:
            return
        open_ones = [one for one in due if not plan.is_over(one.order)]
        if open_ones:
            _ask(job, open_ones, tried)


def _ask(job: Job, due: list[Known], tried: Tried) -> None:
    batch = due[: job.calls.permits(Route.EXTRAS, len(due))]
    answers = jobs.side_by_side(batch, lambda one: job.calls.ask(Route.EXTRAS, partial(_one, job, one)))
    read = [(one, _read(one, answer)) for one, answer in zip(batch, answers, strict=True)]
    _settle(job, read, tried)
    for _, answer in read:
        if isinstance(answer, OrdersBackupError) and not is_of_its_kind(answer):
            raise answer


def _one(job: Job, one: Known, token: str) -> OneOrder:
    ask = {"shipments": client.shipments, "invoices": client.invoices}[one.kind]
    return ask(job.runtime.allegro, token, one.order_id)


def _read(one: Known, answer: OneOrder | OrdersBackupError) -> Document | OrdersBackupError:
    """The document that an answer holds. What has not the shape of one is a failure, and is not kept."""
    if isinstance(answer, OrdersBackupError):
        return answer
    try:
        found = bool(wire.documents(answer.body, one.kind))
        fits(answer.body)
    except AllegroAnswerError as error:
        return error
    due_at = plan.next_look(one.kind, one.order, read_at=answer.sent_at, found=found)
    sent_at, body = answer.sent_at, answer.body
    return extras.document(one.kind, one.order_id, one.order_id, sent_at, body, found=found, due_at=due_at)


def fits(body: bytes) -> None:
    """Raises AllegroAnswerError for a document that is too large to be one."""
    if len(body) > MOST_BYTES:
        raise AllegroAnswerError(f"Allegro's answer holds {len(body)} bytes; so large a document is not kept.")


def is_of_its_kind(error: OrdersBackupError) -> bool:
    """Whether this failure is that of one order or one kind; all others end the slice."""
    known = (AllegroUnavailableError, AllegroForbiddenError, AllegroNotFoundError)
    return isinstance(error, known) or type(error) is AllegroError


def _settle(job: Job, answers: Sequence[tuple[Known, Document | OrdersBackupError]], tried: Tried) -> None:
    """Stores what came, in one transaction. What failed while anything else was answered counts against its order;
    what failed with everything lets its kind rest, and counts against none."""
    documents = [answer for _, answer in answers if isinstance(answer, Document)]
    failed = [(one, answer) for one, answer in answers if isinstance(answer, AllegroError) and is_of_its_kind(answer)]
    tried.landed |= {one.kind for one in documents}
    tried.landed |= {one.kind for one, error in failed if isinstance(error, AllegroNotFoundError)}
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        record(tx, job, documents, tried)
        for one, error in failed:
            _postpone(tx, job, one, error, counts=bool(tried.landed))
    for one, error in failed:
        if one.kind not in tried.landed | tried.resting and _is_of_all(one, error, tried):
            rest(job, one.kind, error, tried)


def _is_of_all(one: Known, error: AllegroError, tried: Tried) -> bool:
    """Whether the whole kind fails: Allegro is away, or denies a second order. One may be denied by itself."""
    if isinstance(error, AllegroUnavailableError):
        return True
    denied = tried.denied.setdefault(one.kind, set())
    denied.add(one.order_id)
    return len(denied) > 1


def _postpone(tx: Connection, job: Job, one: Known, error: AllegroError, *, counts: bool) -> None:
    """404: there is nothing to keep, now; any other failure is tried again, after the fifth of its own much later."""
    key, now = (one.kind, one.order_id), job.now()
    next_look = plan.next_look(one.kind, one.order, read_at=now, found=one.found)
    if isinstance(error, AllegroNotFoundError):
        extras.postpone(tx, job.account_id, key, due_at=next_look, failures=0, error=None)
        return
    failures = one.failures + counts
    due_at = plan.after_failure(failures, now=now)
    if failures == plan.GIVE_UP_AFTER:
        ids = {"account_id": str(job.account_id), "order_id": one.order_id}
        log.error("extra_set_aside", kind=one.kind, code=error.code, **ids)
    extras.postpone(tx, job.account_id, key, due_at=due_at, failures=failures, error=str(error))


def rest(job: Job, kind: str, error: AllegroError, tried: Tried) -> None:
    """Denied, or no longer there: for a day. Away: for some minutes. The reason shows on the account."""
    is_away = isinstance(error, AllegroUnavailableError)
    tried.resting.add(kind)
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        pause = plan.REST if is_away else plan.OFF
        extras_sql.rest(tx, job.account_id, kind, until=job.now() + pause, reason=str(error))
    trace = {"allegro_trace_id": error.trace_id, "http_status": error.http_status}
    log.warning("extra_kind_paused", account_id=str(job.account_id), kind=kind, code=error.code, **trace)


def record(tx: Connection, job: Job, documents: list[Document], tried: Tried) -> None:
    """Archives documents and tells the change feed of those that are news."""
    recorded = extras.record(tx, job.runtime.codec, job.account_id, documents)
    archive.changed_beside(tx, job.account_id, recorded.told, cause=CAUSE)
    shipments = {one.order_id: wire.tracking_numbers(one.body) for one in documents if one.kind == "shipments"}
    archive.found_by(
        tx, job.account_id, {order_id: found for order_id, found in shipments.items() if order_id and found}
    )
    tried.inserted += recorded.inserted
    tried.updated += recorded.updated
