"""What an accountant reads of an order: rows of six tables, and the control totals. PURE.

Money is Decimal, never a float. Sums are kept for each state and currency apart, and each amount counts under its own
currency. What is no amount, or exceeds 15 digits, counts nowhere and is itself counted (`unreadable_amounts`).
"""

from collections import defaultdict
from collections.abc import Iterator
from decimal import Context, Decimal
from typing import Any

from orders_backup.exports import columns, entries, months
from orders_backup.exports.columns import Value, at, items, scalar, text
from orders_backup.exports.kept import Kept, Page

MEASURES = entries.named(
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
            yield [state, currency, *(entries.plain(sums.get(measure, _ZERO)) for measure in MEASURES)]


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
            yield "delivery", entries.delivery(kept, state, order)
        surcharges = _ZERO
        for kind, payment in entries.payments(order):
            measure = "paid_amount" if kind == "payment" else "surcharges_paid"
            paid = self._count(state, measure, at(payment, "paidAmount"))
            surcharges = _EXACT.add(surcharges, paid) if kind == "surcharge" else surcharges
            self._count(state, "reconciliation", at(payment, "reconciliation"))
            yield "payments", entries.payment(kept, state, kind, payment)
        to_pay = self._count(state, "total_to_pay", at(order, "summary", "totalToPay"))
        parts = _EXACT.add(_EXACT.add(lines_total, services), cost)
        difference = _EXACT.subtract(to_pay, parts)
        self.totals.add(state, currency, "difference", difference)
        sums = [entries.plain(one) for one in (lines_total, services, deposits, difference, surcharges)]
        yield "orders", [*entries.head(page, kept, state, order), *entries.money(order, sums), *entries.buyer(order)]

    def refund(self, account_id: Value, body: bytes) -> Iterator[Row]:
        """The row of a refund that was made in the month, by the clock of Warsaw."""
        refund = columns.decoded(body) or {}
        made_at = entries.moment(at(refund, "createdAt"))
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
        row += [*(entries.plain(one) for one in (total, discount, deposit)), *(scalar(value) for value in tax)]
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
            quantity, amounts = entries.number(at(line, "quantity")), (entries.number(original), entries.number(price))
            off = None
            if quantity is not None and amounts[0] is not None and amounts[1] is not None:
                off = entries.plain(_EXACT.multiply(_EXACT.subtract(amounts[0], amounts[1]), quantity))
            yield [*head, "price", columns.discounts(line), off, text(at(line, "price", "currency"))]
        reconciled = at(line, "reconciliation")
        if isinstance(reconciled, dict):
            yield [*head, "reconciliation", *entries.typed(reconciled)]
        for voucher in items(at(line, "vouchers")):
            self._count(state, "vouchers", at(voucher, "value"))
            yield [*head, "voucher", *entries.typed(voucher)]

    def _count(self, state: str, measure: str, money: Any) -> Decimal:
        """An amount with its currency, added to the measure; nothing where there is none."""
        currency = text(at(money, "currency"))
        amount = self._number(state, currency, at(money, "amount"))
        if money is not None:
            self.totals.add(state, currency, measure, amount)
        return amount

    def _number(self, state: str, currency: str, value: Any) -> Decimal:
        number = entries.number(value)
        if number is None and value is not None:
            self.totals.add(state, currency, "unreadable_amounts", Decimal(1))
        return number or _ZERO


def _state(kept: Kept, document: dict[str, Any] | None) -> str:
    if document is None:
        return "unreadable"
    if kept.superseded_by is not None:
        return "superseded"
    return STATES.get(text(document.get("status")), "other")
