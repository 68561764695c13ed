"""What an accountant reads of an order: rows of six tables, and the control totals. PURE.

Money is Decimal, never a float. Sums are kept for each state and currency apart, and each amount counts under its own
currency. What is no amount, or exceeds 15 digits, counts nowhere and is itself counted (`unreadable_amounts`).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from decimal import Context, Decimal
from typing import Any

from orders_backup.exports import columns, months
from orders_backup.exports.columns import Value, at, items, scalar, text
from orders_backup.exports.kept import Kept, Page


def _named(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


TABLES: dict[str, tuple[str, ...]] = {
    "orders": _named(
        """order_id account_id seller_login state status fulfillment_status superseded_by marketplace ordered_at
        ordered_at_utc paid_at currency lines_total services_total deposits_total delivery_cost total_to_pay difference
        payment_type payment_provider paid_amount paid_currency surcharges_paid reconciliation buyer_login buyer_name
        buyer_company buyer_country delivery_country invoice_required invoice_name invoice_nip invoice_tax_ids
        invoice_country"""
    ),
    "lines": _named(
        """order_id state line line_item_id offer_id offer_name external_id quantity original_price price currency
        line_total discount_total deposit_total tax_rate tax_subject tax_exemption discounts"""
    ),
    "delivery": _named("order_id state method smart cost currency country zip city pickup_point cancelled_at"),
    "discounts": _named("order_id state line_item_id kind type amount currency"),
    "payments": _named("order_id state kind payment_id type provider finished_at amount currency reconciliation"),
    "refunds": _named(
        """refund_id order_id account_id created_at status reason payment_id total currency delivery
        additional_services overpaid"""
    ),
}
MEASURES = _named(
    """orders lines lines_total services_total deposits_total delivery_cost total_to_pay difference discount_total
    vouchers paid_amount surcharges_paid reconciliation refunds refunds_total unreadable_amounts"""
)
STATES = {
    "READY_FOR_PROCESSING": "sale",
    "BOUGHT": "unpaid",
    "FILLED_IN": "unpaid",
    "CANCELLED": "cancelled",
}
REFUND_STATES = {"SUCCESS": "refund", "PARTIAL": "refund", "CANCELED": "refund_void", "VALIDATE_FAILED": "refund_void"}

_EXACT = Context(prec=60)
_AMOUNT = re.compile(r"-?\d{1,15}(\.\d{1,6})?")
_ZERO = Decimal(0)

Row = tuple[str, list[Value]]
"""The name of a table and the values of its columns."""


class Totals:
    """The control totals: of each state and currency the sum of each measure."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))

    def add(self, state: str, currency: str, measure: str, amount: Decimal) -> None:
        sums = self._sums[state, currency]
        sums[measure] = _EXACT.add(sums[measure], amount)

    def rows(self) -> Iterator[list[Value]]:
        for (state, currency), sums in sorted(self._sums.items()):
            yield [state, currency, *(_plain(sums.get(measure, _ZERO)) for measure in MEASURES)]


class Ledger:
    """Turns orders and refunds into rows, and adds up what it saw."""

    def __init__(self, month: str) -> None:
        self._from, self._until = months.bounds(month)
        self.totals = Totals()

    def order(self, page: Page, kept: Kept, body: bytes | None) -> Iterator[Row]:
        """The rows of one order in the tables it concerns."""
        document = columns.decoded(body)
        order = document or {}
        state = _state(kept, document)
        currency = text(at(order, "summary", "totalToPay", "currency"))
        lines = [line for line in items(at(order, "lineItems")) if isinstance(line, dict)]
        self.totals.add(state, currency, "orders", Decimal(1))
        lines_total = services = deposits = _ZERO
        for number, line in enumerate(lines, 1):
            row, total, deposit = self._line(kept, state, number, line)
            yield "lines", row
            lines_total, deposits = _EXACT.add(lines_total, total), _EXACT.add(deposits, deposit)
            services = _EXACT.add(services, self._services(state, line))
            yield from (("discounts", discount) for discount in self._discounts(kept, state, line))
        cost = self._count(state, "delivery_cost", at(order, "delivery", "cost"))
        if at(order, "delivery") is not None:
            yield "delivery", _delivery(kept, state, order)
        surcharges = _ZERO
        for kind, payment in _payments(order):
            measure = "paid_amount" if kind == "payment" else "surcharges_paid"
            paid = self._count(state, measure, at(payment, "paidAmount"))
            surcharges = _EXACT.add(surcharges, paid) if kind == "surcharge" else surcharges
            self._count(state, "reconciliation", at(payment, "reconciliation"))
            yield "payments", _payment(kept, state, kind, payment)
        to_pay = self._count(state, "total_to_pay", at(order, "summary", "totalToPay"))
        parts = _EXACT.add(_EXACT.add(lines_total, services), cost)
        difference = _EXACT.subtract(to_pay, parts)
        self.totals.add(state, currency, "difference", difference)
        sums = [_plain(one) for one in (lines_total, services, deposits, difference, surcharges)]
        yield "orders", [*_head(page, kept, state, order), *_money(order, sums), *_buyer(order)]

    def refund(self, account_id: Value, body: bytes) -> Iterator[Row]:
        """The row of a refund that was made in the month, by the clock of Warsaw."""
        refund = columns.decoded(body) or {}
        made_at = _moment(at(refund, "createdAt"))
        if made_at is None or not self._from <= made_at < self._until:
            return
        currency = text(at(refund, "totalValue", "currency"))
        state = REFUND_STATES.get(text(at(refund, "status")), "refund_open")
        self.totals.add(state, currency, "refunds", Decimal(1))
        self._count(state, "refunds_total", at(refund, "totalValue"))
        own = [at(refund, name, "value", "amount") for name in ("delivery", "additionalServices", "overpaid")]
        head = [at(refund, "id"), at(refund, "order", "id"), account_id, months.local(made_at)]
        rest = [at(refund, "status"), at(refund, "reason"), at(refund, "payment", "id")]
        total = [at(refund, "totalValue", "amount"), currency]
        yield "refunds", [scalar(value) for value in [*head, *rest, *total, *own]]

    def _line(self, kept: Kept, state: str, number: int, line: dict[str, Any]) -> tuple[list[Value], Decimal, Decimal]:
        currency = text(at(line, "price", "currency"))
        quantity = self._number(state, currency, at(line, "quantity"))
        price = self._number(state, currency, at(line, "price", "amount"))
        original = self._number(state, currency, at(line, "originalPrice", "amount"))
        total = _EXACT.multiply(price, quantity)
        discount = _EXACT.subtract(_EXACT.multiply(original, quantity), total) if at(line, "originalPrice") else _ZERO
        deposit = _EXACT.multiply(self._number(state, currency, at(line, "deposit", "price", "amount")), quantity)
        for measure, amount in (
            ("lines", Decimal(1)),
            ("lines_total", total),
            ("discount_total", discount),
            ("deposits_total", deposit),
        ):
            self.totals.add(state, currency, measure, amount)
        named = [at(line, "id"), *(at(line, "offer", *path) for path in (("id",), ("name",), ("external", "id")))]
        prices = [at(line, "quantity"), at(line, "originalPrice", "amount"), at(line, "price", "amount"), currency]
        tax = [at(line, "tax", name) for name in ("rate", "subject", "exemption")]
        row = [kept.order_id, state, number, *(scalar(value) for value in [*named, *prices])]
        row += [_plain(total), _plain(discount), _plain(deposit), *(scalar(value) for value in tax)]
        return [*row, columns.discounts(line)], total, deposit

    def _services(self, state: str, line: dict[str, Any]) -> Decimal:
        """Additional services, such as gift wrapping."""
        sum_ = _ZERO
        for one in items(at(line, "selectedAdditionalServices")):
            currency = text(at(one, "price", "currency"))
            number = at(one, "quantity")
            quantity = Decimal(1) if number is None else self._number(state, currency, number)
            amount = _EXACT.multiply(self._number(state, currency, at(one, "price", "amount")), quantity)
            self.totals.add(state, currency, "services_total", amount)
            sum_ = _EXACT.add(sum_, amount)
        return sum_

    def _discounts(self, kept: Kept, state: str, line: dict[str, Any]) -> Iterator[list[Value]]:
        """What lowered the price, what Allegro pays of it, and vouchers. How much each of several kinds took off a
        price Allegro does not say."""
        head: list[Value] = [kept.order_id, state, text(at(line, "id"))]
        price, original = at(line, "price", "amount"), at(line, "originalPrice", "amount")
        if columns.discounts(line) or (original is not None and original != price):
            quantity, amounts = _number(at(line, "quantity")), (_number(original), _number(price))
            off = None
            if quantity is not None and amounts[0] is not None and amounts[1] is not None:
                off = _plain(_EXACT.multiply(_EXACT.subtract(amounts[0], amounts[1]), quantity))
            yield [*head, "price", columns.discounts(line), off, text(at(line, "price", "currency"))]
        reconciled = at(line, "reconciliation")
        if isinstance(reconciled, dict):
            yield [*head, "reconciliation", *_typed(reconciled)]
        for voucher in items(at(line, "vouchers")):
            self._count(state, "vouchers", at(voucher, "value"))
            yield [*head, "voucher", *_typed(voucher)]

    def _count(self, state: str, measure: str, money: Any) -> Decimal:
        """An amount with its currency, added to the measure; nothing where there is none."""
        currency = text(at(money, "currency"))
        amount = self._number(state, currency, at(money, "amount"))
        if money is not None:
            self.totals.add(state, currency, measure, amount)
        return amount

    def _number(self, state: str, currency: str, value: Any) -> Decimal:
        number = _number(value)
        if number is None and value is not None:
            self.totals.add(state, currency, "unreadable_amounts", Decimal(1))
        return number or _ZERO


def _state(kept: Kept, document: dict[str, Any] | None) -> str:
    if document is None:
        return "unreadable"
    if kept.superseded_by is not None:
        return "superseded"
    return STATES.get(text(document.get("status")), "other")


def _head(page: Page, kept: Kept, state: str, order: dict[str, Any]) -> list[Value]:
    paid_at = _moment(at(order, "payment", "finishedAt"))
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


def _money(order: dict[str, Any], sums: list[str]) -> list[Value]:
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


def _buyer(order: dict[str, Any]) -> list[Value]:
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


def _delivery(kept: Kept, state: str, order: dict[str, Any]) -> list[Value]:
    delivery = at(order, "delivery")
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
    return [kept.order_id, state, *(scalar(at(delivery, *path)) for path in paths)]


def _payments(order: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if at(order, "payment") is not None:
        yield "payment", at(order, "payment")
    for surcharge in items(at(order, "surcharges")):
        yield "surcharge", surcharge


def _payment(kept: Kept, state: str, kind: str, payment: Any) -> list[Value]:
    finished_at = _moment(at(payment, "finishedAt"))
    return [
        kept.order_id,
        state,
        kind,
        *(scalar(at(payment, name)) for name in ("id", "type", "provider")),
        months.local(finished_at) if finished_at else None,
        *(scalar(at(payment, *path)) for path in _PAYMENT_PATHS[2:]),
        scalar(at(payment, "reconciliation", "amount")),
    ]


def _typed(one: dict[str, Any]) -> list[Value]:
    return [scalar(at(one, "type")), *(scalar(at(one, "value", name)) for name in ("amount", "currency"))]


def _name(person: Any) -> str | None:
    return " ".join(filter(None, (text(at(person, name)) for name in ("firstName", "lastName")))) or None


def _number(value: Any) -> Decimal | None:
    return Decimal(str(value)) if not isinstance(value, bool) and _AMOUNT.fullmatch(str(value)) else None


def _plain(amount: Decimal) -> str:
    return format(amount, "f")


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo and 1 < moment.year < 9999 else None
