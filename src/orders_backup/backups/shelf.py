"""Where an account's archive lies in the bucket: its files, its manifests, and the way to read them back whole."""

import hashlib
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import zstandard

from orders_backup import store as stores
from orders_backup.backups import manifests, records
from orders_backup.backups.manifests import Link, Part
from orders_backup.backups.records import Record
from orders_backup.errors import BackupDamagedError, StorageUnavailableError
from orders_backup.store import Store

ROOT = "archive/"
LEVEL = 9
WINDOW_LOG = 24
"""16 MiB: orders that came in one hour are compressed by each other; every zstd opens that."""
CHUNK_BYTES = 1024 * 1024


def step(account_id: UUID, number: int) -> str:
    """The key of a step's manifest."""
    return f"{ROOT}{account_id}/steps/{number:010}.json"


def day(account_id: UUID, first: int) -> str:
    """The key of the manifest of a day, by its first step: a clock that was set back makes no day twice."""
    return f"{ROOT}{account_id}/days/{first:010}.json"


def anew(account_id: UUID, first: int) -> str:
    """The key of the object that says that a chain of its own begins with this step; what is before it counts no
    more."""
    return f"{ROOT}{account_id}/chains/{first:010}.json"


def part(manifest_key: str, number: int = 1) -> str:
    """The key of a file, which nobody else ever takes: whoever wakes up late overwrites nothing, nor does another
    database of the same past."""
    return f"{manifest_key.removesuffix('.json')}-{uuid4().hex[:8]}-{number:03}.jsonl.zst"


def accounts(store: Store) -> list[UUID]:
    """Whose archives lie here."""
    found = []
    for name in stores.folders(store, ROOT):
        try:
            found.append(UUID(name))
        except ValueError:
            continue
    return found


def chain(store: Store, account_id: UUID) -> list[Link]:
    """Every manifest to read, proven to be a chain; none: there is no archive. Raises BackupDamagedError."""
    first = max((number(key) for key in _manifests(store, account_id, "chains")), default=1)
    days = [_content(store, key) for key in _manifests(store, account_id, "days") if number(key) >= first]
    reached = max((manifests.link(content).manifest.last for content in days), default=first - 1)
    keys = [key for key in _manifests(store, account_id, "steps") if number(key) > reached]
    return manifests.chain(account_id, days, [_content(store, key) for key in keys], first=first)


def last(store: Store, account_id: UUID) -> int:
    """The highest number that anything of this archive carries, be it sound or not."""
    return max((number(key) for key in stores.names(store, f"{ROOT}{account_id}/")), default=0)


def number(step_key: str) -> int:
    """With which step this manifest or file begins."""
    digits = step_key.rpartition("/")[2][:10]
    return int(digits) if digits.isdigit() else 0


def put(store: Store, key: str, found: Iterator[bytes], *, counted: dict[str, int], alive: Callable[[], None]) -> Part:
    """Stores a file of records and reads it back; nothing counts before that. `counted`: how many records there are,
    once `found` is at its end; `alive` is called all the while. Raises StorageUnavailableError, and what both raise."""
    return put_packed(store, key, compressed(found), counted=counted, alive=alive)


def put_packed(
    store: Store, key: str, packed: Iterator[bytes], *, counted: dict[str, int], alive: Callable[[], None]
) -> Part:
    """The same where the file is made already. Nothing may be asked of the bucket while it is taken from `packed`."""
    digest, size = hashlib.sha256(), 0

    def measured() -> Iterator[bytes]:
        nonlocal size
        for chunk in packed:
            digest.update(chunk)
            size += len(chunk)
            alive()
            yield chunk

    stores.put_stream(store, key, measured())
    made = Part(key.rpartition("/")[2], size, digest.hexdigest(), sum(counted.values()))
    for _ in content(store, key, made):
        alive()
    return made


def compressed(found: Iterator[bytes]) -> Iterator[bytes]:
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG, write_checksum=True)
    tool = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    for some in found:
        if chunk := tool.compress(some):
            yield chunk
    yield tool.flush()


def content(store: Store, key: str, part: Part) -> Iterator[bytes]:
    """The file as it lies there. Raises BackupDamagedError, at its end at the latest, where it is not what it was."""
    found = stores.get_stream(store, key)
    if found is None:
        raise BackupDamagedError(f"The file {part.name} is missing.")
    digest, size = hashlib.sha256(), 0
    for chunk in found:
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if (size, digest.hexdigest()) != (part.bytes, part.sha256):
        raise BackupDamagedError(f"The file {part.name} is not the one that was stored.")


def read(store: Store, key: str, part: Part) -> Iterator[tuple[Record, bytes]]:
    """The records of a file. Raises BackupDamagedError, at its end at the latest."""
    found = 0
    for one in records.read(lines(store, key, part)):
        found += 1
        yield one
    if found != part.records:
        raise BackupDamagedError(f"The file {part.name} holds {found} records instead of {part.records}.")


def key_of(account_id: UUID, link: Link, part: Part) -> str:
    """Where a file of this manifest lies."""
    return f"{ROOT}{account_id}/{'steps' if link.manifest.day is None else 'days'}/{part.name}"


def lines(store: Store, key: str, part: Part) -> Iterator[bytes]:
    """The file unpacked, in chunks. Raises BackupDamagedError, at its end at the latest."""
    tool = zstandard.ZstdDecompressor(max_window_size=2**WINDOW_LOG).decompressobj()
    try:
        for chunk in content(store, key, part):
            yield tool.decompress(chunk)
    except zstandard.ZstdError:
        raise BackupDamagedError(f"The file {part.name} cannot be unpacked.") from None


def _manifests(store: Store, account_id: UUID, folder: str) -> list[str]:
    return [key for key in stores.names(store, f"{ROOT}{account_id}/{folder}/") if key.endswith(".json")]


def _content(store: Store, key: str) -> bytes:
    found = stores.get(store, key)
    if found is None:
        raise StorageUnavailableError("A manifest vanished while it was read.")
    return found
