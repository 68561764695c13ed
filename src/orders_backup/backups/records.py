"""The lines of an archive's file: what was stored, with the exact bytes. PURE.

A record is one line of JSON. Where it has a `size` and no `base64`, the line after it is the document itself, byte for
byte; else the document stands in `base64`, because it is no JSON, or holds the end of a line.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from orders_backup.errors import BackupDamagedError


class Version(msgspec.Struct, tag="version", tag_field="record", omit_defaults=True, frozen=True):
    """A version of an order, and what the change feed said of it."""

    order_id: str
    version: int
    read_at: datetime
    stored_at: datetime
    kinds: list[str]
    cause: str
    sha256: str
    size: int
    replaced_seen_at: datetime | None = None
    base64: str | None = None


class Change(msgspec.Struct, tag="change", tag_field="record", frozen=True):
    """An entry of the change feed that stored no version."""

    order_id: str
    version: int
    kinds: list[str]
    cause: str
    stored_at: datetime


class State(msgspec.Struct, tag="state", tag_field="record", frozen=True):
    """What became of an order; the newest such record of an order holds."""

    order_id: str
    gone_at: datetime | None
    superseded_by: str | None


class Event(msgspec.Struct, tag="event", tag_field="record", omit_defaults=True, frozen=True):
    """An event of Allegro's journal."""

    event_id: str
    stored_at: datetime
    size: int
    order_id: str | None = None
    event_type: str | None = None
    occurred_at: datetime | None = None
    processed_at: datetime | None = None
    base64: str | None = None


class Extra(msgspec.Struct, tag="extra", tag_field="record", omit_defaults=True, frozen=True):
    """A version of a document beside an order."""

    kind: str
    document_id: str
    version: int
    read_at: datetime
    stored_at: datetime
    sha256: str
    size: int
    found: bool = False
    order_id: str | None = None
    base64: str | None = None


class Unreadable(msgspec.Struct, tag="unreadable", tag_field="record", omit_defaults=True, frozen=True):
    """Bytes that came as an order and name no id; the newest record of a SHA-256 holds."""

    sha256: str
    read_at: datetime
    readings: int
    size: int
    last_read_at: datetime | None = None
    last_error: str | None = None
    acknowledged_at: datetime | None = None
    acknowledged_reason: str | None = None
    base64: str | None = None


Bare = Change | State
WithBody = Version | Event | Extra | Unreadable
Record = Bare | WithBody

_DECODER = msgspec.json.Decoder(Record)
_ENCODER = msgspec.json.Encoder()


def lines(record: Record, body: bytes | None = None) -> bytes:
    """The record as it stands in the file, with the document that belongs to it."""
    if body is None or isinstance(record, Change | State):
        return _ENCODER.encode(record) + b"\n"
    if _is_a_line(body):
        return _ENCODER.encode(record) + b"\n" + body + b"\n"
    return _ENCODER.encode(msgspec.structs.replace(record, base64=base64.b64encode(body).decode())) + b"\n"


def read(chunks: Iterable[bytes]) -> Iterator[tuple[Record, bytes]]:
    """The records of a file with their documents (of those that have none, no bytes). Raises BackupDamagedError."""
    found = _split(chunks)
    for line in found:
        try:
            record = _DECODER.decode(line)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise BackupDamagedError(f"A line of the archive is no record: {type(error).__name__}.") from None
        body = b"" if isinstance(record, Change | State) else _body(record, found)
        yield record, body


def _body(record: WithBody, following: Iterator[bytes]) -> bytes:
    try:
        body = next(following, b"") if record.base64 is None else base64.b64decode(record.base64, validate=True)
    except binascii.Error:
        body = b""
    if len(body) != record.size:
        raise BackupDamagedError("A document of the archive does not have the size that its record tells.")
    return body


def _is_a_line(body: bytes) -> bool:
    """Whether every reader of JSON Lines takes the bytes as a line."""
    if b"\n" in body or b"\r" in body:
        return False
    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends. A last line without an end was cut off."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        raise BackupDamagedError("The file ends in the middle of a line.")
