"""Allegro's JSON as it comes: what we act on, picked out of the bytes; the bytes themselves stay untouched. PURE.

Nothing here refuses an order because of a field: a missing, null or unknown value becomes None, and only an
order without a usable id is unreadable.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
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
    id: str
    login: str


_form = msgspec.json.Decoder(_Form)
_loose = msgspec.json.Decoder()
_event = msgspec.json.Decoder(_Event)
_order_page = msgspec.json.Decoder(_OrderPage)
_event_page = msgspec.json.Decoder(_EventPage)
_latest_event = msgspec.json.Decoder(_LatestEvent)
_me = msgspec.json.Decoder(_Me)


def order_page(body: bytes) -> tuple[list[bytes], int]:
    """The orders of a list page, each as its bytes, and `totalCount`. Raises AllegroAnswerError."""
    page = _read(_order_page.decode, body)
    return [bytes(form) for form in page.checkoutForms], page.totalCount


def event_page(body: bytes) -> list[Event]:
    """The events of a page in Allegro's order. An event without a usable id raises AllegroAnswerError."""
    return [_event_of(bytes(raw)) for raw in _read(_event_page.decode, body).events]


def latest_event_id(body: bytes) -> str | None:
    """The newest event's id of /order/event-stats; None where there was no event for 60 days."""
    latest = _read(_latest_event.decode, body).latestEvent
    return None if latest is None else text(latest.id)


def seller(body: bytes) -> tuple[str, str]:
    """Id and login of /me. Raises AllegroAnswerError."""
    me = _read(_me.decode, body)
    return me.id, me.login


def order_facts(body: bytes) -> OrderFacts | None:
    """What an order's bytes say; None where they name no usable order id, so that nothing can be filed under it."""
    try:
        form = _form.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
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


def text(value: object) -> str | None:
    """A string as a text column can hold it, at most 500 characters; None for what is no string or number."""
    if isinstance(value, str) and value.isascii() and len(value) <= 500 and "\x00" not in value:
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
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
    """The id alone, from an order whose known fields are of unknown types, or that only half parses."""
    try:
        value = _loose.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        match = re.match(rb'\s*\{\s*"id"\s*:\s*"([!#-~]{1,100})"', body)
        return _Form(id=match[1].decode() if match else None)
    return _Form(id=value.get("id")) if isinstance(value, dict) else _Form()


def _ids(items: list[_LineItem]) -> list[str]:
    return [found for item in items if (found := text(item.id))]


def _event_of(body: bytes) -> Event:
    event = _read(_event.decode, body)
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


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise AllegroAnswerError(f"Allegro's answer is not the JSON it should be: {type(error).__name__}.") from None
