"""What a manifest tells, and the chain that the manifests of an account are. PURE.

A *step* holds what is new since the step before it; a *day* holds the steps of a UTC day once more, in one place. Each
names the SHA-256 of the manifest before it, so that none can be missing, be replaced, or come from elsewhere.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from orders_backup.errors import BackupDamagedError


class Part(msgspec.Struct, frozen=True):
    """A file of records: zstd of JSON Lines. `bytes` and `sha256` are of the file as it lies there."""

    name: str
    bytes: int
    sha256: str
    records: int


class Account(msgspec.Struct, frozen=True):
    """The account as it was when the manifest was made. Its tokens are in the token journal."""

    id: UUID
    user_id: UUID
    name: str
    status: str
    seller_id: str | None
    seller_login: str | None
    sync_interval_seconds: int | None
    paused: bool
    extras: list[str]
    forgotten_generation: int | None
    created_at: datetime
    connected_at: datetime | None


class Manifest(msgspec.Struct, frozen=True):
    """Steps `first` to `last` of an account. `previous`: the SHA-256 of the step's, or the day's, manifest before it;
    None: it is the first. Of a day: which, and the SHA-256 of its last step's manifest. `counts`: records by kind."""

    account_id: UUID
    first: int
    last: int
    made_at: datetime
    previous: str | None
    account: Account
    counts: dict[str, int]
    parts: list[Part]
    day: str | None = None
    last_step: str | None = None
    manifest: int = 1


@dataclass(frozen=True, slots=True)
class Link:
    """A manifest and the SHA-256 of its bytes."""

    manifest: Manifest
    sha256: str


def encoded(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def link(content: bytes) -> Link:
    """Raises BackupDamagedError for bytes that are no manifest."""
    try:
        return Link(msgspec.json.decode(content, type=Manifest), digest(content))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BackupDamagedError(f"A manifest cannot be read: {type(error).__name__}.") from None


def chain(account_id: UUID, days: Iterable[bytes], steps: Iterable[bytes], *, first: int = 1) -> list[Link]:
    """The manifests to read one after the other: days, then the steps that no day holds yet. `first`: the step with
    which the chain begins. Raises BackupDamagedError where the chain is broken."""
    found_days = sorted((link(content) for content in days), key=lambda one: one.manifest.first)
    found_steps = sorted((link(content) for content in steps), key=lambda one: one.manifest.first)
    reached = found_days[-1].manifest.last if found_days else first - 1
    open_steps = [one for one in found_steps if one.manifest.first > reached]
    require_links(found_days, before=None, after=first - 1)
    require_links(open_steps, before=found_days[-1].manifest.last_step if found_days else None, after=reached)
    whole = [*found_days, *open_steps]
    for one in whole:
        if one.manifest.account_id != account_id or one.manifest.account.id != account_id:
            raise BackupDamagedError(f"Manifest {one.manifest.last} belongs to another account.")
    return whole


def require_step(links: Sequence[Link], number: int, sha256: str) -> None:
    """Raises BackupDamagedError unless the chain reaches this step, as it was when it was made."""
    reached = links[-1].manifest.last if links else 0
    if reached < number:
        raise BackupDamagedError(f"The chain ends at {reached}; {number} was stored.")
    for one in links:
        end = one.sha256 if one.manifest.day is None else one.manifest.last_step
        if one.manifest.last == number and end != sha256:
            raise BackupDamagedError(f"Manifest {number} is not the one that was stored.")


def require_links(links: Sequence[Link], *, before: str | None, after: int) -> None:
    """Raises BackupDamagedError unless each follows the one before it; the first, the manifest of hash `before`."""
    for one in links:
        if one.manifest.first != after + 1:
            raise BackupDamagedError(f"The chain has a gap: after {after} comes {one.manifest.first}.")
        if one.manifest.previous != before:
            raise BackupDamagedError(f"Manifest {one.manifest.first} does not follow the one before it.")
        before, after = one.sha256, one.manifest.last
