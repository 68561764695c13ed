"""The first backfill of one seller: calls, memory, and CPU against a bare download with COPY of the same pages."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from uuid import UUID, uuid4

from bench import scene as scenes
from bench import truth
from bench.figures import Bound, Outcome
from bench.scene import Scene

from orders_backup.accounts import connect
from orders_backup.allegro import client
from orders_backup.local.processes import Child

CALLS = 1.05
CPU = 3.0
MEGABYTES = 300.0
POLLED = "/auth/oauth/token"
SIGN_IN = ("/auth/oauth/device", POLLED)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of the client's process tree and of PostgreSQL's, of the simulator beside them, and wall time."""

    client: float
    postgres: float
    simulator: float
    wall: float

    def since(self, before: "Cost") -> "Cost":
        return Cost(
            self.client - before.client,
            self.postgres - before.postgres,
            self.simulator - before.simulator,
            self.wall - before.wall,
        )

    def shown(self) -> dict[str, float]:
        return {
            "client_cpu_s": self.client,
            "postgres_cpu_s": self.postgres,
            "simulator_cpu_s": self.simulator,
            "wall_s": self.wall,
        }


def measure(scene: Scene) -> tuple[UUID, Outcome]:
    """The account that is now level with Allegro, and the figures."""
    with scenes.service(scene) as (worker, scheduler):
        account_id = _waiting_for_its_seller(scene, worker)
        calls, ticks = scene.calls(), scenes.cpu_seconds(scheduler.pid)
        before = _cost(scene, worker.pid)
        _approve(scene, account_id)
        scenes.wait(lambda: _is_done(scene, account_id), worker)
        scene.execute("CHECKPOINT")
        ours = _cost(scene, worker.pid).since(before)
        made = {path: count - calls.get(path, 0) for path, count in scene.calls().items()}
        peak = scenes.peak_megabytes(worker.pid)
        ticks = scenes.cpu_seconds(scheduler.pid) - ticks
    pages = _pages(scene, account_id)
    reference = _reference(scene, pages)
    return account_id, _outcome(scene, account_id, ours, reference, made, len(pages), peak, ticks)


def _outcome(  # noqa: PLR0917 - inner function
    scene: Scene,
    account_id: UUID,
    ours: Cost,
    reference: Cost,
    made: dict[str, int],
    pages: int,
    peak: float,
    ticks: float,
) -> Outcome:
    total = sum(count for path, count in made.items() if path not in SIGN_IN)
    least = ceil(scene.orders / client.LIST_LIMIT)
    cpu = (ours.client + ours.postgres) / (reference.client + reference.postgres)
    bounds = {
        "calls": Bound(total, CALLS * least),
        "cpu_against_reference": Bound(cpu, CPU),
        "peak_memory_mb": Bound(peak, MEGABYTES),
        "orders_differing_from_truth": Bound(truth.differing(scene, account_id), 0),
    }
    figures: dict[str, object] = {
        "calls_least": least,
        "calls_by_path": {path: count for path, count in made.items() if count},
        "pages": pages,
        "ours": ours.shown(),
        "reference": reference.shown(),
        "scheduler_cpu_s": ticks,
        "orders_per_wall_s": scene.orders / ours.wall,
        "load_of_the_last_minute": os.getloadavg()[0],
    }
    return Outcome("backfill", scene.orders, bounds, figures)


def _waiting_for_its_seller(scene: Scene, worker: Child) -> UUID:
    """A new account whose device flow the worker has polled: from here on the worker is warm and idle."""
    polled = scene.calls().get(POLLED, 0)
    account_id = connect.begin(scene.runtime, user_id=uuid4(), name="bench", extras=())
    scenes.wait(lambda: scene.calls().get(POLLED, 0) > polled, worker)
    return account_id


def _approve(scene: Scene, account_id: UUID) -> None:
    code = scene.rows("SELECT user_code FROM device_flows WHERE account_id = :account", account=account_id)[0][0]
    assert scene.tell("approves", user_code=code, seller_id=scene.seller_id)


def _is_done(scene: Scene, account_id: UUID) -> bool:
    query = "SELECT status, error FROM sync_history WHERE account_id = :account AND kind = 'backfill'"
    runs = scene.rows(query, account=account_id)
    assert not [run for run in runs if run.status == "failed"], runs
    return bool(runs) and runs[0].status == "succeeded"


def _pages(scene: Scene, account_id: UUID) -> list[dict[str, str]]:
    """The questions of every list page of the backfill, in its order; of windows that were halved the first page."""
    query = """
        SELECT window_from, window_to, total_count, status FROM sync_windows
         WHERE account_id = :account ORDER BY window_to DESC, window_from
    """
    pages = []
    for window in scene.rows(query, account=account_id):
        listed = 1 if window.status == "split" else max(window.total_count, 1)
        last = window.window_to - timedelta(milliseconds=1)
        bounds = {"gte": window.window_from, "lte": last}
        filters = {
            f"lineItems.boughtAt.{name}": moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
            for name, moment in bounds.items()
        }
        for offset in range(0, listed, client.LIST_LIMIT):
            place = {"sort": "lineItems.boughtAt", "offset": str(offset), "limit": str(client.LIST_LIMIT)}
            pages.append({**filters, **place})
    return pages


def _reference(scene: Scene, pages: list[dict[str, str]]) -> Cost:
    """The bare download, after PostgreSQL has tidied up behind the backfill, so that it pays for itself alone."""
    scene.execute("VACUUM (ANALYZE)")
    scene.execute("CHECKPOINT")
    settings = scene.runtime.settings
    task = {
        "api_url": settings.api_url,
        "user_agent": settings.allegro_user_agent,
        "database_url": settings.database_url,
        "token": scenes.access_token(scene),
        "pages": pages,
    }
    command = [sys.executable, "-m", "bench.reference"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(task) + "\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline()) == "ready"
        before = _cost(scene, child.pid)
        child.stdin.write("go\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline()) >= scene.orders
        scene.execute("CHECKPOINT")
        cost = _cost(scene, child.pid).since(before)
    scene.execute("DROP TABLE reference_orders")
    return cost


def _cost(scene: Scene, client_pid: int | None) -> Cost:
    return Cost(
        scenes.cpu_seconds(client_pid),
        scenes.cpu_seconds(scene.postgres.child.pid),
        scenes.cpu_seconds(scene.simulator.child.pid),
        time.monotonic(),
    )
