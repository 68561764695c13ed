"""The only writer of the archive: orders, versions, changes, events; always inside the caller's transaction.

Whatever is recorded twice, late or in any order ends the same: heads are compared under a lock of the account,
same bytes make no version, and an older reading never overwrites a newer one.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup import db, metrics
from orders_backup.allegro.wire import Event
from orders_backup.codec import Codec
from orders_backup.orders import changes, heads, words
from orders_backup.orders.changes import Head, Kept, Reading, Unreadable, Verdict
from orders_backup.orders.heads import Row
from orders_backup.tables import order_changes, order_events, order_versions, orders, unreadable_orders


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many of the readings were what; their sum is the number of readings.

    `maybe_superseded`: orders that share a line item with a newly stored one, to be read again. `new_ids`,
    `changed_ids`: the orders behind `inserted` and `updated`.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    set_aside: int = 0
    maybe_superseded: list[str] = field(default_factory=list)
    new_ids: list[str] = field(default_factory=list, compare=False)
    changed_ids: list[str] = field(default_factory=list, compare=False)


def record(
    tx: Connection, codec: Codec, account_id: UUID, readings: Sequence[Reading | Unreadable], *, cause: str
) -> Recorded:
    """Stores what is new in these readings of one account. `cause` is what made us read."""
    heads.lock(tx, account_id)
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
            new_ids=total.new_ids + part.new_ids,
            changed_ids=total.changed_ids + part.changed_ids,
        )
    return total


def record_events(tx: Connection, codec: Codec, account_id: UUID, events: Sequence[Event]) -> list[Event]:
    """Stores journal events, each once by its id, and gives back those that were not known before."""
    heads.lock(tx, account_id)
    by_id = {event.event_id: event for event in events}
    table = order_events.c
    known = set(
        tx.execute(
            sa.select(table.event_id).where(table.account_id == account_id, table.event_id.in_(list(by_id)))
        ).scalars()
    )
    new = [event for event_id, event in by_id.items() if event_id not in known]
    columns = ("account_id", "event_id", "order_id", "event_type", "occurred_at", "dictionary_id", "event_data")
    db.copy(
        tx,
        order_events,
        columns,
        ((account_id, e.event_id, e.order_id, e.event_type, e.occurred_at, *codec.compress(e.body)) for e in new),
    )
    return new


def event_before(tx: Connection, account_id: UUID, cursor: str, *, count: int) -> str | None:
    """The id of the stored event that lies `count` events before the cursor; None where there are fewer."""
    table = order_events.c
    query = sa.select(table.event_id).where(table.account_id == account_id, table.event_id <= cursor)
    found: str | None = tx.execute(query.order_by(table.event_id.desc()).offset(count).limit(1)).scalar_one_or_none()
    return found


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
    heads.lock(tx, account_id)
    head = orders.c
    kept = tx.execute(
        sa.update(orders)
        .values(
            gone_at=sa.func.coalesce(head.gone_at, now),
            state_xid=sa.case((head.gone_at.is_(None), sa.func.pg_current_xact_id()), else_=head.state_xid),
        )
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
        .order_by(head.ordered_at.desc().nulls_last(), head.order_id.desc())
        .limit(1)
    ).scalar_one_or_none()
    if successor is not None:
        _supersede(tx, account_id, order_id, successor)
    return successor


def changed_beside(tx: Connection, account_id: UUID, found: Iterable[tuple[str, str]], *, cause: str) -> None:
    """Tells the feed that what belongs to these orders changed: (order id, kind of change). Orders not held: silent."""
    query = sa.text("""
        INSERT INTO order_changes (account_id, order_id, version, kinds, cause)
        SELECT account_id, order_id, version, :kinds, :cause FROM orders WHERE account_id = :account AND order_id = :id
    """)
    by_order: dict[str, set[str]] = {}
    heads.lock(tx, account_id)  # the numbers of an account's changes rise in the order of their commits
    for order_id, kind in found:
        by_order.setdefault(order_id, set()).add(kind)
    for order_id, kinds in by_order.items():
        tx.execute(query, {"account": account_id, "id": order_id, "kinds": sorted(kinds), "cause": cause})


def found_by(tx: Connection, account_id: UUID, texts: Mapping[str, Iterable[str]]) -> None:
    """From now on a search finds these orders by these texts, too, such as tracking numbers: texts by order id."""
    heads.lock(tx, account_id)
    heads.add_words(tx, account_id, [(order_id, words.beside(some)) for order_id, some in texts.items()])


def _record_distinct(
    tx: Connection, codec: Codec, account_id: UUID, readings: Sequence[Reading], *, cause: str
) -> Recorded:
    """Readings of different orders: decide each against its head, then write all of a kind at once."""
    known = heads.read(tx, account_id, [reading.facts.order_id for reading in readings])
    verdicts = [(reading, changes.judge(known.get(reading.facts.order_id), reading)) for reading in readings]
    new = [Row(reading, 1, True, ["order.created"]) for reading, verdict in verdicts if verdict is Verdict.NEW]
    changed = [
        _changed(tx, codec, account_id, known[reading.facts.order_id], reading)
        for reading, verdict in verdicts
        if verdict is Verdict.CHANGED
    ]
    late = [
        _late(tx, codec, account_id, known[reading.facts.order_id], reading)
        for reading, verdict in verdicts
        if verdict is Verdict.LATE
    ]
    rows = [*new, *changed, *(row for some in late for row in some)]
    heads.insert(tx, account_id, new)
    heads.update(tx, account_id, rows[len(new) :])
    _insert_versions(tx, codec, account_id, rows)
    _insert_changes(tx, account_id, rows, cause=cause)
    heads.confirm(tx, account_id, [reading for reading, verdict in verdicts if verdict is Verdict.SAME])
    return Recorded(
        inserted=len(new),
        updated=len(changed) + sum(bool(some) for some in late),
        unchanged=len(readings) - len(new) - len(changed) - sum(bool(some) for some in late),
        maybe_superseded=_link_merged(tx, account_id, new) if cause != "backfill" else [],
        new_ids=[row.reading.facts.order_id for row in new],
        changed_ids=[reading.facts.order_id for reading, verdict in verdicts if verdict is Verdict.CHANGED],
    )


def _changed(tx: Connection, codec: Codec, account_id: UUID, head: Head, reading: Reading) -> Row:
    before = _body(tx, codec, account_id, reading.facts.order_id, head.version)
    return Row(reading, head.versions + 1, True, changes.kinds(before, reading.body), replaced_seen_at=head.read_at)


def _late(tx: Connection, codec: Codec, account_id: UUID, head: Head, reading: Reading) -> list[Row]:
    """The versions a late reading adds: none, itself, or itself and after it the bytes of a version that was
    confirmed later."""
    order_id = reading.facts.order_id
    found = changes.place(_kept(tx, account_id, order_id, head), reading)
    if not found.is_news:
        return []
    seen_at = found.follows.read_at if found.follows else None
    row = Row(reading, head.versions + 1, False, [changes.OTHER], replaced_seen_at=seen_at)
    if found.returns is None:
        return [row]
    seen, is_head = found.returns, found.returns.version == head.version
    again = changes.read(seen.read_at, _body(tx, codec, account_id, order_id, seen.version))
    assert isinstance(again, Reading)  # noqa: S101 – it was stored under this id
    kinds = changes.kinds(reading.body, again.body) if is_head else [changes.OTHER]
    return [row, Row(again, head.versions + 2, is_head, kinds)]


def _body(tx: Connection, codec: Codec, account_id: UUID, order_id: str, version: int) -> bytes:
    table = order_versions.c
    query = sa.select(table.dictionary_id, table.body).where(
        table.account_id == account_id, table.order_id == order_id, table.version == version
    )
    dictionary_id, body = tx.execute(query).one()
    return codec.decompress(tx, dictionary_id, body)


def _kept(tx: Connection, account_id: UUID, order_id: str, head: Head) -> list[Kept]:
    """Every moment at which we know what the order looked like; a confirmed state is known at two."""
    table = order_versions.c
    query = sa.select(table.read_at, table.sha256, table.version, table.replaced_seen_at)
    rows = tx.execute(
        query.where(table.account_id == account_id, table.order_id == order_id).order_by(table.read_at, table.version)
    ).all()
    seen = [Kept(row.read_at, row.sha256, row.version) for row in rows]
    confirmed = [
        Kept(row.replaced_seen_at, before.sha256, before.version, confirms=True)
        for before, row in itertools.pairwise(rows)
        if row.replaced_seen_at is not None and row.replaced_seen_at > before.read_at
    ]
    return [*seen, *confirmed, Kept(head.read_at, head.sha256, head.version, confirms=True)]


def _insert_versions(tx: Connection, codec: Codec, account_id: UUID, rows: Sequence[Row]) -> None:
    columns = (
        *("account_id", "order_id", "version", "read_at", "replaced_seen_at"),
        *("size", "sha256", "dictionary_id", "body"),
    )
    packed = [codec.compress(row.reading.body) for row in rows]
    metrics.VERSION_BYTES.labels("wire").inc(sum(len(row.reading.body) for row in rows))
    metrics.VERSION_BYTES.labels("stored").inc(sum(len(body) for _, body in packed))
    db.copy(
        tx,
        order_versions,
        columns,
        (
            (
                account_id,
                row.reading.facts.order_id,
                row.version,
                row.reading.sent_at,
                row.replaced_seen_at,
                len(row.reading.body),
                row.reading.sha256,
                *body,
            )
            for row, body in zip(rows, packed, strict=True)
        ),
        types=("uuid", "text", "int4", "timestamptz", "timestamptz", "int4", "bytea", "int2", "bytea"),
    )


def _insert_changes(tx: Connection, account_id: UUID, rows: Sequence[Row], *, cause: str) -> None:
    columns = ("account_id", "order_id", "version", "kinds", "cause")
    db.copy(
        tx,
        order_changes,
        columns,
        ((account_id, row.reading.facts.order_id, row.version, heads.array(row.kinds), cause) for row in rows),
    )


def _link_merged(tx: Connection, account_id: UUID, rows: Sequence[Row]) -> list[str]:
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
        .values(superseded_by=successor, state_xid=sa.func.pg_current_xact_id())
        .where(head.account_id == account_id, head.order_id == order_id, head.superseded_by.is_distinct_from(successor))
        .returning(head.version)
    ).scalar_one_or_none()
    if version is not None:
        row = {"account_id": account_id, "order_id": order_id, "version": version}
        tx.execute(sa.insert(order_changes).values(**row, kinds=["order.superseded"], cause="merge"))


def _keep_unreadable(tx: Connection, account_id: UUID, found: Sequence[Unreadable]) -> None:
    table = unreadable_orders.c
    for one in found:
        row = {"account_id": account_id, "sha256": one.sha256, "read_at": one.sent_at, "body": one.body}
        statement = insert(unreadable_orders).values(**row, last_error=one.error)
        again: dict[str, Any] = {
            "readings": table.readings + 1,
            "last_read_at": sa.func.greatest(table.last_read_at, one.sent_at),
            "xid": sa.func.pg_current_xact_id(),
        }
        tx.execute(statement.on_conflict_do_update(index_elements=["account_id", "sha256"], set_=again))


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
