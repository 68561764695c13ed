"""One slice of an account's archive: what is new becomes a step, whole in the bucket before the database counts it.

The manifest comes last. It is written down in the row before it is put, so that whoever goes on after a crash puts the
same bytes under the same key; nothing is ever put over another's manifest.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from orders_backup import db as database
from orders_backup import due
from orders_backup.backups import days, manifests, reading, shelf, state
from orders_backup.backups import run as runs
from orders_backup.backups.manifests import Manifest
from orders_backup.backups.reading import Position
from orders_backup.backups.run import Run
from orders_backup.errors import (
    BackupDamagedError,
    DatabaseUnfinishedError,
    OrdersBackupError,
    StoppingError,
    StorageUnavailableError,
)
from orders_backup.runtime import Runtime
from orders_backup.tables import archives

STEP_RECORDS = 50_000
SLICE_SECONDS = 60.0
FIRST_BACK_OFF = timedelta(seconds=5)
LAST_BACK_OFF = timedelta(minutes=2)
DAMAGED_AGAIN = timedelta(hours=1)
"""A day of which something is damaged is read again after so long, where nothing new comes before."""

log = structlog.get_logger()


@dataclass(slots=True)
class _New:
    """What a step takes in, and how far the streams are then."""

    position: dict[str, Position]
    counts: Counter[str] = field(default_factory=Counter)
    has_more: bool = False


def work(
    runtime: Runtime,
    account_id: UUID,
    *,
    sign: Callable[[float], None] = lambda _: None,
    step_records: int = STEP_RECORDS,
    slice_seconds: float = SLICE_SECONDS,
) -> None:
    """Stores what is new of an account if its archive is due. `sign` is called with the time by the monotonic clock
    every few seconds."""
    with database.transaction(runtime.db) as tx:
        lease = due.claim(tx, archives, {"account_id": account_id}, lease=runs.LEASE)
    if lease is None:
        return
    if runtime.store is None:
        _settle(runtime, lease, due_in=None)
        return
    began, has_more, damage = time.monotonic(), True, None
    run = Run(runtime, runtime.store, lease, sign)
    try:
        runs.finish_pending(run)
        runs.caught_up(run)
        while has_more and time.monotonic() - began <= slice_seconds:
            damage = damage or _closed(run)
            has_more = _step(run, step_records)
        if damage is None:
            _settle(runtime, lease, due_in=timedelta(0) if has_more else None)
        else:
            _postpone(runtime, lease, damage, timedelta(0) if has_more else DAMAGED_AGAIN)
    except StoppingError:
        _settle(runtime, lease, due_in=timedelta(0))
    except (StorageUnavailableError, BackupDamagedError, DatabaseUnfinishedError) as error:
        _postpone(runtime, lease, error, min(FIRST_BACK_OFF * 2 ** min(lease.failures, 10), LAST_BACK_OFF))


def _closed(run: Run) -> BackupDamagedError | None:
    """Puts a day that is over together; a damage there does not keep what is new out of the bucket."""
    try:
        days.close(run)
    except BackupDamagedError as error:
        return error
    return None


def _postpone(runtime: Runtime, lease: due.Lease, error: OrdersBackupError, wait: timedelta) -> None:
    _settle(runtime, lease, due_in=wait, failures=lease.failures + 1, last_error=str(error))
    account_id = str(lease.key["account_id"])
    log.warning("archive_postponed", account_id=account_id, failures=lease.failures + 1, code=error.code)


def _step(run: Run, most: int) -> bool:
    """One step, if anything is new; whether there is more."""
    row = run.row()
    with database.transaction(run.runtime.db) as tx:
        below, now = reading.horizon(tx), database.clock(tx)
        account, mark = state.account(tx, run.account_id)
    new = _New(dict(row.position))
    lines = _lines(run, new, below=below, most=most)
    first = next(lines, b"")
    if not first and mark == row.account_mark:
        _note(run, new)
        return False
    key = shelf.step(run.account_id, row.number + 1)
    parts = []
    if first:
        parts = [shelf.put(run.store, shelf.part(key), _chained(first, lines), counted=new.counts, alive=run.alive)]
    manifest = Manifest(
        account_id=run.account_id,
        first=row.number + 1,
        last=row.number + 1,
        made_at=now,
        previous=row.head,
        account=account,
        counts=dict(new.counts),
        parts=parts,
    )
    values = {
        "number": row.number + 1,
        "position": new.position,
        "cursor_xid": _cursor(new),
        "account_mark": mark,
        "made_at": now,
        "versions": row.versions + new.counts["version"],
    }
    content = manifests.encoded(manifest)
    runs.put_manifest(run, key, content, values | {"head": manifests.digest(content)})
    return new.has_more


def _lines(run: Run, new: _New, *, below: int, most: int) -> Iterator[bytes]:
    """The records of a step, stream by stream; none is longer in a transaction than it is read."""
    for stream in reading.STREAMS:
        has_more = True
        while has_more and sum(new.counts.values()) < most:
            with database.snapshot(run.runtime.db) as tx:
                after = new.position.get(stream.name)
                room = min(most - sum(new.counts.values()), reading.PAGE_ROWS)
                page = reading.page(tx, run.runtime.codec, run.account_id, stream, after, below=below, most=room)
            new.position[stream.name], has_more = page.position, page.has_more
            new.counts.update(page.kinds)
            run.alive()
            yield from page.lines
        new.has_more = new.has_more or has_more


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _cursor(new: _New) -> int:
    """Below which transaction everything of all streams is in the archive."""
    return min(int(new.position[stream.name][0]) if stream.name in new.position else 0 for stream in reading.STREAMS)


def _note(run: Run, new: _New) -> None:
    """Nothing was new; the look into the indexes is not to find the same again."""
    with database.transaction(run.runtime.db) as tx:
        due.fence(tx, run.lease, extend=runs.LEASE)
        state.advance(tx, run.lease, {"position": new.position, "cursor_xid": _cursor(new)})


def _settle(
    runtime: Runtime,
    lease: due.Lease,
    *,
    due_in: timedelta | None,
    failures: int = 0,
    last_error: str | None = None,
) -> None:
    with database.transaction(runtime.db) as tx:
        due_at: datetime | None = None if due_in is None else database.clock(tx) + due_in
        due.settle(tx, lease, due_at=due_at, failures=failures, last_error=last_error)
