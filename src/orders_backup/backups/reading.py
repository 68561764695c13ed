"""What is new of an account since its archive was written last: five tables, each followed without gaps.

Rows are read in the order of (transaction, key) and only below a horizon under which every transaction has ended, as
the change feed is (orders/feed.py); so nothing can appear before the position any more, and pages of different
transactions of ours fit together.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
import zstandard
from psycopg.rows import namedtuple_row
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup.backups import fit, records
from orders_backup.backups.records import Record
from orders_backup.codec import Codec

PAGE_ROWS = 2000
PAGE_BYTES = 8 * 1024 * 1024
"""A page ends after documents of so many bytes: a few may be very large."""
FETCHED_AT_ONCE = 200

log = structlog.get_logger()

Position = list[Any]
"""The last row that was read: its transaction and its key."""

_BESIDE = [
    "order.superseded",
    *(f"order.{kind}_changed" for kind in ("shipments", "invoices", "returns", "refunds")),
]
"""Kinds of changes that store no version of the order."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One table to follow, as `t` in its query. `key`: its order within a transaction, as SQL with its type and the
    name in a row; `start`: before the first; `record`: of a row and its document, None where nothing is left of it."""

    name: str
    key: tuple[tuple[str, str, str], ...]
    start: tuple[Any, ...]
    query: str
    record: Callable[[Any, bytes | None], Record | None]
    transaction: str = "t.xid"


@dataclass(frozen=True, slots=True)
class Page:
    """Records as they stand in the file, and where to go on. `has_more`: there are more below the horizon."""

    lines: list[bytes]
    position: Position
    has_more: bool
    kinds: Mapping[str, int]


def horizon(tx: Connection) -> int:
    """Below this transaction everything has ended."""
    query = sa.text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
    return int(tx.execute(query).scalar_one())


def page(
    tx: Connection,
    codec: Codec,
    account_id: UUID,
    stream: Stream,
    after: Position | None,
    *,
    below: int,
    most: int = PAGE_ROWS,
) -> Page:
    """The next rows of a stream; None: from the beginning. Once all is read the position is the horizon itself. Raises
    DatabaseUnfinishedError where the position is of another cluster."""
    place = after or [0, *stream.start]
    fit.require_reached(place[0], below=below)
    values = {"account": account_id, "below": str(below), "most": most + 1, "xid": str(place[0])}
    values |= {f"key{number}": value for number, value in enumerate(place[1:])}
    rows, is_cut = _rows(tx, _statement(stream), values)
    has_more = is_cut or len(rows) > most
    rows = rows[:most]
    found = list(_records(tx, codec, account_id, stream, rows))
    last = rows[-1] if rows else None
    reached = [below, *stream.start]
    if has_more and last is not None:
        reached = [last.xid, *(getattr(last, name) for _, _, name in stream.key)]
    kinds = Counter(str(record.__struct_config__.tag) for record, _ in found)
    return Page([records.lines(*one) for one in found], reached, has_more, kinds)


def _records(
    tx: Connection, codec: Codec, account_id: UUID, stream: Stream, rows: Sequence[Any]
) -> Iterator[tuple[Record, bytes | None]]:
    """What the archive is told of these rows. A document that is not what its SHA-256 tells would spoil a restore, and
    must keep no other out: it is left out, and said."""
    for row in rows:
        body = _document(tx, codec, row)
        if body is None and row.body is not None:
            order_id = getattr(row, "order_id", None)
            log.error("archive_document_refused", account_id=str(account_id), kind=stream.name, order_id=order_id)
        if (record := stream.record(row, body)) is not None:
            yield record, body


def _document(tx: Connection, codec: Codec, row: Any) -> bytes | None:
    """The document of a row; None where there is none, or not the one that was stored."""
    if row.body is None:
        return None
    try:
        body: bytes = codec.decompress(tx, row.dictionary_id, row.body) if hasattr(row, "dictionary_id") else row.body
    except zstandard.ZstdError:
        return None
    return body if getattr(row, "sha256", None) in {None, hashlib.sha256(body).digest()} else None


def _statement(stream: Stream) -> str:
    names = ", ".join([stream.transaction, *(name for name, _, _ in stream.key)])
    given = ", ".join(["%(xid)s::text::xid8", *(f"%(key{n})s::{kind}" for n, (_, kind, _) in enumerate(stream.key))])
    walk = f"""WHERE account_id = %(account)s AND ({names}) > ({given}) AND {stream.transaction} < %(below)s::text::xid8
                ORDER BY {names} LIMIT %(most)s"""
    return stream.query.replace("@walk", walk)


def _rows(tx: Connection, statement: str, values: Mapping[str, Any]) -> tuple[Sequence[Any], bool]:
    """The rows, and whether they were cut off because they are large."""
    found: list[Any] = []
    size = 0
    with database.cursor(tx, "archive") as cursor:
        cursor.row_factory = namedtuple_row
        cursor.execute(statement, values, binary=True)
        while some := cursor.fetchmany(FETCHED_AT_ONCE):
            found += some
            size += sum(getattr(row, "size", None) or len(row.body or b"") for row in some)
            if size > PAGE_BYTES:
                return found, True
    return found, False


def _version(row: Any, body: bytes | None) -> Record:
    if body is None:
        return records.Change(row.order_id, row.version, row.kinds, row.cause, row.stored_at)
    return records.Version(
        order_id=row.order_id,
        version=row.version,
        read_at=row.read_at,
        stored_at=row.version_stored_at,
        kinds=row.kinds,
        cause=row.cause,
        sha256=row.sha256.hex(),
        size=row.size,
        replaced_seen_at=row.replaced_seen_at,
    )


def _event(row: Any, body: bytes | None) -> Record | None:
    if body is None:
        return None
    return records.Event(
        event_id=row.event_id,
        stored_at=row.stored_at,
        size=len(body),
        order_id=row.order_id,
        event_type=row.event_type,
        occurred_at=row.occurred_at,
        processed_at=row.processed_at,
    )


def _extra(row: Any, body: bytes | None) -> Record | None:
    if body is None:
        return None
    return records.Extra(
        kind=row.kind,
        document_id=row.document_id,
        version=row.version,
        read_at=row.read_at,
        stored_at=row.stored_at,
        sha256=row.sha256.hex(),
        size=row.size,
        found=bool(row.found),
        order_id=row.order_id,
    )


def _unreadable(row: Any, body: bytes | None) -> Record | None:
    if body is None:
        return None
    return records.Unreadable(
        sha256=row.sha256.hex(),
        read_at=row.read_at,
        readings=row.readings,
        size=len(body),
        last_read_at=row.last_read_at,
        last_error=row.last_error,
        acknowledged_at=row.acknowledged_at,
        acknowledged_reason=row.acknowledged_reason,
    )


def _state(row: Any, _: bytes | None) -> Record:
    return records.State(row.order_id, row.gone_at, row.superseded_by)


CHANGES = Stream(
    "change",
    (("t.seq", "bigint", "seq"),),
    (0,),
    f"""
    SELECT c.xid::text::bigint AS xid, c.seq, c.order_id, c.version, c.kinds, c.cause, c.stored_at, v.read_at,
           v.stored_at AS version_stored_at, v.replaced_seen_at, v.size, v.sha256, v.dictionary_id, v.body
      FROM (SELECT * FROM order_changes t @walk) c
      LEFT JOIN order_versions v ON v.account_id = c.account_id AND v.order_id = c.order_id AND v.version = c.version
       AND NOT c.kinds <@ ARRAY[{", ".join(f"'{kind}'" for kind in _BESIDE)}]
     ORDER BY c.xid, c.seq""",
    _version,
)
STREAMS = (
    CHANGES,
    Stream(
        "event",
        (("t.event_id", "text", "event_id"),),
        ("",),
        """SELECT t.xid::text::bigint AS xid, event_id, order_id, event_type, occurred_at, stored_at, processed_at,
                  dictionary_id, event_data AS body FROM order_events t @walk""",
        _event,
    ),
    Stream(
        "extra",
        (("t.kind", "text", "kind"), ("t.document_id", "text", "document_id"), ("t.version", "int", "version")),
        ("", "", 0),
        """
    SELECT v.xid::text::bigint AS xid, v.kind, v.document_id, v.version, v.read_at, v.stored_at, v.sha256, v.size,
           v.dictionary_id, v.body, x.found, x.order_id
      FROM (SELECT * FROM order_extra_versions t @walk) v
      LEFT JOIN order_extras x USING (account_id, kind, document_id)
     ORDER BY v.xid, v.kind, v.document_id, v.version""",
        _extra,
    ),
    Stream(
        "unreadable",
        (("encode(t.sha256, 'hex')", "text", "id"),),
        ("",),
        """SELECT t.xid::text::bigint AS xid, encode(sha256, 'hex') AS id, sha256, read_at, readings, last_read_at,
                  last_error, acknowledged_at, acknowledged_reason, body FROM unreadable_orders t @walk""",
        _unreadable,
    ),
    Stream(
        "state",
        (("t.order_id", "text", "order_id"),),
        ("",),
        """SELECT t.state_xid::text::bigint AS xid, order_id, gone_at, superseded_by, NULL::bytea AS body
             FROM orders t @walk""",
        _state,
        transaction="t.state_xid",
    ),
)
