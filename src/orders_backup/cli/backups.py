"""The archives in the bucket, and the way back from them."""

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


@backups.command("list", epilog="Example: orders-backup backup list --json")
def list_archives(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the archives in the bucket: what is in each, and how far it is."""
    from orders_backup.backups import listing

    with opened(data_dir) as runtime:
        found = listing.archives(runtime)
    lines = [
        f"{one.account_id}  {one.name}  {one.versions} versions, {one.bytes} bytes, {one.made_at:%Y-%m-%d %H:%M}"
        for one in found
    ]
    print_rows(found, lines, as_json=as_json)


@backups.command("verify", epilog="Example: orders-backup backup verify")
def verify_archives(account_id: OneAccount = None, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Read every file of the archives, and compare it with what was stored and with what the database knows."""
    from orders_backup.backups import listing

    with opened(data_dir) as runtime:
        found = listing.verify(runtime, account_id)
    print_rows(found, [f"{one.account_id}  {one.problem or 'whole'}" for one in found], as_json=as_json)
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
        for one in finished
    ]
    print_rows(finished, lines or ["Everything is here already."], as_json=as_json)


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
