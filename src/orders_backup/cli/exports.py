"""Orders written to a file or to stdout."""

import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from orders_backup.cli.shared import DataDir, acting, opened
from orders_backup.errors import InvalidRequestError

TOLD_EVERY = 1.0
"""Seconds between two lines of progress."""

orders = typer.Typer(
    help="The orders in the archive.", epilog="Example: orders-backup orders export --format csv", no_args_is_help=True
)


@orders.callback()
def _group() -> None:
    """The orders in the archive."""


class Format(StrEnum):
    """How the orders are written; the accountant's pack is a ZIP of CSV files of one month."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    accountant = "accountant"


@orders.command(
    "export", epilog="Example: orders-backup orders export --format accountant --month 2026-06 --output june.zip"
)
def export_orders(  # noqa: PLR0917 - one option per filter
    format: Annotated[Format, typer.Option(help="How they are written.")] = Format.jsonl,  # noqa: A002
    output: Annotated[Path | None, typer.Option(help="The file to write; else stdout.")] = None,
    user_id: Annotated[uuid.UUID | None, typer.Option(help="Of one user alone.")] = None,
    account_id: Annotated[uuid.UUID | None, typer.Option(help="Of one account alone.")] = None,
    status: Annotated[str | None, typer.Option(help="Such as READY_FOR_PROCESSING.")] = None,
    fulfillment_status: Annotated[str | None, typer.Option(help="Such as SENT.")] = None,
    buyer_login: Annotated[str | None, typer.Option(help="Of one buyer alone.")] = None,
    marketplace: Annotated[str | None, typer.Option(help="Such as allegro-cz.")] = None,
    ordered_from: Annotated[str | None, typer.Option(help="First moment; UTC unless it names a zone.")] = None,
    ordered_to: Annotated[str | None, typer.Option(help="Moment after the last one.")] = None,
    updated_from: Annotated[str | None, typer.Option(help="The same of Allegro's updatedAt.")] = None,
    updated_to: Annotated[str | None, typer.Option(help="Moment after the last one.")] = None,
    q: Annotated[str | None, typer.Option(help="Words that have to be found, as in the list of orders.")] = None,
    month: Annotated[str | None, typer.Option(help="2026-06: bought in it, by the clock of Warsaw.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write all orders of the filter, as they are known now. Progress goes to stderr where that is a terminal."""
    from orders_backup.cli.orders import instant
    from orders_backup.exports import formats
    from orders_backup.exports.kept import Tally

    given: dict[str, object] = {
        "user_id": user_id,
        "account_id": account_id,
        "status": status,
        "fulfillment_status": fulfillment_status,
        "buyer_login": buyer_login,
        "marketplace": marketplace,
        "q": q,
        "month": month,
    }
    moments: dict[str, datetime | None] = {
        "ordered_from": instant(ordered_from, "--ordered-from"),
        "ordered_to": instant(ordered_to, "--ordered-to"),
        "updated_from": instant(updated_from, "--updated-from"),
        "updated_to": instant(updated_to, "--updated-to"),
    }
    asked, tally = formats.asked(format.value, {**given, **moments}, seen_by=None), Tally()
    with opened(data_dir) as runtime, _written(output) as file:
        for chunk in formats.chunks(runtime.db, runtime.codec, asked, tally, seen=_Progress().saw):
            file.write(chunk)
    if output is not None:
        typer.echo(f"{tally.orders} orders, {tally.unreadable} of them unreadable, in {output}", err=True)


@orders.command("rebuild", epilog="Example: orders-backup orders rebuild")
def rebuild_orders(
    account_id: Annotated[uuid.UUID | None, typer.Option(help="Of one account alone.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make columns, projections and words of all orders anew from their archived bytes, while the service runs."""
    from orders_backup.orders import rebuild

    progress = _Progress()
    with acting(data_dir, "rebuild_orders", account_id=account_id) as runtime:
        for orders in rebuild.rebuild(runtime.db, runtime.codec, account_id):
            progress.saw(orders)
    typer.echo(f"{progress.orders} orders rebuilt.")


class _Progress:
    """Tells a person how many orders went by."""

    def __init__(self) -> None:
        self._began = self._told_at = time.monotonic()
        self.orders = 0

    def saw(self, orders: int) -> None:
        self.orders += orders
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._told_at >= TOLD_EVERY:
            self._told_at = now
            typer.echo(f"{self.orders} orders, {self.orders / (now - self._began):.0f} a second", err=True)


@contextmanager
def _written(output: Path | None) -> Iterator[BinaryIO]:
    """The file under its name only when it is whole; readable by nobody else, because it holds buyers' data."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    draft = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
        draft.replace(output)
    except OSError as error:
        raise InvalidRequestError(f"--output {output}: {error.strerror}.") from None
    finally:
        draft.unlink(missing_ok=True)
