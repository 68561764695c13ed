"""Which formats there are, and one way to all of them: what was asked for becomes chunks of bytes."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy.engine import Engine

from orders_backup.codec import Codec
from orders_backup.errors import InvalidRequestError
from orders_backup.exports import csv_lines, jsonl, months, pack, parquet, reading
from orders_backup.exports.kept import Page, Place, Tally
from orders_backup.orders import words
from orders_backup.orders.queries import Filter

T = TypeVar("T")
Name = Literal["jsonl", "csv", "parquet", "accountant"]


@dataclass(frozen=True, slots=True)
class Format:
    """`splits`: one export may be several files; `joins`: those are one file when put one behind the other."""

    media_type: str
    suffix: str
    splits: bool
    joins: bool


FORMATS: dict[str, Format] = {
    "jsonl": Format(jsonl.MEDIA_TYPE, jsonl.SUFFIX, splits=True, joins=True),
    "csv": Format(csv_lines.MEDIA_TYPE, csv_lines.SUFFIX, splits=True, joins=True),
    "parquet": Format(parquet.MEDIA_TYPE, parquet.SUFFIX, splits=True, joins=False),
    "accountant": Format(pack.MEDIA_TYPE, pack.SUFFIX, splits=False, joins=True),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants: a format, which orders, and the `month` where one was named."""

    format: str
    filter: Filter
    month: str | None


def asked(name: str, given: dict[str, Any], *, seen_by: uuid.UUID | None) -> Asked:
    """What a caller named, understood; `given` holds fields of Filter, and `month`. Raises InvalidRequestError."""
    if name == "parquet":
        parquet.need()
    fields = {key: value for key, value in given.items() if value is not None}
    month = fields.pop("month", None)
    wanted = replace(msgspec.convert(fields, Filter), seen_by=seen_by)
    if wanted.q is not None:
        words.question(wanted.q)
    if month is None:
        if name == "accountant":
            raise InvalidRequestError("month: the accountant's pack is of one month; name it, as 2026-06.")
        return Asked(name, wanted, None)
    if wanted.ordered_from or wanted.ordered_to:
        raise InvalidRequestError("month: it stands for ordered_from and ordered_to; name either.")
    begin, end = months.bounds(month)
    return Asked(name, replace(wanted, ordered_from=begin, ordered_to=end), month)


def chunks(
    db: Engine,
    codec: Codec,
    wanted: Asked,
    tally: Tally,
    *,
    after: Place | None = None,
    limit: int | None = None,
    first: bool = True,
    seen: Callable[[int], None] = lambda _: None,
) -> Iterator[bytes]:
    """The file, or the part of it that has at most `limit` orders after a place. `seen` is told of every page how many
    orders it brings, and of every refund, which brings none."""
    pages = _watched(reading.walk(db, codec, wanted.filter, after=after, limit=limit), seen)
    if wanted.format == "jsonl":
        return jsonl.stream(pages, tally)
    if wanted.format == "csv":
        return csv_lines.stream(pages, tally, first=first)
    if wanted.format == "parquet":
        return parquet.stream(pages, tally)
    assert wanted.month is not None  # noqa: S101 - `asked` saw to it
    since, _ = months.bounds(wanted.month)
    refunds = _watched(reading.refunds(db, codec, wanted.filter, since=since), seen)
    return pack.stream(pages, refunds, tally, month=wanted.month)


def _watched(things: Iterable[T], seen: Callable[[int], None]) -> Iterator[T]:
    for thing in things:
        seen(len(thing.orders) if isinstance(thing, Page) else 0)
        yield thing
