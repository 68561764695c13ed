"""Whether the dumps that the rows tell of are in the bucket, and the rows of those that are."""

import threading

import structlog

from orders_backup import db as database
from orders_backup.backups import dumps, ledger
from orders_backup.errors import BackupDamagedError, DatabaseUnavailableError, StorageUnavailableError
from orders_backup.runtime import Runtime

LOOK_EVERY = 600.0

log = structlog.get_logger()


def level(runtime: Runtime) -> None:
    """The rows tell of what is in the bucket, whoever put it there and took it away. Raises StorageUnavailableError."""
    with database.transaction(runtime.db) as tx:
        now = database.clock(tx)
    there = dumps.ids(runtime)
    with database.transaction(runtime.db) as tx:
        unknown = set(there) - ledger.dump_ids(tx)
    for dump_id in unknown:
        try:
            dump = dumps.get(runtime, dump_id)
        except BackupDamagedError:
            log.warning("backup_manifest_refused", backup_id=dump_id)
            continue
        with database.transaction(runtime.db) as tx:
            ledger.found(tx, dump.id, made_at=dump.made_at, size=dump.bytes)
    with database.transaction(runtime.db) as tx:
        ledger.gone(tx, there, before=now)


def keep_looking(runtime: Runtime, ended: threading.Event) -> None:
    """Until `ended`: looks every ten minutes, so that an emptied bucket does not go unnoticed until the next backup."""
    while not ended.wait(LOOK_EVERY):
        try:
            level(runtime)
        except (DatabaseUnavailableError, StorageUnavailableError) as error:
            log.info("bucket_look_failed", code=error.code)
