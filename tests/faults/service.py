"""The real service: PostgreSQL, Valkey, one worker and one scheduler as processes, killed and started again by name."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
from pydantic import SecretStr

from orders_backup import local, vault
from orders_backup import runtime as runtimes
from orders_backup.local.processes import Child
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

from . import scale

PLENTY = 600_000
"""Requests a minute: what is tested are faults, not the budget."""


@dataclass(slots=True)
class Service:
    """The processes by name. `runtime` is this test's own access to the same database, spool-less and in process."""

    settings: Settings
    runtime: Runtime
    children: dict[str, Child]
    died_alone: list[str] = field(default_factory=list)

    def strike(self, name: str, *, whole: bool = True) -> None:
        """SIGKILL. `whole`: PostgreSQL's own children too, as when the machine's memory is used up."""
        child = self.children[name]
        if not child.is_running or child.pid is None:
            self.died_alone.append(child.how_it_ended())
            return
        others = psutil.Process(child.pid).children(recursive=True) if whole else []
        os.kill(child.pid, signal.SIGKILL)
        for other in others:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()

    def restart(self, name: str) -> None:
        """Starts what was killed. From the main thread only."""
        child = self.children[name]
        child.wait(scale.START_WITHIN)
        child.start()
        if name == "postgres":
            self.wait_for_postgres()

    def need_all(self) -> None:
        """Raises AssertionError where somebody runs no more although nobody killed it."""
        for child in self.children.values():
            assert child.is_running, child.how_it_ended()

    def stop(self, name: str) -> None:
        if not self.children[name].stop(within=20):
            self.died_alone.append(f"{name} did not stop when asked to")

    def log(self, name: str) -> str:
        return self.children[name].log.read_text(errors="replace")

    def wait_for_postgres(self) -> None:
        """While an orphan of the killed server still holds the shared memory, a new one refuses to start."""
        child, deadline = self.children["postgres"], time.monotonic() + scale.START_WITHIN
        while time.monotonic() < deadline:
            if not child.is_running:
                time.sleep(0.2)
                child.start()
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.settings.database_url, connect_timeout=2).close()
                return
            time.sleep(0.05)
        raise AssertionError(f"PostgreSQL did not come back: {child.how_it_ended()}")


@contextmanager
def running(folder: Path, allegro_url: str) -> Iterator[Service]:
    """Everything started; everything ended, by its process id, whatever happens."""
    with ExitStack() as stack:
        postgres = stack.enter_context(local.start_postgres(folder))
        broker = stack.enter_context(local.start_broker(folder))
        settings = _settings(folder, postgres.url, broker.url, allegro_url)
        local.migrate(settings)
        _, worker, scheduler = local.application_children(settings, "127.0.0.1", 0, 1)
        children = {"postgres": postgres.child, "worker": worker, "scheduler": scheduler}
        runtime = runtimes.build(settings)
        stack.callback(runtime.close)
        for child in (worker, scheduler):
            stack.callback(child.stop, within=10)
            child.start()
        yield Service(settings, runtime, children)


def _settings(folder: Path, database_url: str, broker_url: str, allegro_url: str) -> Settings:
    return Settings(
        data_dir=folder,
        database_url=database_url,
        broker_url=broker_url,
        allegro_api_url=allegro_url,
        allegro_auth_url=allegro_url,
        allegro_client_id="simulator",
        allegro_client_secret=SecretStr("simulator-secret"),
        encryption_keys=SecretStr(vault.new_key()),
        events_interval=timedelta(seconds=scale.EVENTS_INTERVAL),
        lease=timedelta(seconds=scale.LEASE),
        rate_limit_client=PLENTY,
        rate_limit_default=PLENTY,
        rate_limit_orders=PLENTY,
        rate_limit_events=PLENTY,
        rate_limit_auth=PLENTY,
    )
