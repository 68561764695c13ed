"""One incremental sync of one account, top to bottom: the journal, then the orders it named, the cheaper way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.engine import Connection, Row

from orders_backup import db as database
from orders_backup.accounts.calls import Route
from orders_backup.allegro import client
from orders_backup.allegro.client import EventPage, OneOrder, OrderPage
from orders_backup.allegro.wire import Event
from orders_backup.budget import Priority
from orders_backup.errors import (
    AllegroAnswerError,
    AllegroError,
    AllegroNotFoundError,
    AllegroUnavailableError,
    BudgetExhaustedError,
    OrdersBackupError,
)
from orders_backup.orders import archive, changes
from orders_backup.orders.archive import Recorded
from orders_backup.orders.changes import Reading
from orders_backup.runtime import Runtime
from orders_backup.sync import job as jobs
from orders_backup.sync import plan, state
from orders_backup.sync.job import Job

UNLISTED = frozenset({"unlisted", "merge"})
"""Causes of debts that no list page can pay: the order is doubtful because it was not listed, or was replaced."""
FEW = 2
"""Up to this many orders are read one by one without looking for a cheaper way."""

log = structlog.get_logger()


def pull(runtime: Runtime, account_id: UUID) -> None:
    """Follows the journal to its end and pays what it owes, if the account's journal is due."""
    jobs.work(runtime, account_id, "journal", priority=Priority.LIVE, body=_pull)


def pin(job: Job) -> None:
    """The cursor from which the journal will be followed: the newest event now, before anything is listed."""
    newest = job.calls.ask(Route.EVENTS, lambda token: client.latest_event_id(job.runtime.allegro, token))
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        state.pin_cursor(tx, job.account_id, newest or "0")


def _pull(job: Job) -> datetime:
    if job.cursor is None:
        pin(job)
        with database.transaction(job.runtime.db) as tx:
            job.cursor = state.journal_cursor(tx, job.account_id)
    try:
        followed = _follow(job)
        paid = _pay(job, followed.run_id)
    finally:
        _count_calls(job)
    if followed.go_on_at is not None or not paid:
        return followed.go_on_at or job.now()
    return _finish(job)


def _finish(job: Job) -> datetime:
    """The journal was read to its end and every debt tried: the run is over, and this is when the next one begins."""
    now = job.now()
    job.values["succeeded_at"] = now
    with database.transaction(job.runtime.db) as tx:
        next_owed_at = state.next_owed_at(tx, job.account_id)
        run = state.unfinished(tx, job.account_id, ("incremental",))
        if run is not None and run.status == "running":
            failing = state.failing(tx, job.account_id)
            error = f"{failing} orders could not be read yet; they stay owed." if failing else None
            state.finish_run(tx, run.id, error=error, now=now)
            counts = {"events": run.events, "listed": run.listed, "calls": run.calls}
            log.info("sync_finished", account_id=str(job.account_id), kind="incremental", **counts)
    next_poll = now + job.runtime.settings.events_interval
    return next_poll if next_owed_at is None else max(min(next_poll, next_owed_at), now)


@dataclass(frozen=True, slots=True)
class _Followed:
    """`run_id`: the run that counts this, None while nothing happened; `go_on_at`: None where the end was reached."""

    run_id: UUID | None
    go_on_at: datetime | None


def _follow(job: Job) -> _Followed:
    """Every page of the journal from a little before the cursor: events stored, orders owed, the cursor moved."""
    cursor = job.cursor or "0"
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        run_id = _asked_for(tx, job)
        if plan.is_gap(cursor, now=job.now()):
            state.reconcile_soon(tx, job.account_id)
            log.warning("journal_gap_detected", account_id=str(job.account_id))
        known = archive.event_before(tx, job.account_id, cursor, count=client.EVENTS_LIMIT // 2)
    after = plan.later(plan.overlapped(cursor), [known] if known else [])
    while job.now() < job.ends_at:
        try:
            page = job.calls.ask(Route.EVENTS, partial(_events, job, after))
        except BudgetExhaustedError as error:
            return _Followed(run_id, error.retry_at)
        job.runtime.codec.prepare(job.runtime.db, [])
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            new = archive.record_events(tx, job.runtime.codec, job.account_id, page.events)
            if new and run_id is None:
                run_id = _opened(tx, job)
            state.owe(tx, job.account_id, plan.debts(new), cause="event", now=job.now())
            newest = plan.later(job.cursor or "0", [event.event_id for event in page.events])
            if newest != job.cursor:
                state.move_cursor(tx, job.lease, seen=job.cursor, cursor=newest)
            if run_id is not None:
                state.count(tx, run_id, Recorded(), events=len(new))
        _note_lag(job, new)
        job.cursor = newest
        if len(page.events) < client.EVENTS_LIMIT:
            return _Followed(run_id, None)
        reached = plan.later(page.events[-1].event_id, [] if new else [newest])
        if reached == after:
            raise AllegroAnswerError("Allegro served the same page of the journal again.")
        after = reached
    return _Followed(run_id, job.now())


def _note_lag(job: Job, new: Sequence[Event]) -> None:
    """How old the newest of the events beyond the cursor was when it was stored; older ones came by the overlap."""
    beyond = [event for event in new if plan.later(job.cursor or "0", [event.event_id]) != job.cursor]
    moments = [event.occurred_at for event in beyond if event.occurred_at is not None]
    if moments:
        job.values["lag_seconds"] = max((job.now() - max(moments)).total_seconds(), 0.0)


def _events(job: Job, after: str, token: str) -> EventPage:
    return client.events(job.runtime.allegro, token, after=after)


def _asked_for(tx: Connection, job: Job) -> UUID | None:
    """The incremental run that somebody asked for or that a crash left unfinished."""
    run = state.unfinished(tx, job.account_id, ("incremental",))
    if run is None:
        return None
    if run.status == "queued":
        state.begin_run(tx, run.id, [], account_id=job.account_id, now=job.now())
    run_id: UUID = run.id
    return run_id


def _opened(tx: Connection, job: Job) -> UUID:
    run_id = state.open_run(tx, job.account_id, "incremental")
    state.begin_run(tx, run_id, [], account_id=job.account_id, now=job.now())
    return run_id


def _count_calls(job: Job) -> None:
    with database.transaction(job.runtime.db) as tx:
        run = state.unfinished(tx, job.account_id, ("incremental",))
        if run is not None:
            state.count_calls(tx, run.id, job.calls.made)


def _pay(job: Job, run_id: UUID | None) -> bool:
    """Reads the owed orders: by pages sorted by change, by stretches of purchase time, the rest one by one.

    False where the slice ended first.
    """
    with database.transaction(job.runtime.db) as tx:
        debts = {debt.order_id: debt for debt in state.owed(tx, job.account_id, now=job.now())}
        if debts and run_id is None:
            run_id = _opened(tx, job)
    if run_id is None:
        return True
    try:
        _by_pages(job, run_id, debts)
    except BudgetExhaustedError:
        log.info(
            "pages_postponed", account_id=str(job.account_id), owed=len(debts)
        )  # single reads have their own budget
    return _one_by_one(job, run_id, debts)


def _by_pages(job: Job, run_id: UUID, debts: "dict[str, Row[Any]]") -> None:
    if len(debts) > FEW:
        _by_change(job, run_id, debts)
    if len(debts) > FEW:
        _by_stretch(job, run_id, debts)


def _by_change(job: Job, run_id: UUID, debts: "dict[str, Row[Any]]") -> None:
    """Pages of the list sorted by `updatedAt`, as long as they come cheaper than one call an order.

    The first page tells how many there are. Where one old event stretches them too far, only the newer half is
    looked for this way.
    """
    moments = sorted(
        debt.occurred_at for debt in debts.values() if debt.moves_updated_at and debt.occurred_at is not None
    )
    while len(moments) > FEW:
        since = moments[0] - plan.UPDATED_AT_MARGIN
        page = job.calls.ask(Route.ORDERS, partial(_updated, job, since, 0))
        _store(job, run_id, page, debts)
        pages = -(-page.total_count // client.LIST_LIMIT)
        if pages <= len(moments):
            offsets = range(client.LIST_LIMIT, min(page.total_count, client.RESULT_CAP), client.LIST_LIMIT)
            _pages(job, run_id, partial(_updated, job, since), offsets, debts)
            return
        moments = moments[len(moments) // 2 :]


def _by_stretch(job: Job, run_id: UUID, debts: "dict[str, Row[Any]]") -> None:
    """Pages of the list over purchase times where the owed orders lie close together."""
    with database.transaction(job.runtime.db) as tx:
        listed = [order_id for order_id, debt in debts.items() if debt.cause not in UNLISTED]
        stretches = plan.stretches(state.ranked(tx, job.account_id, listed))
    for stretch in stretches:
        ask = partial(_bought, job, stretch.since, stretch.until)
        first = job.calls.ask(Route.ORDERS, partial(ask, 0))
        _store(job, run_id, first, debts)
        offsets = range(client.LIST_LIMIT, min(first.total_count, client.RESULT_CAP), client.LIST_LIMIT)
        _pages(job, run_id, ask, offsets, debts)


def _pages(
    job: Job, run_id: UUID, ask: "partial[OrderPage]", offsets: Sequence[int], debts: "dict[str, Row[Any]]"
) -> None:
    """Further pages, several on the way at once, until nothing is owed any more."""
    rest = list(offsets)
    while rest and debts and job.now() < job.ends_at:
        batch = rest[: job.calls.permits(Route.ORDERS, jobs.IN_FLIGHT)]
        rest = rest[len(batch) :]
        pages = jobs.side_by_side(batch, lambda offset: job.calls.ask(Route.ORDERS, partial(ask, offset)))
        for page in pages:
            if isinstance(page, OrdersBackupError):
                raise page
            _store(job, run_id, page, debts)


def _updated(job: Job, since: datetime, offset: int, token: str) -> OrderPage:
    return client.orders_updated(job.runtime.allegro, token, since=since, offset=offset)


def _bought(job: Job, since: datetime, last: datetime, offset: int, token: str) -> OrderPage:
    until = last + plan.MILLISECOND
    return client.orders_bought(
        job.runtime.allegro, token, since=since, until=until, offset=offset, limit=client.LIST_LIMIT
    )


def _store(job: Job, run_id: UUID, page: OrderPage, debts: "dict[str, Row[Any]]") -> None:
    """One page in one transaction; the debts it paid leave `debts`."""
    readings = [changes.read(page.sent_at, body) for body in page.orders]
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        recorded, struck = jobs.record(tx, job, readings, cause="event")
        state.count(tx, run_id, recorded)
    for order_id in struck:
        debts.pop(order_id, None)


@dataclass(slots=True)
class _Tried:
    """What single reads came to so far. `landed`: at least one order was stored or found gone."""

    failed: list[tuple[Any, AllegroError]] = field(default_factory=list)
    landed: bool = False

    @property
    def outage(self) -> AllegroError | None:
        """Everything fails because Allegro is away: nobody's own failure."""
        away = [error for _, error in self.failed if isinstance(error, AllegroUnavailableError)]
        return away[0] if away and not self.landed else None


def _one_by_one(job: Job, run_id: UUID, debts: "dict[str, Row[Any]]") -> bool:
    """Single reads; who fails while others land is on the way to being set aside, and who fails with all is not.

    False where the slice ended first.
    """
    rest, tried = list(debts.values()), _Tried()
    try:
        while rest and job.now() < job.ends_at and not (tried.outage and len(tried.failed) >= jobs.IN_FLIGHT):
            batch = rest[: job.calls.permits(Route.DEFAULT, jobs.IN_FLIGHT)]
            rest = rest[len(batch) :]
            _read_singly(job, run_id, batch, tried)
    finally:
        _count_failures(job, tried)
    if tried.outage:
        raise tried.outage
    return not rest


def _read_singly(job: Job, run_id: UUID, batch: "list[Row[Any]]", tried: _Tried) -> None:
    answers = jobs.side_by_side(batch, lambda debt: job.calls.ask(Route.DEFAULT, partial(_single, job, debt.order_id)))
    for debt, answer in zip(batch, answers, strict=True):
        error = _settle_one(job, run_id, debt, answer)
        if error is None:
            tried.landed = True
        else:
            tried.failed.append((debt, error))


def _count_failures(job: Job, tried: _Tried) -> None:
    """Every failed debt is tried again later; the fifth failure of its own sets it aside."""
    if not tried.failed:
        return
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        for debt, error in tried.failed:
            own = tried.landed or not isinstance(error, AllegroUnavailableError)
            if state.unpaid(tx, debt, error=str(error), counts=own, now=job.now()):
                log.error("order_set_aside", account_id=str(job.account_id), order_id=debt.order_id, code=error.code)


def _single(job: Job, order_id: str, token: str) -> OneOrder:
    return client.order(job.runtime.allegro, token, order_id)


def _settle_one(job: Job, run_id: UUID, debt: "Row[Any]", answer: OneOrder | OrdersBackupError) -> AllegroError | None:
    """Stores one answer in one transaction; the error where the order is still owed."""
    if isinstance(answer, AllegroNotFoundError):
        _gone(job, run_id, debt)
        return None
    if isinstance(answer, AllegroUnavailableError) or type(answer) is AllegroError:
        return answer
    if isinstance(answer, OrdersBackupError):
        raise answer
    reading = changes.read(answer.sent_at, answer.body)
    if not isinstance(reading, Reading) or reading.facts.order_id != debt.order_id:
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            unreadable = changes.Unreadable(reading.sent_at, reading.body, reading.sha256)
            archive.record(tx, job.runtime.codec, job.account_id, [unreadable], cause="event")
        return AllegroError("Allegro's answer is not the order that was asked for; its bytes are kept.")
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        recorded, _ = jobs.record(tx, job, [reading], cause=debt.cause)
        state.count(tx, run_id, recorded)
    return None


def _gone(job: Job, run_id: UUID, debt: "Row[Any]") -> None:
    """404: what we hold stays, and the form that took over its line items is named."""
    now = job.now()
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        items = debt.line_item_ids
        successor = archive.gone(tx, job.account_id, debt.order_id, line_item_ids=items, now=now)
        state.paid(tx, job.account_id, [debt.order_id], sent_at=now)
        archive.events_processed(tx, job.account_id, [debt.order_id])
        state.count(tx, run_id, Recorded(), gone=1)
    log.info("order_gone", account_id=str(job.account_id), order_id=debt.order_id, superseded_by=successor)
