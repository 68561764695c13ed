"""The only writer of what belongs to orders: documents, their versions, when to look; in the caller's transaction.

The rules are those of the orders: exact bytes, the same bytes make no version, an older reading never overwrites a
newer one, versions are only ever added.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup.codec import Codec
from orders_backup.orders import changes
from orders_backup.orders.changes import Head, Kept, Verdict
from orders_backup.tables import order_extra_versions, order_extras

Key = tuple[str, str]
"""Kind and id of a document."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document as Allegro served it. `order_id` None: it names no order; `found`: there is something in it;
    `due_at`: when it has to be asked for again, None: not by itself."""

    kind: str
    document_id: str
    order_id: str | None
    sent_at: datetime
    body: bytes
    sha256: bytes
    found: bool
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Look:
    """An order that has to be asked for a kind at `due_at`; None: not any more."""

    kind: str
    order_id: str
    due_at: datetime | None


@dataclass(slots=True)
class Recorded:
    """How many documents were new, changed or known. `told`: order and kind of those whose change is news."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    told: list[tuple[str, str]] = field(default_factory=list)


def document(
    kind: str,
    document_id: str | None,
    order_id: str | None,
    sent_at: datetime,
    body: bytes,
    *,
    found: bool,
    due_at: datetime | None = None,
) -> Document:
    """A document of these bytes; one that names no id is filed under its hash."""
    digest = hashlib.sha256(body).digest()
    return Document(kind, document_id or f"sha256:{digest.hex()}", order_id, sent_at, body, digest, found, due_at)


def record(tx: Connection, codec: Codec, account_id: UUID, documents: Sequence[Document]) -> Recorded:
    """Stores what is new in these readings of one account."""
    _lock(tx, account_id)
    recorded = Recorded()
    distinct = {(one.kind, one.document_id, one.sha256, one.sent_at): one for one in documents}
    heads = _heads(tx, account_id, {(one.kind, one.document_id) for one in documents})
    rows: dict[Key, dict[str, Any]] = {}
    versions: list[dict[str, Any]] = []
    late: list[dict[str, Any]] = []
    for one in distinct.values():
        key = (one.kind, one.document_id)
        head, verdict = heads.get(key), changes.judge(heads.get(key), one)
        if verdict is Verdict.LATE and not _is_news(tx, account_id, one):
            recorded.unchanged += 1
            continue
        heads[key] = _next(head, one, verdict)
        if verdict is not Verdict.LATE:
            rows[key] = _row(account_id, one, heads[key])
        if verdict is Verdict.SAME:
            recorded.unchanged += 1
            continue
        (late if verdict is Verdict.LATE else versions).append(_version(account_id, codec, one, heads[key].versions))
        recorded.inserted += head is None
        recorded.updated += head is not None
        if one.order_id is not None and (head is not None or one.found):
            recorded.told.append((one.order_id, f"order.{one.kind}_changed"))
    _write(tx, list(rows.values()), versions + late)
    _count(tx, late)
    return recorded


def schedule(tx: Connection, account_id: UUID, looks: Iterable[Look]) -> None:
    """When orders have to be asked for; what was read stays as it is."""
    rows = [
        {
            "account_id": account_id,
            "kind": look.kind,
            "document_id": look.order_id,
            "order_id": look.order_id,
            "version": 0,
            "versions": 0,
            "due_at": look.due_at,
        }
        for look in looks
    ]
    if not rows:
        return
    statement = insert(order_extras)
    changed = {"due_at": statement.excluded.due_at}
    tx.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=changed), rows)


def postpone(
    tx: Connection, account_id: UUID, key: Key, *, due_at: datetime | None, failures: int, error: str | None
) -> None:
    """An order could not be asked, or answered with nothing to keep."""
    table = order_extras.c
    tx.execute(
        sa.update(order_extras)
        .values(due_at=due_at, failures=failures, last_error=error)
        .where(table.account_id == account_id, table.kind == key[0], table.document_id == key[1])
    )


_KEY = ["account_id", "kind", "document_id"]


def _lock(tx: Connection, account_id: UUID) -> None:
    """One recorder an account at a time; another lock than that of the orders, which never wait for this."""
    tx.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:account, 2))"), {"account": str(account_id)})


def _heads(tx: Connection, account_id: UUID, keys: set[Key]) -> dict[Key, Head]:
    """The heads of those of these documents that were ever read."""
    table = order_extras.c
    query = sa.select(table.kind, table.document_id, table.version, table.sha256, table.read_at, table.versions).where(
        table.account_id == account_id,
        table.kind.in_({kind for kind, _ in keys}),
        table.document_id.in_([document_id for _, document_id in keys]),
        table.version > 0,
    )
    return {(row[0], row[1]): Head(*row[2:]) for row in tx.execute(query)}


def _is_news(tx: Connection, account_id: UUID, late: Document) -> bool:
    """Whether a late reading shows a state that we do not hold."""
    table = order_extra_versions.c
    query = sa.select(table.read_at, table.sha256, table.version).where(
        table.account_id == account_id, table.kind == late.kind, table.document_id == late.document_id
    )
    return changes.place([Kept(*row) for row in tx.execute(query)], late).is_news


def _next(head: Head | None, one: Document, verdict: Verdict) -> Head:
    """The head after this reading."""
    if head is None:
        return Head(1, one.sha256, one.sent_at, 1)
    if verdict is Verdict.LATE:
        return Head(head.version, head.sha256, head.read_at, head.versions + 1)
    if verdict is Verdict.SAME:
        return Head(head.version, head.sha256, one.sent_at, head.versions)
    return Head(head.versions + 1, one.sha256, one.sent_at, head.versions + 1)


def _row(account_id: UUID, one: Document, head: Head) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "kind": one.kind,
        "document_id": one.document_id,
        "order_id": one.order_id,
        "version": head.version,
        "versions": head.versions,
        "sha256": head.sha256,
        "read_at": head.read_at,
        "found": one.found,
        "due_at": one.due_at,
    }


def _version(account_id: UUID, codec: Codec, one: Document, number: int) -> dict[str, Any]:
    dictionary_id, body = codec.compress(one.body)
    return {
        "account_id": account_id,
        "kind": one.kind,
        "document_id": one.document_id,
        "version": number,
        "read_at": one.sent_at,
        "size": len(one.body),
        "sha256": one.sha256,
        "dictionary_id": dictionary_id,
        "body": body,
    }


def _write(tx: Connection, rows: list[dict[str, Any]], versions: list[dict[str, Any]]) -> None:
    if versions:
        tx.execute(sa.insert(order_extra_versions), versions)
    if not rows:
        return
    statement = insert(order_extras)
    new = statement.excluded
    changed: dict[str, Any] = {
        name: new[name] for name in ("version", "versions", "sha256", "read_at", "found", "due_at")
    }
    changed |= {"order_id": sa.func.coalesce(new.order_id, order_extras.c.order_id), "failures": 0, "last_error": None}
    tx.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=changed), rows)


def _count(tx: Connection, late: list[dict[str, Any]]) -> None:
    """A late version changes nothing about its head but their number."""
    statement = sa.text("""
        UPDATE order_extras SET versions = greatest(versions, :version)
         WHERE account_id = :account_id AND kind = :kind AND document_id = :document_id
    """)
    for one in late:
        tx.execute(statement, {name: one[name] for name in (*_KEY, "version")})
