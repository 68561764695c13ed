"""What a person does by hand: the console script `orders-backup`. Asks other modules; decides nothing itself."""

# ruff: noqa: PLC0415 - commands import what they need, so that `--help` does not wait for SQLAlchemy

import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from orders_backup.errors import InvalidRequestError, LocalServiceError, OrdersBackupError, SettingsError

if TYPE_CHECKING:
    from orders_backup.accounts.queries import Account
    from orders_backup.accounts.recovery import Recovered
    from orders_backup.runtime import Runtime
    from orders_backup.sync.reconcile import Certificate

EVERYTHING = ["accounts:read", "accounts:write", "sync", "orders:read", "exports", "webhooks", "backups", "admin"]
POLL_EVERY = 1.0
"""Seconds between two looks at an account that waits for its seller."""

app = typer.Typer(
    help="Keeps every Allegro.pl order and every version of it, for ever, and proves that nothing is missing.",
    epilog="Example: orders-backup up",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="API keys.", epilog="Example: orders-backup keys list", no_args_is_help=True)
accounts = typer.Typer(help="Sellers' accounts.", epilog="Example: orders-backup accounts list", no_args_is_help=True)
tokens = typer.Typer(help="Sellers' logins.", epilog="Example: orders-backup tokens recover", no_args_is_help=True)
app.add_typer(tokens, name="tokens", rich_help_panel=None)
app.add_typer(keys, name="keys", rich_help_panel=None)
app.add_typer(accounts, name="accounts", rich_help_panel=None)
aside = typer.Typer(
    help="What is not read.", epilog="Example: orders-backup set-aside list 6b1f…", no_args_is_help=True
)
app.add_typer(aside, name="set-aside", rich_help_panel=None)

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="DATA_DIR", show_default="./.orders-backup", help="Where the embedded default keeps its data."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
AccountId = Annotated[uuid.UUID, typer.Argument(help="The account's id, as `accounts list` prints it.")]


class Kind(StrEnum):
    """What a sync looks at: changes since the last one, recent orders and counts, or every order Allegro lists."""

    incremental = "incremental"
    full = "full"
    reconcile = "reconcile"


def main() -> None:
    """Runs the command; a failure we know is one sentence on stderr, exit code 2 for settings and 1 otherwise."""
    try:
        app()
    except SettingsError as error:
        _fail(error, 2)
    except OrdersBackupError as error:
        _fail(error, 1)


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


# The service and its parts


@app.command(epilog="Example: orders-backup up --port 8080 --data-dir /srv/orders-backup")
def up(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    data_dir: DataDir = None,
) -> None:
    """Run the whole service: API, workers, scheduler, and PostgreSQL and the broker where no setting names them."""
    from orders_backup import local

    local.up(local.current_settings(data_dir), host=host, port=port, workers=workers)


@app.command(epilog="Example: orders-backup api --host 0.0.0.0 --port 8000")
def api(host: Host = "127.0.0.1", port: Port = 8000, data_dir: DataDir = None) -> None:
    """Run the HTTP API alone."""
    _become_module("orders_backup.api", data_dir, "--host", host, "--port", str(port))


@app.command(epilog="Example: orders-backup worker --concurrency 8")
def worker(
    concurrency: Annotated[int, typer.Option(min=1, help="Tasks at the same time.")] = 8, data_dir: DataDir = None
) -> None:
    """Run one worker alone."""
    _become_module("orders_backup.worker", data_dir, "worker", "--concurrency", str(concurrency))


@app.command(epilog="Example: orders-backup scheduler")
def scheduler(data_dir: DataDir = None) -> None:
    """Run the scheduler alone; several are harmless."""
    _become_module("orders_backup.worker", data_dir, "scheduler")


@app.command(
    epilog="Example: orders-backup simulator --orders 500 --auto-approve",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def simulator(context: typer.Context, data_dir: DataDir = None) -> NoReturn:  # noqa: ARG001 - every command takes it
    """Run the bundled simulator of Allegro; all options go to `allegro-simulator`."""
    import shutil

    beside = Path(sys.executable).with_name("allegro-simulator")
    program = str(beside) if beside.exists() else shutil.which("allegro-simulator")
    if program is None:
        raise LocalServiceError("The program allegro-simulator is not installed beside this one.")
    os.execv(program, [program, *context.args])  # noqa: S606


def _become_module(module: str, data_dir: Path | None, *arguments: str) -> NoReturn:
    """The process turns into that module: entry points do not import each other."""
    from orders_backup import local

    settings = local.current_settings(data_dir)
    place = ["--data-dir", str(settings.data_dir)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments, *place])  # noqa: S606


@app.command(epilog="Example: DATABASE_URL=postgresql://… orders-backup migrate")
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database's schema to the newest revision."""
    from orders_backup import db

    with _runtime(data_dir) as runtime:
        db.migrate(runtime.db)
    typer.echo("The schema is at the newest revision.")


# API keys


@keys.command("create", epilog="Example: orders-backup keys create --name shop --scopes orders:read,accounts:read")
def create_key(
    name: Annotated[str, typer.Option(help="Who uses the key.")],
    scopes: Annotated[list[str], typer.Option(help=f"Comma-separated: {', '.join(EVERYTHING)}.")],
    user_id: Annotated[uuid.UUID | None, typer.Option(help="The only user whose data it sees; else all.")] = None,
    expires_in_days: Annotated[int | None, typer.Option(min=1, help="Else it does not expire.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make an API key and print it, alone, this one time."""
    from orders_backup import access, db

    expires_at = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days else None
    chosen = [scope for part in scopes for scope in part.replace(",", " ").split()]
    with _runtime(data_dir) as runtime, db.transaction(runtime.db) as tx:
        key = access.create_key(tx, name=name, scopes=chosen, user_id=user_id, expires_at=expires_at)
    typer.echo(key)


@keys.command("list", epilog="Example: orders-backup keys list --json")
def list_keys(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the API keys; the keys themselves are kept nowhere."""
    from orders_backup import access, db

    with _runtime(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found = access.list_keys(tx)
    if as_json:
        _print_json(found)
        return
    now = datetime.now(UTC)
    for key in found:
        expired = key.expires_at is not None and key.expires_at <= now
        state = "revoked" if key.revoked_at else "expired" if expired else "active"
        typer.echo(f"{key.id}  {state:8}{key.name}  {','.join(key.scopes)}  {key.user_id or 'every user'}")


@keys.command("revoke", epilog="Example: orders-backup keys revoke 0Ab1Cd2Ef3Gh")
def revoke_key(key_id: Annotated[str, typer.Argument(help="The key's id.")], data_dir: DataDir = None) -> None:
    """Refuse a key from now on."""
    from orders_backup import access, db

    with _runtime(data_dir) as runtime, db.transaction(runtime.db) as tx:
        access.revoke_key(tx, key_id)
    typer.echo(f"Key {key_id} is revoked.")


# Accounts


@accounts.command("connect", epilog="Example: orders-backup accounts connect --user-id 6b1f… --name 'My shop' --wait")
def connect_account(
    user_id: Annotated[uuid.UUID, typer.Option(help="Whose account it is: an id of your own system.")],
    name: Annotated[str, typer.Option(help="What people call the account.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the seller has agreed.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Begin to connect a seller: prints the link to open, and the code."""
    from orders_backup import local
    from orders_backup.accounts import connect

    with _runtime(data_dir) as runtime:
        local.need_credentials(runtime.settings)
        account = _find(runtime, connect.begin(runtime, user_id=user_id, name=name))
        if not (as_json and wait):
            _print_json(account) if as_json else _print_invitation(account)
        if wait:
            account = _decided(runtime, account)
            _print_json(account) if as_json else typer.echo(f"Account {account.id}: {_state(account)}.")
    if wait and account.status != "active":
        raise typer.Exit(1)


@accounts.command("list", epilog="Example: orders-backup accounts list --json")
def list_accounts(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the connected sellers and those that wait."""
    from orders_backup import db
    from orders_backup.accounts import queries

    found: list[Account] = []
    with _runtime(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        more, after = True, None
        while more:
            some, after = queries.page(tx, seen_by=None, user_id=None, status=None, after=after, limit=1000)
            found, more = [*found, *some], after is not None
    lines = [f"{account.id}  {_state(account)}  {account.name}  {account.orders} orders" for account in found]
    _print_rows(found, lines, as_json=as_json)


@tokens.command("recover", epilog="Example: orders-backup tokens recover --json")
def recover_tokens(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """After a restore of the database: take over every login that is newer on this disk or in object storage."""
    from orders_backup.accounts import recovery

    found: list[Recovered] = []
    with _runtime(data_dir) as runtime:
        for one in recovery.recover(runtime):
            found.append(one)
            if not as_json and one.outcome != "level":
                typer.echo(f"{one.account_id}  {one.outcome}  {one.generation_before} -> {one.generation}")
    if as_json:
        _print_json(found)
        return
    adopted = sum(one.outcome == "adopted" for one in found)
    typer.echo(f"{len(found)} accounts with tokens, {adopted} taken over from the journal.")


def _find(runtime: "Runtime", account_id: uuid.UUID) -> "Account":
    from orders_backup import db
    from orders_backup.accounts import queries

    with db.snapshot(runtime.db) as tx:
        return queries.get(tx, account_id, seen_by=None)


def _print_invitation(account: "Account") -> None:
    typer.echo(f"Account {account.id} waits for its seller until {account.expires_at}.")
    typer.echo(f"Open {account.verification_uri_complete} and confirm the code {account.user_code}.")


def _decided(runtime: "Runtime", account: "Account") -> "Account":
    """Waits for the worker to learn what the seller did; the flow ends by itself."""
    while account.status == "pending":
        time.sleep(POLL_EVERY)
        account = _find(runtime, account.id)
    return account


def _state(account: "Account") -> str:
    seller = f" as {account.seller_login}" if account.seller_login else ""
    reason = f" ({account.reason})" if account.reason else ""
    return f"{account.status}{seller}{reason}"


# Orders


@app.command(epilog="Example: orders-backup sync 6b1f… --kind reconcile --from 2026-01-01 --to 2026-02-01")
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

    range_from, range_to = _instant(start, "--from"), _instant(end, "--to")
    if kind is Kind.incremental and (range_from or range_to):
        raise InvalidRequestError("--from and --to belong to --kind full and reconcile.")
    if range_from and range_to and range_from >= range_to:
        raise InvalidRequestError("--from must lie before --to.")
    with _runtime(data_dir) as runtime, db.transaction(runtime.db) as tx:
        run_id = state.request(tx, account_id, kind.value, range_from=range_from, range_to=range_to)
    typer.echo(str(run_id))


@app.command(epilog="Example: orders-backup certificate 6b1f… --json")
def certificate(account_id: AccountId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Print what Allegro listed against what is stored. Exit code 0 only where the certificate says complete."""
    from orders_backup import db
    from orders_backup.sync import reconcile

    with _runtime(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found = reconcile.certificate(tx, account_id)
    if as_json:
        _print_json(found)
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
        counts = f"listed {window.listed}, stored {window.stored}, missing {window.missing}"
        status = f"{window.status} by {window.method}" if window.status == "verified" else window.status
        typer.echo(f"  {span}  {status}: {counts}" + (f" ({window.note})" if window.note else ""))
    typer.echo(f"Listed {found.listed}, stored {found.stored}, missing {found.missing}, set aside {found.set_aside}.")
    typer.echo(f"Unreadable {found.unreadable}; of all that is set aside {found.acknowledged} acknowledged.")
    typer.echo(f"Kept: {found.orders} orders in {found.versions} versions.")
    for one in found.discoveries:
        typer.echo(f"Caught by {one.net} in 30 days: {one.orders} {one.what}, last on {one.last_on}")


# What could not be read, and what is new at Allegro

Ids = Annotated[list[str] | None, typer.Argument(help="Ids as `set-aside list` prints them; none: all.")]


@aside.command("list", epilog="Example: orders-backup set-aside list 6b1f… --json")
def list_set_aside(account_id: AccountId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List orders that failed five times, and bytes that name no order."""
    from orders_backup import db
    from orders_backup.sync import set_aside

    with _runtime(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found = set_aside.everything(tx, account_id)
    _print_rows(found, [one.told for one in found], as_json=as_json)


@aside.command("retry", epilog="Example: orders-backup set-aside retry 6b1f…")
def retry_set_aside(account_id: AccountId, ids: Ids = None, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Read them again: orders by the workers, at once; bytes by this program, here and now."""
    from orders_backup import db
    from orders_backup.sync import set_aside

    with _runtime(data_dir) as runtime, db.transaction(runtime.db) as tx:
        found = set_aside.retry(tx, runtime.codec, account_id, ids or None, now=db.clock(tx))
    _print_rows(found, [found.told], as_json=as_json)


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

    with _runtime(data_dir) as runtime, db.transaction(runtime.db) as tx:
        noted = set_aside.acknowledge(tx, account_id, ids or None, reason=reason)
    _print_rows({"acknowledged": noted}, [f"{noted} acknowledged."], as_json=as_json)


@app.command(epilog="Example: orders-backup drift --json")
def drift(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List in what Allegro's documents differ from the shape this program knows: new fields, unknown values."""
    from orders_backup import db
    from orders_backup import drift as drifts

    with _runtime(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found = drifts.findings(tx)
    _print_rows(found, [one.told for one in found], as_json=as_json)


def _print_rows(value: object, lines: list[str], *, as_json: bool) -> None:
    if as_json:
        _print_json(value)
    elif lines:
        typer.echo("\n".join(lines))


# Shapes and plumbing


@contextmanager
def _runtime(data_dir: Path | None) -> "Iterator[Runtime]":
    from orders_backup import local, runtime

    _log_to_stderr()
    built = runtime.build(local.current_settings(data_dir), pool_size=1)
    try:
        yield built
    finally:
        built.close()


def _log_to_stderr() -> None:
    """Warnings only: stdout belongs to what was asked for."""
    import logging

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def _print_json(value: object) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _instant(text: str | None, option: str) -> datetime | None:
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


if __name__ == "__main__":
    main()
