"""The routes of backups and drills. They hold everybody's orders, so a key bound to one user is refused."""

import uuid
from typing import Annotated, Literal

from fastapi import Path, Query, Request, Response, Security
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import rest
from orders_backup.access import Caller
from orders_backup.backups import ledger
from orders_backup.backups.ledger import Backup
from orders_backup.backups.shapes import BackupPage, BackupShown
from orders_backup.errors import ConflictError, MissingScopeError

router = rest.router("/backups", "backups")

KINDS = {
    "dump": (ledger.DUMP,),
    "drill": (ledger.SAMPLE, ledger.WHOLE, ledger.OF_DUMP, ledger.OF_ACCOUNT),
}


Keeper = Annotated[Caller, Security(rest.caller, scopes=["backups"])]
BackupId = Annotated[uuid.UUID, Path(description="The id of a backup or a drill.")]
Kind = Annotated[Literal["dump", "drill"] | None, Query(description="Backups of the database, or drills.")]
Of = Annotated[uuid.UUID | None, Query(description="Drills of this backup, or this account.")]
Scope = Annotated[Literal["sample", "whole"], Query(description="A few accounts, or all and the newest backup.")]


@router.get("", responses={200: {"model": BackupPage}})
def list_backups(  # noqa: PLR0917 - as the list of orders
    request: Request,
    caller: Keeper,
    kind: Kind = None,
    of: Of = None,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """Backups of the database and drills, newest first."""
    _refuse_bound(caller)
    query = ("backups", kind, of)
    after = rest.position(request, cursor, ledger.Position, query=query)
    with rest.reading(request) as tx:
        found, more = ledger.page(tx, kinds=KINDS[kind] if kind else (), of=of, after=after, limit=limit)
    return rest.page([_shown(one) for one in found], rest.cursor(request, more, query=query) if more else None)


@router.post("", status_code=202, responses={202: {"model": BackupShown}})
def create_backup(request: Request, caller: Keeper) -> Response:
    """A backup of the database now, or after what is being made; ask for it until its `state` is `succeeded`. One that
    waits already is that."""
    _refuse_bound(caller)
    _need_a_bucket(request)
    with database.transaction(rest.runtime(request).db) as tx:
        return _asked(tx, ledger.ask(tx, ledger.DUMP, by=caller.key_id))


@router.post("/archive/drill", status_code=202, responses={202: {"model": BackupShown}})
def drill_archive(request: Request, caller: Keeper, scope: Scope = "sample") -> Response:
    """Rehearses the archives of accounts."""
    _refuse_bound(caller)
    _need_a_bucket(request)
    kind = ledger.SAMPLE if scope == "sample" else ledger.WHOLE
    with database.transaction(rest.runtime(request).db) as tx:
        return _asked(tx, ledger.ask(tx, kind, by=caller.key_id))


@router.get("/{backup_id}", responses={200: {"model": BackupShown}})
def show_backup(request: Request, caller: Keeper, backup_id: BackupId) -> Response:
    """A backup, or a drill with its report."""
    _refuse_bound(caller)
    with rest.reading(request) as tx:
        return rest.answer(_shown(ledger.get(tx, backup_id)))


@router.post("/{backup_id}/drill", status_code=202, responses={202: {"model": BackupShown}})
def drill_backup(request: Request, caller: Keeper, backup_id: BackupId) -> Response:
    """Rehearses a backup of the database: a scratch database is filled from it and compared."""
    _refuse_bound(caller)
    _need_a_bucket(request)
    with database.transaction(rest.runtime(request).db) as tx:
        found = ledger.get(tx, backup_id)
        if found.kind != ledger.DUMP:
            raise ConflictError("This is a drill; only backups of the database are rehearsed here.")
        if found.state not in {"succeeded", "failed"} or found.dump_id is None:
            raise ConflictError(f"This backup is {found.state}; there is nothing to rehearse.")
        return _asked(tx, ledger.ask(tx, ledger.OF_DUMP, of=backup_id, by=caller.key_id))


def _refuse_bound(caller: Caller) -> None:
    if caller.user_id is not None:
        raise MissingScopeError("This key is bound to a user, and a backup is everybody's; use an unbound key.")


def _need_a_bucket(request: Request) -> None:
    if rest.runtime(request).store is None:
        raise ConflictError("S3_BUCKET is not set: a backup lies in a bucket.")


def _asked(tx: Connection, backup_id: uuid.UUID) -> Response:
    found = ledger.get(tx, backup_id)
    return rest.answer(_shown(found), status=202, headers={"Location": f"{rest.V1}/backups/{backup_id}"})


def _shown(backup: Backup) -> BackupShown:
    shown = {name: getattr(backup, name) for name in BackupShown.__dataclass_fields__ if hasattr(backup, name)}
    return BackupShown(**shown, id=backup.backup_id, error=backup.last_error)
