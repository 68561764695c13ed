"""The SQL of the orders table: heads read, inserted, updated and confirmed, many at once. Decides nothing.

Only archive.py calls it, inside its transaction and under its lock of the account.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import db
from orders_backup.orders import words
from orders_backup.orders.changes import Head, Reading
from orders_backup.orders.projection import plain, tame
from orders_backup.tables import orders


@dataclass(frozen=True, slots=True)
class Row:
    """A version to be stored. `is_head`: it becomes the newest; `kinds`: what changed with it; `replaced_seen_at`:
    when the version that it replaces was seen last."""

    reading: Reading
    version: int
    is_head: bool
    kinds: list[str]
    replaced_seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """An order as its versions tell: the newest is `version` of `versions`; `stored_at`: when the first was stored."""

    reading: Reading
    version: int
    versions: int
    stored_at: datetime
    words: str
    gone_at: datetime | None
    superseded_by: str | None


def lock(tx: Connection, account_id: UUID) -> None:
    """One recorder an account at a time, until the end of the transaction: a head read is the head written."""
    tx.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:account, 0))"), {"account": str(account_id)})


def read(tx: Connection, account_id: UUID, order_ids: list[str]) -> dict[str, Head]:
    """The heads of those of these orders that the archive holds."""
    rows = db.cursor(tx).execute(_HEADS, (order_ids, account_id)).fetchall()
    return {row[0]: Head(*row[1:]) for row in rows}


# Each order by its primary key: for an account that the planner's statistics do not know yet, it would rather walk
# the whole account by another index. OFFSET 0 keeps it from rearranging the look-up.
_HEADS = """
    SELECT head.*
      FROM unnest(%s::text[]) AS asked (order_id)
     CROSS JOIN LATERAL (SELECT o.order_id, o.version, o.sha256, o.read_at, o.versions FROM orders o
                          WHERE o.account_id = %s AND o.order_id = asked.order_id OFFSET 0) AS head
"""

_STATE_XID = """state_xid = CASE
               WHEN (o.gone_at IS NOT NULL OR o.superseded_by IS NOT NULL) AND (o.gone_at > {moment}) IS NOT TRUE
               THEN pg_current_xact_id() ELSE o.state_xid END"""
"""An order that is there again has changed its state."""

_CONFIRM = f"""
    UPDATE orders AS o
       SET read_at = seen.sent_at,
           {_STATE_XID.format(moment="seen.sent_at")},
           superseded_by = CASE WHEN o.gone_at > seen.sent_at THEN o.superseded_by END,
           gone_at = CASE WHEN o.gone_at > seen.sent_at THEN o.gone_at END
      FROM (SELECT head.place, asked.sent_at
              FROM unnest(%(ids)s::text[], %(sent_at)s::timestamptz[]) AS asked (order_id, sent_at)
             CROSS JOIN LATERAL (SELECT h.ctid AS place FROM orders h
                                  WHERE h.account_id = %(account)s AND h.order_id = asked.order_id
                                    AND h.read_at < asked.sent_at OFFSET 0) AS head) AS seen
     WHERE o.ctid = seen.place
"""


def insert(tx: Connection, account_id: UUID, rows: Sequence[Row]) -> None:
    """Orders seen for the first time."""
    columns = ("account_id", "order_id", "version", "versions", "sha256", "read_at", "words", *_SHOWN, *_PROJECTED)
    values = [
        (
            *(account_id, row.reading.facts.order_id, 1, 1, row.reading.sha256, row.reading.sent_at),
            *(words.of(account_id, row.reading.facts), *_shown(row.reading)),
        )
        for row in rows
    ]
    _write_projected(tx, values, lambda some: db.copy(tx, orders, columns, some))


def restore(tx: Connection, account_id: UUID, rows: Sequence[Restored]) -> None:
    """Heads of orders whose versions are all here already."""
    columns = ("account_id", "order_id", "version", "versions", "sha256", "read_at", "stored_at", "words")
    states = ("gone_at", "superseded_by", "state_xid")
    values = [
        (
            *(account_id, row.reading.facts.order_id, row.version, row.versions, row.reading.sha256),
            *(row.reading.sent_at, row.stored_at, row.words, row.gone_at, row.superseded_by),
            "1" if row.gone_at or row.superseded_by else None,
            *_shown(row.reading),
        )
        for row in rows
    ]
    _write_projected(tx, values, lambda some: db.copy(tx, orders, (*columns, *states, *_SHOWN, *_PROJECTED), some))


def update(tx: Connection, account_id: UUID, rows: Sequence[Row]) -> None:
    """Orders with one more version, be it their newest or a late one."""
    late = [
        (row.version, words.of(account_id, row.reading.facts), account_id, row.reading.facts.order_id)
        for row in rows
        if not row.is_head
    ]
    values: list[tuple[Any, ...]] = [
        (
            *(account_id, row.reading.facts.order_id, row.version, row.version),
            *(row.reading.sha256, row.reading.sent_at, words.of(account_id, row.reading.facts), *_shown(row.reading)),
        )
        for row in rows
        if row.is_head
    ]
    if late:
        db.cursor(tx).executemany(_UPDATE_LATE, late)
    _write_projected(tx, values, lambda some: db.cursor(tx).executemany(_UPDATE_HEAD, some))


def rebuild(tx: Connection, account_id: UUID, found: Sequence[tuple[Reading, str]]) -> None:
    """What is made of the newest bytes is made anew, and the words are these as well."""
    values = [(account_id, reading.facts.order_id, vector, *_shown(reading)) for reading, vector in found]
    _write_projected(tx, values, lambda some: db.cursor(tx).executemany(_REBUILD, some))


def _write_projected(
    tx: Connection, rows: list[tuple[Any, ...]], write: Callable[[list[tuple[Any, ...]]], None]
) -> None:
    """All rows at once; where JSONB refuses one of them, one by one, and the refused ones with a tamed projection.

    The last two values of a row are whether its projection lost something, and the bytes to project.
    """
    projected = [(*row[:-1], plain(row[-1])) for row in rows]
    if all(row[-1] is not None for row in projected):
        try:
            with tx.begin_nested():
                write(projected)
        except _JSONB_REFUSES:
            pass
        else:
            return
    for row in rows:
        write([(*row[:-2], *_projection(tx, row[-1]))])


def _projection(tx: Connection, body: bytes) -> tuple[bool, str | None]:
    """Whether the projection loses something, and its text: the first that PostgreSQL takes."""
    text = plain(body)
    if text is not None and _jsonb_takes(tx, text):
        return False, text
    tamed = tame(body)
    return True, tamed if tamed is not None and _jsonb_takes(tx, tamed) else None


_SHOWN = (
    "status",
    "fulfillment_status",
    "buyer_login",
    "marketplace",
    "ordered_at",
    "updated_at",
    "total",
    "currency",
)


_PROJECTED = ("line_item_ids", "projection_lossy", "order_data")
_VALUES = """
    %s::text AS status, %s::text AS fulfillment_status, %s::text AS buyer_login, %s::text AS marketplace,
    %s::timestamptz AS ordered_at, %s::timestamptz AS updated_at, %s::text AS total, %s::text AS currency,
    %s::text[] AS line_item_ids, %s::boolean AS projection_lossy, %s::jsonb AS order_data"""

_WORDS = f"CASE WHEN length(o.words) <= {2 * words.MOST_WORDS} THEN o.words || n.words ELSE o.words END"
"""What an order once said finds it for ever: Allegro forgets names and addresses, we do not. Where there is no room for
more, the earliest stay."""

_UPDATE_LATE = f"""
    UPDATE orders AS o SET versions = n.versions, words = {_WORDS}
      FROM (SELECT %s::int AS versions, %s::tsvector AS words) AS n WHERE o.account_id = %s AND o.order_id = %s
"""

_UPDATE_HEAD = f"""
    UPDATE orders AS o
       SET ({", ".join(("version", "versions", "sha256", "read_at", *_SHOWN, *_PROJECTED))})
         = ({", ".join(f"n.{name}" for name in ("version", "versions", "sha256", "read_at", *_SHOWN, *_PROJECTED))}),
           words = {_WORDS},
           {_STATE_XID.format(moment="n.read_at")},
           superseded_by = CASE WHEN o.gone_at > n.read_at THEN o.superseded_by END,
           gone_at = CASE WHEN o.gone_at > n.read_at THEN o.gone_at END
      FROM (SELECT %s::uuid AS account_id, %s::text AS order_id, %s::int AS version, %s::int AS versions,
                   %s::bytea AS sha256, %s::timestamptz AS read_at, %s::tsvector AS words, {_VALUES}) AS n
     WHERE o.account_id = n.account_id AND o.order_id = n.order_id
"""

_REBUILD = f"""
    UPDATE orders AS o
       SET ({", ".join((*_SHOWN, *_PROJECTED))}) = ({", ".join(f"n.{name}" for name in (*_SHOWN, *_PROJECTED))}),
           words = CASE WHEN length(o.words || n.words) <= {3 * words.MOST_WORDS}
                        THEN o.words || n.words ELSE n.words END
      FROM (SELECT %s::uuid AS account_id, %s::text AS order_id, %s::tsvector AS words, {_VALUES}) AS n
     WHERE o.account_id = n.account_id AND o.order_id = n.order_id
"""

_JSONB_REFUSES = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


def _shown(reading: Reading) -> tuple[Any, ...]:
    """The columns of _SHOWN, then those of _PROJECTED with the bytes in the place of the document."""
    facts = reading.facts
    return (*(getattr(facts, name) for name in _SHOWN), array(facts.line_item_ids), False, reading.body)


def array(texts: Sequence[str]) -> str:
    """A text[] as PostgreSQL writes it; the driver's own arrays cost more than all other columns together."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def add_words(tx: Connection, account_id: UUID, found: Sequence[tuple[str, str]]) -> None:
    """Orders are found by these words, too: (order id, words)."""
    statement = f"""
        UPDATE orders AS o SET words = {_WORDS}
          FROM (SELECT %s::uuid AS account_id, %s::text AS order_id, %s::tsvector AS words) AS n
         WHERE o.account_id = n.account_id AND o.order_id = n.order_id
    """
    db.cursor(tx).executemany(statement, [(account_id, *one) for one in found])


def _jsonb_takes(tx: Connection, text: str) -> bool:
    """Whether PostgreSQL accepts this text as JSONB; it alone knows its own limits."""
    try:
        with tx.begin_nested():
            db.cursor(tx).execute("SELECT %s::text::jsonb IS NULL", (text,))
    except _JSONB_REFUSES:
        return False
    return True


def confirm(tx: Connection, account_id: UUID, readings: Sequence[Reading]) -> None:
    """Unchanged orders: only when they were last seen so, by which a late reading is told from a new one."""
    if readings:
        ids = [reading.facts.order_id for reading in readings]
        values = {"ids": ids, "account": account_id, "sent_at": [reading.sent_at for reading in readings]}
        db.cursor(tx).execute(_CONFIRM, values)
