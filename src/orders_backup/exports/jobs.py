"""One export in the background: parts of many orders, each whole before it counts, and the manifest last.

A worker that dies costs the part it was at. Names of files carry the lease's generation, so that one who wakes up late
overwrites nothing; the manifest follows from the row alone, so that two who write it write the same.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import structlog

from orders_backup import db as database
from orders_backup import due
from orders_backup.errors import InvalidRequestError, StoppingError, StorageUnavailableError
from orders_backup.exports import formats, reading, shelf, state
from orders_backup.exports.formats import Asked
from orders_backup.exports.kept import Tally
from orders_backup.exports.state import Export, Part
from orders_backup.runtime import Runtime
from orders_backup.tables import exports

PART_ORDERS = 100_000
SLICE_SECONDS = 60.0
"""After so long the worker's slot is given back; the export is due again at once."""
SIGN_OF_LIFE_EVERY = 3.0
MOST_FAILURES = 10
"""Tries without a finished part, one after the other, after which an export is given up."""
FIRST_BACK_OFF = timedelta(seconds=5)
LAST_BACK_OFF = timedelta(minutes=10)

_log = structlog.get_logger()


@dataclass(slots=True)
class _Run:
    """A claimed export and how far its part is. `seen_at`: the last sign of life, by the monotonic clock; `sign`:
    who has to be given one, too."""

    runtime: Runtime
    lease: due.Lease
    export: Export
    asked: Asked
    where: str
    parts: list[Part]
    sign: Callable[[float], None]
    orders: int = 0
    seen_at: float = field(default_factory=time.monotonic)

    def alive(self, *, now: bool = False) -> None:
        """Extends the lease and notes the progress. Raises LeaseLostError, and StoppingError where the process ends."""
        if self.runtime.stopping.is_set():
            raise StoppingError("This worker was asked to end; the export goes on elsewhere with this part.")
        busy = time.monotonic() - self.seen_at
        if busy < SIGN_OF_LIFE_EVERY and not now:
            return
        done = sum(part.orders for part in self.parts) + self.orders
        with database.transaction(self.runtime.db) as tx:
            due.fence(tx, self.lease, extend=self.runtime.settings.lease)
            state.note(tx, self.lease, orders_done=done, busy=busy)
        self.seen_at += busy
        self.sign(self.seen_at)

    def saw(self, orders: int) -> None:
        self.orders += orders
        self.alive()


def work(
    runtime: Runtime,
    export_id: UUID,
    *,
    sign: Callable[[float], None] = lambda _: None,
    part_orders: int = PART_ORDERS,
    slice_seconds: float = SLICE_SECONDS,
) -> None:
    """One slice of an export if it is due: makes parts and at last the manifest, or removes what has expired. `sign`
    is called with the time by the monotonic clock every few seconds while a part grows, which may last."""
    with database.transaction(runtime.db) as tx:
        lease = due.claim(tx, exports, {"export_id": export_id}, lease=runtime.settings.lease)
        export = state.begin(tx, lease) if lease is not None else None
    if lease is None or export is None:
        return
    try:
        if export.status != "running":
            _expire(runtime, lease, export)
        elif export.failures > MOST_FAILURES:
            _give_up(runtime, lease, export, export.last_error or "The worker died each time it tried.")
        else:
            _make(_planned(runtime, lease, export, sign), part_orders, slice_seconds)
    except StoppingError:
        with database.transaction(runtime.db) as tx:  # no try in vain
            due.settle(tx, lease, due_at=state.in_(tx, timedelta(0)), failures=export.failures - 1)
    except StorageUnavailableError as error:
        _later(runtime, lease, export, error)
    except InvalidRequestError as error:  # it could be asked for there, and cannot be made here
        _give_up(runtime, lease, export, str(error))


def _planned(runtime: Runtime, lease: due.Lease, export: Export, sign: Callable[[float], None]) -> _Run:
    asked = formats.asked(export.format, export.filter, seen_by=export.user_id)
    where = export.stored_in or shelf.place(runtime)
    if export.orders_total is None:
        with database.snapshot(runtime.db) as tx:
            horizon, total = reading.horizon(tx), reading.count(tx, asked.filter)
        with database.transaction(runtime.db) as tx:
            due.fence(tx, lease, extend=runtime.settings.lease)
            state.plan(tx, lease, orders=total, horizon=horizon, stored_in=where)
        export = replace(export, orders_total=total, horizon=horizon, stored_in=where)
    return _Run(runtime, lease, export, asked, where, list(export.parts), sign)


def _make(run: _Run, part_orders: int, slice_seconds: float) -> None:
    began, splits = time.monotonic(), formats.FORMATS[run.asked.format].splits
    while not (run.parts and run.parts[-1].is_last):
        part = _part(run, part_orders if splits else None)
        run.orders = 0
        if part.orders == 0 and run.parts:
            run.parts[-1] = replace(run.parts[-1], is_last=True)
        else:
            run.parts.append(part)
        with database.transaction(run.runtime.db) as tx:
            due.fence(tx, run.lease, extend=run.runtime.settings.lease)
            state.keep(tx, run.lease, run.parts)
            if not run.parts[-1].is_last and time.monotonic() - began > slice_seconds:
                due.settle(tx, run.lease, due_at=state.in_(tx, timedelta(0)))
                return
    _finish(run)


def _part(run: _Run, limit: int | None) -> Part:
    """The next file, stored whole."""
    number, tally, digest, size = len(run.parts) + 1, Tally(), hashlib.sha256(), 0
    after = run.parts[-1].place if run.parts else None
    name = f"part-{number:05}-{run.lease.generation}.{formats.FORMATS[run.asked.format].suffix}"
    chunks = formats.chunks(
        run.runtime.db,
        run.runtime.codec,
        run.asked,
        tally,
        after=after,
        limit=limit,
        first=number == 1,
        seen=run.saw,
    )

    def measured() -> Iterator[bytes]:
        nonlocal size
        for chunk in chunks:
            run.alive()
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    shelf.put(run.runtime, run.where, run.export.export_id, name, measured())
    run.alive(now=True)
    with database.transaction(run.runtime.db) as tx:
        made_at = database.clock(tx)
    return Part(
        number=number,
        name=name,
        orders=tally.orders,
        rows=tally.rows,
        bytes=size,
        sha256=digest.hexdigest(),
        unreadable=tally.unreadable,
        left_out=tally.left_out,
        place=tally.place,
        is_last=limit is None or tally.orders < limit,
        made_at=made_at,
    )


def _finish(run: _Run) -> None:
    """Every file is looked at once more before the manifest names it."""
    for part in run.parts:
        if shelf.size(run.runtime, run.where, run.export.export_id, part.name) != part.bytes:
            raise StorageUnavailableError(f"The file {part.name} is not as it was stored.")
    shelf.put_manifest(run.runtime, run.where, run.export.export_id, manifest(run.export, run.parts))
    kept_for = run.runtime.settings.export_retention
    with database.transaction(run.runtime.db) as tx:
        until = state.in_(tx, kept_for)
        due.settle(tx, run.lease, due_at=until, status="finished", finished_at=run.parts[-1].made_at, expires_at=until)
    orders, files = sum(part.orders for part in run.parts), len(run.parts)
    _log.info(
        "export_finished", export_id=str(run.export.export_id), format=run.asked.format, orders=orders, files=files
    )


def manifest(export: Export, parts: list[Part]) -> bytes:
    """What the export holds, for a program that checks it: nothing in it depends on when it is written."""
    shown = ("name", "orders", "rows", "bytes", "sha256")
    told: dict[str, Any] = {
        "manifest": 1,
        "id": export.export_id,
        "format": export.format,
        "filter": export.filter,
        "requested_at": export.created_at,
        "finished_at": parts[-1].made_at,
        "horizon": export.horizon,
        **{name: sum(getattr(part, name) for part in parts) for name in ("orders", "rows", "bytes")},
        **{name: sum(getattr(part, name) for part in parts) for name in ("unreadable", "left_out")},
        "parts": [{name: getattr(part, name) for name in shown} for part in parts],
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n"


def _later(runtime: Runtime, lease: due.Lease, export: Export, error: StorageUnavailableError) -> None:
    """The storage is away: again after a while, longer each time. Finished parts stay."""
    wait = min(FIRST_BACK_OFF * 2 ** min(export.failures, 10), LAST_BACK_OFF)
    with database.transaction(runtime.db) as tx:
        due.settle(tx, lease, due_at=state.in_(tx, wait), failures=export.failures, last_error=str(error))
    _log.warning("export_postponed", export_id=str(export.export_id), failures=export.failures, code=error.code)


def _give_up(runtime: Runtime, lease: due.Lease, export: Export, why: str) -> None:
    with database.transaction(runtime.db) as tx:
        until = state.in_(tx, runtime.settings.export_retention)
        due.settle(tx, lease, due_at=until, status="failed", expires_at=until, last_error=why)
    _log.error("export_failed", export_id=str(export.export_id), failures=export.failures)


def _expire(runtime: Runtime, lease: due.Lease, export: Export) -> None:
    shelf.clear(runtime, export.stored_in or "disk", export.export_id)
    with database.transaction(runtime.db) as tx:
        due.settle(tx, lease, due_at=None, status="expired", last_error=export.last_error)
    _log.info("export_expired", export_id=str(export.export_id))
