"""What could not be read, and what is new at Allegro."""

from typing import Annotated

import typer

from orders_backup.cli.shared import AccountId, AsJson, DataDir, acting, opened, print_rows

commands = typer.Typer()
aside = typer.Typer(
    help="What is not read.", epilog="Example: orders-backup set-aside list 6b1f…", no_args_is_help=True
)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids as `set-aside list` prints them; none: all.")]


@aside.command("list", epilog="Example: orders-backup set-aside list 6b1f… --json")
def list_set_aside(account_id: AccountId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List orders that failed five times, and bytes that name no order."""
    from orders_backup import db
    from orders_backup.sync import set_aside

    with opened(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found = set_aside.everything(tx, account_id)
    print_rows(found, [one.told for one in found], as_json=as_json)


@aside.command("retry", epilog="Example: orders-backup set-aside retry 6b1f…")
def retry_set_aside(account_id: AccountId, ids: Ids = None, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Read them again: orders by the workers, at once; bytes by this program, here and now."""
    from orders_backup import db
    from orders_backup.sync import set_aside

    about = {"account_id": account_id}
    with acting(data_dir, "retry_set_aside", **about) as runtime, db.transaction(runtime.db) as tx:
        found = set_aside.retry(tx, runtime.codec, account_id, ids or None, now=db.clock(tx))
    print_rows(found, [found.told], as_json=as_json)


@aside.command("acknowledge", epilog="Example: orders-backup set-aside acknowledge 6b1f… 9f3c… --reason 'sent so'")
def acknowledge_set_aside(
    account_id: AccountId,
    reason: Annotated[str, typer.Option(help="Why nothing more can be done; it is kept.")],
    ids: Ids = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Take note of what nobody can read, so that the certificate can be complete; it goes on naming them."""
    from orders_backup import db
    from orders_backup.sync import set_aside

    about = {"account_id": account_id, "reason": reason}
    with acting(data_dir, "acknowledge_set_aside", **about) as runtime, db.transaction(runtime.db) as tx:
        noted = set_aside.acknowledge(tx, account_id, ids or None, reason=reason)
    print_rows({"acknowledged": noted}, [f"{noted} acknowledged."], as_json=as_json)


@commands.command(epilog="Example: orders-backup doctor --json")
def doctor(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Say what is wrong, in the installation and account by account, and what to do. Exit code 0 only where nothing is
    an error."""
    from orders_backup import doctor as doctors
    from orders_backup.errors import SettingsError

    try:
        with opened(data_dir) as runtime:
            found = list(doctors.examine(runtime))
    except SettingsError as error:
        found = [doctors.finding("settings_refused", str(error))]
    errors = sum(one.severity == doctors.ERROR for one in found)
    print_rows(found, [*(one.line for one in found), doctors.summary(found)], as_json=as_json)
    if errors:
        raise typer.Exit(1)


@commands.command(epilog="Example: orders-backup drift --json")
def drift(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List in what Allegro's documents differ from the shape this program knows: new fields, unknown values."""
    from orders_backup import db
    from orders_backup import drift as drifts

    with opened(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found = drifts.findings(tx)
    print_rows(found, [one.told for one in found], as_json=as_json)
