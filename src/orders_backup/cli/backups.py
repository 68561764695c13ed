"""The archives in the bucket, and the way back from them."""

import random
import sys
import time
import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from orders_backup.cli.shared import AsJson, DataDir, acting, opened, print_rows
from orders_backup.errors import InvalidRequestError

if TYPE_CHECKING:
    from orders_backup.backups.restore import Progress

TOLD_EVERY = 1.0
"""Seconds between two lines of progress."""

backups = typer.Typer(
    help="Copies of everything in the bucket.", epilog="Example: orders-backup backup list", no_args_is_help=True
)
OneAccount = Annotated[uuid.UUID | None, typer.Option(help="One account alone.")]


@backups.command("create", epilog="Example: orders-backup backup create --keep-daily 14")
def create_backup(
    keep_daily: Annotated[int, typer.Option(min=1, help="Days of which the newest stays.")] = 7,
    keep_weekly: Annotated[int, typer.Option(min=0, help="Weeks of which the newest stays.")] = 5,
    keep_monthly: Annotated[int, typer.Option(min=0, help="Months of which the newest stays.")] = 12,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Back the whole database up into the bucket, sealed, and remove what is older than is to be kept."""
    from orders_backup import db
    from orders_backup.backups import dumps, retention
    from orders_backup.local import postgres

    with acting(data_dir, "create_backup") as runtime:
        with db.transaction(runtime.db) as tx:
            now = db.clock(tx)
        made = dumps.create(runtime, postgres.find(), now=now)
        keep = retention.Keep(keep_daily, keep_weekly, keep_monthly)
        spent = retention.spent(dumps.everything(runtime), keep)
        dumps.remove(runtime, [one for one in spent if one.id != made.id])  # a clock that was ahead made newer ones
    print_rows(made, [f"{made.id}  {made.bytes} bytes of PostgreSQL {made.server}"], as_json=as_json)


@backups.command("list", epilog="Example: orders-backup backup list --json")
def list_backups(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the backups of the database, and the archives of accounts with what is in each."""
    from orders_backup.backups import dumps, listing

    with opened(data_dir) as runtime:
        found, databases = listing.archives(runtime), dumps.everything(runtime)
    lines = [f"{one.id}  {one.bytes} bytes of PostgreSQL {one.server}" for one in databases]
    lines += [
        f"{one.account_id}  {one.problem}"
        if one.made_at is None
        else f"{one.account_id}  {one.name}  {one.versions} versions, {one.bytes} bytes, {one.made_at:%Y-%m-%d %H:%M}"
        for one in found
    ]
    print_rows({"databases": databases, "archives": found}, lines, as_json=as_json)


@backups.command("verify", epilog="Example: orders-backup backup verify")
def verify_archives(account_id: OneAccount = None, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Read every file, and compare it with what was stored, and archives with what the database knows of them."""
    from orders_backup.backups import listing

    with opened(data_dir) as runtime:
        found = listing.verify(runtime, account_id)
        found += listing.verify_dumps(runtime) if account_id is None else []
    print_rows(found, [f"{one.id}  {one.problem or 'whole'}" for one in found], as_json=as_json)
    if any(one.problem for one in found):
        raise typer.Exit(1)


@backups.command("restore", epilog="Example: orders-backup backup restore --all")
def restore_archives(
    account_id: OneAccount = None,
    everything: Annotated[bool, typer.Option("--all", help="Every account of the bucket.")] = False,
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="Into accounts that have orders here, too: they get what they lack.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Bring accounts back from their archives, with their newest logins. What was interrupted goes on where it was."""
    from orders_backup.backups import restore

    if everything == (account_id is not None):
        raise InvalidRequestError("Say either --all, or --account-id with the account's id.")
    target = {"account_id": account_id, "into_existing": into_existing or None}
    told, finished = _Told(), []
    with acting(data_dir, "restore_backup", **target) as runtime:
        for progress in (
            restore.restore_all(runtime, into_existing=into_existing)
            if account_id is None
            else restore.restore(runtime, account_id, into_existing=into_existing)
        ):
            told.saw(progress)
            if progress.phase == "finished":
                finished.append(progress)
    lines = [
        f"{one.account_id}  {one.status or f'{one.added} versions added'}, {one.of} records in the archive"
        + (f", {one.refused} DOCUMENTS LEFT OUT that are not what their SHA-256 tells" if one.refused else "")
        for one in finished
    ]
    print_rows(finished, lines or ["Everything is here already."], as_json=as_json)


@backups.command("drill", epilog="Example: orders-backup backup drill --sample 3")
def drill_restore(
    account_id: OneAccount = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many accounts, by chance; else all.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Bring accounts back into a scratch database and compare them with what is alive; exit code 1 for any finding."""
    from orders_backup import db
    from orders_backup.backups import drill

    with acting(data_dir, "drill_backup", account_id=account_id) as runtime:
        with db.transaction(runtime.db) as tx:
            now, alive = db.clock(tx), drill.alive(tx)
        wanted = [account_id] if account_id else random.sample(alive, min(sample or len(alive), len(alive)))
        report = drill.drill(runtime, wanted, now=now)
    lines = [f"{one.account_id or 'all'}  {one.problem}" for one in report.findings]
    lines.append(f"{report.accounts} accounts, {report.versions} versions, {len(report.findings)} findings.")
    print_rows(report, lines, as_json=as_json)
    if not report.ok:
        raise typer.Exit(1)


@backups.command("restore-database", epilog="Example: orders-backup backup restore-database")
def restore_database(
    backup_id: Annotated[str | None, typer.Option(help="As `backup list` prints it; else the newest.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Fill the empty database of DATABASE_URL from a backup, or go on with that. Let nothing else of the service run
    meanwhile."""
    from orders_backup import db
    from orders_backup.backups import dumps, fit, refill
    from orders_backup.local import postgres

    with opened(data_dir) as runtime:
        with db.transaction(runtime.db) as tx:
            backup_id = backup_id or fit.begun(tx)
        ids = [one for one in dumps.ids(runtime) if backup_id in {None, one}]
        if not ids:
            raise InvalidRequestError(f"There is no backup {backup_id or ''} in the bucket.")
        found = dumps.get(runtime, ids[0])
        refill.refill(runtime, postgres.find(), found)
    typer.echo(f"{found.id} restored, made {found.made_at:%Y-%m-%d %H:%M:%S}.")


@backups.command("begin-anew", epilog="Example: orders-backup backup begin-anew --account-id 6b1f…")
def begin_anew(account_id: Annotated[uuid.UUID, typer.Option(help="Whose archive.")], data_dir: DataDir = None) -> None:
    """Begin the archive of an account anew: for one that is damaged, or lies in another bucket than before. What is in
    the database goes into it once more; what lies there stays, and counts no more."""
    from orders_backup.backups import anew

    with acting(data_dir, "begin_archive_anew", account_id=account_id) as runtime:
        first = anew.begin(runtime, account_id)
    typer.echo(f"The archive of {account_id} begins anew with step {first}.")


@backups.command("finish-restore", epilog="Example: orders-backup backup finish-restore")
def finish_restore(data_dir: DataDir = None) -> None:
    """Make a database that was restored by other means (to a point in time, or by pg_restore) ready to be worked on.
    Give it once, before anything of the service starts."""
    from orders_backup.backups import refill

    with opened(data_dir) as runtime:
        refill.finish(runtime)
    typer.echo("The database is ready.")


class _Told:
    """Tells a person how far it is, on stderr."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def saw(self, progress: "Progress") -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._told_at >= TOLD_EVERY:
            self._told_at = now
            eta = "" if progress.eta_seconds is None else f", {progress.eta_seconds:.0f} s to go"
            typer.echo(f"{progress.account_id}  {progress.phase} {progress.done} of {progress.of}{eta}", err=True)
