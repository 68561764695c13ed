"""The accountant's pack: a month as a ZIP of CSV files. One pass over the orders, through files on the disk."""

import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import IO

from orders_backup.exports import accounting, entries
from orders_backup.exports.cells import BOM, Lines
from orders_backup.exports.columns import Value
from orders_backup.exports.kept import CHUNK_BYTES, Page, Tally

MEDIA_TYPE = "application/zip"
SUFFIX = "zip"
_IN_MEMORY = 1024 * 1024

README = """The orders of {month}, by the clock of Warsaw: those bought from its first to its last moment, as they
are known now; and the refunds that were made in it. UTF-8, comma-separated, amounts with a decimal point.

orders.csv     one row an order. state: sale (ready for processing), unpaid (bought, filled in), cancelled,
               superseded (Allegro merged it into superseded_by: do not count it), unreadable, other.
               difference = total_to_pay - lines_total - services_total - delivery_cost; 0 where all is told.
               paid_amount is Allegro's: a surcharge does not raise it, and stands in surcharges_paid.
lines.csv      one row a line item: line_total = price x quantity, discount_total = what was taken off it.
delivery.csv   one row an order with a delivery. smart: Allegro Smart! pays, cost is what the buyer paid.
discounts.csv  price: the kinds of discount in a line's price, and what they took off together. reconciliation: what
               Allegro pays of it (BILLING: on the invoice, WALLET: with the payment). voucher: vouchers used.
payments.csv   one row a payment and one a surcharge.
refunds.csv    refunds made in this month, of whatever month their order is; kept where the account keeps refunds.
totals.csv     the sums of the above by state and currency. unreadable_amounts: amounts that could not be read and
               count nowhere; a 0 says that there is none. refund: paid back, in whole or in part; refund_open: not
               yet; refund_void: cancelled or refused.
"""


def stream(pages: Iterable[Page], refunds: Iterable[tuple[str, bytes]], tally: Tally, *, month: str) -> Iterator[bytes]:
    """The ZIP in chunks; the first comes when all orders were read."""
    ledger = accounting.Ledger(month)
    with ExitStack() as stack:
        tables = {name: _Table(stack, header) for name, header in entries.TABLES.items()}
        for page in pages:
            for kept, body in page.opened():
                for name, row in ledger.order(page, kept, body):
                    tables[name].row(row)
                    tally.unreadable += name == "orders" and row[_STATE] == "unreadable"
            tally.passed(page)
        for account_id, body in refunds:
            for name, row in ledger.refund(account_id, body):
                tables[name].row(row)
        totals = tables["totals"] = _Table(stack, ("state", "currency", *accounting.MEASURES))
        for row in ledger.totals.rows():
            totals.row(row)
        tally.rows += tables["lines"].rows
        yield from _zipped(tables, README.format(month=month))


_STATE = entries.TABLES["orders"].index("state")


class _Table:
    """A CSV file that grows; small ones stay in memory."""

    def __init__(self, stack: ExitStack, header: tuple[str, ...]) -> None:
        self.file: IO[bytes] = stack.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 - the stack closes it
        self.rows = 0
        self._lines = Lines()
        self.file.write(BOM)
        self._lines.row(header)

    def row(self, values: list[Value]) -> None:
        self._lines.row(values)
        self.rows += 1
        if self._lines.size >= CHUNK_BYTES:
            self.file.write(self._lines.taken())

    def content(self) -> Iterator[bytes]:
        self.file.write(self._lines.taken())
        self.file.seek(0)
        while chunk := self.file.read(CHUNK_BYTES):
            yield chunk


class _Sink:
    """A file that only goes forward, and gives back what was written."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, content: bytes) -> int:
        self._written.append(bytes(content))
        return len(content)

    def flush(self) -> None:
        """Nothing waits."""

    def taken(self) -> bytes:
        taken, self._written = b"".join(self._written), []
        return taken


def _zipped(tables: dict[str, _Table], readme: str) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        archive.writestr(_entry("README.txt"), readme)
        for name, table in tables.items():
            with archive.open(_entry(f"{name}.csv"), "w", force_zip64=True) as entry:
                for chunk in table.content():
                    entry.write(chunk)
                    yield sink.taken()
    yield sink.taken()


def _entry(name: str) -> zipfile.ZipInfo:
    """Always of the same age, so that the same month gives the same bytes."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry
