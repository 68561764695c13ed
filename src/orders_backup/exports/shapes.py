"""What the API tells of exports. PURE."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class File:
    """A file of an export; `number` is its place, `sha256` (hexadecimal) and `bytes` are of its content."""

    number: int
    name: str
    orders: int
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportShown:
    """An export. `progress` runs from 0 to 1; `eta_seconds` if it goes on as so far. `rows` are lines of the files;
    `unreadable`: orders whose bytes are no JSON; `left_out`: amounts and times that Parquet cannot hold exactly.
    `changes_cursor`: everything up to it is in the files, so that `GET /changes` goes on from it without a gap.
    """

    id: uuid.UUID
    user_id: uuid.UUID | None
    format: str
    filter: dict[str, Any]
    status: str
    progress: float | None
    eta_seconds: float | None
    orders_total: int | None
    orders_done: int
    rows: int
    bytes: int
    unreadable: int
    left_out: int
    parts: list[File]
    changes_cursor: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class ExportPage:
    """A page of exports, newest first."""

    items: list[ExportShown]
    next_cursor: str | None
