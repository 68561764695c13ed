"""A token pair on the local disk before anything else is done with it. Only sealed values are written."""

import base64
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID


@dataclass(frozen=True, slots=True)
class SealedPair:
    """A sealed token pair and when its access token expires."""

    access_sealed: bytes
    refresh_sealed: bytes
    access_expires_at: datetime


def keep(folder: Path, account_id: UUID, name: str, pair: SealedPair) -> None:
    """Returns only when the pair is on the disk: the file and its folder are synced, and the name appears at once."""
    write(_path(folder, account_id, name), encoded(pair))


def find(folder: Path, account_id: UUID, name: str) -> SealedPair | None:
    """The pair kept under this name; None where there is none."""
    return read(_path(folder, account_id, name))


def discard(folder: Path, account_id: UUID, name: str) -> None:
    """It is safe elsewhere now."""
    _path(folder, account_id, name).unlink(missing_ok=True)


def waiting(folder: Path) -> Iterator[tuple[UUID, str]]:
    """Account and name of everything that is kept here."""
    for path in sorted(folder.glob("*.json")):
        account, _, name = path.stem.partition(".")
        if re.fullmatch(r"[0-9a-f-]{36}", account) and name:
            yield UUID(account), name


def tidy(folder: Path, *, older_than: float) -> None:
    """Removes what a crash left half written and what no device flow waits for any more. Seconds by file times."""
    for path in [*folder.glob("*.draft"), *folder.glob("*.device-*.json")]:
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > older_than:
                path.unlink()


def encoded(pair: SealedPair) -> bytes:
    """A pair as it stands in a file and in object storage."""
    content = {
        "access": base64.b64encode(pair.access_sealed).decode(),
        "refresh": base64.b64encode(pair.refresh_sealed).decode(),
        "access_expires_at": pair.access_expires_at.isoformat(),
    }
    return json.dumps(content).encode()


def decoded(content: bytes) -> SealedPair | None:
    """The pair; None where the bytes are none: a damaged file must not keep a login from what else is known."""
    try:
        found = json.loads(content)
        return SealedPair(
            base64.b64decode(found["access"]),
            base64.b64decode(found["refresh"]),
            datetime.fromisoformat(found["access_expires_at"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def read(path: Path) -> SealedPair | None:
    try:
        return decoded(path.read_bytes())
    except FileNotFoundError:
        return None


def write(target: Path, content: bytes) -> None:
    """Whole and synced, or not there under its name."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = target.with_suffix(f".{os.getpid()}-{threading.get_ident()}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _path(folder: Path, account_id: UUID, name: str) -> Path:
    return folder / f"{account_id}.{re.sub('[^A-Za-z0-9-]', '_', name)}.json"
