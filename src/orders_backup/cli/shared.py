"""What the commands share: options, the runtime they work with, how they print."""

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orders_backup.runtime import Runtime

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="DATA_DIR", show_default="./.orders-backup", help="Where the embedded default keeps its data."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
AccountId = Annotated[uuid.UUID, typer.Argument(help="The account's id, as `accounts list` prints it.")]


@contextmanager
def opened(data_dir: Path | None) -> "Iterator[Runtime]":
    from orders_backup import local, runtime

    log_to_stderr()
    built = runtime.build(local.current_settings(data_dir), pool_size=2)
    try:
        yield built
    finally:
        built.close()


@contextmanager
def acting(data_dir: Path | None, act: str, **target: object) -> "Iterator[Runtime]":
    """The same for a command that changes something: noted in the audit log before, and how it ended after."""
    from orders_backup import audit, db
    from orders_backup.errors import OrdersBackupError

    told = {name: str(value) for name, value in target.items() if value is not None}
    with opened(data_dir) as runtime:
        with db.transaction(runtime.db) as tx:
            seq = audit.begin(tx, actor=person(), act=act, target=told)
        status = 500
        try:
            yield runtime
            status = 200
        except OrdersBackupError as error:
            status = error.status
            raise
        finally:
            with db.transaction(runtime.db) as tx:
                audit.end(tx, seq, status=status)


def person() -> str:
    """Who types, as the audit log names them."""
    import getpass

    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli:unknown"


def log_to_stderr() -> None:
    """Warnings only: stdout belongs to what was asked for."""
    from orders_backup import log

    log.configure(log_format="console", level="WARNING", stream=sys.stderr)


def log_crash(error: Exception) -> None:
    """A failure that nobody foresaw, as every process tells of one."""
    import structlog

    from orders_backup import log

    log_to_stderr()
    structlog.get_logger().critical("process_crashed", **log.told(error))


def print_json(value: object) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_rows(value: object, lines: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json(value)
    elif lines:
        typer.echo("\n".join(lines))
