"""An account brought back from its archive: its bytes, then its heads, at last its login.

Everything is proven before the first row is written. Each transaction notes how far it got, so that whoever goes on
after a crash goes on there; what was given twice is there once.
"""

import hashlib
import queue
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from orders_backup import db as database
from orders_backup.accounts import returning
from orders_backup.backups import merging, progress, records, shelf, state
from orders_backup.backups import run as runs
from orders_backup.backups.manifests import Link
from orders_backup.backups.progress import Mark
from orders_backup.backups.records import Record
from orders_backup.errors import BackupDamagedError, ConflictError, NotFoundError, SettingsError
from orders_backup.orders import restoring
from orders_backup.runtime import Runtime
from orders_backup.store import Store

BATCH_RECORDS = 1000
AT_ONCE = 2
BATCH_BYTES = 16 * 1024 * 1024

log = structlog.get_logger()

Batch = list[tuple[Record, bytes]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an account is. `phase`: `proof`, `bytes`, `heads`, `login` or `finished`; `done` of `of`: files that are
    proven, records that are here, versions of which heads are made. `status`: of the account, once finished; `added`:
    versions that the account lacked, where it had orders; `refused`: documents left out that do not fit their hash."""

    account_id: UUID
    phase: str
    done: int
    of: int
    seconds: float
    status: str | None = None
    added: int | None = None
    refused: int = 0

    @property
    def eta_seconds(self) -> float | None:
        """Of this phase; None while nothing can be said."""
        return self.seconds / self.done * (self.of - self.done) if self.done and self.seconds else None


@dataclass(frozen=True, slots=True)
class Source:
    """An account's archive, proven to be a chain."""

    runtime: Runtime
    store: Store
    account_id: UUID
    links: list[Link]
    refused: list[Record] = field(default_factory=list)
    """What was left out, because it is not what it should be."""

    def count(self, *kinds: str) -> int:
        counts = [one.manifest.counts for one in self.links]
        return sum(sum(one.values()) if not kinds else sum(one.get(kind, 0) for kind in kinds) for one in counts)


def restore(runtime: Runtime, account_id: UUID, *, into_existing: bool = False) -> Iterator[Progress]:
    """Brings an account back, or goes on with it. `into_existing`: it may have orders here; then it gets those versions
    that it lacks. Raises NotFoundError, ConflictError, BackupDamagedError, StorageUnavailableError."""
    found = source(runtime, account_id)
    if not found.links:
        raise NotFoundError(f"There is no archive of account {account_id} in the bucket.")
    try:
        yield from _brought_back(found, into_existing=into_existing)
    except BackupDamagedError:
        again = source(runtime, account_id)
        if again.links == found.links:
            raise
        yield from _brought_back(again, into_existing=into_existing)  # its steps became a day meanwhile


def _brought_back(found: Source, *, into_existing: bool) -> Iterator[Progress]:
    runtime, account_id = found.runtime, found.account_id
    with database.transaction(runtime.db) as tx:
        is_waiting, mark = returning.is_waiting(tx, account_id), progress.get(tx, account_id)
        has_orders = restoring.holds_orders(tx, account_id)
    goes_on = mark is not None and mark.phase != "finished" and is_waiting
    if has_orders and not goes_on and not into_existing:
        raise ConflictError(f"Account {account_id} has orders here; say --into-existing to add what it lacks.")
    yield from _proven(found)
    if has_orders and not goes_on:
        yield from _merged(found)
        return
    mark = mark if goes_on and mark is not None else _begun(found)
    if mark.phase == "bytes":
        yield from _bytes(found, mark)
    if mark.phase in {"bytes", "heads"}:
        yield from _heads(found, mark.last_order_id or "")
    yield _logged_in(found)


def restore_all(runtime: Runtime, *, into_existing: bool = False) -> Generator[Progress, None, None]:
    """Every account of the bucket, two at a time: while one waits for PostgreSQL the other unpacks. One that came back
    before and is here is left as it is. Raises what `restore` raises: before anything is written where an account has
    orders here, and after all others are done where an archive is damaged."""
    store = store_of(runtime)
    wanted = []
    for account_id in shelf.accounts(store):
        with database.transaction(runtime.db) as tx:
            mark, has_orders = progress.get(tx, account_id), restoring.holds_orders(tx, account_id)
        if has_orders and mark is None and not into_existing:
            raise ConflictError(f"Account {account_id} has orders here; say --into-existing to add what it lacks.")
        if into_existing or mark is None or mark.phase != "finished":
            wanted.append(account_id)
    told: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()
    is_over = threading.Event()

    def one(account_id: UUID) -> None:
        try:
            for progress_ in restore(runtime, account_id, into_existing=into_existing):
                told.put(progress_)
                if is_over.is_set():
                    return
        finally:
            told.put(None)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = [pool.submit(one, account_id) for account_id in wanted]
        try:
            for _ in wanted:
                yield from iter(told.get, None)
        finally:
            is_over.set()
            pool.shutdown(wait=False, cancel_futures=True)
    for future in ended:
        future.result()


def store_of(runtime: Runtime) -> Store:
    """Raises SettingsError where there is no bucket."""
    if runtime.store is None:
        raise SettingsError("S3_BUCKET is not set: an archive lies in a bucket.")
    return runtime.store


def source(runtime: Runtime, account_id: UUID) -> Source:
    """An account's archive. Raises BackupDamagedError, StorageUnavailableError."""
    store = store_of(runtime)
    return Source(runtime, store, account_id, shelf.chain(store, account_id))


def records_of(source: Source) -> Iterator[tuple[Record, bytes]]:
    """Every record with its document. Raises BackupDamagedError where one is not what was stored."""
    for _, _, batch in _batches(source, after=None):
        if source.refused:
            raise BackupDamagedError("A document of the archive does not have the SHA-256 that its record tells.")
        yield from batch


def _begun(source: Source) -> Mark:
    account = source.links[-1].manifest.account
    told = {name: getattr(account, name) for name in account.__struct_fields__}
    with database.transaction(source.runtime.db) as tx:
        returning.put_back(tx, source.account_id, told)
        return progress.begin(tx, source.account_id)


def _proven(source: Source) -> Iterator[Progress]:
    """Every file is what it was when it was stored."""
    began, done = time.monotonic(), 0
    of = sum(len(one.manifest.parts) for one in source.links)
    for link in source.links:
        for part in link.manifest.parts:
            for _ in shelf.content(source.store, shelf.key_of(source.account_id, link, part), part):
                pass
            done += 1
            yield Progress(source.account_id, "proof", done, of, time.monotonic() - began)


def _bytes(source: Source, mark: Mark) -> Iterator[Progress]:
    runtime, account_id = source.runtime, source.account_id
    began, of, versions, done = time.monotonic(), source.count(), mark.versions, 0
    for name, end, batch in _batches(source, after=mark):
        runtime.codec.prepare(runtime.db, [body for record, body in batch if isinstance(record, records.Version)])
        versions += sum(isinstance(record, records.Version) for record, _ in batch)
        with database.transaction(runtime.db) as tx:
            restoring.in_bulk(tx)
            merging.put_back(tx, runtime.codec, account_id, batch)
            progress.note(tx, account_id, source=name, records=end, versions=versions)
        done += len(batch)
        yield Progress(account_id, "bytes", done, of, time.monotonic() - began)
    with database.transaction(runtime.db) as tx:
        progress.note(tx, account_id, phase="heads", last_order_id="")


def _heads(source: Source, after: str) -> Iterator[Progress]:
    runtime, account_id = source.runtime, source.account_id
    began, of, done = time.monotonic(), source.count("version"), 0
    last: str | None = after
    while last is not None:
        with database.transaction(runtime.db) as tx:
            restoring.in_bulk(tx)
            made, reached = restoring.make_heads(tx, runtime.codec, account_id, after=last)
            if reached is None:
                restoring.tidy(tx, account_id)
            phase = {"phase": "login"} if reached is None else {"last_order_id": reached}
            progress.note(tx, account_id, **phase)
        done, last = done + made, reached
        yield Progress(account_id, "heads", done, of, time.monotonic() - began)


def _logged_in(source: Source) -> Progress:
    """The archive goes on after its last step, then the account does."""
    runtime, account_id = source.runtime, source.account_id
    with database.transaction(runtime.db) as tx:
        values = runs.reached(source.links) | {"versions": source.count("version")}
        state.put_back(tx, account_id, values)
    status = returning.log_in(runtime, account_id, status=source.links[-1].manifest.account.status)
    with database.transaction(runtime.db) as tx:
        progress.finish(tx, account_id)
    log.info("restore_finished", account_id=str(account_id), versions=source.count("version"))
    total = source.count()
    return Progress(account_id, "finished", total, total, 0, status=status, refused=len(source.refused))


def _merged(source: Source) -> Iterator[Progress]:
    runtime, account_id = source.runtime, source.account_id
    began, of, done, added = time.monotonic(), source.count(), 0, 0
    for _, _, batch in _batches(source, after=None):
        runtime.codec.prepare(runtime.db, [body for record, body in batch if isinstance(record, records.Version)])
        with database.transaction(runtime.db) as tx:
            added += merging.add(tx, runtime.codec, account_id, batch)
        done += len(batch)
        yield Progress(account_id, "bytes", done, of, time.monotonic() - began)
    with database.transaction(runtime.db) as tx:
        restoring.tidy(tx, account_id)
    log.info("restore_merged", account_id=str(account_id), versions=source.count("version"), added=added)
    refused = len(source.refused)
    yield Progress(account_id, "finished", of, of, time.monotonic() - began, added=added, refused=refused)


def _batches(source: Source, *, after: Mark | None) -> Iterator[tuple[str, int, Batch]]:
    """The records to come, with the file they are in and how many of it are done then."""
    parts = [(link, part) for link in source.links for part in link.manifest.parts]
    names = [part.name for _, part in parts]
    begun = after is not None and after.source in names
    start = names.index(after.source) if after is not None and after.source in names else 0
    for number, (link, part) in enumerate(parts[start:]):
        skipped = after.records if after is not None and begun and number == 0 else 0
        end, batch, size = 0, Batch(), 0
        for record, body in shelf.read(source.store, shelf.key_of(source.account_id, link, part), part):
            end += 1
            if end <= skipped:
                continue
            if (sound := _sound(source, record, body)) is not None:
                batch.append(sound)
                size += len(body)
            if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
                yield part.name, end, batch
                batch, size = Batch(), 0
        if batch or source.refused:
            yield part.name, end, batch


def _sound(source: Source, record: Record, body: bytes) -> tuple[Record, bytes] | None:
    """The record with its document. Of one that is not what its SHA-256 tells (the file is what was stored) nothing is
    left but, of a version, what the feed told; it keeps no other record from coming back."""
    sha256 = getattr(record, "sha256", None)
    if sha256 is None or digest(body) == sha256:
        return record, body
    source.refused.append(record)
    order_id, kind = getattr(record, "order_id", None), str(record.__struct_config__.tag)
    log.error("restore_document_refused", account_id=str(source.account_id), kind=kind, order_id=order_id)
    if not isinstance(record, records.Version):
        return None
    return records.Change(record.order_id, record.version, record.kinds, record.cause, record.stored_at), b""


def digest(body: bytes) -> str:
    """As records tell it."""
    return hashlib.sha256(body).hexdigest()
