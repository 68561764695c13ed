"""Orders as CSV, one row for each line item. PURE."""

from collections.abc import Iterable, Iterator

from orders_backup.exports import columns
from orders_backup.exports.cells import BOM, Lines
from orders_backup.exports.kept import CHUNK_BYTES, Page, Tally

MEDIA_TYPE = "text/csv; charset=utf-8; header=present"
SUFFIX = "csv"
_UNREADABLE = [column.name for column in columns.COLUMNS].index("unreadable")


def stream(pages: Iterable[Page], tally: Tally, *, first: bool = True) -> Iterator[bytes]:
    """The header, where this is the `first` part of the file, and the rows, in chunks."""
    lines = Lines()
    if first:
        lines.row([column.name for column in columns.COLUMNS])
        yield BOM + lines.taken()
    for page in pages:
        for kept, body in page.opened():
            for row in columns.rows(page, kept, body):
                lines.row(row)
                tally.rows += 1
            tally.unreadable += row[_UNREADABLE] is True
            if lines.size >= CHUNK_BYTES:
                yield lines.taken()
        tally.passed(page)
    if lines.size:
        yield lines.taken()
