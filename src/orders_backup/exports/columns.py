"""An order's document as rows of named columns, one row for each line item; what CSV and Parquet share. PURE.

Values are what Allegro wrote: amounts and times are its text, numbers in the document are their digits. Nothing is
computed, nothing goes through a float.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from orders_backup.exports.kept import Kept, Page

Type = Literal["text", "amount", "instant", "integer", "flag"]
Value = str | int | bool | None

_decode = msgspec.json.Decoder(float_hook=str).decode


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and where its value stands in the document (or in one of its `lineItems`)."""

    name: str
    type: Type
    path: tuple[str, ...]


def _columns(listed: str) -> tuple[Column, ...]:
    found = []
    for line in listed.strip().splitlines():
        name, kind, path = line.split()
        found.append(Column(name, kind, tuple(path.split("."))))  # type: ignore[arg-type]
    return tuple(found)


_ORDER = _columns("""
    status text status
    fulfillment_status text fulfillment.status
    marketplace text marketplace.id
    updated_at instant updatedAt
    total_to_pay amount summary.totalToPay.amount
    currency text summary.totalToPay.currency
    buyer_id text buyer.id
    buyer_login text buyer.login
    buyer_email text buyer.email
    buyer_first_name text buyer.firstName
    buyer_last_name text buyer.lastName
    buyer_company text buyer.companyName
    buyer_phone text buyer.phoneNumber
    buyer_country text buyer.address.countryCode
    payment_id text payment.id
    payment_type text payment.type
    payment_provider text payment.provider
    paid_at instant payment.finishedAt
    paid_amount amount payment.paidAmount.amount
    paid_currency text payment.paidAmount.currency
    delivery_method text delivery.method.name
    delivery_cost amount delivery.cost.amount
    delivery_currency text delivery.cost.currency
    delivery_smart flag delivery.smart
    delivery_first_name text delivery.address.firstName
    delivery_last_name text delivery.address.lastName
    delivery_company text delivery.address.companyName
    delivery_street text delivery.address.street
    delivery_city text delivery.address.city
    delivery_zip text delivery.address.zipCode
    delivery_country text delivery.address.countryCode
    delivery_phone text delivery.address.phoneNumber
    pickup_point text delivery.pickupPoint.id
    invoice_required flag invoice.required
    invoice_company text invoice.address.company.name
    invoice_first_name text invoice.address.naturalPerson.firstName
    invoice_last_name text invoice.address.naturalPerson.lastName
    invoice_street text invoice.address.street
    invoice_city text invoice.address.city
    invoice_zip text invoice.address.zipCode
    invoice_country text invoice.address.countryCode
    message_to_seller text messageToSeller
    note text note.text
""")
_LINE = _columns("""
    line_item_id text id
    bought_at instant boughtAt
    offer_id text offer.id
    offer_name text offer.name
    external_id text offer.external.id
    quantity integer quantity
    original_price amount originalPrice.amount
    price amount price.amount
    price_currency text price.currency
    tax_rate amount tax.rate
    tax_subject text tax.subject
    tax_exemption text tax.exemption
""")


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to pick many values of one document: each object on the way is looked up once.

    `objects`: of each the number of the object around it (0: the document) and its name there; `values` likewise.
    """

    objects: tuple[tuple[int, str], ...]
    values: tuple[tuple[int, str], ...]

    def picked(self, document: Any) -> list[Value]:
        found: list[dict[str, Any]] = [document if isinstance(document, dict) else {}]
        for around, name in self.objects:
            value = found[around].get(name)
            found.append(value if isinstance(value, dict) else {})
        return [
            value if value is None or isinstance(value, str) else scalar(value)
            for value in [found[around].get(name) for around, name in self.values]
        ]


def _plan(columns: tuple[Column, ...]) -> _Plan:
    places: dict[tuple[str, ...], int] = {(): 0}
    objects: list[tuple[int, str]] = []
    for path in (column.path[:depth] for column in columns for depth in range(1, len(column.path))):
        if path not in places:
            objects.append((places[path[:-1]], path[-1]))
            places[path] = len(objects)
    return _Plan(tuple(objects), tuple((places[column.path[:-1]], column.path[-1]) for column in columns))


_ORDER_PLAN, _LINE_PLAN = _plan(_ORDER), _plan(_LINE)


def _own(*columns: tuple[str, Type]) -> tuple[Column, ...]:
    return tuple(Column(name, kind, ()) for name, kind in columns)


COLUMNS: tuple[Column, ...] = (
    *_own(
        ("order_id", "text"),
        ("account_id", "text"),
        ("seller_login", "text"),
        ("version", "integer"),
        ("read_at", "instant"),
        ("ordered_at", "instant"),
        ("superseded_by", "text"),
        ("gone_at", "instant"),
        ("unreadable", "flag"),
    ),
    *_ORDER,
    *_own(("invoice_nip", "text"), ("invoice_tax_ids", "text"), ("lines", "integer"), ("line", "integer")),
    *_LINE,
    *_own(("discounts", "text")),
)


def rows(page: Page, kept: Kept, body: bytes | None) -> Iterator[list[Value]]:
    """The values of COLUMNS, one row for each line item; one row without a line where the order has none, and one
    without a document where its bytes are no JSON object."""
    order = decoded(body)
    head: list[Value] = [
        kept.order_id,
        str(page.account_id),
        page.seller_login,
        kept.version,
        instant(kept.read_at),
        instant(kept.ordered_at),
        kept.superseded_by,
        instant(kept.gone_at),
        order is None,
    ]
    order = order or {}
    head += _ORDER_PLAN.picked(order)
    lines = items(at(order, "lineItems"))
    head += [nip(order), tax_ids(order), len(lines)]
    for number, line in enumerate(lines, 1):
        yield [*head, number, *_LINE_PLAN.picked(line), discounts(line)]
    if not lines:
        yield [*head, *(None for _ in range(len(_LINE) + 2))]


def decoded(body: bytes | None) -> dict[str, Any] | None:
    """The document; None where the bytes are no JSON object."""
    try:
        found = _decode(body or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def at(value: Any, *path: str) -> Any:
    """What stands at the path; None where the way there breaks off."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def items(value: Any) -> list[Any]:
    """A list's elements; none where it is no list."""
    return value if isinstance(value, list) else []


def scalar(value: Any) -> Value:
    """A value for one cell: what is no scalar there, against all expectation, as JSON."""
    if value is None or isinstance(value, str | int):
        return value
    return msgspec.json.encode(value).decode()


def text(value: Any) -> str:
    """A value of a list of words."""
    return "" if value is None else str(scalar(value))


def instant(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def nip(order: dict[str, Any]) -> str | None:
    """The Polish tax number on the invoice, in the field of today or in the one before it."""
    company = at(order, "invoice", "address", "company")
    named = [text(at(one, "value")) for one in items(at(company, "ids")) if at(one, "type") == "PL_NIP"]
    return next(iter(named), None) or (text(at(company, "taxId")) if not items(at(company, "ids")) else "") or None


def tax_ids(order: dict[str, Any]) -> str | None:
    """Every tax number on the invoice with its type: `CZ_ICO:00000019 VAT_EU:CZ00000019`."""
    ids = items(at(order, "invoice", "address", "company", "ids"))
    return " ".join(f"{text(at(one, 'type'))}:{text(at(one, 'value'))}" for one in ids) or None


def discounts(line: dict[str, Any]) -> str | None:
    """The kinds of discount in the line's price: `BUNDLE COUPON`."""
    return " ".join(text(at(one, "type")) for one in items(at(line, "discounts"))) or None
