"""Allegro's JSON as it comes: what we act on, picked out of the bytes; the bytes themselves stay untouched. PURE.

Nothing here refuses an order because of a field: a missing, null or unknown value becomes None, and only an
order without a usable id is unreadable.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any, TypeVar

import msgspec

from orders_backup.errors import AllegroAnswerError

T = TypeVar("T")

_ORDER_ID = re.compile(r"[!-~]{1,100}")


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """What an order's columns show. `ordered_at`: the latest purchase of its line items, as Allegro filters."""

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


@dataclass(frozen=True, slots=True)
class Event:
    """One row of /order/events. `event_id` counts microseconds of insertion; `body` is its bytes as they came."""

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


class _Buyer(msgspec.Struct):
    login: Any = None


class _Money(msgspec.Struct):
    amount: Any = None
    currency: Any = None


class _Summary(msgspec.Struct):
    totalToPay: _Money | None = None  # noqa: N815


class _LineItem(msgspec.Struct):
    id: Any = None
    boughtAt: Any = None  # noqa: N815


class _Form(msgspec.Struct):
    id: Any = None
    status: Any = None
    fulfillment: _Status | None = None
    buyer: _Buyer | None = None
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
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_TOTAL_COUNT = re.compile(rb'"totalCount"\s*:\s*(\d{1,9})')
_FIRST_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*"([!#-\[\]-~]{1,100})"')


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
    """The orders of a list page, each as its bytes, and `totalCount`. Raises AllegroAnswerError.

    One order that no strict reader takes (half an emoji in a buyer's message is enough) does not spoil its page.
    """
    try:
        page = _order_page.decode(body)
    except _UNREADABLE:
        forms, rest = _cut(body, "checkoutForms")
        total = _TOTAL_COUNT.search(rest)
        if total is None:
            raise AllegroAnswerError("Allegro's answer is not the JSON it should be: it has no totalCount.") from None
        return forms, int(total[1])
    return [bytes(form) for form in page.checkoutForms], page.totalCount


def event_page(body: bytes) -> list[Event]:
    """The events of a page in Allegro's order. An event without a usable id raises AllegroAnswerError."""
    try:
        events = [bytes(raw) for raw in _event_page.decode(body).events]
    except _UNREADABLE:
        events, _ = _cut(body, "events")
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
        form = _form_of_another_shape(body)
    order_id = text(form.id)
    if order_id is None or not _ORDER_ID.fullmatch(order_id):
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
    )


def documents(body: bytes, name: str) -> list[bytes]:
    """The elements of the array `name` of an answer, each as its bytes; null is an empty one. Raises AllegroAnswerError
    where there is no such array."""
    try:
        held = _object.decode(body)
    except _UNREADABLE:
        return _cut(body, name)[0]
    try:
        return [bytes(one) for one in _array.decode(held[name]) or []]
    except (KeyError, *_UNREADABLE):
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
        found = _document.decode(body)
    except _UNREADABLE:
        value = _leniently(body)
        match = _FIRST_ID.match(body)
        names = value if isinstance(value, dict) else {"id": match[1].decode() if match else None}
        found = _Document(id=names.get("id"), orderId=names.get("orderId"), order=names.get("order"))
    order_id = found.orderId if found.orderId is not None else found.order
    order_id = order_id.get("id") if isinstance(order_id, dict) else order_id
    return _usable(found.id), _usable(order_id)


def _usable(value: object) -> str | None:
    found = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return found if _ORDER_ID.fullmatch(found) else None


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


def _form_of_another_shape(body: bytes) -> _Form:
    """As much of an order as a lenient reader gets: all of it, or the id alone."""
    value = _leniently(body)
    try:
        return msgspec.convert(value, _Form)
    except (msgspec.ValidationError, UnicodeError):
        pass
    if isinstance(value, dict):
        return _Form(id=value.get("id"))
    match = _FIRST_ID.match(body)
    return _Form(id=match[1].decode() if match else None)


def _leniently(body: bytes) -> object:
    """The value as Python's own reader takes it, lone surrogates included; None where it cannot either."""
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError):
        return None


def _cut(body: bytes, name: str) -> tuple[list[bytes], bytes]:
    """The objects of a top-level array, found by brackets alone, and the page without them."""
    found, depth, key, opened, start, span = [], 0, b"", False, 0, (0, 0)
    for token in _TOKENS.finditer(body):
        sign = token[0][:1]
        if sign == b'"':
            key = token[0] if depth == 1 else key
        elif sign in b"[{":
            depth += 1
            if depth == 2 and key == f'"{name}"'.encode():
                opened, span = True, (token.end(), token.end())
            elif depth == 3 and opened:
                start = token.start()
        else:
            if depth == 3 and opened:
                found.append(body[start : token.end()])
                span = (span[0], token.end())
            depth -= 1
            opened = opened and depth > 1
    if depth != 0 or span[0] == 0:
        raise AllegroAnswerError("Allegro's answer is not the JSON it should be: it was cut off.")
    return found, body[: span[0]] + body[span[1] :]


def _ids(items: list[_LineItem]) -> list[str]:
    return [found for item in items if (found := text(item.id))]


def _event_of(body: bytes) -> Event:
    try:
        event = _event.decode(body)
    except _UNREADABLE:
        event = _event_of_another_shape(body)
    event_id = text(event.id)
    if event_id is None or not _ORDER_ID.fullmatch(event_id):
        raise AllegroAnswerError("An event without an id arrived; the journal page was not taken.")
    order = event.order or _EventOrder()
    return Event(
        event_id=event_id,
        event_type=text(event.type),
        occurred_at=instant(event.occurredAt),
        order_id=text(order.checkoutForm.id) if order.checkoutForm else None,
        line_item_ids=_ids(order.lineItems or []),
        body=body,
    )


def _event_of_another_shape(body: bytes) -> _Event:
    """As much of an event as a lenient reader gets: all of it, or the id alone."""
    try:
        return msgspec.convert(_leniently(body), _Event)
    except (msgspec.ValidationError, UnicodeError):
        match = _FIRST_ID.match(body)
        return _Event(id=match[1].decode() if match else None)


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except _UNREADABLE as error:
        raise AllegroAnswerError(f"Allegro's answer is not the JSON it should be: {type(error).__name__}.") from None
