"""One backup or drill that is due: made alone in the whole installation, noted, and taken over from whoever dies.

A dump's name is in its row before anything of it is in the bucket. So whoever takes over finds out whether its manifest
came to be, which is the end of it; else what is left is removed, and it is made again under another name.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import structlog

from orders_backup import db as database
from orders_backup import due
from orders_backup.backups import drill, dumps, heart, ledger, presence, retention, tools
from orders_backup.backups.drill import Report
from orders_backup.backups.dumps import Dump
from orders_backup.backups.heart import Heart
from orders_backup.backups.ledger import Backup
from orders_backup.backups.retention import Keep
from orders_backup.errors import (
    BackupDamagedError,
    BackupFailedError,
    ConflictError,
    DatabaseUnavailableError,
    DrillFailedError,
    LeaseLostError,
    NotFoundError,
    OrdersBackupError,
    StoppingError,
    StorageUnavailableError,
)
from orders_backup.runtime import Runtime

SAMPLE = 3
"""Accounts of a daily drill."""
KEPT = Keep()
MOST_FAILURES = 5
FIRST_BACK_OFF = timedelta(minutes=1)
LAST_BACK_OFF = timedelta(minutes=10)
REPORTED = 100
"""Findings that a row holds; the report in the bucket holds all."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Try:
    """A claimed row. `accounts`: what a drill of a sample or of everything rehearses, where somebody chose."""

    runtime: Runtime
    lease: due.Lease
    backup: Backup
    heart: Heart
    keep: Keep = KEPT
    accounts: list[UUID] | None = None


def work(runtime: Runtime, backup_id: UUID, *, sign: Callable[[float], None] = lambda _: None) -> None:
    """Makes it if it is due and nothing else is being made. `sign` is called with the time by the monotonic clock every
    few seconds."""
    with database.transaction(runtime.db) as tx:
        claimed = ledger.claim(tx, backup_id, lease=runtime.settings.lease)
    if claimed is None:
        return
    lease, backup = claimed
    try:
        with heart.beating(runtime, lease, sign) as beating:
            _made(_Try(runtime, lease, backup, beating))
    except StoppingError:  # no try in vain
        _settle(runtime, lease, due_in=timedelta(0), state="queued", failures=backup.failures - 1)
    except (LeaseLostError, DatabaseUnavailableError):
        raise
    except OrdersBackupError as error:
        _later(runtime, lease, backup, error)


@contextmanager
def begun(
    runtime: Runtime,
    kind: str,
    *,
    of: UUID | None = None,
    by: str,
    keep: Keep = KEPT,
    accounts: list[UUID] | None = None,
) -> Iterator[Callable[[], Dump | Report]]:
    """For a person who waits: it is asked for and taken in one step, and what is yielded does it. Raises ConflictError
    where another is under way."""
    with database.transaction(runtime.db) as tx:
        backup_id = ledger.ask(tx, kind, of=of, by=by)
        claimed = ledger.claim(tx, backup_id, lease=runtime.settings.lease)
        if claimed is None:
            raise ConflictError("A backup or a drill is being made already; `backup list` shows it. Try again later.")
    lease, backup = claimed
    try:
        with heart.beating(runtime, lease, lambda _: None) as beating:
            yield lambda: _made(_Try(runtime, lease, backup, beating, keep, accounts))
    except (LeaseLostError, DatabaseUnavailableError):
        raise
    except OrdersBackupError as error:
        _give_up(runtime, lease, error.code, str(error))
        raise
    except BaseException:
        _give_up(runtime, lease, StoppingError.code, "Whoever asked for it ended it.")
        raise


def _made(one: _Try) -> Dump | Report:
    if one.backup.failures > MOST_FAILURES:
        raise BackupFailedError(one.backup.last_error or "Whoever made it died each time.")
    if one.backup.kind == ledger.DUMP:
        return _dumped(one)
    with database.transaction(one.runtime.db) as tx:
        now = database.clock(tx)
    report = _drilled(one, now)
    _noted(one, report)
    return report


# Dumps


def _dumped(one: _Try) -> Dump:
    runtime = one.runtime
    made = _finished_before(one)
    if made is None:
        dumps.sweep(runtime)
        with database.transaction(runtime.db) as tx:
            due.fence(tx, one.lease, extend=runtime.settings.lease)
            folder, now = tools.find(runtime, tx), database.clock(tx)
            dump_id = dumps.new_id(now)
            ledger.note(tx, one.lease, dump_id=dump_id)
        made = dumps.create(runtime, folder, now=now, backup_id=dump_id, alive=one.heart.alive)
    try:
        spent = retention.spent(dumps.everything(runtime), one.keep)
        dumps.remove(runtime, [dump for dump in spent if dump.id != made.id])  # a clock that was ahead made newer ones
        presence.level(runtime)
    except StorageUnavailableError as error:
        log.warning("backup_removal_refused", code=error.code)
    _settle(
        runtime, one.lease, state="succeeded", started_at=made.made_at, bytes=made.bytes, error_code=None, verified=True
    )
    return made


def _finished_before(one: _Try) -> Dump | None:
    """What an earlier try came to, if its manifest is there: it was read back before that was put."""
    if one.backup.dump_id is None or one.backup.dump_id not in dumps.ids(one.runtime):
        return None
    try:
        return dumps.get(one.runtime, one.backup.dump_id)
    except BackupDamagedError:
        return None


# Drills


def _drilled(one: _Try, now: datetime) -> Report:
    runtime, alive = one.runtime, one.heart.alive
    if one.backup.kind == ledger.OF_DUMP and one.backup.of is not None:
        return _of_dump(one, one.backup.of, now)
    report = drill.drill(runtime, _chosen(one), now=now, alive=alive)
    if one.backup.kind != ledger.WHOLE:
        return report
    with database.transaction(runtime.db) as tx:
        newest = ledger.newest_dump(tx)
    return report if newest is None else _together(report, _of_dump(one, newest.backup_id, now))


def _chosen(one: _Try) -> list[UUID] | None:
    """Which accounts; None: all."""
    if one.backup.of is not None:
        return [one.backup.of]
    if one.accounts is not None or one.backup.kind == ledger.WHOLE:
        return one.accounts
    with database.transaction(one.runtime.db) as tx:
        found = drill.living(tx)
    return random.sample(found, min(SAMPLE, len(found)))


def _of_dump(one: _Try, backup_id: UUID, now: datetime) -> Report:
    """A dump is rehearsed, and its row tells whether it is of use."""
    runtime = one.runtime
    with database.transaction(runtime.db) as tx:
        row, programs = ledger.get(tx, backup_id), tools.find(runtime, tx)
    if row.dump_id is None:
        raise NotFoundError("This dump is not in the bucket.")
    try:
        dump = dumps.get(runtime, row.dump_id)
        report = drill.drill_dump(runtime, programs, dump, now=now, alive=one.heart.alive)
    except BackupDamagedError as error:
        report = drill.report_of(runtime, now, str(error), alive=one.heart.alive)
    problem = None if report.ok else (BackupDamagedError.code, _sentence(report))
    with database.transaction(runtime.db) as tx:
        due.fence(tx, one.lease, extend=runtime.settings.lease)
        ledger.rehearsed(tx, backup_id, error=problem)
    return report


def _together(first: Report, second: Report) -> Report:
    return msgspec.structs.replace(
        first,
        seconds=first.seconds + second.seconds,
        versions=first.versions + second.versions,
        findings=[*first.findings, *second.findings],
    )


def _noted(one: _Try, report: Report) -> None:
    told = msgspec.to_builtins(msgspec.structs.replace(report, findings=report.findings[:REPORTED]))
    outcome: dict[str, Any] = {"state": "succeeded", "error_code": None}
    if not report.ok:
        outcome = {"state": "failed", "error_code": DrillFailedError.code, "last_error": _sentence(report)}
    _settle(one.runtime, one.lease, verified=report.ok, report=told, **outcome)


def _sentence(report: Report) -> str:
    return f"{len(report.findings)} findings; the first: {report.findings[0].problem}"


# The end of a try


def _later(runtime: Runtime, lease: due.Lease, backup: Backup, error: OrdersBackupError) -> None:
    """Again after a while, longer each time, perhaps by a worker on another machine; a few times."""
    if backup.failures >= MOST_FAILURES:
        _give_up(runtime, lease, error.code, str(error))
        return
    wait = min(FIRST_BACK_OFF * 2 ** (backup.failures - 1), LAST_BACK_OFF)
    told: dict[str, Any] = {"error_code": error.code, "last_error": str(error), "failures": backup.failures}
    _settle(runtime, lease, due_in=wait, state="queued", **told)
    log.warning("backup_postponed", kind=backup.kind, failures=backup.failures, code=error.code)


def _give_up(runtime: Runtime, lease: due.Lease, code: str, sentence: str) -> None:
    _settle(runtime, lease, state="failed", error_code=code, last_error=sentence)
    log.error("backup_failed", code=code)


def _settle(
    runtime: Runtime, lease: due.Lease, *, due_in: timedelta | None = None, verified: bool = False, **values: Any
) -> None:
    """Written down, and the work given back. Raises LeaseLostError."""
    with database.transaction(runtime.db) as tx:
        now = database.clock(tx)
        values |= {"finished_at": now} if due_in is None else {}
        values |= {"verified_at": now} if verified else {}
        due.settle(tx, lease, due_at=None if due_in is None else now + due_in, **values)
