"""The whole database, sealed, in the bucket: pg_dump, zstd, sealed, read back, and at last a signed manifest.

Nothing of it is ever on the disk here, and nothing is in memory but a part of it. The stream lies there in parts, each
an object of its own: one that was not taken is put again, and what a killed process left is seen and removed.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import sqlalchemy as sa
import structlog
import zstandard
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import store as stores
from orders_backup.backups import restore, sealing, signing, tools
from orders_backup.errors import BackupDamagedError, StorageUnavailableError
from orders_backup.runtime import Runtime
from orders_backup.store import Store
from orders_backup.vault import Vault

FOLDER = "database/"
LEVEL = 3
CHUNK_BYTES = 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
PUT_AGAIN_AFTER = (1.0, 5.0, 15.0)
"""Seconds after which a part that the bucket did not take is put again, before the whole backup fails."""
PURPOSE = "backup"
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")

log = structlog.get_logger()


class Dump(msgspec.Struct, frozen=True):
    """A backup of the database. `bytes` and `sha256` are of its `parts` in the bucket put together, `dump_sha256` of
    what pg_dump wrote; `counts`: orders and versions of each account in the same snapshot."""

    id: str
    made_at: datetime
    server: str
    revision: str
    key_id: str
    parts: int
    bytes: int
    sha256: str
    dump_bytes: int
    dump_sha256: str
    counts: dict[str, tuple[int, int]]
    backup: int = 1


def new_id(now: datetime) -> str:
    """The name of a backup in the bucket."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"


def create(
    runtime: Runtime,
    programs: Path,
    *,
    now: datetime,
    backup_id: str | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Dump:
    """Backs the database up. `alive` is called all the while, and last before the manifest. Raises BackupFailedError,
    StorageUnavailableError, and what `alive` raises; then no manifest tells of it."""
    store, backup_id = restore.store_of(runtime), backup_id or new_id(now)
    key_id, key = next(iter(runtime.vault.keys.items()))
    plain, sealed = _Counted(), _Counted()
    with database.snapshot(runtime.db) as tx:
        tx.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        snapshot = str(tx.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one())
        server, revision, counts = _described(tx)
        with closing(tools.dumped(runtime.db, programs, snapshot)) as dumped:
            stream = sealing.seal(key, _packed(plain.of(dumped)), bound_to=_bound(backup_id))
            parts = _put(store, backup_id, sealed.of(stream), alive)
    made = Dump(
        id=backup_id,
        made_at=now,
        server=server,
        revision=revision,
        key_id=key_id,
        parts=parts,
        bytes=sealed.size,
        sha256=sealed.digest.hexdigest(),
        dump_bytes=plain.size,
        dump_sha256=plain.digest.hexdigest(),
        counts=counts,
    )
    for _ in read(runtime, made):
        alive()
    alive()
    stores.put(store, _manifest(backup_id), signing.signed(runtime.vault, made, purpose=PURPOSE), if_absent=True)
    log.info("backup_created", backup_id=backup_id, bytes=made.bytes)
    return made


def _put(store: Store, backup_id: str, stream: Iterator[bytes], alive: Callable[[], None]) -> int:
    """How many parts there are."""
    number, held = 0, bytearray()
    for chunk in stream:
        alive()
        held += chunk
        while len(held) >= PART_BYTES:
            number += 1
            _put_part(store, _file(backup_id, number), bytes(held[:PART_BYTES]), alive)
            del held[:PART_BYTES]
    _put_part(store, _file(backup_id, number + 1), bytes(held), alive)
    return number + 1


def _put_part(store: Store, key: str, content: bytes, alive: Callable[[], None]) -> None:
    for wait in PUT_AGAIN_AFTER:
        try:
            stores.put_large(store, key, content)
        except StorageUnavailableError:
            alive()
            time.sleep(wait)
        else:
            return
    stores.put_large(store, key, content)


def ids(runtime: Runtime) -> list[str]:
    """The backups of the database of which there is a manifest, newest first. Raises StorageUnavailableError."""
    keys = stores.files(restore.store_of(runtime), FOLDER)
    return [key.removeprefix(FOLDER).removesuffix(".json") for key in reversed(keys) if key.endswith(".json")]


def sweep(runtime: Runtime) -> int:
    """Removes what was left by backups that came to no manifest; nobody may be making one. How many there were."""
    store, known, swept = restore.store_of(runtime), set(ids(runtime)), 0
    for name in stores.folders(store, FOLDER):
        if _ID.fullmatch(name) and name not in known and stores.size(store, _manifest(name)) is None:
            stores.delete(store, stores.names(store, f"{FOLDER}{name}/"))
            log.warning("backup_leftover_removed", backup_id=name)
            swept += 1
    return swept


def get(runtime: Runtime, backup_id: str) -> Dump:
    """One of them. Raises BackupDamagedError where its manifest is not ours."""
    key = _manifest(backup_id)
    return _opened(runtime.vault, stores.get(restore.store_of(runtime), key), key)


def everything(runtime: Runtime) -> list[Dump]:
    """Every one of which the manifest can be trusted, newest first."""
    found = []
    for backup_id in ids(runtime):
        try:
            found.append(get(runtime, backup_id))
        except BackupDamagedError:
            log.warning("backup_manifest_refused", backup_id=backup_id)
    return found


def read(runtime: Runtime, dump: Dump) -> Iterator[bytes]:
    """What pg_dump wrote, every byte proven before it comes, and the whole at its end. Raises BackupDamagedError."""
    key = runtime.vault.keys.get(dump.key_id)
    if key is None:
        raise BackupDamagedError(
            f"The backup is sealed with the key {dump.key_id}, which ENCRYPTION_KEYS does not list."
        )
    sealed, plain = _Counted(), _Counted()
    tool = zstandard.ZstdDecompressor().decompressobj()
    opened = sealing.open_(key, sealed.of(_parts(runtime, dump)), bound_to=_bound(dump.id))
    try:
        yield from plain.of(tool.decompress(chunk) for chunk in opened)
    except zstandard.ZstdError:
        raise BackupDamagedError("The backup cannot be unpacked.") from None
    whole = (sealed.size, sealed.digest.hexdigest(), plain.size, plain.digest.hexdigest())
    if whole != (dump.bytes, dump.sha256, dump.dump_bytes, dump.dump_sha256):
        raise BackupDamagedError("The backup is not the one that was stored.")


def _parts(runtime: Runtime, dump: Dump) -> Iterator[bytes]:
    for number in range(1, dump.parts + 1):
        found = stores.get_stream(restore.store_of(runtime), _file(dump.id, number))
        if found is None:
            raise BackupDamagedError(f"Part {number} of the backup {dump.id} is missing.")
        yield from found


def remove(runtime: Runtime, dumps: list[Dump]) -> bool:
    """The manifests first, so that none names what is gone. False where the bucket lets nothing be removed."""
    store = restore.store_of(runtime)
    try:
        for dump in dumps:
            stores.delete(store, [_manifest(dump.id)])
            stores.delete(store, stores.names(store, f"{FOLDER}{dump.id}/"))
    except StorageUnavailableError as error:
        log.warning("backup_removal_refused", code=error.code)
        return False
    return True


class _Counted:
    """Size and hash of what went through."""

    def __init__(self) -> None:
        self.size, self.digest = 0, hashlib.sha256()

    def of(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.size += len(chunk)
            self.digest.update(chunk)
            yield chunk


def _packed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    tool = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    for chunk in chunks:
        if packed := tool.compress(chunk):
            yield packed
    yield tool.flush()


def _described(tx: Connection) -> tuple[str, str, dict[str, tuple[int, int]]]:
    version = str(tx.execute(sa.text("SHOW server_version")).scalar_one())
    revision = str(tx.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one())
    return version, revision, counts(tx)


def counts(tx: Connection) -> dict[str, tuple[int, int]]:
    """Orders and versions of each account."""
    query = sa.text("""
        SELECT a.id::text, (SELECT count(*) FROM orders o WHERE o.account_id = a.id),
               (SELECT count(*) FROM order_versions v WHERE v.account_id = a.id) FROM accounts a ORDER BY a.id
    """)
    tx.execute(sa.text("SET LOCAL statement_timeout = 0"))
    return {row[0]: (row[1], row[2]) for row in tx.execute(query)}


def _opened(vault: Vault, content: bytes | None, key: str) -> Dump:
    dump = signing.opened(vault, content or b"", Dump, purpose=PURPOSE)
    if dump is None or _manifest(dump.id) != key:
        raise BackupDamagedError(f"The manifest {key} is not ours, or was changed.")
    return dump


def _bound(backup_id: str) -> bytes:
    return f"orders-backup database {backup_id}".encode()


def _file(backup_id: str, number: int = 1) -> str:
    return f"{FOLDER}{backup_id}/{number:06}.sealed"


def _manifest(backup_id: str) -> str:
    return f"{FOLDER}{backup_id}.json"
