"""What a person does by hand: the console script `orders-backup`. Asks other modules; decides nothing itself.

Each command imports what it needs, so that `--help` does not wait for SQLAlchemy.
"""

import sys
from typing import Annotated, NoReturn

import typer

from orders_backup.cli import accounts, alerts, backups, care, exports, keys, orders, service, shared
from orders_backup.errors import OrdersBackupError, SettingsError

app = typer.Typer(
    help="Keeps every Allegro.pl order and every version of it, for ever, and proves that nothing is missing.",
    epilog="Example: orders-backup up",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for commands in (service.commands, orders.commands, care.commands):
    app.add_typer(commands)
app.add_typer(accounts.tokens, name="tokens")
app.add_typer(keys.keys, name="keys")
app.add_typer(accounts.accounts, name="accounts")
app.add_typer(exports.orders, name="orders")
app.add_typer(care.aside, name="set-aside")
app.add_typer(backups.backups, name="backup")
app.add_typer(alerts.alerts, name="alerts")


def main() -> None:
    """Runs the command; a failure we know is one sentence on stderr, exit code 2 for settings and 1 otherwise.
    Any other is a line of the log, which tells its kind and its place."""
    try:
        app()
    except SettingsError as error:
        _fail(error, 2)
    except OrdersBackupError as error:
        _fail(error, 1)
    except Exception as error:  # noqa: BLE001 - a traceback would show values, with buyers in them
        shared.log_crash(error)
        sys.exit(1)


def _fail(error: OrdersBackupError, code: int) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"orders-backup {version('allegro-orders-backup')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
