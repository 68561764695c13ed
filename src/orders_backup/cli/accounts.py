"""Sellers' accounts: connected, listed; their logins after a restore."""

import time
import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from orders_backup.cli.shared import AsJson, DataDir, opened, print_json, print_rows

if TYPE_CHECKING:
    from orders_backup.accounts.queries import Account
    from orders_backup.accounts.recovery import Recovered
    from orders_backup.runtime import Runtime

POLL_EVERY = 1.0
"""Seconds between two looks at an account that waits for its seller."""

accounts = typer.Typer(help="Sellers' accounts.", epilog="Example: orders-backup accounts list", no_args_is_help=True)
tokens = typer.Typer(help="Sellers' logins.", epilog="Example: orders-backup tokens recover", no_args_is_help=True)


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

    with opened(data_dir) as runtime:
        local.need_credentials(runtime.settings)
        account = _find(runtime, connect.begin(runtime, user_id=user_id, name=name))
        if not (as_json and wait):
            print_json(account) if as_json else _print_invitation(account)
        if wait:
            account = _decided(runtime, account)
            print_json(account) if as_json else typer.echo(f"Account {account.id}: {_state(account)}.")
    if wait and account.status != "active":
        raise typer.Exit(1)


@accounts.command("list", epilog="Example: orders-backup accounts list --json")
def list_accounts(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the connected sellers and those that wait."""
    from orders_backup import db
    from orders_backup.accounts import queries

    found: list[Account] = []
    with opened(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        more, after = True, None
        while more:
            some, after = queries.page(tx, seen_by=None, user_id=None, status=None, after=after, limit=1000)
            found, more = [*found, *some], after is not None
    lines = [f"{account.id}  {_state(account)}  {account.name}  {account.orders} orders" for account in found]
    print_rows(found, lines, as_json=as_json)


@tokens.command("recover", epilog="Example: orders-backup tokens recover --json")
def recover_tokens(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """After a restore of the database: take over every login that is newer on this disk or in object storage."""
    from orders_backup.accounts import recovery

    found: list[Recovered] = []
    with opened(data_dir) as runtime:
        for one in recovery.recover(runtime):
            found.append(one)
            if not as_json and one.outcome != "level":
                typer.echo(f"{one.account_id}  {one.outcome}  {one.generation_before} -> {one.generation}")
    if as_json:
        print_json(found)
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
