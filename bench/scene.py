"""What every bench stands on: scratch servers, a simulator, the service as `up` runs it, and how CPU is counted."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import sqlalchemy as sa
from pydantic import SecretStr

from orders_backup import db as database
from orders_backup import local, vault
from orders_backup import runtime as runtimes
from orders_backup.allegro import oauth
from orders_backup.local import directory, processes
from orders_backup.local.processes import Child
from orders_backup.local.server import Server, on_a_free_port
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

UNLIMITED = 10_000_000
"""Requests a minute: a limit that is never waited for."""
SELDOM = timedelta(days=1)
"""Between polls and full syncs, so that only what a bench asks for happens while it measures."""
WITHIN = 900.0
HTTP_OK = 200


@dataclass(frozen=True, slots=True)
class Scene:
    """One seller with `orders` orders at a simulator, and a service that is not yet running."""

    orders: int
    seller_id: str
    runtime: Runtime
    postgres: Server
    simulator: Server
    control: httpx.Client

    def tell(self, verb: str, **arguments: object) -> bool:
        """Makes something happen in the simulator; False where the order is not in a state for it."""
        return self.control.post(f"/_simulator/{verb}", json=arguments).status_code == HTTP_OK

    def told(self, question: str, **arguments: str) -> Any:
        """What the simulator says about itself, as JSON."""
        return self.control.get(f"/_simulator/{question}", params=arguments).raise_for_status().json()

    def calls(self) -> dict[str, int]:
        """How many requests the simulator has answered so far, by class of path."""
        found: dict[str, int] = {}
        for row in self.told("calls")["counts"]:
            found[row["path"]] = found.get(row["path"], 0) + row["count"]
        return found

    def execute(self, statement: str) -> None:
        """Outside any transaction, as VACUUM and CHECKPOINT want it."""
        with self.runtime.db.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(statement))

    def rows(self, query: str, **parameters: object) -> Sequence[sa.Row[Any]]:
        with database.transaction(self.runtime.db) as tx:
            return tx.execute(sa.text(query), parameters).all()


@contextmanager
def built(orders: int) -> Iterator[Scene]:
    """Everything in a temporary directory; stopped and removed at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orders-backup-bench-")))
        data_dir = directory.prepared(folder / "data")
        postgres = stack.enter_context(local.start_postgres(data_dir))
        broker = stack.enter_context(local.start_broker(data_dir))
        simulator = stack.enter_context(start_simulator(folder, orders))
        runtime = runtimes.build(_settings(data_dir, postgres, broker, simulator))
        stack.callback(runtime.close)
        database.migrate(runtime.db)
        control = stack.enter_context(httpx.Client(base_url=simulator.url, timeout=120, trust_env=False))
        seller_id = control.get("/_simulator/sellers").json()[0]["id"]
        yield Scene(orders, seller_id, runtime, postgres, simulator, control)


@contextmanager
def service(scene: Scene) -> Iterator[tuple[Child, Child]]:
    """The worker and the scheduler, the very processes that `up` starts; stopped at the end."""
    children = local.application_children(scene.runtime.settings, "127.0.0.1", 0, 1)
    _, worker, scheduler = children
    try:
        worker.start()
        scheduler.start()
        yield worker, scheduler
    finally:
        scheduler.stop(within=30)
        worker.stop(within=30)


def access_token(scene: Scene) -> str:
    """A token of the seller, for calls of our own beside the service."""
    flow = oauth.authorize_device(scene.runtime.oauth)
    scene.tell("approves", user_code=flow.user_code, seller_id=scene.seller_id)
    return oauth.redeem_device_code(scene.runtime.oauth, flow.device_code).access_token


def wait(ready: Callable[[], bool], child: Child) -> None:
    """Looks twice a second, so that looking costs nothing. Raises LocalServiceError where the child ends."""

    def patiently() -> bool:
        time.sleep(0.5)
        return ready()

    processes.wait_until(patiently, child, within=WITHIN)


def cpu_seconds(pid: int | None) -> float:
    """User and system time of a process, of its living descendants, and of those that were already reaped."""
    assert pid is not None
    process = psutil.Process(pid)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            total += sum(one.cpu_times()[:4])
        except psutil.NoSuchProcess:  # it ended just now; its parent counts it next time
            continue
    return total


def peak_megabytes(pid: int | None) -> float:
    """The most memory the process ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def start_simulator(folder: Path, orders: int) -> Server:
    """A process of its own, with every document rendered before it listens."""
    options = {"orders": orders, "client-limit": UNLIMITED, "device-interval": 1}
    command = [sys.executable, "-P", "-c", "from allegro_simulator import cli; cli.main()", "--ahead"]
    command += [f"--{name}={value}" for name, value in options.items()]

    def on(port: int) -> Child:
        return Child("simulator", [*command, f"--port={port}"], folder / "simulator.log")

    child, port = on_a_free_port(on, lambda _, port: processes.accepts_connections("127.0.0.1", port), within=WITHIN)
    return Server("simulator", port, f"http://127.0.0.1:{port}", child)


def _settings(data_dir: Path, postgres: Server, broker: Server, simulator: Server) -> Settings:
    return Settings(
        data_dir=data_dir,
        database_url=postgres.url,
        broker_url=broker.url,
        allegro_api_url=simulator.url,
        allegro_auth_url=simulator.url,
        allegro_client_id="simulator",
        allegro_client_secret=SecretStr("simulator-secret"),
        encryption_keys=SecretStr(vault.new_key()),
        events_interval=SELDOM,
        sync_interval=SELDOM,
        rate_limit_client=UNLIMITED,
        rate_limit_default=UNLIMITED,
        rate_limit_orders=UNLIMITED,
        rate_limit_events=UNLIMITED,
        rate_limit_auth=UNLIMITED,
        rate_limit_api=UNLIMITED,
    )
