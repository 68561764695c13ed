"""Records of an archive as the writers of the orders want them: put back as they were, or told as late readings."""

from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.engine import Connection

from orders_backup.allegro.wire import Event as JournalEvent
from orders_backup.backups import records, state
from orders_backup.backups.records import Record
from orders_backup.codec import Codec
from orders_backup.orders import archive, changes, extras, restoring

Batch = Sequence[tuple[Record, bytes]]
CAUSE = "restore"
Kind = TypeVar("Kind", bound=Record)


def put_back(tx: Connection, codec: Codec, account_id: UUID, batch: Batch) -> None:
    """Into an account that has nothing but what came back before: everything as it was."""
    placed = iter(restoring.versions(tx, codec, account_id, [_version(*one) for one in _of(batch, records.Version)]))
    feed = [
        next(placed) if isinstance(record, records.Version) else _change(record)
        for record, _ in batch
        if isinstance(record, records.Version | records.Change)
    ]
    restoring.told(tx, account_id, [one for one in feed if one is not None])
    restoring.events(tx, codec, account_id, [_event(*one) for one in _of(batch, records.Event)])
    restoring.extras(tx, codec, account_id, [_extra(*one) for one in _of(batch, records.Extra)])
    restoring.unreadable(tx, account_id, [_unreadable(*one) for one in _of(batch, records.Unreadable)])
    restoring.states(tx, account_id, [_state(one) for one, _ in _of(batch, records.State)])


def add(tx: Connection, codec: Codec, account_id: UUID, batch: Batch) -> int:
    """Into an account that has orders: what it lacks, as readings that come late. Nothing newer is overwritten, nothing
    is stored twice, and nobody is told. How many versions were missing."""
    readings = [changes.read(record.read_at, body) for record, body in _of(batch, records.Version)]
    recorded = archive.record(tx, codec, account_id, readings, cause=CAUSE)
    added = recorded.inserted + recorded.updated
    if restoring.versions_told(tx, account_id) > added:  # bytes that return after a late reading are in no archive
        state.again(tx, account_id)
    events = [
        JournalEvent(record.event_id, record.event_type, record.occurred_at, record.order_id, [], body)
        for record, body in _of(batch, records.Event)
    ]
    archive.record_events(tx, codec, account_id, events)
    documents = [
        extras.document(one.kind, one.document_id, one.order_id, one.read_at, body, found=one.found)
        for one, body in _of(batch, records.Extra)
    ]
    extras.record(tx, codec, account_id, documents)
    unreadable = [_unreadable(*one) for one in _of(batch, records.Unreadable)]
    restoring.unreadable(tx, account_id, unreadable, is_empty=False)
    restoring.mark(tx, account_id, [_state(one) for one, _ in _of(batch, records.State)])
    restoring.untold(tx, account_id)
    return added


def _of(batch: Batch, kind: type[Kind]) -> list[tuple[Kind, bytes]]:
    return [(record, body) for record, body in batch if isinstance(record, kind)]


def _change(record: records.Version | records.Change) -> restoring.Change:
    return restoring.Change(record.order_id, record.version, record.kinds, record.cause, record.stored_at)


def _version(record: records.Version, body: bytes) -> restoring.Version:
    return restoring.Version(
        _change(record),
        record.read_at,
        record.stored_at,
        record.replaced_seen_at,
        bytes.fromhex(record.sha256),
        body,
    )


def _event(record: records.Event, body: bytes) -> restoring.Event:
    return restoring.Event(
        record.event_id,
        record.order_id,
        record.event_type,
        record.occurred_at,
        record.stored_at,
        record.processed_at,
        body,
    )


def _extra(record: records.Extra, body: bytes) -> tuple[dict[str, Any], bytes]:
    told = {name: getattr(record, name) for name in ("kind", "document_id", "order_id", "version", "found")}
    moments = {"read_at": record.read_at, "stored_at": record.stored_at}
    return {**told, **moments, "sha256": bytes.fromhex(record.sha256)}, body


def _unreadable(record: records.Unreadable, body: bytes) -> dict[str, Any]:
    told = ("read_at", "readings", "last_read_at", "last_error", "acknowledged_at", "acknowledged_reason")
    return {**{name: getattr(record, name) for name in told}, "sha256": bytes.fromhex(record.sha256), "body": body}


def _state(record: records.State) -> dict[str, Any]:
    return {"order_id": record.order_id, "gone_at": record.gone_at, "superseded_by": record.superseded_by}
