"""A claimed archive: its lease kept alive, and a manifest put so that a crash at any point leaves one truth."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from orders_backup import db as database
from orders_backup import due
from orders_backup import store as stores
from orders_backup.backups import shelf, state
from orders_backup.backups.manifests import Link
from orders_backup.backups.state import Archive
from orders_backup.errors import StoppingError, StorageUnavailableError
from orders_backup.runtime import Runtime
from orders_backup.store import Store

LEASE = timedelta(minutes=2)
"""Longer than that of other work: the last 16 MiB of an upload are on their way without a sign of life."""
SIGN_OF_LIFE_EVERY = 3.0

log = structlog.get_logger()


@dataclass(slots=True)
class Run:
    """A claimed archive. `seen_at`: the last sign of life, by the monotonic clock; `sign`: who is given one, too."""

    runtime: Runtime
    store: Store
    lease: due.Lease
    sign: Callable[[float], None]
    seen_at: float = field(default_factory=time.monotonic)

    @property
    def account_id(self) -> UUID:
        found: UUID = self.lease.key["account_id"]
        return found

    def alive(self) -> None:
        """Extends the lease now and then. Raises LeaseLostError, and StoppingError where the process ends."""
        if self.runtime.stopping.is_set():
            raise StoppingError("This worker was asked to end; the archive goes on elsewhere.")
        if time.monotonic() - self.seen_at < SIGN_OF_LIFE_EVERY:
            return
        with database.transaction(self.runtime.db) as tx:
            due.fence(tx, self.lease, extend=LEASE)
        self.seen_at = time.monotonic()
        self.sign(self.seen_at)

    def row(self) -> Archive:
        with database.transaction(self.runtime.db) as tx:
            found = state.get(tx, self.account_id)
        assert found is not None  # noqa: S101 – its lease is held, and no row is ever deleted while one may be
        return found


def put_manifest(run: Run, key: str, content: bytes, values: dict[str, Any]) -> None:
    """The manifest of files that are stored, and the row as far as it. Raises StorageUnavailableError."""
    with database.transaction(run.runtime.db) as tx:
        due.fence(tx, run.lease, extend=LEASE)
        state.intend(tx, run.lease, key=key, content=content, values=values)
    finish_pending(run)


def finish_pending(run: Run) -> None:
    """The manifest that the row names is put, by whomever it was meant to be, and the row is as far as it."""
    row = run.row()
    if row.pending is None or row.pending_key is None or row.pending_values is None:
        return
    there = stores.get(run.store, row.pending_key)
    if there is None and not stores.put(run.store, row.pending_key, row.pending, if_absent=True):
        there = stores.get(run.store, row.pending_key)
    is_ours = there is None or there == row.pending
    with database.transaction(run.runtime.db) as tx:
        due.fence(tx, run.lease, extend=LEASE)
        state.advance(tx, run.lease, row.pending_values if is_ours else {})
    if not is_ours:
        raise StorageUnavailableError(
            "Another installation wrote this archive at the same time; it goes on after that."
        )


def caught_up(run: Run) -> Archive:
    """The row, at the end of the chain in the bucket: after a restore of an older database the bucket is further. The
    step after ours is there then, or the day after ours."""
    row = run.row()
    keys = [shelf.step(run.account_id, row.number + 1), shelf.day(run.account_id, row.days_to + 1)]
    if all(stores.get(run.store, key) is None for key in keys):
        return row
    links = shelf.chain(run.store, run.account_id)
    values = reached(links)
    if links[0].manifest.first > row.number:  # begun anew by another database: nothing of this one is in it yet
        values |= {"position": {}, "cursor_xid": 0}
    with database.transaction(run.runtime.db) as tx:
        due.fence(tx, run.lease, extend=LEASE)
        state.advance(tx, run.lease, values)
    log.error("archive_ahead_found", account_id=str(run.account_id), here=row.number, there=links[-1].manifest.last)
    return run.row()


def reached(links: list[Link]) -> dict[str, Any]:
    """The values of a row that is at the end of this chain."""
    last, days = links[-1], [one for one in links if one.manifest.day is not None]
    return {
        "number": last.manifest.last,
        "head": last.manifest.last_step or last.sha256,
        "made_at": last.manifest.made_at,
        "days_to": days[-1].manifest.last if days else links[0].manifest.first - 1,
        "days_head": days[-1].sha256 if days else None,
    }
