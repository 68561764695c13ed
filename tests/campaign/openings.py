"""Where most stories go on: shops that were connected and listed undisturbed, kept to be set out again."""

import functools
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database

from . import wires
from .hand import HAND
from .road import Call

if TYPE_CHECKING:
    from .story import Scale, Story

HOW_MANY = 16
"""Of the shops; every second one was swept already."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A story that stands still. `shop`: Allegro's side of it; `rows` and `files`: ours."""

    scale: "Scale"
    now: datetime
    shop: bytes
    rows: Mapping[str, bytes]
    next_seq: int
    files: Mapping[str, bytes]
    calls: tuple[Call, ...]
    account_id: UUID
    told_tokens: tuple[int, str]
    pinned: str | None
    trouble: tuple[str, ...]


@functools.lru_cache(maxsize=4 * HOW_MANY)
def opening(engine: Engine, number: int) -> Opening:
    """The same for the same number; a database of its own needs its own, because of its transaction ids."""
    from . import story as stories  # noqa: PLC0415 – stories begin with openings

    with stories.begun(engine, -1 - number, families=frozenset()) as told:
        told.connects()
        told.settles()
        if number % 2:
            _is_swept(told)
        return _kept(told)


def set_out(told: "Story", from_here: Opening) -> None:
    """The story stands where the opening ended; what it draws from here on is its own."""
    HAND.now = from_here.now
    told.stage.world._state = _Opened(io.BytesIO(from_here.shop)).load()
    with wires.quietly(told.stage.engine) as tx:
        for table, rows in from_here.rows.items():
            with database.cursor(tx) as bare, bare.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as stream:
                stream.write(rows)
        tx.exec_driver_sql(f"SELECT setval('order_changes_seq_seq', {from_here.next_seq}, false)")
    for name, content in from_here.files.items():
        place = Path(told.stage.settings.data_dir, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    told.account_id = from_here.account_id
    told.told_tokens, told.pinned = from_here.told_tokens, from_here.pinned
    told.traffic.calls += from_here.calls
    told.stage.names[str(told.account_id)] = "shop"
    told.stage.trouble += from_here.trouble


def _is_swept(told: "Story") -> None:
    for _ in range(100):
        if told.stage.one("SELECT count(*) FROM sync_history WHERE kind = 'sweep' AND finished_at IS NOT NULL"):
            return
        told.turn()


def _kept(told: "Story") -> Opening:
    folder = Path(told.stage.settings.data_dir)
    shop = io.BytesIO()
    _Kept(shop, pickle.HIGHEST_PROTOCOL).dump(told.stage.world._state)
    with wires.quietly(told.stage.engine) as tx:
        rows = {table: content for table in wires.TABLES if (content := _rows(tx, table)) is not None}
        next_seq = tx.execute(sa.text("SELECT coalesce(max(seq), 0) + 1 FROM order_changes")).scalar_one()
    return Opening(
        scale=told.scale,
        now=HAND.now,
        shop=shop.getvalue(),
        rows=rows,
        next_seq=next_seq,
        files={str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()},
        calls=tuple(told.traffic.calls),
        account_id=told.account_id,
        told_tokens=told.told_tokens,
        pinned=told.pinned,
        trouble=tuple(told.stage.trouble),
    )


def _rows(tx: Connection, table: str) -> bytes | None:
    if not tx.exec_driver_sql(f"SELECT EXISTS (SELECT FROM {table})").scalar_one():
        return None
    with database.cursor(tx) as bare, bare.copy(f"COPY {table} TO STDOUT (FORMAT BINARY)") as stream:
        return b"".join(bytes(part) for part in stream)


class _Kept(pickle.Pickler):
    """Time goes on in the same hand."""

    def persistent_id(self, one: Any) -> str | None:
        return "hand" if one is HAND else None


class _Opened(pickle.Unpickler):
    def persistent_load(self, _: Any) -> Any:
        return HAND
