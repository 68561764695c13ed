"""Allegro's JSON as it comes: what we act on, picked out of the bytes; the bytes themselves stay untouched. PURE.

Nothing here refuses an order because of a field: a missing, null or unknown value becomes None, and only an
order without a usable id is unreadable.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from math import inf
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from orders_backup.allegro import scan
from orders_backup.errors import AllegroAnswerError, AllegroUnreadableError

T = TypeVar("T")

_ORDER_ID = re.compile(r"[!-~]{1,100}")


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """What an order's columns show. `ordered_at`: the latest purchase of its line items, as Allegro filters; `names`:
    of people, companies and offers, with tax ids; `emails`: of the buyer."""

    order_id: str
    status: str | None
    fulfillment_status: str | None
    buyer_login: str | None
    marketplace: str | None
    ordered_at: datetime | None
    updated_at: datetime | None
    total: str | None
    currency: str | None
    line_item_ids: list[str]
    names: list[str]
    emails: list[str]


@dataclass(frozen=True, slots=True)
class Event:
    """One row of /order/events. `event_id` counts microseconds of insertion; `body` is its bytes as they came.

    An event that names no usable id is known by the digest of its bytes.
    """

    event_id: str
    event_type: str | None
    occurred_at: datetime | None
    order_id: str | None
    line_item_ids: list[str]
    body: bytes


class _Id(msgspec.Struct):
    id: Any = None


class _Status(msgspec.Struct):
    status: Any = None


class _Person(msgspec.Struct):
    firstName: Any = None  # noqa: N815
    lastName: Any = None  # noqa: N815
    companyName: Any = None  # noqa: N815


class _Buyer(_Person):
    login: Any = None
    email: Any = None


class _Delivery(msgspec.Struct):
    address: _Person | None = None


class _TaxId(msgspec.Struct):
    value: Any = None


class _Company(msgspec.Struct):
    name: Any = None
    taxId: Any = None  # noqa: N815
    ids: list[_TaxId] | None = None


class _InvoiceAddress(msgspec.Struct):
    company: _Company | None = None
    naturalPerson: _Person | None = None  # noqa: N815


class _Invoice(msgspec.Struct):
    address: _InvoiceAddress | None = None


class _Name(msgspec.Struct):
    name: Any = None


class _Money(msgspec.Struct):
    amount: Any = None
    currency: Any = None


class _Summary(msgspec.Struct):
    totalToPay: _Money | None = None  # noqa: N815


class _LineItem(msgspec.Struct):
    id: Any = None
    boughtAt: Any = None  # noqa: N815
    offer: _Name | None = None


class _Form(msgspec.Struct):
    id: Any = None
    status: Any = None
    fulfillment: _Status | None = None
    buyer: _Buyer | None = None
    delivery: _Delivery | None = None
    invoice: _Invoice | None = None
    marketplace: _Id | None = None
    summary: _Summary | None = None
    lineItems: list[_LineItem] | None = None  # noqa: N815
    updatedAt: Any = None  # noqa: N815


class _EventOrder(msgspec.Struct):
    checkoutForm: _Id | None = None  # noqa: N815
    lineItems: list[_LineItem] | None = None  # noqa: N815


class _Event(msgspec.Struct):
    id: Any = None
    type: Any = None
    occurredAt: Any = None  # noqa: N815
    order: _EventOrder | None = None


class _OrderPage(msgspec.Struct):
    checkoutForms: list[msgspec.Raw]  # noqa: N815
    totalCount: int  # noqa: N815


class _EventPage(msgspec.Struct):
    events: list[msgspec.Raw]


class _LatestEvent(msgspec.Struct):
    latestEvent: _Event | None = None  # noqa: N815


class _Me(msgspec.Struct):
    id: Any
    login: Any = None


_NO_NUMBERS = (inf, -inf)
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_COUNT = re.compile(rb"\d{1,9}")
MOST_ORDERS = 10**8
"""No seller has that many; a larger count is nonsense, and would not fit its column."""


class _Shipment(msgspec.Struct):
    waybill: Any = None


class _Shipments(msgspec.Struct):
    shipments: list[_Shipment] | None = None


class _Document(msgspec.Struct):
    id: Any = None
    orderId: Any = None  # noqa: N815
    order: Any = None


_form = msgspec.json.Decoder(_Form)
_document = msgspec.json.Decoder(_Document)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_count = msgspec.json.Decoder(int | None)
_array = msgspec.json.Decoder(list[msgspec.Raw] | None)
_event = msgspec.json.Decoder(_Event)
_order_page = msgspec.json.Decoder(_OrderPage)
_event_page = msgspec.json.Decoder(_EventPage)
_latest_event = msgspec.json.Decoder(_LatestEvent)
_me = msgspec.json.Decoder(_Me)


def order_page(body: bytes) -> tuple[list[bytes], int]:
    """The orders of a list page, each as its bytes, and `totalCount`. Raises AllegroUnreadableError.

    One order that no strict reader takes (half an emoji in a buyer's message is enough) does not spoil its page, as
    long as its brackets end as they began.
    """
    try:
        page = _order_page.decode(body)
        orders, total = [bytes(form) for form in page.checkoutForms], page.totalCount
    except _UNREADABLE:
        orders, total = _order_page_of_another_shape(body)
    if not 0 <= total <= MOST_ORDERS:
        raise AllegroUnreadableError("Allegro's answer is not the JSON it should be: its totalCount is none.", body)
    return orders, total


def whole(body: bytes) -> bytes:
    """The bytes of a single order. Raises AllegroUnreadableError where they do not end as they began: what is cut off
    is no order, whatever it says."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except _UNREADABLE:
        _members(body, body)
    return body


def event_page(body: bytes) -> list[Event]:
    """The events of a page in Allegro's order. Raises AllegroAnswerError where these cannot be told apart."""
    try:
        events = [bytes(raw) for raw in _event_page.decode(body).events]
    except _UNREADABLE:
        events = _elements(_members(body, body).get(b'"events"', b""), body)
    return [_event_of(event) for event in events]


def latest_event_id(body: bytes) -> str | None:
    """The newest event's id of /order/event-stats; None where there was no event for 60 days."""
    latest = _read(_latest_event.decode, body).latestEvent
    return None if latest is None else text(latest.id)


def seller(body: bytes) -> tuple[str, str]:
    """Id and login of /me. Raises AllegroAnswerError."""
    me = _read(_me.decode, body)
    seller_id = text(me.id)
    if seller_id is None:
        raise AllegroAnswerError("Allegro's answer is not the JSON it should be: /me names no id.")
    return seller_id, text(me.login) or seller_id


def order_facts(body: bytes) -> OrderFacts | None:
    """What an order's bytes say; None where they name no usable order id, so that nothing can be filed under it."""
    try:
        form = _form.decode(body)
    except _UNREADABLE:
        try:
            form = _salvaged(_Form, body)
        except ValueError:
            return None
    order_id = _usable_id(form.id)
    if order_id is None:
        return None
    items = form.lineItems or []
    total = form.summary.totalToPay if form.summary else None
    bought = [moment for moment in (instant(item.boughtAt) for item in items) if moment]
    return OrderFacts(
        order_id=order_id,
        status=text(form.status),
        fulfillment_status=text(form.fulfillment.status) if form.fulfillment else None,
        buyer_login=text(form.buyer.login) if form.buyer else None,
        marketplace=text(form.marketplace.id) if form.marketplace else None,
        ordered_at=max(bought, default=None),
        updated_at=instant(form.updatedAt),
        total=text(total.amount) if total else None,
        currency=text(total.currency) if total else None,
        line_item_ids=_ids(items),
        names=_names(form, items),
        emails=_texts([form.buyer.email if form.buyer else None]),
    )


def _names(form: _Form, items: Sequence[_LineItem]) -> list[str]:
    address = form.invoice.address if form.invoice else None
    company = address.company if address else None
    people = (form.buyer, form.delivery and form.delivery.address, address and address.naturalPerson)
    found = [form.buyer.login] if form.buyer else []
    for one in people:
        found += [one.firstName, one.lastName, one.companyName] if one else []
    if company:
        found += [company.name, company.taxId, *(one.value for one in company.ids or ())]
    return _texts([*found, *(item.offer.name for item in items if item.offer)])


def _texts(values: Iterable[object]) -> list[str]:
    return [found for value in values if value is not None and (found := text(value))]


def tracking_numbers(body: bytes) -> list[str]:
    """Those of an order's shipments."""
    try:
        return _texts(one.waybill for one in _salvaged(_Shipments, body).shipments or ())
    except ValueError:
        return []


def documents(body: bytes, name: str) -> list[bytes]:
    """The elements of the array `name` of an answer, each as its bytes; null is an empty one. Raises AllegroAnswerError
    where there is no such array."""
    try:
        held = scan.members(body)[f'"{name}"'.encode()]
        return [] if held == b"null" else scan.elements(held)
    except (KeyError, ValueError):
        raise AllegroAnswerError(f"Allegro's answer is not the JSON it should be: it has no list {name}.") from None


def counted(body: bytes) -> int:
    """How many rows an answer says there are, by its `totalCount` or its `count`; 0 where it does not say."""
    try:
        held = _object.decode(body)
        return max([_count.decode(held[name]) or 0 for name in ("totalCount", "count") if name in held], default=0)
    except _UNREADABLE:
        return 0


def document_ids(body: bytes) -> tuple[str | None, str | None]:
    """The id of a return or refund and that of its order; None for what names none that can be used."""
    try:
        found = _salvaged(_Document, body)
    except ValueError:
        return None, None
    order_id = found.orderId if found.orderId is not None else found.order
    return _usable_id(found.id), _usable_id(order_id.get("id") if isinstance(order_id, dict) else order_id)


def text(value: object) -> str | None:
    """A string as a text column can hold it, at most 500 characters; None for what is no string or number."""
    if isinstance(value, str) and value.isascii() and len(value) <= 500 and "\x00" not in value:
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value in _NO_NUMBERS:
        return None
    return str(value)[:500].replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def instant(value: object) -> datetime | None:
    """An RFC 3339 moment in UTC; None where it is missing, without a zone, or no moment at all."""
    if not isinstance(value, str):
        return None
    try:
        moment = msgspec.convert(value, datetime)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (msgspec.ValidationError, OverflowError):
        return None


def _order_page_of_another_shape(body: bytes) -> tuple[list[bytes], int]:
    members = _members(body, body)
    total = members.get(b'"totalCount"', b"")
    if not _COUNT.fullmatch(total):
        raise AllegroUnreadableError("Allegro's answer is not the JSON it should be: it has no totalCount.", body)
    return _elements(members.get(b'"checkoutForms"', b""), body), int(total)


def _members(value: bytes, answer: bytes) -> dict[bytes, bytes]:
    try:
        return scan.members(value)
    except ValueError:
        raise AllegroUnreadableError("Allegro's answer is not the JSON it should be: it was cut off.", answer) from None


def _elements(value: bytes, answer: bytes) -> list[bytes]:
    try:
        return scan.elements(value)
    except ValueError:
        raise AllegroUnreadableError("Allegro's answer is not the JSON it should be: it has no list.", answer) from None


def _salvaged(shape: Any, body: bytes) -> Any:
    """As much of a value as can be read, each member for itself: what one of them holds never costs the others."""
    try:
        return msgspec.json.decode(body, type=shape)
    except _UNREADABLE:
        pass
    if shape is Any:
        return _leniently(body)
    if get_origin(shape) is list:
        found = (_salvaged(get_args(shape)[0], element) for element in scan.elements(body))
        return [one for one in found if one is not None]
    members, values = scan.members(body), {}
    for name, inner in _fields(shape).items():
        try:
            values[name] = _salvaged(inner, members[f'"{name}"'.encode()])
        except (KeyError, ValueError):
            values[name] = None
    return shape(**values)


@cache
def _fields(shape: type[msgspec.Struct]) -> dict[str, Any]:
    """What each field of a shape is where it is not null."""
    hints = get_type_hints(shape)
    return {name: hint if hint is Any else get_args(hint)[0] for name, hint in hints.items()}


def _leniently(body: bytes) -> object:
    """The value as Python's own reader takes it, lone surrogates included; None where it cannot either."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _ids(items: list[_LineItem]) -> list[str]:
    return [found for item in items if (found := text(item.id))]


def _event_of(body: bytes) -> Event:
    try:
        event = _event.decode(body)
    except _UNREADABLE:
        try:
            event = _salvaged(_Event, body)
        except ValueError:
            event = _Event()
    order = event.order or _EventOrder()
    return Event(
        event_id=_usable_id(event.id) or f"sha256:{hashlib.sha256(body).hexdigest()}",
        event_type=text(event.type),
        occurred_at=instant(event.occurredAt),
        order_id=text(order.checkoutForm.id) or None if order.checkoutForm else None,
        line_item_ids=_ids(order.lineItems or []),
        body=body,
    )


def _usable_id(value: object) -> str | None:
    """Printable ASCII without spaces, or a whole number; None for what nothing can be filed under."""
    found = value if isinstance(value, str) else None if isinstance(value, float) else text(value)
    return found if found is not None and _ORDER_ID.fullmatch(found) else None


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except _UNREADABLE as error:
        raise AllegroAnswerError(f"Allegro's answer is not the JSON it should be: {type(error).__name__}.") from None
