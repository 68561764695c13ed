"""An archive that begins anew, because its chain is damaged or its bucket is another one: all of it once more."""

from uuid import UUID

import structlog

from orders_backup import db as database
from orders_backup.backups import restore, shelf, state
from orders_backup.errors import NotFoundError
from orders_backup.runtime import Runtime

log = structlog.get_logger()


def begin(runtime: Runtime, account_id: UUID) -> int:
    """The number of the step with which the new chain begins; workers write it. What lies in the bucket stays, and
    counts no more once the new one has begun. Raises NotFoundError, StorageUnavailableError."""
    seen = shelf.last(restore.store_of(runtime), account_id)
    with database.transaction(runtime.db) as tx:
        first = state.begin_anew(tx, account_id, seen=seen, key=lambda number: shelf.anew(account_id, number))
    if first is None:
        raise NotFoundError(f"There is no archive of account {account_id}.")
    log.warning("archive_restarted", account_id=str(account_id), here=first)
    return first
