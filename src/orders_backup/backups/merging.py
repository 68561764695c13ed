"""Records of an archive as the writers of the orders want them: put back as they were, or told as late readings."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from orders_backup.allegro.wire import Event as JournalEvent
from orders_backup.backups import records
from orders_backup.backups.records import Record
from orders_backup.codec import Codec
from orders_backup.orders import archive, changes, extras, restoring

Batch = Sequence[tuple[Record, bytes]]
CAUSE = "restore"


def put_back(tx: Connection, codec: Codec, account_id: UUID, batch: Batch) -> None:
    """Into an account that has nothing but what came back before: everything as it was."""
    restoring.versions(
        tx, codec, account_id, [_version(r, body) for r, body in batch if isinstance(r, records.Version)]
    )
    restoring.told(tx, account_id, [_change(r) for r, _ in batch if isinstance(r, records.Change)])
    restoring.events(tx, codec, account_id, [_event(r, body) for r, body in batch if isinstance(r, records.Event)])
    restoring.extras(tx, codec, account_id, [_extra(r, body) for r, body in batch if isinstance(r, records.Extra)])
    restoring.unreadable(
        tx, account_id, [_unreadable(r, body) for r, body in batch if isinstance(r, records.Unreadable)]
    )
    restoring.states(tx, account_id, [_state(r) for r, _ in batch if isinstance(r, records.State)])


def add(tx: Connection, codec: Codec, account_id: UUID, batch: Batch) -> int:
    """Into an account that has orders: what it lacks, as readings that come late. Nothing newer is overwritten, nothing
    is stored twice, and nobody is told. How many versions were missing."""
    readings = [
        changes.read(r.read_at, body) for r, body in batch if isinstance(r, records.Version | records.Unreadable)
    ]
    recorded = archive.record(tx, codec, account_id, readings, cause=CAUSE)
    events = [
        JournalEvent(r.event_id, r.event_type, r.occurred_at, r.order_id, [], body)
        for r, body in batch
        if isinstance(r, records.Event)
    ]
    archive.record_events(tx, codec, account_id, events)
    restoring.mark(tx, account_id, [_state(r) for r, _ in batch if isinstance(r, records.State)])
    documents = [
        extras.document(r.kind, r.document_id, r.order_id, r.read_at, body, found=r.found)
        for r, body in batch
        if isinstance(r, records.Extra)
    ]
    extras.record(tx, codec, account_id, documents)
    restoring.untold(tx, account_id)
    return recorded.inserted + recorded.updated


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
