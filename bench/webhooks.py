"""`python -m bench.webhooks`: how fast one process delivers, whether orders keep in order, what a dead endpoint costs.

One line of JSON a leg, exit code 1 where a bound is broken. WEBHOOK_DELIVERIES (20,000) is for the first leg,
WEBHOOK_ORDERED (100,000) for the second, with three failures in ten.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import UUID, uuid4

import httpx
import sqlalchemy as sa
from bench.figures import Bound, Outcome
from pydantic import SecretStr

from orders_backup import db as database
from orders_backup import local, vault
from orders_backup import runtime as runtimes
from orders_backup.local import directory
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.tables import accounts
from orders_backup.webhooks import deliver, endpoints, outbox

PER_SECOND = 300.0
SLOWER = 1.1
ORDERED_ENDPOINTS = 4
SLOTS = 8
HEALTHY = 3
TRICKLE_SECONDS = 15.0
TRICKLE_PER_SECOND = 15
ROUNDS = 5

MANY = """
INSERT INTO order_changes (account_id, order_id, version, kinds, cause)
SELECT :account, 'o' || (n % :orders), n / :orders + 1, '{order.status_changed}', 'bench'
FROM generate_series(0, :count - 1) AS n
"""


@dataclass(frozen=True, slots=True)
class Post:
    """A database, a receiver, an account."""

    runtime: Runtime
    url: str
    user: UUID
    account: UUID

    def endpoint(self, path: str) -> UUID:
        given: Any = {"description": "", "event_types": [], "account_ids": [], "content": "thin"}
        with database.transaction(self.runtime.db) as tx:
            return endpoints.make(tx, self.runtime.vault, user_id=self.user, url=f"{self.url}{path}", **given)[0]

    def happens(self, count: int, *, orders: int) -> None:
        self.execute(MANY, account=self.account, count=count, orders=orders)

    def execute(self, statement: str, **values: object) -> None:
        with database.transaction(self.runtime.db) as tx:
            tx.execute(sa.text(statement), values)

    def value(self, query: str, **values: object) -> Any:
        with database.transaction(self.runtime.db) as tx:
            return tx.execute(sa.text(query), values).scalar_one()

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/report", timeout=60, trust_env=False).json()
        return found

    def until_delivered(self, webhook_id: UUID) -> None:
        """Slice after slice, as workers do."""
        owed = "SELECT count(*) FROM webhook_deliveries WHERE webhook_id = :id AND status = 'pending'"
        while True:
            self.execute("UPDATE webhooks SET due_at = clock_timestamp() WHERE webhook_id = :id", id=webhook_id)
            deliver.deliver(self.runtime, webhook_id)
            if not self.value(owed, id=webhook_id):
                return


def main() -> int:
    with opened() as post:
        outcomes = [leg(post) for leg in (speed, order, beside_a_dead_one)]
    return 1 if any(not outcome.ok for outcome in outcomes) else 0


def speed(post: Post) -> Outcome:
    """One endpoint, one process, against the same calls made by nothing but httpx in as many threads."""
    count = int(os.environ.get("WEBHOOK_DELIVERIES", "20000"))
    bare = bare_calls(post, min(count, 4000))
    webhook = post.endpoint("/ok/speed")
    post.happens(count, orders=max(count // 10, 1))
    began, cpu = time.monotonic(), time.process_time()
    post.until_delivered(webhook)
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    seen = post.report()["/ok/speed"]
    bounds = {
        "deliveries_per_second": Bound(count / wall, PER_SECOND, at_least=True),
        "missing": Bound(count - seen["accepted"], 0),
        "out_of_order": Bound(seen["out_of_order"], 0),
    }
    figures: dict[str, object] = {"bare_httpx_per_second": bare, "of_bare_httpx": count / wall / bare, "cpu_s": cpu}
    return told(Outcome("webhooks_speed", count, bounds, figures))


def bare_calls(post: Post, count: int) -> float:
    """Calls a second of httpx alone."""
    body = b"x" * 300
    with httpx.Client(trust_env=False, timeout=15) as client, ThreadPoolExecutor(deliver.AT_ONCE) as pool:
        began = time.monotonic()
        for _ in pool.map(lambda _: client.post(f"{post.url}/bare", content=body).raise_for_status(), range(count)):
            pass
        return count / (time.monotonic() - began)


def order(post: Post) -> Outcome:
    """Three failures in ten; what waits for its next try is hurried, so that days pass in minutes."""
    count = int(os.environ.get("WEBHOOK_ORDERED", "100000"))
    webhooks = [post.endpoint(f"/flaky/{number}") for number in range(ORDERED_ENDPOINTS)]
    each = count // ORDERED_ENDPOINTS
    post.happens(each, orders=max(each // 25, 1))
    done = threading.Event()

    def hurries() -> None:
        while not done.wait(0.3):
            post.execute(
                "UPDATE webhook_deliveries SET due_at = clock_timestamp(), tries = 0 WHERE due_at > clock_timestamp()"
            )
            post.execute("UPDATE webhooks SET silent_until = NULL WHERE silent_until IS NOT NULL")

    hurrying = threading.Thread(target=hurries, daemon=True)
    hurrying.start()
    began = time.monotonic()
    with ThreadPoolExecutor(ORDERED_ENDPOINTS) as pool:
        list(pool.map(post.until_delivered, webhooks))
    wall = time.monotonic() - began
    done.set()
    hurrying.join()
    seen = [one for path, one in post.report().items() if path.startswith("/flaky")]
    accepted, refused = (sum(one[name] for one in seen) for name in ("accepted", "refused"))
    bounds = {
        "out_of_order": Bound(sum(one["out_of_order"] for one in seen), 0),
        "missing": Bound(abs(each * ORDERED_ENDPOINTS - accepted), 0),
        "repeated": Bound(sum(one["repeated"] for one in seen), 0),
    }
    figures: dict[str, object] = {
        "refused": refused,
        "attempts_per_second": (accepted + refused) / wall,
        "wall_s": wall,
    }
    return told(Outcome("webhooks_order", each * ORDERED_ENDPOINTS, bounds, figures))


def beside_a_dead_one(post: Post) -> Outcome:
    """From the change to its arrival at healthy endpoints: without a dead one, and with one, turn by turn."""
    post.execute("DELETE FROM webhooks")
    webhooks = [post.endpoint(f"/ok/{number}") for number in range(HEALTHY)]
    alone, beside = [], []
    dead = post.endpoint("/dead/one")
    for _ in range(ROUNDS):
        post.execute("UPDATE webhooks SET status = 'paused' WHERE webhook_id = :id", id=dead)
        alone.append(p95(post))
        post.execute(
            "UPDATE webhooks SET status = 'active', reason = NULL, failures = 0, silent_until = NULL,"
            " answer_seconds = NULL, due_at = clock_timestamp() WHERE webhook_id = :id",
            id=dead,
        )
        beside.append(p95(post))
    bounds = {"p95_ratio": Bound(median(beside) / median(alone), SLOWER)}
    figures: dict[str, object] = {"p95_alone_s": alone, "p95_beside_s": beside, "healthy": len(webhooks)}
    count = int(TRICKLE_SECONDS * TRICKLE_PER_SECOND * ROUNDS * 2)
    return told(Outcome("webhooks_beside_a_dead_one", count, bounds, figures))


def p95(post: Post) -> float:
    """While changes trickle in, of a scheduler and a worker with the usual number of slots."""
    post.report()
    with working(post):
        for number in range(int(TRICKLE_SECONDS * TRICKLE_PER_SECOND)):
            post.happens(1, orders=number + 1)
            time.sleep(1 / TRICKLE_PER_SECOND)
        time.sleep(3)
        seconds = [one for path, seen in post.report().items() if path.startswith("/ok") for one in seen["seconds"]]
    return float(quantiles(seconds, n=20)[-1])


@contextmanager
def working(post: Post) -> Iterator[None]:
    """The tick and the slots of one worker, without a broker between them."""
    stopped = threading.Event()

    def ticks(pool: ThreadPoolExecutor) -> None:
        while not stopped.wait(0.25):
            with database.transaction(post.runtime.db) as tx:
                outbox.wake(tx)
                rung = outbox.ring(tx, slots=SLOTS)
            for key in rung:
                pool.submit(deliver.deliver, post.runtime, key["webhook_id"])

    with ThreadPoolExecutor(SLOTS) as pool:
        ticking = threading.Thread(target=ticks, args=(pool,))
        ticking.start()
        try:
            yield
        finally:
            stopped.set()
            ticking.join()


def told(outcome: Outcome) -> Outcome:
    print(outcome.line(), flush=True)
    return outcome


@contextmanager
def opened() -> Iterator[Post]:
    with tempfile.TemporaryDirectory(prefix="orders-backup-bench-") as folder:
        data_dir = directory.prepared(Path(folder) / "data")
        with local.start_postgres(data_dir) as postgres, receiver() as url:
            runtime = runtimes.build(
                Settings(
                    data_dir=data_dir,
                    database_url=postgres.url,
                    allegro_client_id="bench",
                    allegro_client_secret=SecretStr("bench"),
                    encryption_keys=SecretStr(vault.new_key()),
                    webhook_allowed_hosts="127.0.0.1",
                ),
                pool_size=20,
            )
            database.migrate(runtime.db)
            row = {"id": uuid4(), "user_id": uuid4(), "name": "bench", "status": "active", "seller_id": "1"}
            with database.transaction(runtime.db) as tx:
                tx.execute(sa.insert(accounts).values(**row))
            yield Post(runtime, url, row["user_id"], row["id"])  # type: ignore[arg-type]
            runtime.close()


@contextmanager
def receiver() -> Iterator[str]:
    command = [sys.executable, "-m", "bench.webhook_receiver"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
