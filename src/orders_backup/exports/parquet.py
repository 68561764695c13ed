"""Orders as Parquet: the columns of the CSV with their types. Amounts are decimals, times are UTC. Needs pyarrow."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from orders_backup.errors import InvalidRequestError
from orders_backup.exports import columns
from orders_backup.exports.columns import Type, Value
from orders_backup.exports.kept import Page, Tally

if TYPE_CHECKING:
    import pyarrow as pa

MEDIA_TYPE = "application/vnd.apache.parquet"
SUFFIX = "parquet"
BATCH_ROWS = 2_000
GROUP_ROWS = 10_000
"""Python's values become Arrow's after each batch; a row group is what a reader has to hold at once."""
PRECISION, SCALE = 18, 4

_AMOUNT = re.compile(r"-?\d{1,14}(\.\d{1,4})?")
_INTEGER = range(-(2**63), 2**63)


def need() -> None:
    """Raises InvalidRequestError where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415 - takes a third of a second and 60 MB, for this format alone
    except ImportError:
        raise InvalidRequestError(
            "Parquet needs pyarrow, which is not installed here: pip install 'allegro-orders-backup[parquet]'."
        ) from None


def stream(pages: Iterable[Page], tally: Tally) -> Iterator[bytes]:
    """One file, a row group at a time."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    schema, sink = _schema(), _Sink()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        batches: list[pa.RecordBatch] = []
        for rows in _batches(pages, tally):
            batches.append(_batch(schema, rows, tally))
            if sum(batch.num_rows for batch in batches) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(batches, schema))
                batches = []
                yield sink.taken()
        if batches:
            writer.write_table(pa.Table.from_batches(batches, schema))
    yield sink.taken()


def _batches(pages: Iterable[Page], tally: Tally) -> Iterator[list[list[Value]]]:
    rows: list[list[Value]] = []
    for page in pages:
        for kept, body in page.opened():
            own = list(columns.rows(page, kept, body))
            tally.rows += len(own)
            tally.unreadable += own[0][_UNREADABLE] is True
            rows += own
            if len(rows) >= BATCH_ROWS:
                yield rows
                rows = []
        tally.passed(page)
    if rows:
        yield rows


_UNREADABLE = [column.name for column in columns.COLUMNS].index("unreadable")


def _batch(schema: "pa.Schema", rows: list[list[Value]], tally: Tally) -> "pa.RecordBatch":
    import pyarrow as pa  # noqa: PLC0415

    arrays = []
    for column, field, values in zip(columns.COLUMNS, schema, zip(*rows, strict=True), strict=True):
        typed = [None if value is None else _typed(column.type, value) for value in values]
        tally.left_out += sum(new is None and old is not None for new, old in zip(typed, values, strict=True))
        arrays.append(pa.array(typed, type=field.type))
    return pa.record_batch(arrays, schema=schema)


def _typed(kind: Type, value: str | int | bool) -> Any:
    """The value as the column has it; None where the type cannot hold it exactly."""
    if kind == "text":
        return str(value)
    if kind == "flag":
        return value if isinstance(value, bool) else None
    if kind == "amount":
        return Decimal(str(value)) if _AMOUNT.fullmatch(str(value)) else None
    if kind == "instant":
        return _moment(str(value))
    number = int(value) if isinstance(value, int) or re.fullmatch(r"-?\d{1,19}", value) else None
    return number if number is not None and number in _INTEGER else None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _schema() -> "pa.Schema":
    import pyarrow as pa  # noqa: PLC0415

    types: dict[Type, pa.DataType] = {
        "text": pa.string(),
        "amount": pa.decimal128(PRECISION, SCALE),
        "instant": pa.timestamp("us", tz="UTC"),
        "integer": pa.int64(),
        "flag": pa.bool_(),
    }
    return pa.schema([(column.name, types[column.type]) for column in columns.COLUMNS])


class _Sink:
    """A file for pyarrow that only goes forward, and gives back what was written."""

    closed = False

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, content: Any) -> int:
        self._written.append(bytes(content))
        return len(content)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        taken, self._written = b"".join(self._written), []
        return taken
