"""A rehearsal: archives are brought back into a scratch database and compared with what is alive; the report is signed.

Nothing is asked of Allegro, and nothing is told to anybody. Everything that goes wrong is a finding, not a failure.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import store as stores
from orders_backup.accounts.returning import RESTORING
from orders_backup.backups import dumps, listing, refill, restore, scratch, signing, smoke, state
from orders_backup.backups.dumps import Dump
from orders_backup.codec import Codec
from orders_backup.errors import (
    BackupDamagedError,
    BackupFailedError,
    DatabaseUnavailableError,
    LeaseLostError,
    OrdersBackupError,
    SealedValueError,
    StoppingError,
)
from orders_backup.runtime import Runtime

FOLDER = "drills/"
PURPOSE = "drill"
SETTLED = timedelta(minutes=10)
"""What is younger may not be in the archive yet, or be under way to it."""
SAMPLED = 200

log = structlog.get_logger()


class Finding(msgspec.Struct, frozen=True):
    """What was wrong with an account; None: with the whole."""

    account_id: UUID | None
    problem: str


class Report(msgspec.Struct, frozen=True):
    """What was rehearsed, and what was found; nothing: all is well."""

    id: str
    began_at: datetime
    seconds: float
    accounts: int
    versions: int
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How many different documents of orders, and the sum of their hashes. Two databases of one past may have read the
    same one at different moments: the archive has both readings, a database that was merged with it the first."""

    versions: int
    sum: int


def drill(
    runtime: Runtime,
    account_ids: list[UUID] | None = None,
    *,
    now: datetime,
    alive: Callable[[], None] = lambda: None,
) -> Report:
    """Rehearses the archives of these accounts; None: of all that have orders. `alive` is called all the while, and
    last before the report is put into the bucket where that answers. Raises DatabaseUnavailableError, BackupFailedError
    where no scratch database can be made, and what `alive` raises."""
    began = time.monotonic()
    with database.transaction(runtime.db) as tx:
        everyone = living(tx)
    wanted = everyone if account_ids is None else account_ids
    findings: list[Finding] = [] if wanted else [Finding(None, "There is no account with orders to rehearse.")]
    versions, whole = 0, []
    with scratch.made(runtime) as there:
        for account_id in wanted:
            problems, found = _rehearsed(runtime, there, account_id, now=now, alive=alive)
            findings += [Finding(account_id, problem) for problem in problems]
            whole += [] if problems else [account_id]
            versions += found
        findings += _smoke(runtime, there, whole, alive)
    report = Report(dumps.new_id(now), now, time.monotonic() - began, len(wanted), versions, findings)
    return _told(runtime, report, alive)


def drill_dump(
    runtime: Runtime, programs: Path, dump: Dump, *, now: datetime, alive: Callable[[], None] = lambda: None
) -> Report:
    """Fills a scratch database from a backup as `backup restore-database` does, and compares. Raises as `drill` does,
    and StorageUnavailableError."""
    began, findings = time.monotonic(), list[Finding]()
    account_ids = [UUID(account_id) for account_id in dump.counts]
    with scratch.made(runtime, migrated=False) as there:
        try:
            refill.fill(there, programs, dump, alive=alive)
        except (BackupDamagedError, BackupFailedError) as error:
            findings.append(Finding(None, str(error)))
        else:
            for account_id in account_ids:
                alive()
                problems = [*_sound(there, account_id), *_login(runtime, there, account_id)]
                findings += [Finding(account_id, problem) for problem in problems]
            findings += _smoke(runtime, there, account_ids, alive)
    versions = sum(versions for _, versions in dump.counts.values())
    report = Report(dumps.new_id(now), now, time.monotonic() - began, len(account_ids), versions, findings)
    return _told(runtime, report, alive)


def report_of(runtime: Runtime, now: datetime, problem: str, *, alive: Callable[[], None]) -> Report:
    """Of a backup that could not even be begun with."""
    return _told(runtime, Report(dumps.new_id(now), now, 0.0, 0, 0, [Finding(None, problem)]), alive)


def _smoke(runtime: Runtime, there: Runtime, account_ids: Sequence[UUID], alive: Callable[[], None]) -> list[Finding]:
    """What the service itself shows of what came back."""
    if not account_ids:
        return []
    return [Finding(*found) for found in smoke.findings(runtime, there, account_ids, alive=alive)]


def _told(runtime: Runtime, report: Report, alive: Callable[[], None]) -> Report:
    alive()
    _file(runtime, report)
    if report.ok:
        log.info("drill_passed", drill_id=report.id, accounts=report.accounts, versions=report.versions)
    else:
        log.error("drill_failed", drill_id=report.id, findings=len(report.findings))
    return report


def signed(runtime: Runtime, report: Report) -> bytes:
    """The report, and on a line of its own its signature under ENCRYPTION_KEYS."""
    return signing.signed(runtime.vault, report, purpose=PURPOSE)


def opened(runtime: Runtime, content: bytes) -> Report:
    """Raises SealedValueError where it is not ours, or was changed."""
    report = signing.opened(runtime.vault, content, Report, purpose=PURPOSE)
    if report is None:
        raise SealedValueError("The report of the drill was changed, or signed with another key.")
    return report


def _rehearsed(
    runtime: Runtime, there: Runtime, account_id: UUID, *, now: datetime, alive: Callable[[], None]
) -> tuple[list[str], int]:
    """What is wrong with an account, and how many of its versions came back."""
    try:
        alive()
        verified = listing.verify(runtime, account_id)[0]
        if verified.problem is not None:
            return [verified.problem], 0
        for _ in restore.restore(there, account_id):
            alive()
    except (DatabaseUnavailableError, LeaseLostError, StoppingError):
        raise
    except OrdersBackupError as error:
        return [str(error)], 0
    problems = [*_compared(runtime, there, account_id, now=now), *_sound(there, account_id)]
    return [*problems, *_login(runtime, there, account_id)], verified.versions


def _compared(runtime: Runtime, there: Runtime, account_id: UUID, *, now: datetime) -> Iterator[str]:
    before = now - SETTLED
    with database.snapshot(runtime.db) as tx:
        row = state.get(tx, account_id)
        alive = _fingerprint(tx, account_id, before=before)
    with database.snapshot(there.db) as tx:
        back = _fingerprint(tx, account_id, before=before)
    if alive != back:
        yield f"Of {alive.versions} versions that are older than {SETTLED}, {back.versions} came back, or others."
    if row is None or row.pending is not None:
        yield "The archive is not finished: a manifest is on its way."


def _sound(there: Runtime, account_id: UUID) -> Iterator[str]:
    """What is wrong with what came back, by itself."""
    with database.snapshot(there.db) as tx:
        tx.execute(sa.text("SET LOCAL statement_timeout = 0"))
        wrong_heads = tx.execute(_WRONG_HEADS, {"account": account_id}).scalar_one()
        unsound = _unsound(tx, there.codec, account_id)
    if wrong_heads:
        yield f"{wrong_heads} orders do not show their newest version."
    if unsound:
        yield f"{unsound} documents are not what their SHA-256 tells."


def _login(runtime: Runtime, there: Runtime, account_id: UUID) -> Iterator[str]:
    query = sa.text("SELECT generation FROM account_tokens WHERE account_id = :account")
    generations = []
    for db in (runtime.db, there.db):
        with database.transaction(db) as tx:
            generations.append(tx.execute(query, {"account": account_id}).scalar_one_or_none())
    if generations[0] is not None and (generations[1] or 0) < generations[0]:
        yield f"The login that came back is of generation {generations[1]}; {generations[0]} is in force."


_FINGERPRINT = sa.text("""
    SELECT count(*), coalesce(sum(('x' || left(encode(sha256, 'hex'), 15))::bit(60)::bigint), 0)
      FROM (SELECT DISTINCT order_id, sha256 FROM order_versions
             WHERE account_id = :account AND stored_at < :before) v
""")
_WRONG_HEADS = sa.text("""
    SELECT count(*) FROM (
        SELECT DISTINCT ON (v.order_id) v.order_id, v.version, v.sha256 FROM order_versions v
         WHERE v.account_id = :account ORDER BY v.order_id, v.read_at DESC, v.version DESC) newest
      FULL JOIN (SELECT * FROM orders WHERE account_id = :account) o USING (order_id)
     WHERE (o.version, o.sha256) IS DISTINCT FROM (newest.version, newest.sha256)
""")
_SAMPLE = sa.text("""
    SELECT dictionary_id, body, sha256 FROM order_versions WHERE account_id = :account ORDER BY sha256 LIMIT :most
""")


def _fingerprint(tx: Connection, account_id: UUID, *, before: datetime) -> Fingerprint:
    tx.execute(sa.text("SET LOCAL statement_timeout = 0"))
    row = tx.execute(_FINGERPRINT, {"account": account_id, "before": before}).one()
    return Fingerprint(int(row[0]), int(row[1]))


def _unsound(tx: Connection, codec: Codec, account_id: UUID) -> int:
    """How many of some documents, by chance of their hash, do not open to what they are."""
    rows = tx.execute(_SAMPLE, {"account": account_id, "most": SAMPLED})
    return sum(restore.digest(codec.decompress(tx, row.dictionary_id, row.body)) != row.sha256.hex() for row in rows)


def living(tx: Connection) -> list[UUID]:
    """The accounts that have orders, but for those that are being brought back themselves."""
    query = """SELECT id FROM accounts a WHERE reason IS DISTINCT FROM :restoring
                  AND EXISTS (SELECT FROM orders o WHERE o.account_id = a.id) ORDER BY id"""
    return list(tx.execute(sa.text(query), {"restoring": RESTORING}).scalars())


def _file(runtime: Runtime, report: Report) -> None:
    try:
        stores.put(restore.store_of(runtime), f"{FOLDER}{report.id}.json", signed(runtime, report), if_absent=True)
    except OrdersBackupError as error:
        log.warning("drill_report_refused", drill_id=report.id, code=error.code)
