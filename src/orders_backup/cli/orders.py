"""Orders: a sync that is asked for, the certificate of completeness."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from orders_backup.cli.shared import AccountId, AsJson, DataDir, acting, opened, print_json
from orders_backup.errors import InvalidRequestError

if TYPE_CHECKING:
    from orders_backup.sync.reconcile import Certificate

commands = typer.Typer()


class Kind(StrEnum):
    """What a sync looks at: changes since the last one, recent orders and counts, or every order Allegro lists."""

    incremental = "incremental"
    full = "full"
    reconcile = "reconcile"


@commands.command(epilog="Example: orders-backup sync 6b1f… --kind reconcile --from 2026-01-01 --to 2026-02-01")
def sync(
    account_id: AccountId,
    kind: Annotated[Kind, typer.Option(help="Changes only, recent orders and counts, or all.")] = Kind.incremental,
    start: Annotated[str | None, typer.Option("--from", help="First moment; UTC unless it names a zone.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Moment after the last one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Ask for a sync of one account; the workers do it. Prints the id of the run."""
    from orders_backup import db
    from orders_backup.sync import state

    range_from, range_to = instant(start, "--from"), instant(end, "--to")
    if kind is Kind.incremental and (range_from or range_to):
        raise InvalidRequestError("--from and --to belong to --kind full and reconcile.")
    if range_from and range_to and range_from >= range_to:
        raise InvalidRequestError("--from must lie before --to.")
    about = {"account_id": account_id, "kind": kind.value}
    with acting(data_dir, "request_sync", **about) as runtime, db.transaction(runtime.db) as tx:
        run_id = state.request(tx, account_id, kind.value, range_from=range_from, range_to=range_to)
    typer.echo(str(run_id))


@commands.command(epilog="Example: orders-backup certificate 6b1f… --json")
def certificate(account_id: AccountId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Print what Allegro listed against what is stored. Exit code 0 only where the certificate says complete."""
    from orders_backup import db
    from orders_backup.sync import reconcile

    with opened(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found = reconcile.certificate(tx, account_id)
    if as_json:
        print_json(found)
    else:
        _print_certificate(found)
    if not found.complete:
        raise typer.Exit(1)


def _print_certificate(found: "Certificate") -> None:
    typer.echo(f"Account {found.account_id}: {'COMPLETE' if found.complete else 'NOT PROVEN COMPLETE'}")
    for question in found.open_questions:
        typer.echo(f"  open: {question}")
    if found.checked_at:
        typer.echo(f"Checked {found.checked_at:%Y-%m-%d %H:%M:%S} UTC by a {found.kind} run {found.run_id}")
    if found.ids_checked_at:
        typer.echo(f"All of the year order by order: {found.ids_checked_at:%Y-%m-%d %H:%M:%S} UTC")
    for window in found.windows:
        span = f"{window.window_from:%Y-%m-%d} – {window.window_to:%Y-%m-%d}"
        names = ("listed", "stored", "missing", "superseded", "set_aside", "beyond_reach", "unlisted")
        counts = ", ".join(f"{name.replace('_', ' ')} {_count(getattr(window, name))}" for name in names)
        status = f"{window.status} by {window.method}" if window.status == "verified" else window.status
        typer.echo(f"  {span}  {status}: {counts}" + (f" ({window.note})" if window.note else ""))
    typer.echo(f"Listed {found.listed}, stored {found.stored}, missing {found.missing}, set aside {found.set_aside}.")
    typer.echo(f"Unreadable {found.unreadable}; of all that is set aside {found.acknowledged} acknowledged.")
    typer.echo(f"Kept: {found.orders} orders in {found.versions} versions.")
    for one in found.discoveries:
        typer.echo(f"Caught by {one.net} in 30 days: {one.orders} {one.what}, last on {one.last_on}")


def _count(found: int | None) -> str:
    return "unknown" if found is None else str(found)


def instant(text: str | None, option: str) -> datetime | None:
    """`2026-11-23` or `2026-11-23T10:00:00+01:00`; UTC where no zone is given."""
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(
            f"{option} must be a day or a moment such as 2026-11-23 or 2026-11-23T10:00:00Z, not {text!r}."
        ) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
