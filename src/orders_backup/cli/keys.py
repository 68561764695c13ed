"""API keys: made, listed, revoked."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from orders_backup.cli.shared import AsJson, DataDir, opened, print_json

EVERYTHING = ["accounts:read", "accounts:write", "sync", "orders:read", "exports", "webhooks", "backups", "admin"]

keys = typer.Typer(help="API keys.", epilog="Example: orders-backup keys list", no_args_is_help=True)


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
    with opened(data_dir) as runtime, db.transaction(runtime.db) as tx:
        key = access.create_key(tx, name=name, scopes=chosen, user_id=user_id, expires_at=expires_at)
    typer.echo(key)


@keys.command("list", epilog="Example: orders-backup keys list --json")
def list_keys(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List the API keys; the keys themselves are kept nowhere."""
    from orders_backup import access, db

    with opened(data_dir) as runtime, db.snapshot(runtime.db) as tx:
        found = access.list_keys(tx)
    if as_json:
        print_json(found)
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

    with opened(data_dir) as runtime, db.transaction(runtime.db) as tx:
        access.revoke_key(tx, key_id)
    typer.echo(f"Key {key_id} is revoked.")
