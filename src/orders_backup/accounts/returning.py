"""An account that comes back from its archive: its row, and at the end its login. Writes accounts, too."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from orders_backup import db as database
from orders_backup.accounts import recovery
from orders_backup.errors import ConflictError
from orders_backup.runtime import Runtime
from orders_backup.tables import accounts

RESTORING = recovery.RESTORING
WITHOUT_LOGIN = "restored_without_login"

log = structlog.get_logger()


def put_back(tx: Connection, account_id: UUID, told: Mapping[str, Any]) -> None:
    """The row, not to be synced yet; where there is one it stays as it is, but for that. Raises ConflictError where the
    user has connected the same seller again meanwhile."""
    waiting = {"status": "disconnected", "reason": RESTORING}
    known = tx.execute(sa.update(accounts).values(waiting).where(accounts.c.id == account_id)).rowcount
    if known:
        return
    try:
        with tx.begin_nested():
            tx.execute(sa.insert(accounts).values(**{**told, **waiting}))
    except IntegrityError as error:
        raise ConflictError("The user has connected this seller again, under another account id.") from error


def is_waiting(tx: Connection, account_id: UUID) -> bool:
    """Whether the account's orders are coming back."""
    query = sa.select(accounts.c.reason).where(accounts.c.id == account_id)
    return tx.execute(query).scalar_one_or_none() == RESTORING


def log_in(runtime: Runtime, account_id: UUID, *, status: str) -> str:
    """The account as it was (`status`), with its newest login from the token journal; what it is now. Its syncs wake by
    themselves: the journal is pinned at its end, and every order listed. Raises StorageUnavailableError."""
    found = recovery.bring_back(runtime, account_id) if status != "disconnected" else None
    now = "active" if found else "disconnected" if status == "disconnected" else "reauthorization_required"
    reason = WITHOUT_LOGIN if now == "reauthorization_required" else None
    with database.transaction(runtime.db) as tx:
        mine = accounts.c.id == account_id
        waiting = mine & (accounts.c.reason == RESTORING)
        tx.execute(sa.update(accounts).values(status=now, reason=reason).where(waiting))
        now = str(tx.execute(sa.select(accounts.c.status).where(mine)).scalar_one())
    log.info("account_restored", account_id=str(account_id), status=now)
    return now
