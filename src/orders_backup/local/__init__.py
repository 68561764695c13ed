"""The embedded default: PostgreSQL and Valkey from wheels, our own processes, one command. Nothing of orders.

A data directory holds `postgres/`, `broker/`, `logs/`, `secrets.json` (made once, never again), `lock` (held by the
`up` that runs) and `running.json` (where it can be reached, for the other commands).
"""

import errno
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from orders_backup.errors import LocalServiceError, SettingsError
from orders_backup.local import directory, processes
from orders_backup.local.broker import start as start_broker
from orders_backup.local.directory import current_settings
from orders_backup.local.postgres import start as start_postgres
from orders_backup.local.processes import Child, Say
from orders_backup.local.server import Server
from orders_backup.settings import Settings

__all__ = ["Server", "current_settings", "need_credentials", "start_broker", "start_postgres", "up"]

SIMULATOR_URL = "http://127.0.0.1:8090"
REGISTER_AT = {
    "production": "https://apps.developer.allegro.pl",
    "sandbox": "https://apps.developer.allegro.pl.allegrosandbox.pl",
}

START_WITHIN = 60.0
STOP_WITHIN = 15.0
"""Seconds that API, workers and scheduler get to become ready, and to finish what they do."""


def say_on_stdout(line: str) -> None:
    with suppress(OSError):  # the terminal may be gone; the service goes on
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


NOT_TOLD = {"DATA_DIR", "DATABASE_URL", "BROKER_URL", "ENCRYPTION_KEYS"}
"""What other commands do not learn from running.json: they find it elsewhere, or the user keeps it himself."""


def up(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    say: Say = say_on_stdout,
) -> None:
    """Runs the whole service until SIGINT, SIGTERM or SIGHUP; from the main thread only.

    Starts its own PostgreSQL and broker where the settings name none. Raises SettingsError without Allegro's
    credentials; LocalServiceError where the data directory is locked, the port busy, a program missing or failing.
    """
    need_credentials(settings)
    began, address = time.monotonic(), service_url(host, port)
    data_dir = directory.prepared(settings.data_dir)
    with ExitStack() as stack:
        stop, hurry = stack.enter_context(processes.stop_requested())
        holder = stack.enter_context(directory.held(data_dir, service_url=address))
        directory.forget_running(data_dir)
        need_free_port(host, port)
        processes.end_leftovers(holder.left_over, mark=str(data_dir), with_signal=signal.SIGTERM, within=STOP_WITHIN)
        keys = directory.encryption_keys(settings, data_dir, say=say)
        servers = start_servers(settings, data_dir, stack, say)
        urls = {name: server.url for name, server in servers.items()}
        told = {name.lower(): value for name, value in as_environment(settings).items() if name not in NOT_TOLD}
        directory.write_running(data_dir, **told, **urls, service_url=address)
        stack.callback(directory.forget_running, data_dir)
        settings = settings.model_copy(update={"data_dir": data_dir, "encryption_keys": SecretStr(keys), **urls})
        migrate(settings)
        applications = application_children(settings, host, port, workers)
        stack.callback(processes.stop_together, applications, within=STOP_WITHIN, hurry=hurry, say=say)
        for child in applications:
            child.start()
        children = [*(server.child for server in servers.values()), *applications]
        holder.record(children)
        processes.wait_until(
            lambda: processes.accepts_connections(host, port), applications[0], within=START_WITHIN, stop=stop
        )
        if not stop.is_set():
            say(f"Ready after {time.monotonic() - began:.1f} s: {address} (documentation: {address}/docs).")
            say(f"Data and logs: {data_dir}. Ctrl-C stops it.")
        processes.supervise(children, stop, say, changed=lambda: holder.record(children))
        say("Stopping.")
    say("Stopped.")


def need_credentials(settings: Settings) -> None:
    """Raises SettingsError that says what to fill in, and how to try the service without Allegro."""
    given = {
        "ALLEGRO_CLIENT_ID": settings.allegro_client_id,
        "ALLEGRO_CLIENT_SECRET": settings.allegro_client_secret.get_secret_value(),
    }
    if not (missing := [name for name, value in given.items() if not value]):
        return
    raise SettingsError(
        f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set.\n"
        f'Register an application of type "device" at {REGISTER_AT[settings.allegro_environment]}\n'
        "and write its client id and secret into the environment or into .env.\n\n"
        "To try the service without Allegro, start the bundled simulator in another terminal:\n"
        "    orders-backup simulator\n"
        "and set, before `orders-backup up`:\n"
        f"    export ALLEGRO_API_URL={SIMULATOR_URL}\n"
        f"    export ALLEGRO_AUTH_URL={SIMULATOR_URL}\n"
        "    export ALLEGRO_CLIENT_ID=simulator\n"
        "    export ALLEGRO_CLIENT_SECRET=simulator-secret"
    )


def service_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def need_free_port(host: str, port: int) -> None:
    """Raises LocalServiceError where another program listens there, or the address is not this machine's."""
    try:
        processes.probe_port(host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "is used by another program" if taken else f"cannot be used: {error.strerror}"
        raise LocalServiceError(f"Port {port} on {host} {reason}. Choose another with --port.") from None


def start_servers(settings: Settings, data_dir: Path, stack: ExitStack, say: Say) -> dict[str, Server]:
    """Those that the settings do not name, by the name of their setting; the stack stops them, the broker first."""
    started = {}
    for name, start in (("database_url", start_postgres), ("broker_url", start_broker)):
        if url := getattr(settings, name):
            say(f"{name.upper()} is set: {without_password(url)}.")
            continue
        began = time.monotonic()
        server = stack.enter_context(start(data_dir))
        say(f"{server.program} on 127.0.0.1:{server.port} after {time.monotonic() - began:.1f} s.")
        started[name] = server
    return started


def without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def migrate(settings: Settings) -> None:
    from orders_backup import db  # noqa: PLC0415 - SQLAlchemy loads while nothing is wanted of it by other commands
    from orders_backup.backups import fit  # noqa: PLC0415

    engine = db.connect(settings.database_url, pool_size=1, application_name="orders-backup up")
    try:
        fit.require(engine)
        db.migrate(engine)
    finally:
        engine.dispose()


def application_children(settings: Settings, host: str, port: int, workers: int) -> list[Child]:
    """The API first, then the workers and the scheduler: modules run by this Python, told everything we were told."""
    arguments = {"api": ["orders_backup.api", "--host", host, "--port", str(port)]}
    for number in range(1, workers + 1):
        arguments["worker" if number == 1 else f"worker-{number}"] = ["orders_backup.worker", "worker"]
    arguments["scheduler"] = ["orders_backup.worker", "scheduler"]
    pulses = {name: settings.data_dir / "logs" / f"{name}.pulse" for name in arguments if name != "api"}
    for name, pulse in pulses.items():
        arguments[name] += ["--pulse", str(pulse)]
    environment = {**os.environ, **as_environment(settings), "PYTHONUNBUFFERED": "1"}
    place = ["--data-dir", str(settings.data_dir)]
    return [
        Child(
            name,
            [sys.executable, "-P", "-m", *words, *place],
            settings.data_dir / "logs" / f"{name}.log",
            environment,
            pulse=pulses.get(name),
        )
        for name, words in arguments.items()
    ]


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings that are not the default ones, as `settings.load` reads them back."""
    return {name.upper(): _as_text(getattr(settings, name)) for name in settings.model_fields_set}


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value.total_seconds()) if isinstance(value, timedelta) else str(value)
