"""Paying debts: the orders that have to be read, by list pages where these come cheaper, else one by one."""

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
from orders_backup.allegro.client import OneOrder, OrderPage
from orders_backup.errors import (
    AllegroError,
    AllegroNotFoundError,
    AllegroUnavailableError,
    AllegroUnreadableError,
    BudgetExhaustedError,
    OrdersBackupError,
)
from orders_backup.orders import archive, changes
from orders_backup.orders.archive import Recorded
from orders_backup.orders.changes import Reading
from orders_backup.sync import discoveries, nets, owed, plan, set_aside, state
from orders_backup.sync import job as jobs
from orders_backup.sync.job import Job

UNLISTED = frozenset({"unlisted", "merge"})
"""Causes of debts that no list page can pay: the order is doubtful because it was not listed, or was replaced."""
FEW = 2
"""Up to this many orders are read one by one without looking for a cheaper way."""

ENOUGH = 4
"""So many single reads that all fail are an outage; the others need not be tried."""

log = structlog.get_logger()


def pay(job: Job, run_id: UUID, debts: "dict[str, Row[Any]]") -> bool:
    """Reads the owed orders: by pages sorted by change, by stretches of purchase time, the rest one by one.

    False where the slice ended first. What is paid leaves `debts`.
    """
    try:
        _by_pages(job, run_id, debts)
    except (BudgetExhaustedError, AllegroUnreadableError):  # single reads have a budget of their own, and no neighbours
        log.info("pages_postponed", account_id=str(job.account_id), owed=len(debts))
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
        stretches = plan.stretches(owed.ranked(tx, job.account_id, listed))
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
        batch = rest[: job.calls.permits(Route.ORDERS, min(job.calls.in_flight, len(rest)))]
        rest = rest[len(batch) :]
        pages = jobs.side_by_side(batch, lambda offset: job.calls.ask(Route.ORDERS, partial(ask, offset)))
        for page in pages:
            if not isinstance(page, OrdersBackupError):
                _store(job, run_id, page, debts)
        for page in pages:
            if isinstance(page, OrdersBackupError):
                raise page


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
        state.count(tx, run_id, recorded, listed=len(page.orders))
        _note_caught(tx, job, [debts[one] for one in struck & debts.keys()], recorded)
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
        away = [error for _, error in self.failed if _is_away(error)]
        return away[0] if away and not self.landed else None


def _is_away(error: AllegroError) -> bool:
    """An answer that is too large or broken inside tells of its order, when the journal was just read."""
    return isinstance(error, AllegroUnavailableError) and not isinstance(error, AllegroUnreadableError)


def _one_by_one(job: Job, run_id: UUID, debts: "dict[str, Row[Any]]") -> bool:
    """Single reads; who fails while others land is on the way to being set aside, and who fails with all is not.

    False where the slice ended first.
    """
    rest, tried = list(debts.values()), _Tried()
    try:
        while rest and job.now() < job.ends_at and not (tried.outage and len(tried.failed) >= ENOUGH):
            batch = rest[: job.calls.permits(Route.DEFAULT, min(job.calls.in_flight, len(rest)))]
            rest = rest[len(batch) :]
            _read_singly(job, run_id, batch, tried)
    finally:
        _count_failures(job, tried)
    if tried.outage:
        raise tried.outage
    return not rest


def _read_singly(job: Job, run_id: UUID, batch: "list[Row[Any]]", tried: _Tried) -> None:
    answers = jobs.side_by_side(batch, lambda debt: job.calls.ask(Route.DEFAULT, partial(_single, job, debt.order_id)))
    served_first = sorted(zip(batch, answers, strict=True), key=lambda one: isinstance(one[1], OrdersBackupError))
    for debt, answer in served_first:
        error = _settle_one(job, run_id, debt, answer)
        if error is None:
            tried.landed = True
        else:
            tried.failed.append((debt, error))


def _count_failures(job: Job, tried: _Tried) -> None:
    """Every failed debt is tried again later; the fifth failure of its own sets it aside, with what came instead."""
    if not tried.failed:
        return
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        for debt, error in tried.failed:
            own = tried.landed or not _is_away(error)
            if owed.unpaid(tx, debt, error=str(error), counts=own, now=job.now()):
                log.error("order_set_aside", account_id=str(job.account_id), order_id=debt.order_id, code=error.code)
                if isinstance(error, AllegroUnreadableError) and error.is_whole:
                    came = changes.unreadable(job.now(), error.body, str(error))
                    archive.record(tx, job.runtime.codec, job.account_id, [came], cause=debt.cause)
                    told = f"It came for order {debt.order_id}, which is set aside itself."
                    set_aside.acknowledge(tx, job.account_id, [came.sha256.hex()], reason=told)


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
            unreadable = changes.unreadable(reading.sent_at, reading.body, "Allegro served this for another order.")
            archive.record(tx, job.runtime.codec, job.account_id, [unreadable], cause="event")
        return AllegroError("Allegro's answer is not the order that was asked for; its bytes are kept.")
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        recorded, _ = jobs.record(tx, job, [reading], cause=debt.cause)
        state.count(tx, run_id, recorded, listed=1)
        _note_caught(tx, job, [debt], recorded)
    return None


def _note_caught(tx: Connection, job: Job, debts: "Sequence[Row[Any]]", recorded: Recorded) -> None:
    """Orders that a sweep by status owed, of which the journal, read to its end meanwhile, told nothing."""
    caught = {one.order_id for one in debts if one.cause == nets.OPEN_SWEEP and one.occurred_at is None}
    orders = len(caught & {*recorded.changed_ids})
    discoveries.note(tx, job.account_id, net=nets.OPEN_SWEEP, what="changed", orders=orders, now=job.now())


def _gone(job: Job, run_id: UUID, debt: "Row[Any]") -> None:
    """404: what we hold stays, and the form that took over its line items is named."""
    now = job.now()
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        items = debt.line_item_ids
        successor = archive.gone(tx, job.account_id, debt.order_id, line_item_ids=items, now=now)
        owed.paid(tx, job.account_id, [debt.order_id], sent_at=now)
        archive.events_processed(tx, job.account_id, [debt.order_id])
        state.count(tx, run_id, Recorded(), listed=1, gone=1)
    log.info("order_gone", account_id=str(job.account_id), order_id=debt.order_id, superseded_by=successor)
