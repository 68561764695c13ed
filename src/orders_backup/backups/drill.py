"""A rehearsal: archives are brought back into a scratch database and compared with what is alive; the report is signed.

Nothing is asked of Allegro, and nothing is told to anybody. Everything that goes wrong is a finding, not a failure.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ProgrammingError

from orders_backup import db as database
from orders_backup import store as stores
from orders_backup.backups import listing, restore, signing, state
from orders_backup.codec import Codec
from orders_backup.errors import BackupFailedError, OrdersBackupError, SealedValueError
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
        return not self.findings and self.accounts > 0


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How many different documents of orders, and the sum of their hashes. Two databases of one past may have read the
    same one at different moments: the archive has both readings, a database that was merged with it the first."""

    versions: int
    sum: int


def drill(runtime: Runtime, account_ids: list[UUID] | None = None, *, now: datetime) -> Report:
    """Rehearses these accounts; None: all that have orders. The report is put into the bucket where that answers.
    Raises DatabaseUnavailableError, BackupFailedError where no scratch database can be made."""
    began = time.monotonic()
    with database.transaction(runtime.db) as tx:
        everyone = alive(tx)
    wanted = everyone if account_ids is None else account_ids
    findings: list[Finding] = [] if wanted else [Finding(None, "There is no account with orders to rehearse.")]
    versions = 0
    with _scratch(runtime) as scratch:
        for account_id in wanted:
            problems, found = _rehearsed(runtime, scratch, account_id, now=now)
            findings += [Finding(account_id, problem) for problem in problems]
            versions += found
    name, seconds = f"{now:%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}", time.monotonic() - began
    report = Report(name, now, seconds, len(wanted), versions, findings)
    _file(runtime, report)
    if report.ok:
        log.info("drill_passed", drill_id=report.id, accounts=report.accounts, versions=versions)
    else:
        log.error("drill_failed", drill_id=report.id, findings=len(findings))
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


def _rehearsed(runtime: Runtime, scratch: Runtime, account_id: UUID, *, now: datetime) -> tuple[list[str], int]:
    """What is wrong with an account, and how many of its versions came back."""
    try:
        verified = listing.verify(runtime, account_id)[0]
        if verified.problem is not None:
            return [verified.problem], 0
        for _ in restore.restore(scratch, account_id):
            pass
    except OrdersBackupError as error:
        return [str(error)], 0
    return [*_compared(runtime, scratch, account_id, now=now), *_login(runtime, scratch, account_id)], verified.versions


def _compared(runtime: Runtime, scratch: Runtime, account_id: UUID, *, now: datetime) -> Iterator[str]:
    before = now - SETTLED
    with database.snapshot(runtime.db) as tx:
        row = state.get(tx, account_id)
        there = _fingerprint(tx, account_id, before=before)
    with database.snapshot(scratch.db) as tx:
        back = _fingerprint(tx, account_id, before=before)
        wrong_heads = tx.execute(_WRONG_HEADS, {"account": account_id}).scalar_one()
        unsound = _unsound(tx, scratch.codec, account_id)
    if there != back:
        yield f"Of {there.versions} versions that are older than {SETTLED}, {back.versions} came back, or others."
    if row is None or row.pending is not None:
        yield "The archive is not finished: a manifest is on its way."
    if wrong_heads:
        yield f"{wrong_heads} orders do not show their newest version."
    if unsound:
        yield f"{unsound} documents are not what their SHA-256 tells."


def _login(runtime: Runtime, scratch: Runtime, account_id: UUID) -> Iterator[str]:
    query = sa.text("SELECT generation FROM account_tokens WHERE account_id = :account")
    generations = []
    for db in (runtime.db, scratch.db):
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
    row = tx.execute(_FINGERPRINT, {"account": account_id, "before": before}).one()
    return Fingerprint(int(row[0]), int(row[1]))


def _unsound(tx: Connection, codec: Codec, account_id: UUID) -> int:
    """How many of some documents, by chance of their hash, do not open to what they are."""
    rows = tx.execute(_SAMPLE, {"account": account_id, "most": SAMPLED})
    return sum(restore.digest(codec.decompress(tx, row.dictionary_id, row.body)) != row.sha256.hex() for row in rows)


def alive(tx: Connection) -> list[UUID]:
    """The accounts that have orders."""
    query = "SELECT id FROM accounts a WHERE EXISTS (SELECT FROM orders o WHERE o.account_id = a.id) ORDER BY id"
    return list(tx.execute(sa.text(query)).scalars())


def _file(runtime: Runtime, report: Report) -> None:
    try:
        stores.put(restore.store_of(runtime), f"{FOLDER}{report.id}.json", signed(runtime, report), if_absent=True)
    except OrdersBackupError as error:
        log.warning("drill_report_refused", drill_id=report.id, code=error.code)


@contextmanager
def _scratch(runtime: Runtime) -> Iterator[Runtime]:
    """An empty installation beside this one, gone afterwards: a database of its own, no disk, the same bucket."""
    name = f"orders_backup_drill_{uuid4().hex[:12]}"
    _alone(runtime.db, f"CREATE DATABASE {name} TEMPLATE template0")
    url = sa.make_url(runtime.settings.database_url).set(database=name).render_as_string(hide_password=False)
    engine = database.connect(url, pool_size=2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            database.migrate(engine)
            config = runtime.settings.model_copy(update={"database_url": url, "data_dir": Path(folder)})
            yield replace(runtime, settings=config, db=engine, codec=Codec())
    finally:
        engine.dispose()
        _alone(runtime.db, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _alone(db: Engine, statement: str) -> None:
    """Outside of any transaction, as PostgreSQL wants it for databases."""
    try:
        with db.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text(statement))
    except ProgrammingError as error:
        raise BackupFailedError("The user of DATABASE_URL may make no databases: ALTER ROLE … CREATEDB.") from error
