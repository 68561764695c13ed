"""What lies in the bucket, and whether it is what was stored there."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from orders_backup import db as database
from orders_backup.backups import dumps, manifests, restore, shelf, state
from orders_backup.backups.manifests import Link
from orders_backup.backups.records import Version
from orders_backup.errors import BackupDamagedError
from orders_backup.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Listed:
    """An account's archive: who it is of, what is in it, up to when. `problem`: why nothing can be told of it."""

    account_id: UUID
    user_id: UUID | None = None
    name: str = ""
    seller_id: str | None = None
    made_at: datetime | None = None
    last_step: int = 0
    versions: int = 0
    records: int = 0
    files: int = 0
    bytes: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What was read from beginning to end: the archive of an account, or a backup of the database (`id`), with how many
    versions. `problem` None: it is whole."""

    id: str
    versions: int
    problem: str | None


def archives(runtime: Runtime) -> list[Listed]:
    """Every archive in the bucket, from its manifests. Raises StorageUnavailableError."""
    store = restore.store_of(runtime)
    found = []
    for account_id in shelf.accounts(store):
        try:
            links = shelf.chain(store, account_id)
        except BackupDamagedError as error:
            found.append(Listed(account_id, problem=str(error)))
            continue
        if links:
            found.append(_listed(account_id, links))
    return found


def _listed(account_id: UUID, links: list[Link]) -> Listed:
    last = links[-1].manifest
    parts = [part for one in links for part in one.manifest.parts]
    counts = [one.manifest.counts for one in links]
    return Listed(
        account_id=account_id,
        user_id=last.account.user_id,
        name=last.account.name,
        seller_id=last.account.seller_id,
        made_at=last.made_at,
        last_step=last.last,
        versions=sum(one.get("version", 0) for one in counts),
        records=sum(sum(one.values()) for one in counts),
        files=len(parts),
        bytes=sum(part.bytes for part in parts),
    )


def verify(runtime: Runtime, account_id: UUID | None = None) -> list[Verified]:
    """Every file and every document against its SHA-256, and the chain against what the database knows of it. Raises
    StorageUnavailableError."""
    ids = shelf.accounts(restore.store_of(runtime)) if account_id is None else [account_id]
    with database.transaction(runtime.db) as tx:
        known = state.known(tx) if account_id is None else [account_id]
    return [_verified(runtime, one) for one in sorted({*ids, *known})]


def verify_dumps(runtime: Runtime) -> list[Verified]:
    """Every backup of the database, opened and compared. Raises StorageUnavailableError."""
    return [_verified_dump(runtime, one) for one in dumps.ids(runtime)]


def _verified_dump(runtime: Runtime, backup_id: str) -> Verified:
    try:
        dump = dumps.get(runtime, backup_id)
        for _ in dumps.read(runtime, dump):
            pass
    except BackupDamagedError as error:
        return Verified(backup_id, 0, str(error))
    return Verified(backup_id, sum(versions for _, versions in dump.counts.values()), None)


def _verified(runtime: Runtime, account_id: UUID) -> Verified:
    links: list[Link] = []
    found = _read_through(runtime, account_id, links)
    if found.problem is None or not links:
        return found
    try:
        again = shelf.chain(restore.store_of(runtime), account_id)
    except BackupDamagedError:
        return found
    return found if again == links else _read_through(runtime, account_id, links)  # its steps became a day meanwhile


def _read_through(runtime: Runtime, account_id: UUID, links: list[Link]) -> Verified:
    """`links`: what was read, for whom it concerns."""
    versions = 0
    try:
        with database.transaction(runtime.db) as tx:
            row = state.get(tx, account_id)
        source = restore.source(runtime, account_id)
        links[:] = source.links
        if row is not None and row.head is not None:
            manifests.require_step(source.links, row.number, row.head)
        elif not source.links:
            return Verified(str(account_id), 0, "There is no archive of this account in the bucket.")
        for record, _ in restore.records_of(source):
            versions += isinstance(record, Version)
    except BackupDamagedError as error:
        return Verified(str(account_id), versions, str(error))
    return Verified(str(account_id), versions, None)
