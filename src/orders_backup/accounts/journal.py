"""The token journal: every generation's sealed pair outside the database, on this disk and in object storage.

A pair is spooled before anything else is done with it; from the spool the sweeper carries it to both places. A
database restored from an old dump finds here what came after the dump. What is here opens only with
ENCRYPTION_KEYS, and only as the account and generation it is named after.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from orders_backup import store
from orders_backup.accounts import spool
from orders_backup.accounts.spool import SealedPair
from orders_backup.runtime import Runtime

KEPT = 5
"""How many of the newest entries of an account stay on the disk; object storage keeps all."""
FORGOTTEN = "forgotten"
"""The mark of a generation after which the account was disconnected: nothing up to it may come back."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One pair, or the end of a login. `mark` tells two pairs of one generation apart (a repeated refresh whose
    first answer came late); it is of the sealed bytes, so it reveals nothing."""

    generation: int
    mark: str

    @property
    def name(self) -> str:
        return f"{self.generation:012}-{self.mark}"


def entry(generation: int, pair: SealedPair) -> Entry:
    """What a pair is called."""
    return Entry(generation, hashlib.sha256(pair.refresh_sealed).hexdigest()[:8])


def named(name: str) -> Entry | None:
    """None for what is no entry: the spool keeps device flows too."""
    match = re.fullmatch(r"(\d{12,18})-([0-9a-f]{8}|forgotten)", name)
    return Entry(int(match[1]), match[2]) if match else None


# The spool


def spooled(runtime: Runtime, account_id: UUID, generation: int, pair: SealedPair) -> None:
    """Durable on this disk when it returns, and on its way to the journal. Raises OSError."""
    spool.keep(spool_folder(runtime), account_id, entry(generation, pair).name, pair)


def waiting(runtime: Runtime) -> Iterator[tuple[UUID, Entry, SealedPair]]:
    """What was spooled and is not yet everywhere it belongs."""
    for account_id, name in spool.waiting(spool_folder(runtime)):
        found, pair = named(name), spool.find(spool_folder(runtime), account_id, name)
        if found is not None and pair is not None:
            yield account_id, found, pair


def arrived(runtime: Runtime, account_id: UUID, entry: Entry) -> None:
    """The journal holds it wherever it belongs."""
    spool.discard(spool_folder(runtime), account_id, entry.name)


# The two places


def keep(runtime: Runtime, account_id: UUID, entry: Entry, content: bytes) -> None:
    """On this disk; the oldest give way. Raises OSError."""
    target = _folder(runtime, account_id) / f"{entry.name}.json"
    if not target.exists():
        spool.write(target, content)
        held = sorted(_held(target.parent), reverse=True)
        for old in held[KEPT:]:
            if old.mark != FORGOTTEN:
                (target.parent / f"{old.name}.json").unlink(missing_ok=True)


def put(runtime: Runtime, account_id: UUID, entry: Entry, content: bytes) -> None:
    """Into object storage, where there is one. Raises StorageUnavailableError."""
    if runtime.store is not None:
        store.put(runtime.store, _key(account_id, entry), content, if_absent=True)


def forget(runtime: Runtime, account_id: UUID, generation: int) -> None:
    """Nothing up to this generation comes back: said on this disk, and its pairs are gone from it. Raises OSError."""
    folder = _folder(runtime, account_id)
    end = folder / f"{Entry(generation, FORGOTTEN).name}.json"
    if not end.exists():
        spool.write(end, b"{}")
    for old in _held(folder):
        if old.generation <= generation and old.mark != FORGOTTEN:
            (folder / f"{old.name}.json").unlink(missing_ok=True)


def forget_far(runtime: Runtime, account_id: UUID, generation: int) -> None:
    """The same in object storage; what it holds of the pairs is overwritten. Raises StorageUnavailableError."""
    known, end = _stored(runtime, account_id), Entry(generation, FORGOTTEN)
    if runtime.store is None or end in known:
        return
    for old in known:
        if old.generation <= generation and old.mark != FORGOTTEN:
            store.put(runtime.store, _key(account_id, old), b"{}")
    put(runtime, account_id, end, b"{}")


def is_forgotten(runtime: Runtime, account_id: UUID, entry: Entry) -> bool:
    """Whether this disk knows that the login of this pair has ended."""
    held = _held(_folder(runtime, account_id))
    return any(one.mark == FORGOTTEN and one.generation >= entry.generation for one in held)


# Finding


def entries(runtime: Runtime, account_id: UUID, *, everywhere: bool) -> set[Entry]:
    """What is known of an account on this disk; `everywhere`: in object storage too. Raises StorageUnavailableError."""
    mine = (named(name) for account, name in spool.waiting(spool_folder(runtime)) if account == account_id)
    far = _stored(runtime, account_id) if everywhere else set()
    return {one for one in mine if one} | _held(_folder(runtime, account_id)) | far


def pair(runtime: Runtime, account_id: UUID, entry: Entry, *, everywhere: bool) -> SealedPair | None:
    """The pair of an entry, from wherever it can be read. Raises StorageUnavailableError."""
    near = spool.find(spool_folder(runtime), account_id, entry.name)
    near = near or spool.read(_folder(runtime, account_id) / f"{entry.name}.json")
    if near is not None or not everywhere or runtime.store is None:
        return near
    content = store.get(runtime.store, _key(account_id, entry))
    return None if content is None else spool.decoded(content)


def _held(folder: Path) -> set[Entry]:
    return {found for path in folder.glob("*.json") if (found := named(path.stem))}


def _stored(runtime: Runtime, account_id: UUID) -> set[Entry]:
    if runtime.store is None:
        return set()
    names = (
        key.rpartition("/")[2].removesuffix(".json") for key in store.names(runtime.store, f"tokens/{account_id}/")
    )
    return {found for name in names if (found := named(name))}


def _key(account_id: UUID, entry: Entry) -> str:
    return f"tokens/{account_id}/{entry.name}.json"


def _folder(runtime: Runtime, account_id: UUID) -> Path:
    return runtime.settings.data_dir / "tokens" / str(account_id)


def spool_folder(runtime: Runtime) -> Path:
    """Where pairs wait; of everything in it only the names tell what it is."""
    return runtime.settings.data_dir / "spool"
