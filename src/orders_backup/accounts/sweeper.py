"""What a worker process does for tokens every few seconds: mends what a crash left, and carries pairs to the journal.

It asks neither broker nor scheduler: an interrupted refresh has 60 seconds in all, a pair five until it is safe.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import sqlalchemy as sa
import structlog

from orders_backup import db as database
from orders_backup.accounts import journal, pairs, recovery, spool, tokens
from orders_backup.errors import OrdersBackupError
from orders_backup.log import new_trace_id
from orders_backup.runtime import Runtime
from orders_backup.tables import account_tokens, accounts

EVERY = 3.0
AT_MOST = 5.0
"""Seconds of one round for each step that may have much to do: a pair that waits for the journal has five."""
LEFT_OVER = 86_400.0
RECENT = sa.text("interval '10 minutes'")

log = structlog.get_logger()


@dataclass(slots=True)
class Sweep:
    """What one process need not look at again. `journaled`: account and generation; `told`: ends of logins."""

    runtime: Runtime
    journaled: set[tuple[UUID, int]] = field(default_factory=set)
    told: set[tuple[UUID, int]] = field(default_factory=set)
    has_seen_all: bool = False
    failing: dict[str, str] = field(default_factory=dict)

    def round(self) -> None:
        """Each step as far as it goes: without a database pairs still reach the journal, without object storage
        refreshes still go on."""
        for step in (finish_refreshes, take_in_spool, carry_spool, journal_rows, tell_forgotten):
            self._step(step)

    def _step(self, step: "Callable[[Sweep], None]") -> None:
        name, why = step.__name__, ""
        try:
            step(self)
        except (OrdersBackupError, OSError) as failure:
            why = failure.code if isinstance(failure, OrdersBackupError) else str(failure.errno)
            if self.failing.get(name) != why:
                log.warning("token_sweep_failed", step=name, exc_info=failure)
        self.failing[name] = why


def run(runtime: Runtime, stopped: threading.Event) -> None:
    """Rounds until `stopped`, and one more, so that a worker that ends leaves little behind."""
    sweep = Sweep(runtime)
    while True:
        is_last = stopped.wait(EVERY)
        structlog.contextvars.bind_contextvars(task="token_sweep", trace_id=new_trace_id())
        try:
            sweep.round()
        except Exception:
            log.exception("token_sweep_crashed")
        if is_last:
            return


def finish_refreshes(sweep: Sweep) -> None:
    """Refreshes whose call gave no answer, while its grace runs; whoever tries, one of all gets to call."""
    table, now = account_tokens.c, sa.func.clock_timestamp()
    begun = (table.intent_at > now - tokens.GRACE) & (table.intent_at <= now - tokens.INTENT_HOLDS)
    with database.transaction(sweep.runtime.db) as tx:
        query = sa.select(table.account_id, table.generation).where(begun, table.due_at <= now)
        rows = tx.execute(query.order_by(table.intent_first_at)).all()
    deadline = time.monotonic() + AT_MOST
    for row in rows:
        if time.monotonic() > deadline:
            return
        try:
            with structlog.contextvars.bound_contextvars(account_id=str(row.account_id)):
                tokens.refresh(sweep.runtime, row.account_id, seen=row.generation)
        except OrdersBackupError as error:
            log.info("token_refresh_postponed", account_id=str(row.account_id), code=error.code)


def take_in_spool(sweep: Sweep) -> None:
    """Pairs that Allegro gave and the database does not have: their worker died, or the database was away."""
    for account_id, entry, _ in journal.waiting(sweep.runtime):
        with database.transaction(sweep.runtime.db) as tx:
            row = pairs.found(tx, account_id)
        if row is not None and row.generation < entry.generation:
            recovery.look(sweep.runtime, account_id, everywhere=False)


def carry_spool(sweep: Sweep) -> None:
    """From the spool to both places of the journal; what cannot be carried stays, and is carried later."""
    runtime = sweep.runtime
    for account_id, entry, pair in list(journal.waiting(runtime)):
        if not journal.is_forgotten(runtime, account_id, entry):
            journal.keep(runtime, account_id, entry, spool.encoded(pair))
            journal.put(runtime, account_id, entry, spool.encoded(pair))
        if not sweep.failing.get(take_in_spool.__name__):
            journal.arrived(runtime, account_id, entry)
    spool.tidy(journal.spool_folder(runtime), older_than=LEFT_OVER)


def journal_rows(sweep: Sweep) -> None:
    """What the database has and the journal may not: after a crash between the two, and the first time everything."""
    table = account_tokens.c
    query = sa.select(table.account_id, table.generation)
    if sweep.has_seen_all:
        query = query.where(table.obtained_at > sa.func.clock_timestamp() - RECENT)
    with database.transaction(sweep.runtime.db) as tx:
        rows = tx.execute(query).all()
    deadline = time.monotonic() + AT_MOST
    for row in rows:
        if time.monotonic() > deadline:
            return
        if (row.account_id, row.generation) not in sweep.journaled:
            _journal_row(sweep, row.account_id)
    sweep.has_seen_all = True


def _journal_row(sweep: Sweep, account_id: UUID) -> None:
    with database.transaction(sweep.runtime.db) as tx:
        row = pairs.found(tx, account_id)
    if row is None:
        return
    entry, content = journal.entry(row.generation, pairs.sealed(row)), spool.encoded(pairs.sealed(row))
    journal.keep(sweep.runtime, account_id, entry, content)
    journal.put(sweep.runtime, account_id, entry, content)
    sweep.journaled.add((account_id, row.generation))


def tell_forgotten(sweep: Sweep) -> None:
    """Logins that ended: the database has said so, and from now on the journal does. A refresh that was under way
    may bring one generation more; a new login begins above that."""
    ended = accounts.c.forgotten_generation
    with database.transaction(sweep.runtime.db) as tx:
        rows = tx.execute(sa.select(accounts.c.id, ended).where(ended.is_not(None))).all()
    deadline = time.monotonic() + AT_MOST
    for row in rows:
        if time.monotonic() > deadline:
            return
        if (row.id, row.forgotten_generation) not in sweep.told:
            journal.forget(sweep.runtime, row.id, row.forgotten_generation + 1)
            journal.forget_far(sweep.runtime, row.id, row.forgotten_generation + 1)
            sweep.told.add((row.id, row.forgotten_generation))
