"""A token pair on the local disk between Allegro's answer and the database's commit. Only sealed values are written."""

import base64
import json
import os
import re
import threading
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
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = json.dumps(
        {
            "access": base64.b64encode(pair.access_sealed).decode(),
            "refresh": base64.b64encode(pair.refresh_sealed).decode(),
            "access_expires_at": pair.access_expires_at.isoformat(),
        }
    )
    target = _path(folder, account_id, name)
    draft = target.with_suffix(f".{os.getpid()}-{threading.get_ident()}.draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(target)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find(folder: Path, account_id: UUID, name: str) -> SealedPair | None:
    """The pair kept under this name; None where there is none."""
    try:
        content = json.loads(_path(folder, account_id, name).read_text())
    except FileNotFoundError:
        return None
    return SealedPair(
        base64.b64decode(content["access"]),
        base64.b64decode(content["refresh"]),
        datetime.fromisoformat(content["access_expires_at"]),
    )


def discard(folder: Path, account_id: UUID, name: str) -> None:
    """The database holds it now."""
    _path(folder, account_id, name).unlink(missing_ok=True)


def _path(folder: Path, account_id: UUID, name: str) -> Path:
    return folder / f"{account_id}.{re.sub('[^A-Za-z0-9-]', '_', name)}.json"
