"""The service and its parts as programs, and the schema of its database."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from orders_backup.cli.shared import DataDir, opened
from orders_backup.errors import LocalServiceError

commands = typer.Typer()

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Pulse = Annotated[Path | None, typer.Option(help="A file to touch every two seconds: who stops doing so is frozen.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


@commands.command(epilog="Example: orders-backup up --port 8080 --data-dir /srv/orders-backup")
def up(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    data_dir: DataDir = None,
) -> None:
    """Run the whole service: API, workers, scheduler, and PostgreSQL and the broker where no setting names them."""
    from orders_backup import local

    local.up(local.current_settings(data_dir), host=host, port=port, workers=workers)


@commands.command(epilog="Example: orders-backup api --host 0.0.0.0 --port 8000")
def api(host: Host = "127.0.0.1", port: Port = 8000, data_dir: DataDir = None) -> None:
    """Run the HTTP API alone."""
    _become_module("orders_backup.api", data_dir, "--host", host, "--port", str(port))


@commands.command(epilog="Example: orders-backup worker --concurrency 8")
def worker(
    concurrency: Annotated[int, typer.Option(min=1, help="Tasks at the same time.")] = 8,
    pulse: Pulse = None,
    data_dir: DataDir = None,
) -> None:
    """Run one worker alone. Start it again where it ends by itself: code 70 is a worker that was deaf or stuck."""
    _become_module("orders_backup.worker", data_dir, "worker", "--concurrency", str(concurrency), *_pulse(pulse))


@commands.command(epilog="Example: orders-backup scheduler")
def scheduler(pulse: Pulse = None, data_dir: DataDir = None) -> None:
    """Run the scheduler alone; several are harmless."""
    _become_module("orders_backup.worker", data_dir, "scheduler", *_pulse(pulse))


@commands.command(
    epilog="Example: orders-backup simulator --orders 500 --auto-approve",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def simulator(context: typer.Context, data_dir: DataDir = None) -> NoReturn:  # noqa: ARG001 - every command takes it
    """Run the bundled simulator of Allegro; all options go to `allegro-simulator`."""
    import shutil

    beside = Path(sys.executable).with_name("allegro-simulator")
    program = str(beside) if beside.exists() else shutil.which("allegro-simulator")
    if program is None:
        raise LocalServiceError("The program allegro-simulator is not installed beside this one.")
    os.execv(program, [program, *context.args])  # noqa: S606


def _pulse(file: Path | None) -> list[str]:
    return ["--pulse", str(file)] if file else []


def _become_module(module: str, data_dir: Path | None, *arguments: str) -> NoReturn:
    """The process turns into that module: entry points do not import each other."""
    from orders_backup import local

    settings = local.current_settings(data_dir)
    place = ["--data-dir", str(settings.data_dir)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments, *place])  # noqa: S606


@commands.command(epilog="Example: DATABASE_URL=postgresql://… orders-backup migrate")
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database's schema to the newest revision."""
    from orders_backup import db

    with opened(data_dir) as runtime:
        db.migrate(runtime.db)
    typer.echo("The schema is at the newest revision.")
