"""What a reading means: new, changed, the same, or late; and which kinds of change. PURE: no I/O, no clock."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

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
    """A version as a late reading is compared with it."""

    read_at: datetime
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Late:
    """What a late reading adds. `returns`: after it the order was seen again as the head has it, and the head's
    bytes have to be a version once more, or the past would show the late one where the head was confirmed."""

    is_news: bool
    returns: bool


def read(sent_at: datetime, body: bytes) -> Reading | Unreadable:
    """A reading of these bytes."""
    digest = hashlib.sha256(body).digest()
    facts = wire.order_facts(body)
    return Unreadable(sent_at, body, digest) if facts is None else Reading(sent_at, body, digest, facts)


def unreadable(sent_at: datetime, body: bytes, error: str) -> Unreadable:
    """Bytes that are known to be no order, and why."""
    return Unreadable(sent_at, body, hashlib.sha256(body).digest(), error)


def judge(head: Head | None, reading: Reading) -> Verdict:
    """Same bytes are no new version; an older reading never overwrites a newer one."""
    if head is None:
        return Verdict.NEW
    if reading.sent_at < head.read_at:
        return Verdict.LATE
    return Verdict.SAME if reading.sha256 == head.sha256 else Verdict.CHANGED


def place(kept: Sequence[Kept], reading: Reading) -> Late:
    """A late reading shows a state we do not hold if it differs from the versions just before and after it."""
    before = max((one for one in kept if one.read_at <= reading.sent_at), key=lambda one: one.read_at, default=None)
    after = min((one for one in kept if one.read_at > reading.sent_at), key=lambda one: one.read_at, default=None)
    is_news = all(one is None or one.sha256 != reading.sha256 for one in (before, after))
    return Late(is_news, returns=is_news and after is None)


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
