"""What the API tells of backups and drills. PURE."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class BackupShown:
    """A backup of the database (`kind` is `dump`) or a drill, which rehearses `of`: a dump, or an account. `dump_id`:
    its name in the bucket. `verified_at`: when it was last read back or rehearsed whole. `failures`: tries so far that
    brought nothing. `report`: what a drill found; no findings: all came back as it was."""

    id: uuid.UUID
    kind: str
    of: uuid.UUID | None
    asked_by: str
    state: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    verified_at: datetime | None
    dump_id: str | None
    bytes: int | None
    failures: int
    error_code: str | None
    error: str | None
    report: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class BackupPage:
    """A page of backups and drills, newest first."""

    items: list[BackupShown]
    next_cursor: str | None
