"""A database filled from a dump, and made to fit the cluster it is in now.

A new cluster counts its transactions from the beginning. Rows that carry numbers of the old one would lie ahead of all
that comes, so they are moved before the first real transaction: what is in the archive already is of transaction 1, the
rest of 2. Webhooks go on behind all of it, so nobody is told anything twice.
"""

import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup.accounts import recovery
from orders_backup.backups import dumps, fit, state
from orders_backup.backups.dumps import Dump
from orders_backup.errors import BackupDamagedError, BackupFailedError, ConflictError, OrdersBackupError
from orders_backup.runtime import Runtime

UNSENT = "A backup was restored; it may have been sent after that was made. Replay it where it was not."
NUMBERS_LEFT_OUT = 1_000_000_000
"""Of changes: those that were given after the backup was made, by which receivers of webhooks know messages."""

log = structlog.get_logger()

_ROLE = f"""
    DO $$ BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{database.TENANT}') THEN
        CREATE ROLE {database.TENANT} NOLOGIN;
      END IF;
      EXECUTE format('GRANT {database.TENANT} TO %I', current_user);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END $$
"""
_RENUMBERED = ("order_changes", "order_events", "order_extra_versions", "unreadable_orders")


def refill(runtime: Runtime, programs: Path, dump: Dump) -> None:
    """Fills the empty database of this installation, brings it to this program's schema, and takes the newest logins
    from the token journal; or goes on with that. Raises ConflictError where it is not empty, BackupDamagedError,
    BackupFailedError; then it is as empty as before."""
    with database.transaction(runtime.db) as tx:
        begun, is_to_be_filled = fit.begun(tx), is_empty(tx)
        if is_to_be_filled:
            tx.execute(sa.text(_ROLE))
            fit.begin(tx, dump.id)
        elif begun is None:
            raise ConflictError("The database is not empty; restore a dump into an empty one.")
        elif begun != dump.id:
            raise ConflictError(f"The database was filled from the backup {begun}; go on with --backup-id {begun}.")
    if is_to_be_filled:
        try:
            _restored(runtime, programs, dump)
        except OrdersBackupError:
            with database.transaction(runtime.db) as tx:
                if is_empty(tx):
                    fit.end(tx)
            raise
    with database.transaction(runtime.db) as tx:
        tx.execute(sa.text("SET LOCAL statement_timeout = 0"))
        if dumps.counts(tx) != dump.counts:
            raise BackupDamagedError("The restored database does not hold what was backed up.")
    _made_to_fit(runtime, backup_id=dump.id)


def finish(runtime: Runtime) -> None:
    """The same for a database that was restored by other means: to a point in time, or by pg_restore alone. Raises
    ConflictError where a restore of ours is to be gone on with."""
    with database.transaction(runtime.db) as tx:
        if (begun := fit.begun(tx)) is not None:
            raise ConflictError(f"Go on with `backup restore-database --backup-id {begun}`.")
    _made_to_fit(runtime, backup_id=None)


def is_empty(tx: Connection) -> bool:
    query = "SELECT NOT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename <> :mark)"
    return bool(tx.execute(sa.text(query), {"mark": fit.MARK}).scalar_one())


def _made_to_fit(runtime: Runtime, *, backup_id: str | None) -> None:
    database.migrate(runtime.db)
    with database.transaction(runtime.db) as tx:
        tx.execute(sa.text("SET LOCAL statement_timeout = 0"))
        if backup_id is not None or fit.is_ahead(tx):
            renumber(tx)
            if backup_id is None:  # who knows whether something was stored since: all of it once more
                state.everything_again(tx)
        untell(tx)
        fit.end(tx)
    for _ in recovery.recover(runtime):
        pass
    log.warning("database_restored", backup_id=backup_id)


def renumber(tx: Connection) -> None:
    """Moves every row before the first transaction of this cluster, and every cursor behind that."""
    for table, column in (*((table, "xid") for table in _RENUMBERED), ("orders", "state_xid")):
        archived = f"EXISTS (SELECT FROM archives k WHERE k.account_id = t.account_id AND t.{column} < k.cursor_xid)"
        statement = f"UPDATE {table} t SET {column} = CASE WHEN {archived} THEN '1'::xid8 ELSE '2'::xid8 END"
        tx.execute(sa.text(f"{statement} WHERE t.{column} IS NOT NULL"))
    state.renumber(tx)
    tx.execute(sa.text("UPDATE webhooks SET cursor_xid = '3', cursor_seq = 0"))
    tx.execute(sa.text("UPDATE syncs SET cursor = NULL WHERE kind = 'extras'"))
    tx.execute(
        sa.text("UPDATE exports SET horizon = 0 WHERE horizon IS NOT NULL")
    )  # then the feed is read from its start


def untell(tx: Connection) -> None:
    """Nobody is sent a second time what was sent after the backup, nor anything new under a number that he has seen."""
    for statement in (
        f"""UPDATE webhook_deliveries SET status = 'failed', due_at = NULL, last_error = '{UNSENT}'
             WHERE status = 'pending'""",
        f"""SELECT setval(pg_get_serial_sequence('order_changes', 'seq'), coalesce(max(seq), 0) + {NUMBERS_LEFT_OUT})
              FROM order_changes""",
    ):
        tx.execute(sa.text(statement))
    for table in ("syncs", "account_tokens", "device_flows", "webhooks", "exports", "archives"):
        tx.execute(sa.text(f"UPDATE {table} SET leased_until = NULL, rung_at = NULL"))


def _restored(runtime: Runtime, programs: Path, dump: Dump) -> None:
    """In one transaction: all of it, or nothing."""
    options = ["--no-owner", "--exit-on-error", "--single-transaction"]
    target = dumps.environment(runtime.db)
    command = [str(programs / "pg_restore"), *options, f"--dbname={target['PGDATABASE']}"]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(  # noqa: S603 - our own words
            command, env=target, stdin=subprocess.PIPE, stderr=said
        ) as process,
    ):
        assert process.stdin is not None  # noqa: S101 – asked for above
        try:
            with suppress(BrokenPipeError):  # what it says on stderr tells more
                for chunk in dumps.read(runtime, dump):
                    process.stdin.write(chunk)
                process.stdin.close()
        except BaseException:
            process.kill()  # before it learns of the end, so that it commits nothing
            raise
        if process.wait():
            raise BackupFailedError(f"pg_restore: {dumps.last_line(said, process)}")
