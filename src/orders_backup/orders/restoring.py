"""The archive filled from a backup: versions, changes, events and documents as they were, then heads made of them.

What comes back is of transaction 1: it lies before every cursor in the feed, so nobody is told of it again. All of it
may be given twice. Only backups/restore.py calls this.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup import db
from orders_backup.codec import Codec
from orders_backup.orders import changes, heads, rebuild, words
from orders_backup.orders.changes import Reading
from orders_backup.tables import (
    order_changes,
    order_events,
    order_extra_versions,
    order_extras,
    order_versions,
    restored_states,
    unreadable_orders,
)

OLDEST = "1"
"""The transaction of everything that comes back; real ones begin at 3."""
PAGE_VERSIONS = 1000


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of the feed. `version` is of the order as the backup numbers it."""

    order_id: str
    version: int
    kinds: list[str]
    cause: str
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """A version with its bytes, and the entry of the feed that told of it."""

    change: Change
    read_at: datetime
    stored_at: datetime
    replaced_seen_at: datetime | None
    sha256: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """An event of Allegro's journal."""

    event_id: str
    order_id: str | None
    event_type: str | None
    occurred_at: datetime | None
    stored_at: datetime
    processed_at: datetime | None
    body: bytes


def holds_orders(tx: Connection, account_id: UUID) -> bool:
    """Whether anything of an account is here."""
    query = sa.select(sa.literal(1)).where(order_versions.c.account_id == account_id).limit(1)
    return tx.execute(query).one_or_none() is not None


def in_bulk(tx: Connection) -> None:
    """First statement of a transaction of which many come: what a crash of PostgreSQL would lose of the last of them is
    lost together with the note of how far it got, and the indexes of words take more at once."""
    tx.execute(sa.text("SET LOCAL synchronous_commit = off"))
    tx.execute(sa.text("SET LOCAL gin_pending_list_limit = '64MB'"))


def versions(tx: Connection, codec: Codec, account_id: UUID, found: Sequence[Version]) -> list[Change | None]:
    """Stores versions under their numbers, and says for each what the feed has to tell. One that is here already is
    left out (None); where another has its number, as after a restore of an older database, it gets the next."""
    try:
        with tx.begin_nested():
            _copy_versions(tx, codec, account_id, found)
    except psycopg.errors.UniqueViolation:
        placed = _renumbered(tx, account_id, found)
        _copy_versions(tx, codec, account_id, [one for one in placed if one is not None])
        return [None if one is None else one.change for one in placed]
    return [one.change for one in found]


def told(tx: Connection, account_id: UUID, found: Sequence[Change]) -> None:
    """Entries of the feed, before every cursor."""
    rows = (
        (OLDEST, account_id, one.order_id, one.version, heads.array(one.kinds), one.cause, one.stored_at)
        for one in found
    )
    columns = ("xid", "account_id", "order_id", "version", "kinds", "cause", "stored_at")
    db.copy(tx, order_changes, columns, rows)


def versions_told(tx: Connection, account_id: UUID) -> int:
    """How many versions this transaction has stored so far."""
    query = """
        SELECT count(*) FROM order_changes
         WHERE account_id = :account AND xid = pg_current_xact_id() AND kinds <> ARRAY['order.superseded']
    """
    return int(tx.execute(sa.text(query), {"account": account_id}).scalar_one())


def untold(tx: Connection, account_id: UUID) -> None:
    """What this transaction told the feed lies before every cursor, too."""
    statement = sa.text("""
        UPDATE order_changes SET xid = CAST(:oldest AS text)::xid8
         WHERE account_id = :account AND xid = pg_current_xact_id()
    """)
    tx.execute(statement, {"account": account_id, "oldest": OLDEST})


def events(tx: Connection, codec: Codec, account_id: UUID, found: Sequence[Event]) -> None:
    """Events that are not here yet."""
    columns = (
        *("xid", "account_id", "event_id", "order_id", "event_type", "occurred_at", "stored_at"),
        *("processed_at", "dictionary_id", "event_data"),
    )
    rows = {
        one.event_id: (
            *(OLDEST, account_id, one.event_id, one.order_id, one.event_type, one.occurred_at, one.stored_at),
            *(one.processed_at, *codec.compress(one.body)),
        )
        for one in found
    }
    try:
        with tx.begin_nested():
            db.copy(tx, order_events, columns, rows.values())
    except psycopg.errors.UniqueViolation:
        table = order_events.c
        held = sa.select(table.event_id).where(table.account_id == account_id, table.event_id.in_(list(rows)))
        for event_id in tx.execute(held).scalars():
            del rows[event_id]
        db.copy(tx, order_events, columns, rows.values())


def states(tx: Connection, account_id: UUID, found: Iterable[dict[str, Any]]) -> None:
    """What became of orders whose heads are not made yet: `order_id`, `gone_at`, `superseded_by`; the last holds."""
    rows = {one["order_id"]: {"account_id": account_id, **one} for one in found}
    if rows:
        statement = insert(restored_states)
        new = {name: statement.excluded[name] for name in ("gone_at", "superseded_by")}
        statement = statement.on_conflict_do_update(index_elements=["account_id", "order_id"], set_=new)
        tx.execute(statement, list(rows.values()))


def mark(tx: Connection, account_id: UUID, found: Iterable[dict[str, Any]]) -> None:
    """The same for orders that have heads: those that were not seen since they were gone."""
    statement = sa.text("""
        UPDATE orders SET gone_at = :gone_at, superseded_by = :superseded_by, state_xid = '1'::xid8
         WHERE account_id = :account_id AND order_id = :order_id AND gone_at IS NULL AND read_at < :gone_at
    """)
    rows = [{"account_id": account_id, **one} for one in found if one["gone_at"] is not None]
    if rows:
        tx.execute(statement, rows)


def unreadable(tx: Connection, account_id: UUID, found: Sequence[dict[str, Any]], *, is_empty: bool = True) -> None:
    """Bytes that name no order: columns of the table. The last of the same bytes holds; where the account is not
    empty, what it has stays."""
    for one in found:
        statement = insert(unreadable_orders).values(account_id=account_id, xid=sa.text("'1'::xid8"), **one)
        if not is_empty:
            tx.execute(statement.on_conflict_do_nothing())
            continue
        changed = {name: value for name, value in one.items() if name not in {"sha256", "read_at", "body"}}
        tx.execute(statement.on_conflict_do_update(index_elements=["account_id", "sha256"], set_=changed))


def extras(tx: Connection, codec: Codec, account_id: UUID, found: Sequence[tuple[dict[str, Any], bytes]]) -> None:
    """Versions of documents beside orders: `kind`, `document_id`, `order_id`, `version`, `read_at`, `stored_at`,
    `sha256`, `found`; and their bytes. Their heads show the newest; none is asked for again by itself."""
    for one, body in found:
        dictionary_id, compressed = codec.compress(body)
        own = {name: one[name] for name in ("kind", "document_id", "version", "read_at", "stored_at", "sha256")}
        row = {"account_id": account_id, **own, "size": len(body), "dictionary_id": dictionary_id, "body": compressed}
        version = insert(order_extra_versions).values(**row, xid=sa.text("'1'::xid8"))
        tx.execute(version.on_conflict_do_nothing())
        kept = ("kind", "document_id", "order_id", "version", "read_at", "sha256", "found")
        head = insert(order_extras).values(
            account_id=account_id, versions=one["version"], **{name: one[name] for name in kept}
        )
        new, old = head.excluded, order_extras.c
        is_newer = sa.tuple_(new.read_at, new.version) >= sa.tuple_(old.read_at, old.version)
        shown = ("version", "read_at", "sha256", "found")
        values: dict[str, Any] = {name: sa.case((is_newer, new[name]), else_=old[name]) for name in shown}
        values["versions"] = sa.func.greatest(old.versions, new.versions)
        values["order_id"] = sa.func.coalesce(new.order_id, old.order_id)
        keys = ["account_id", "kind", "document_id"]
        tx.execute(head.on_conflict_do_update(index_elements=keys, set_=values))


_VERSIONS = sa.text("""
    SELECT v.order_id, v.version, v.read_at, v.stored_at, v.dictionary_id, v.body, s.gone_at, s.superseded_by
      FROM (SELECT * FROM order_versions WHERE account_id = :account AND order_id > :after
             ORDER BY order_id, version LIMIT :most) v
      LEFT JOIN restored_states s ON s.account_id = :account AND s.order_id = v.order_id
     ORDER BY v.order_id, v.version
""")


def make_heads(tx: Connection, codec: Codec, account_id: UUID, *, after: str) -> tuple[int, str | None]:
    """The heads of the next orders by id, which have none: how many versions they have, and the last of them; None:
    there are no more. An order's newest version is the one that was read last."""
    # Tables that were just filled have no statistics, and the planner would sort all of it for every page.
    tx.execute(sa.text("SET LOCAL enable_sort = off"))
    by_order = _page(tx, account_id, after, PAGE_VERSIONS)
    beside: dict[str, list[str]] = defaultdict(list)
    for order_id, vector in rebuild.words_of_shipments(tx, codec, account_id, list(by_order)):
        beside[order_id].append(vector)
    made = [_head(tx, codec, account_id, some, beside[order_id]) for order_id, some in by_order.items()]
    heads.restore(tx, account_id, made)
    done = sa.delete(restored_states).where(restored_states.c.account_id == account_id)
    tx.execute(done.where(restored_states.c.order_id.in_(list(by_order))))
    return sum(len(some) for some in by_order.values()), next(reversed(by_order), None)


def _page(tx: Connection, account_id: UUID, after: str, most: int) -> dict[str, list[Any]]:
    """All versions of the next orders, by order."""
    rows = tx.execute(_VERSIONS, {"account": account_id, "after": after, "most": most}).all()
    by_order = {order_id: list(some) for order_id, some in itertools.groupby(rows, key=lambda row: row.order_id)}
    if len(rows) == most:
        by_order.popitem()  # the rest of its versions is on the next page
        return by_order or _page(tx, account_id, after, 10 * most)
    return by_order


def tidy(tx: Connection, account_id: UUID) -> None:
    """Bytes that named no order when they came, and do to a newer program, are a version by now; and an event whose
    order was read after it counts as followed."""
    tx.execute(sa.text("SET LOCAL statement_timeout = 0"))
    statement = """
        DELETE FROM unreadable_orders u WHERE u.account_id = :account AND EXISTS (
            SELECT FROM order_versions v WHERE v.account_id = :account AND v.sha256 = u.sha256)
    """
    followed = """
        UPDATE order_events e SET processed_at = o.read_at FROM orders o
         WHERE e.account_id = :account AND e.processed_at IS NULL
           AND o.account_id = :account AND o.order_id = e.order_id AND o.read_at > e.stored_at
    """
    any_unreadable = sa.select(sa.literal(1)).where(unreadable_orders.c.account_id == account_id).limit(1)
    if tx.execute(any_unreadable).one_or_none() is not None:
        tx.execute(sa.text(statement), {"account": account_id})
    tx.execute(sa.text(followed), {"account": account_id})


def _head(tx: Connection, codec: Codec, account_id: UUID, found: Sequence[Any], beside: list[str]) -> heads.Restored:
    rows = sorted(found, key=lambda row: (row.read_at, row.version))
    readings = [changes.read(row.read_at, codec.decompress(tx, row.dictionary_id, row.body)) for row in rows]
    known = [one for one in readings if isinstance(one, Reading)]
    newest = readings[-1]
    assert isinstance(newest, Reading)  # noqa: S101 – it was stored under this id
    return heads.Restored(
        reading=newest,
        version=rows[-1].version,
        versions=max(row.version for row in rows),
        stored_at=min(row.stored_at for row in rows),
        words=words.together([*(words.of(account_id, one.facts) for one in known), *beside]),
        gone_at=rows[-1].gone_at,
        superseded_by=rows[-1].superseded_by,
    )


def _copy_versions(tx: Connection, codec: Codec, account_id: UUID, found: Sequence[Version]) -> None:
    columns = (
        *("account_id", "order_id", "version", "read_at", "stored_at", "replaced_seen_at"),
        *("size", "sha256", "dictionary_id", "body"),
    )
    rows = (
        (
            *(account_id, one.change.order_id, one.change.version, one.read_at, one.stored_at, one.replaced_seen_at),
            *(len(one.body), one.sha256, *codec.compress(one.body)),
        )
        for one in found
    )
    types = ("uuid", "text", "int4", *["timestamptz"] * 3, "int4", "bytea", "int2", "bytea")
    db.copy(tx, order_versions, columns, rows, types=types)


def _renumbered(tx: Connection, account_id: UUID, found: Sequence[Version]) -> list[Version | None]:
    table = order_versions.c
    query = sa.select(table.order_id, table.version, table.sha256, table.read_at).where(
        table.account_id == account_id, table.order_id.in_({one.change.order_id for one in found})
    )
    numbers: dict[str, set[int]] = defaultdict(set)
    known: set[tuple[str, bytes, datetime]] = set()
    for order_id, version, sha256, read_at in tx.execute(query):
        numbers[order_id].add(version)
        known.add((order_id, sha256, read_at))
    placed: list[Version | None] = []
    for one in found:
        order_id, version = one.change.order_id, one.change.version
        if (order_id, one.sha256, one.read_at) in known:
            placed.append(None)
            continue
        number = version if version not in numbers[order_id] else max(numbers[order_id]) + 1
        numbers[order_id].add(number)
        known.add((order_id, one.sha256, one.read_at))
        placed.append(replace(one, change=replace(one.change, version=number)))
    return placed
