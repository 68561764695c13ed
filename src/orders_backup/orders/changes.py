"""What a reading means: new, changed, the same, or late; and which kinds of change. PURE: no I/O, no clock."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

import msgspec

from orders_backup.allegro import wire

VOLATILE = frozenset({"updatedAt", "revision"})
"""Fields whose change alone tells nothing; the version is kept all the same."""

_KIND_BY_FIELD = {
    "status": "order.status_changed",
    "payment": "order.payment_changed",
    "surcharges": "order.payment_changed",
    "summary": "order.payment_changed",
    "delivery": "order.delivery_changed",
    "fulfillment": "order.fulfillment_changed",
}
OTHER = "order.other_changed"


class Seen(Protocol):
    """Bytes as a head compares them: when the request for them was sent, and their hash."""

    @property
    def sent_at(self) -> datetime: ...
    @property
    def sha256(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """One order as Allegro served it. `sent_at`: when the request was sent; `body`: the exact bytes."""

    sent_at: datetime
    body: bytes
    sha256: bytes
    facts: wire.OrderFacts


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes that arrived as an order and name no order id. They are kept, and shown as set aside."""

    sent_at: datetime
    body: bytes
    sha256: bytes
    error: str = "These bytes name no order id."


@dataclass(frozen=True, slots=True)
class Head:
    """What the archive holds of an order: its newest version, when that was last read, how many there are."""

    version: int
    sha256: bytes
    read_at: datetime
    versions: int


class Verdict(Enum):
    """What a reading is to the archive."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Kept:
    """A moment at which the archive knows what an order looked like: a reading that made version `version`, or one
    that found that version unchanged (`confirms`)."""

    read_at: datetime
    sha256: bytes
    version: int
    confirms: bool = False


@dataclass(frozen=True, slots=True)
class Late:
    """What a late reading adds. `follows`: what was seen before it. `returns`: after it the order was seen again as a
    version we hold, and that one's bytes have to be a version once more, or the past would show the late one where
    another was confirmed."""

    is_news: bool
    follows: Kept | None = None
    returns: Kept | None = None


def read(sent_at: datetime, body: bytes) -> Reading | Unreadable:
    """A reading of these bytes."""
    digest = hashlib.sha256(body).digest()
    facts = wire.order_facts(body)
    return Unreadable(sent_at, body, digest) if facts is None else Reading(sent_at, body, digest, facts)


def unreadable(sent_at: datetime, body: bytes, error: str) -> Unreadable:
    """Bytes that are known to be no order, and why."""
    return Unreadable(sent_at, body, hashlib.sha256(body).digest(), error)


def judge(head: Head | None, reading: Seen) -> Verdict:
    """Same bytes are no new version; an older reading never overwrites a newer one."""
    if head is None:
        return Verdict.NEW
    if reading.sent_at < head.read_at:
        return Verdict.LATE
    return Verdict.SAME if reading.sha256 == head.sha256 else Verdict.CHANGED


def place(kept: Sequence[Kept], reading: Seen) -> Late:
    """A late reading shows a state we do not hold if it differs from what was seen just before and just after it."""
    before = max((one for one in kept if one.read_at <= reading.sent_at), key=lambda one: one.read_at, default=None)
    after = min((one for one in kept if one.read_at > reading.sent_at), key=lambda one: one.read_at, default=None)
    is_news = all(one is None or one.sha256 != reading.sha256 for one in (before, after))
    return Late(is_news, before, after if is_news and after is not None and after.confirms else None)


def kinds(before: bytes, after: bytes) -> list[str]:
    """The derived kinds of change from one version to the next, sorted; never empty."""
    old, new = _fields(before), _fields(after)
    if old is None or new is None:
        return [OTHER]
    differing = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)} - VOLATILE
    found = {_KIND_BY_FIELD.get(name, OTHER) for name in differing}
    if "status" in differing and new.get("status") == "CANCELLED":
        found.add("order.cancelled")
    if _fulfillment_status(new) == "RETURNED" != _fulfillment_status(old):
        found.add("order.returned")
    return sorted(found) or [OTHER]


def _fields(body: bytes) -> dict[str, object] | None:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _fulfillment_status(order: dict[str, object]) -> object:
    fulfillment = order.get("fulfillment")
    return fulfillment.get("status") if isinstance(fulfillment, dict) else None
