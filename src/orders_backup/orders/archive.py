"""The only writer of the archive: orders, versions, changes, events; always inside the caller's transaction.

Whatever is recorded twice, late or in any order ends the same: heads are compared under a lock of the account,
same bytes make no version, and an older reading never overwrites a newer one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup.allegro.wire import Event
from orders_backup.codec import Codec
from orders_backup.orders import changes
from orders_backup.orders.changes import Head, Kept, Reading, Unreadable, Verdict
from orders_backup.orders.projection import plain, tame
from orders_backup.tables import order_changes, order_events, order_versions, orders, unreadable_orders


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many of the readings were what; their sum is the number of readings.

    `maybe_superseded`: orders that share a line item with a newly stored one, to be read again.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    set_aside: int = 0
    maybe_superseded: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Row:
    """A version to be stored. `is_head`: it becomes the newest; `kinds`: what changed with it."""

    reading: Reading
    version: int
    is_head: bool
    kinds: list[str]


def record(
    tx: Connection, codec: Codec, account_id: UUID, readings: Sequence[Reading | Unreadable], *, cause: str
) -> Recorded:
    """Stores what is new in these readings of one account. `cause` is what made us read."""
    _lock(tx, account_id)
    unreadable = [one for one in readings if isinstance(one, Unreadable)]
    _keep_unreadable(tx, account_id, unreadable)
    total = Recorded(set_aside=len(unreadable))
    for batch in _batches(one for one in readings if isinstance(one, Reading)):
        part = _record_distinct(tx, codec, account_id, batch, cause=cause)
        total = Recorded(
            inserted=total.inserted + part.inserted,
            updated=total.updated + part.updated,
            unchanged=total.unchanged + part.unchanged,
            set_aside=total.set_aside,
            maybe_superseded=total.maybe_superseded + part.maybe_superseded,
        )
    return total


def record_events(tx: Connection, codec: Codec, account_id: UUID, events: Sequence[Event]) -> list[Event]:
    """Stores journal events, each once by its id, and gives back those that were not known before."""
    _lock(tx, account_id)
    by_id = {event.event_id: event for event in events}
    table = order_events.c
    known = set(
        tx.execute(
            sa.select(table.event_id).where(table.account_id == account_id, table.event_id.in_(list(by_id)))
        ).scalars()
    )
    new = [event for event_id, event in by_id.items() if event_id not in known]
    columns = ("account_id", "event_id", "order_id", "event_type", "occurred_at", "dictionary_id", "event_data")
    _copy(
        tx,
        order_events,
        columns,
        ((account_id, e.event_id, e.order_id, e.event_type, e.occurred_at, *codec.compress(e.body)) for e in new),
    )
    return new


def events_processed(tx: Connection, account_id: UUID, order_ids: Sequence[str]) -> None:
    """Marks the stored events of these orders, whose debts were just paid, as followed by a reading."""
    table = order_events.c
    tx.execute(
        sa.update(order_events)
        .values(processed_at=sa.func.clock_timestamp())
        .where(
            table.account_id == account_id,
            table.order_id.in_(order_ids),
            table.processed_at.is_(None),
        )
    )


def gone(tx: Connection, account_id: UUID, order_id: str, *, line_item_ids: Sequence[str], now: datetime) -> str | None:
    """Allegro answered 404: the data stay; the form that took over its line items, if we hold one, is named.

    Returns that form's id. `line_item_ids` of an event serve where the order itself was never read.
    """
    _lock(tx, account_id)
    head = orders.c
    kept = tx.execute(
        sa.update(orders)
        .values(gone_at=sa.func.coalesce(head.gone_at, now))
        .where(head.account_id == account_id, head.order_id == order_id)
        .returning(head.line_item_ids)
    ).scalar_one_or_none()
    successor: str | None = tx.execute(
        sa.select(head.order_id)
        .where(
            head.line_item_ids.overlap(kept or list(line_item_ids)),
            head.account_id == account_id,
            head.order_id != order_id,
            head.gone_at.is_(None),
        )
        .order_by(head.ordered_at.desc(), head.order_id.desc())
        .limit(1)
    ).scalar_one_or_none()
    if successor is not None:
        _supersede(tx, account_id, order_id, successor)
    return successor


def _record_distinct(
    tx: Connection, codec: Codec, account_id: UUID, readings: Sequence[Reading], *, cause: str
) -> Recorded:
    """Readings of different orders: decide each against its head, then write all of a kind at once."""
    heads = _heads(tx, account_id, [reading.facts.order_id for reading in readings])
    verdicts = [(reading, changes.judge(heads.get(reading.facts.order_id), reading)) for reading in readings]
    new = [_Row(reading, 1, True, ["order.created"]) for reading, verdict in verdicts if verdict is Verdict.NEW]
    changed = [
        _changed(tx, codec, account_id, heads[reading.facts.order_id], reading)
        for reading, verdict in verdicts
        if verdict is Verdict.CHANGED
    ]
    late = [
        _late(tx, codec, account_id, heads[reading.facts.order_id], reading)
        for reading, verdict in verdicts
        if verdict is Verdict.LATE
    ]
    rows = [*new, *changed, *(row for some in late for row in some)]
    _insert_heads(tx, account_id, new)
    _update_heads(tx, account_id, rows[len(new) :])
    _insert_versions(tx, codec, account_id, rows)
    _insert_changes(tx, account_id, rows, cause=cause)
    _confirm(tx, account_id, [reading for reading, verdict in verdicts if verdict is Verdict.SAME])
    return Recorded(
        inserted=len(new),
        updated=len(changed) + sum(bool(some) for some in late),
        unchanged=len(readings) - len(new) - len(changed) - sum(bool(some) for some in late),
        maybe_superseded=_link_merged(tx, account_id, new) if cause != "backfill" else [],
    )


def _heads(tx: Connection, account_id: UUID, order_ids: list[str]) -> dict[str, Head]:
    rows = _cursor(tx).execute(_HEADS, (order_ids, account_id)).fetchall()
    return {row[0]: Head(*row[1:]) for row in rows}


# Each order by its primary key: for an account that the planner's statistics do not know yet, it would rather walk
# the whole account by another index. OFFSET 0 keeps it from rearranging the look-up.
_HEADS = """
    SELECT head.*
      FROM unnest(%s::text[]) AS asked (order_id)
     CROSS JOIN LATERAL (SELECT o.order_id, o.version, o.sha256, o.read_at, o.versions FROM orders o
                          WHERE o.account_id = %s AND o.order_id = asked.order_id OFFSET 0) AS head
"""

_CONFIRM = """
    UPDATE orders AS o
       SET read_at = seen.sent_at,
           superseded_by = CASE WHEN o.gone_at > seen.sent_at THEN o.superseded_by END,
           gone_at = CASE WHEN o.gone_at > seen.sent_at THEN o.gone_at END
      FROM (SELECT head.place, asked.sent_at
              FROM unnest(%(ids)s::text[], %(sent_at)s::timestamptz[]) AS asked (order_id, sent_at)
             CROSS JOIN LATERAL (SELECT h.ctid AS place FROM orders h
                                  WHERE h.account_id = %(account)s AND h.order_id = asked.order_id
                                    AND h.read_at < asked.sent_at OFFSET 0) AS head) AS seen
     WHERE o.ctid = seen.place
"""


def _changed(tx: Connection, codec: Codec, account_id: UUID, head: Head, reading: Reading) -> _Row:
    before = _body(tx, codec, account_id, reading.facts.order_id, head.version)
    return _Row(reading, head.versions + 1, True, changes.kinds(before, reading.body))


def _late(tx: Connection, codec: Codec, account_id: UUID, head: Head, reading: Reading) -> list[_Row]:
    """The versions a late reading adds: none, itself, or itself and after it the head's bytes once more."""
    order_id = reading.facts.order_id
    found = changes.place(_kept(tx, account_id, order_id), reading)
    if not found.is_news:
        return []
    row = _Row(reading, head.versions + 1, False, [changes.OTHER])
    if not found.returns:
        return [row]
    again = changes.read(head.read_at, _body(tx, codec, account_id, order_id, head.version))
    assert isinstance(again, Reading)  # noqa: S101 – it was stored under this id
    return [row, _Row(again, head.versions + 2, True, changes.kinds(reading.body, again.body))]


def _body(tx: Connection, codec: Codec, account_id: UUID, order_id: str, version: int) -> bytes:
    table = order_versions.c
    query = sa.select(table.dictionary_id, table.body).where(
        table.account_id == account_id, table.order_id == order_id, table.version == version
    )
    dictionary_id, body = tx.execute(query).one()
    return codec.decompress(tx, dictionary_id, body)


def _kept(tx: Connection, account_id: UUID, order_id: str) -> list[Kept]:
    table = order_versions.c
    query = sa.select(table.read_at, table.sha256).where(table.account_id == account_id, table.order_id == order_id)
    return [Kept(row[0], row[1]) for row in tx.execute(query)]


def _insert_heads(tx: Connection, account_id: UUID, rows: Sequence[_Row]) -> None:
    columns = ("account_id", "order_id", "version", "versions", "sha256", "read_at", *_SHOWN, *_PROJECTED)
    values = [
        (account_id, row.reading.facts.order_id, 1, 1, row.reading.sha256, row.reading.sent_at, *_shown(row.reading))
        for row in rows
    ]
    _write_projected(tx, values, lambda some: _copy(tx, orders, columns, some))


def _update_heads(tx: Connection, account_id: UUID, rows: Sequence[_Row]) -> None:
    late = [(row.version, account_id, row.reading.facts.order_id) for row in rows if not row.is_head]
    values: list[tuple[Any, ...]] = [
        (
            *(account_id, row.reading.facts.order_id, row.version, row.version),
            *(row.reading.sha256, row.reading.sent_at, *_shown(row.reading)),
        )
        for row in rows
        if row.is_head
    ]
    if late:
        _cursor(tx).executemany("UPDATE orders SET versions = %s WHERE account_id = %s AND order_id = %s", late)
    _write_projected(tx, values, lambda some: _cursor(tx).executemany(_UPDATE_HEAD, some))


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

_UPDATE_HEAD = f"""
    UPDATE orders AS o
       SET ({", ".join(("version", "versions", "sha256", "read_at", *_SHOWN, *_PROJECTED))})
         = ({", ".join(f"n.{name}" for name in ("version", "versions", "sha256", "read_at", *_SHOWN, *_PROJECTED))}),
           superseded_by = CASE WHEN o.gone_at > n.read_at THEN o.superseded_by END,
           gone_at = CASE WHEN o.gone_at > n.read_at THEN o.gone_at END
      FROM (SELECT %s::uuid AS account_id, %s::text AS order_id, %s::int AS version, %s::int AS versions,
                   %s::bytea AS sha256, %s::timestamptz AS read_at, %s::text AS status, %s::text AS fulfillment_status,
                   %s::text AS buyer_login, %s::text AS marketplace, %s::timestamptz AS ordered_at,
                   %s::timestamptz AS updated_at, %s::text AS total, %s::text AS currency, %s::text[] AS line_item_ids,
                   %s::boolean AS projection_lossy, %s::jsonb AS order_data) AS n
     WHERE o.account_id = n.account_id AND o.order_id = n.order_id
"""

_JSONB_REFUSES = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


def _shown(reading: Reading) -> tuple[Any, ...]:
    """The columns of _SHOWN, then those of _PROJECTED with the bytes in the place of the document."""
    facts = reading.facts
    return (*(getattr(facts, name) for name in _SHOWN), _array(facts.line_item_ids), False, reading.body)


def _array(texts: Sequence[str]) -> str:
    """A text[] as PostgreSQL writes it; the driver's own arrays cost more than all other columns together."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _jsonb_takes(tx: Connection, text: str) -> bool:
    """Whether PostgreSQL accepts this text as JSONB; it alone knows its own limits."""
    try:
        with tx.begin_nested():
            _cursor(tx).execute("SELECT %s::text::jsonb IS NULL", (text,))
    except _JSONB_REFUSES:
        return False
    return True


def _insert_versions(tx: Connection, codec: Codec, account_id: UUID, rows: Sequence[_Row]) -> None:
    columns = ("account_id", "order_id", "version", "read_at", "size", "sha256", "dictionary_id", "body")
    _copy(
        tx,
        order_versions,
        columns,
        (
            (
                account_id,
                row.reading.facts.order_id,
                row.version,
                row.reading.sent_at,
                len(row.reading.body),
                row.reading.sha256,
                *codec.compress(row.reading.body),
            )
            for row in rows
        ),
        types=("uuid", "text", "int4", "timestamptz", "int4", "bytea", "int2", "bytea"),
    )


def _insert_changes(tx: Connection, account_id: UUID, rows: Sequence[_Row], *, cause: str) -> None:
    columns = ("account_id", "order_id", "version", "kinds", "cause")
    _copy(
        tx,
        order_changes,
        columns,
        ((account_id, row.reading.facts.order_id, row.version, _array(row.kinds), cause) for row in rows),
    )


def _confirm(tx: Connection, account_id: UUID, readings: Sequence[Reading]) -> None:
    """Unchanged orders: only when they were last seen so, by which a late reading is told from a new one."""
    if readings:
        ids = [reading.facts.order_id for reading in readings]
        values = {"ids": ids, "account": account_id, "sent_at": [reading.sent_at for reading in readings]}
        _cursor(tx).execute(_CONFIRM, values)


def _link_merged(tx: Connection, account_id: UUID, rows: Sequence[_Row]) -> list[str]:
    """A new order with another one's line items took its place: gone ones are linked, others named for reading."""
    if not rows:
        return []
    new, old = orders.alias("new"), orders.alias("old")
    query = sa.select(old.c.order_id, old.c.gone_at, new.c.order_id).where(
        new.c.account_id == account_id,
        new.c.order_id.in_([row.reading.facts.order_id for row in rows]),
        old.c.line_item_ids.overlap(new.c.line_item_ids),
        old.c.account_id == account_id,
        old.c.order_id != new.c.order_id,
        old.c.superseded_by.is_(None),
    )
    doubtful = []
    for old_id, gone_at, new_id in tx.execute(query).all():
        if gone_at is None:
            doubtful.append(old_id)
        else:
            _supersede(tx, account_id, old_id, new_id)
    return doubtful


def _supersede(tx: Connection, account_id: UUID, order_id: str, successor: str) -> None:
    head = orders.c
    version = tx.execute(
        sa.update(orders)
        .values(superseded_by=successor)
        .where(head.account_id == account_id, head.order_id == order_id, head.superseded_by.is_distinct_from(successor))
        .returning(head.version)
    ).scalar_one_or_none()
    if version is not None:
        row = {"account_id": account_id, "order_id": order_id, "version": version}
        tx.execute(sa.insert(order_changes).values(**row, kinds=["order.superseded"], cause="merge"))


def _keep_unreadable(tx: Connection, account_id: UUID, found: Sequence[Unreadable]) -> None:
    for one in found:
        row = {"account_id": account_id, "sha256": one.sha256, "read_at": one.sent_at, "body": one.body}
        tx.execute(insert(unreadable_orders).values(row).on_conflict_do_nothing())


def _lock(tx: Connection, account_id: UUID) -> None:
    """One recorder an account at a time, until the end of the transaction: a head read is the head written."""
    tx.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:account, 0))"), {"account": str(account_id)})


def _batches(readings: Iterable[Reading]) -> list[list[Reading]]:
    """The readings in order, split so that no batch has an order twice."""
    batches: list[list[Reading]] = []
    seen: dict[str, int] = {}
    for reading in readings:
        turn = seen.get(reading.facts.order_id, 0)
        seen[reading.facts.order_id] = turn + 1
        if turn == len(batches):
            batches.append([])
        batches[turn].append(reading)
    return batches


def _copy(
    tx: Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    types: Sequence[str] | None = None,
) -> None:
    """COPY into a table: five times the speed of arrays, and the same rows. With `types`, in the binary form."""
    listed = list(rows)
    if not listed:
        return
    form = " (FORMAT BINARY)" if types else ""
    with _cursor(tx) as cursor, cursor.copy(f"COPY {table.name} ({', '.join(columns)}) FROM STDIN{form}") as copy:
        if types:
            copy.set_types(types)
        for row in listed:
            copy.write_row(row)


def _cursor(tx: Connection) -> psycopg.Cursor[Any]:
    connection = tx.connection.driver_connection
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 – the engine is made in db.py with this driver
    return connection.cursor()
