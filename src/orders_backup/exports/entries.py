"""An order's rows as an accountant gets them: which tables there are, and what stands in their columns. PURE.

Nothing is added up here; that does accounting.py.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from orders_backup.exports import columns, months
from orders_backup.exports.columns import Value, at, items, scalar, text
from orders_backup.exports.kept import Kept, Page

_AMOUNT = re.compile(r"-?\d{1,15}(\.\d{1,6})?")


def named(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


TABLES: dict[str, tuple[str, ...]] = {
    "orders": named(
        """order_id account_id seller_login state status fulfillment_status superseded_by marketplace ordered_at
        ordered_at_utc paid_at currency lines_total services_total deposits_total delivery_cost total_to_pay difference
        payment_type payment_provider paid_amount paid_currency surcharges_paid reconciliation buyer_login buyer_name
        buyer_company buyer_country delivery_country invoice_required invoice_name invoice_nip invoice_tax_ids
        invoice_country"""
    ),
    "lines": named(
        """order_id state line line_item_id offer_id offer_name external_id quantity original_price price currency
        line_total discount_total deposit_total tax_rate tax_subject tax_exemption discounts"""
    ),
    "delivery": named("order_id state method smart cost currency country zip city pickup_point cancelled_at"),
    "discounts": named("order_id state line_item_id kind type amount currency"),
    "payments": named("order_id state kind payment_id type provider finished_at amount currency reconciliation"),
    "refunds": named(
        """refund_id order_id account_id created_at status reason payment_id total currency delivery
        additional_services overpaid"""
    ),
}


def head(page: Page, kept: Kept, state: str, order: dict[str, Any]) -> list[Value]:
    """What names an order: ids, seller, states, times by the clock of Warsaw."""
    paid_at = moment(at(order, "payment", "finishedAt"))
    return [
        kept.order_id,
        str(page.account_id),
        page.seller_login,
        state,
        scalar(at(order, "status")),
        scalar(at(order, "fulfillment", "status")),
        kept.superseded_by,
        scalar(at(order, "marketplace", "id")),
        months.local(kept.ordered_at) if kept.ordered_at else None,
        columns.instant(kept.ordered_at),
        months.local(paid_at) if paid_at else None,
    ]


def money(order: dict[str, Any], sums: list[str]) -> list[Value]:
    """Its amounts as Allegro wrote them, and the sums that were made of them."""
    lines_total, services, deposits, difference, surcharges = sums
    return [
        scalar(at(order, "summary", "totalToPay", "currency")),
        lines_total,
        services,
        deposits,
        scalar(at(order, "delivery", "cost", "amount")),
        scalar(at(order, "summary", "totalToPay", "amount")),
        difference,
        *(scalar(at(order, "payment", *path)) for path in _PAYMENT_PATHS),
        surcharges,
        scalar(at(order, "payment", "reconciliation", "amount")),
    ]


def buyer(order: dict[str, Any]) -> list[Value]:
    """Who bought, where to, and who is invoiced."""
    invoice = at(order, "invoice", "address")
    return [
        scalar(at(order, "buyer", "login")),
        _name(at(order, "buyer")),
        scalar(at(order, "buyer", "companyName")),
        *(scalar(at(order, name, "address", "countryCode")) for name in ("buyer", "delivery")),
        scalar(at(order, "invoice", "required")),
        scalar(at(invoice, "company", "name")) or _name(at(invoice, "naturalPerson")),
        columns.nip(order),
        columns.tax_ids(order),
        scalar(at(invoice, "countryCode")),
    ]


_PAYMENT_PATHS = (("type",), ("provider",), ("paidAmount", "amount"), ("paidAmount", "currency"))


def delivery(kept: Kept, state: str, order: dict[str, Any]) -> list[Value]:
    """The row of its delivery."""
    found = at(order, "delivery")
    paths = (
        ("method", "name"),
        ("smart",),
        ("cost", "amount"),
        ("cost", "currency"),
        ("address", "countryCode"),
        ("address", "zipCode"),
        ("address", "city"),
        ("pickupPoint", "id"),
        ("cancellation", "date"),
    )
    return [kept.order_id, state, *(scalar(at(found, *path)) for path in paths)]


def payments(order: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The payment and the surcharges of an order, each with its kind."""
    if at(order, "payment") is not None:
        yield "payment", at(order, "payment")
    for surcharge in items(at(order, "surcharges")):
        yield "surcharge", surcharge


def payment(kept: Kept, state: str, kind: str, paid: Any) -> list[Value]:
    """The row of a payment or a surcharge."""
    finished_at = moment(at(paid, "finishedAt"))
    return [
        kept.order_id,
        state,
        kind,
        *(scalar(at(paid, name)) for name in ("id", "type", "provider")),
        months.local(finished_at) if finished_at else None,
        *(scalar(at(paid, *path)) for path in _PAYMENT_PATHS[2:]),
        scalar(at(paid, "reconciliation", "amount")),
    ]


def typed(one: dict[str, Any]) -> list[Value]:
    """Type, amount and currency of a reconciliation or voucher."""
    return [scalar(at(one, "type")), *(scalar(at(one, "value", name)) for name in ("amount", "currency"))]


def _name(person: Any) -> str | None:
    return " ".join(filter(None, (text(at(person, name)) for name in ("firstName", "lastName")))) or None


def number(value: Any) -> Decimal | None:
    """An amount or a quantity; None where it is none, or has more than 15 digits before the point."""
    return Decimal(str(value)) if not isinstance(value, bool) and _AMOUNT.fullmatch(str(value)) else None


def plain(amount: Decimal) -> str:
    """An amount as digits, never with an exponent."""
    return format(amount, "f")


def moment(value: Any) -> datetime | None:
    """A time as Allegro writes it; None where it is none, or names no zone."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo and 1 < found.year < 9999 else None
