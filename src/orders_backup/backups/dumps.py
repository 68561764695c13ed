"""The whole database as one sealed file in the bucket: pg_dump, zstd, sealed, read back, and at last a signed manifest.

Nothing of it is ever on the disk here, and nothing is in memory but a few chunks.
"""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from uuid import uuid4

import msgspec
import sqlalchemy as sa
import structlog
import zstandard
from psycopg import pq
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup import store as stores
from orders_backup.backups import fit, restore, sealing, signing
from orders_backup.errors import BackupDamagedError, BackupFailedError, SettingsError, StorageUnavailableError
from orders_backup.runtime import Runtime
from orders_backup.vault import Vault

FOLDER = "database/"
LEVEL = 3
CHUNK_BYTES = 1024 * 1024
PURPOSE = "backup"

_OF_LINKS = {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
"""What may be left out of the environment: no program gets elsewhere by it."""

log = structlog.get_logger()


class Dump(msgspec.Struct, frozen=True):
    """A backup of the database. `bytes` and `sha256` are of the file in the bucket, `dump_sha256` of what pg_dump
    wrote; `counts`: orders and versions of each account in the same snapshot."""

    id: str
    made_at: datetime
    server: str
    revision: str
    key_id: str
    bytes: int
    sha256: str
    dump_bytes: int
    dump_sha256: str
    counts: dict[str, tuple[int, int]]
    backup: int = 1


def create(runtime: Runtime, programs: Path, *, now: datetime) -> Dump:
    """Backs the database up. Raises BackupFailedError, StorageUnavailableError; then no manifest tells of it."""
    store = restore.store_of(runtime)
    backup_id = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"
    key_id, key = next(iter(runtime.vault.keys.items()))
    plain, sealed = _Counted(), _Counted()
    with database.snapshot(runtime.db) as tx:
        tx.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        snapshot = str(tx.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one())
        server, revision, counts = _described(tx)
        dumped = plain.of(_dumped(runtime.db, programs, snapshot))
        stream = sealed.of(sealing.seal(key, _packed(dumped), bound_to=_bound(backup_id)))
        stores.put_stream(store, _file(backup_id), stream)
    made = Dump(
        id=backup_id,
        made_at=now,
        server=server,
        revision=revision,
        key_id=key_id,
        bytes=sealed.size,
        sha256=sealed.digest.hexdigest(),
        dump_bytes=plain.size,
        dump_sha256=plain.digest.hexdigest(),
        counts=counts,
    )
    for _ in read(runtime, made):
        pass
    stores.put(store, _manifest(backup_id), signing.signed(runtime.vault, made, purpose=PURPOSE), if_absent=True)
    log.info("backup_created", backup_id=backup_id, bytes=made.bytes)
    return made


def ids(runtime: Runtime) -> list[str]:
    """The backups of the database of which there is a manifest, newest first. Raises StorageUnavailableError."""
    keys = stores.names(restore.store_of(runtime), FOLDER)
    return [key.removeprefix(FOLDER).removesuffix(".json") for key in reversed(keys) if key.endswith(".json")]


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
    found = stores.get_stream(restore.store_of(runtime), _file(dump.id))
    if found is None:
        raise BackupDamagedError(f"The file of the backup {dump.id} is missing.")
    sealed, plain = _Counted(), _Counted()
    tool = zstandard.ZstdDecompressor().decompressobj()
    opened = sealing.open_(key, sealed.of(found), bound_to=_bound(dump.id))
    try:
        yield from plain.of(tool.decompress(chunk) for chunk in opened)
    except zstandard.ZstdError:
        raise BackupDamagedError("The backup cannot be unpacked.") from None
    whole = (sealed.size, sealed.digest.hexdigest(), plain.size, plain.digest.hexdigest())
    if whole != (dump.bytes, dump.sha256, dump.dump_bytes, dump.dump_sha256):
        raise BackupDamagedError("The backup is not the one that was stored.")


def remove(runtime: Runtime, dumps: list[Dump]) -> bool:
    """The manifests first, so that none names what is gone. False where the bucket lets nothing be removed."""
    store = restore.store_of(runtime)
    try:
        for dump in dumps:
            stores.delete(store, [_manifest(dump.id), _file(dump.id)])
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


def _dumped(db: Engine, programs: Path, snapshot: str) -> Iterator[bytes]:
    """What pg_dump writes. Raises BackupFailedError where it fails, at whatever byte."""
    options = ["--format=custom", "--compress=0", "--no-owner", f"--exclude-table={fit.MARK}"]
    command = [str(programs / "pg_dump"), *options, f"--snapshot={snapshot}"]
    with (
        tempfile.TemporaryFile() as said,  # a pipe that nobody reads would stop the program where it says much
        subprocess.Popen(  # noqa: S603 - our own words
            command, env=environment(db), stdout=subprocess.PIPE, stderr=said
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 – asked for above
        try:
            while chunk := process.stdout.read(CHUNK_BYTES):
                yield chunk
        except BaseException:
            process.kill()
            raise
        failed = process.wait()
        if failed:
            raise BackupFailedError(f"pg_dump: {last_line(said, process)}")


def _packed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    tool = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    for chunk in chunks:
        if packed := tool.compress(chunk):
            yield packed
    yield tool.flush()


def environment(db: Engine) -> dict[str, str]:
    """Where PostgreSQL is, for its own programs, as the driver of this engine is told it: by DATABASE_URL and by the
    variables of libpq. The password is in no list of processes. Raises SettingsError for what they cannot be told."""
    variables = {one.keyword.decode(): (one.envvar or b"").decode() for one in pq.Conninfo.get_defaults()}
    given = {name: str(value) for name, value in db.dialect.create_connect_args(db.url)[1].items() if name in variables}
    if unknown := [name for name in given if not variables[name] and name not in _OF_LINKS]:
        raise SettingsError(
            f"pg_dump and pg_restore cannot be told {', '.join(unknown)}; leave it out of DATABASE_URL."
        )
    inherited = {name: value for name, value in os.environ.items() if name.startswith("PG") or name == "PATH"}
    told = inherited | {variables[name]: value for name, value in given.items() if variables[name]}
    if not told.get("PGDATABASE"):
        raise SettingsError("DATABASE_URL names no database.")
    return told


def last_line(said: IO[bytes], process: "subprocess.Popen[bytes]") -> str:
    """What a program said last on stderr."""
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"it ended with {process.returncode}."


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


def _file(backup_id: str) -> str:
    return f"{FOLDER}{backup_id}.dump.zst.sealed"


def _manifest(backup_id: str) -> str:
    return f"{FOLDER}{backup_id}.json"
