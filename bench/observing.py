"""`python -m bench.observing`: what logs and metrics cost a backfill, and what a scrape costs with 10,000 accounts.

The same backfill again and again, by turns with and without lines and counts, in this process: differences of a
hundredth would drown in anything larger. Exit code 1 where a bound is broken.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import prometheus_client
import structlog
from bench import scene as scenes
from bench.figures import Bound, Outcome
from bench.scene import Scene

from orders_backup import counters, gauges, log
from orders_backup import db as database
from orders_backup.accounts import connect
from orders_backup.sync import backfill

SHARE = 0.03
SCRAPE_SECONDS = 1.0
PAIRS = 5
ACCOUNTS = 10_000
REPORTED_EVERY = 10.0


def main() -> int:
    """Both benches, one line of JSON each."""
    orders = int(os.environ.get("BENCH_ORDERS", "20000"))
    with scenes.built(orders) as scene:
        outcomes = [_backfills(scene), _scrape(scene)]
    for outcome in outcomes:
        print(outcome.line(), flush=True)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _backfills(scene: Scene) -> Outcome:
    """The first pair only warms up: the dictionary is trained, PostgreSQL's files are there."""
    costs: dict[str, list[float]] = {"with": [], "without": []}
    everything, lines = [], 0
    for turn in range(PAIRS + 1):
        for name in ("with", "without") if turn % 2 else ("without", "with"):
            with WAYS[name]() as written:
                own, both = _cost(scene, _account(scene))
                lines = max(lines, written())
            if turn:
                costs[name].append(own)
                everything.append(both)
    middle = {name: statistics.median(found) for name, found in costs.items()}
    whole = statistics.median(everything)
    per_line = _line_seconds()
    bounds = {"share_of_cpu": Bound((middle["with"] - middle["without"]) / whole, SHARE)}
    figures: dict[str, object] = {
        "cpu_s_with": sorted(costs["with"]),
        "cpu_s_without": sorted(costs["without"]),
        "cpu_s_with_postgresql": whole,
        "lines": lines,
        "us_per_line": per_line * 1e6,
        "share_by_lines": lines * per_line / whole,
    }
    return Outcome("observing", scene.orders, bounds, figures)


def _account(scene: Scene) -> UUID:
    """The same seller, connected by one more user."""
    account_id = connect.begin(scene.runtime, user_id=uuid4(), name="bench", extras=())
    code = scene.rows("SELECT user_code FROM device_flows WHERE account_id = :account", account=account_id)[0][0]
    scene.tell("approves", user_code=code, seller_id=scene.seller_id)
    while not scene.rows("SELECT 1 FROM accounts WHERE id = :account AND status = 'active'", account=account_id):
        scene.execute("UPDATE device_flows SET due_at = clock_timestamp()")
        connect.poll(scene.runtime, account_id)
    scene.execute(
        "INSERT INTO syncs (account_id, kind, due_at)"
        f" VALUES ('{account_id}', 'listing', now()), ('{account_id}', 'journal', NULL) ON CONFLICT DO NOTHING"
    )
    return account_id


def _cost(scene: Scene, account_id: UUID) -> tuple[float, float]:
    """CPU seconds of a backfill: this process's own, and with PostgreSQL's."""
    postgres, own, reported = scenes.cpu_seconds(scene.postgres.child.pid), time.process_time(), time.monotonic()
    done = "SELECT 1 FROM sync_history WHERE account_id = :account AND kind = 'backfill' AND status = 'succeeded'"
    while not scene.rows(done, account=account_id):
        scene.execute(f"UPDATE syncs SET due_at = now(), leased_until = NULL WHERE account_id = '{account_id}'")
        backfill.work_on_listing(scene.runtime, account_id)
        if time.monotonic() - reported > REPORTED_EVERY:
            counters.report(scene.runtime.db)
            reported = time.monotonic()
    counters.report(scene.runtime.db)
    own = time.process_time() - own
    return own, own + scenes.cpu_seconds(scene.postgres.child.pid) - postgres


@contextmanager
def _observing() -> Iterator[Any]:
    """Lines as a worker writes them, to a file; answers how many there were."""
    with tempfile.TemporaryFile("w+") as file:
        log.configure(log_format="json", level="INFO", stream=file)
        structlog.configure(cache_logger_on_first_use=False)

        def written() -> int:
            file.seek(0)
            return sum(1 for _ in file)

        yield written


@contextmanager
def _blind() -> Iterator[Any]:
    """No line is made, and nothing is counted."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    with (
        mock.patch.object(prometheus_client.Counter, "inc", lambda *_: None),  # noqa: PT008 - a mock is slow
        mock.patch.object(prometheus_client.Histogram, "observe", lambda *_: None),  # noqa: PT008 - same
        mock.patch.object(prometheus_client.metrics.MetricWrapperBase, "labels", lambda self, *_: self),
        mock.patch.object(counters, "report"),
    ):
        yield lambda: 0


WAYS = {"with": _observing, "without": _blind}


def _line_seconds() -> float:
    """What one line costs, as a call to Allegro writes it."""
    count = 2_000
    with tempfile.TemporaryFile("w+") as file:
        log.configure(log_format="json", level="INFO", stream=file)
        bound = {"trace_id": log.new_trace_id(), "account_id": str(uuid4()), "task": "sync_listing"}
        with structlog.contextvars.bound_contextvars(**bound):
            began = time.process_time()
            for _ in range(count):
                told = {"method": "GET", "route": "/order/checkout-forms", "status": 200}
                structlog.get_logger().info("call_finished", **told, duration_ms=12.3, bytes=345678)
            return (time.process_time() - began) / count


def _scrape(scene: Scene) -> Outcome:
    """Ten thousand accounts with a month of runs."""
    scene.execute(
        "INSERT INTO accounts (id, user_id, name, status, seller_id, connected_at)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 'shop', 'active', 'b' || n, now() - interval '40 days'"
        f" FROM generate_series(1, {ACCOUNTS}) n"
    )
    made = "a.name = 'shop'"
    scene.execute(
        "INSERT INTO syncs (account_id, kind, due_at, succeeded_at)"
        " SELECT id, kind, now(), now() - random() * interval '5 min'"
        f" FROM accounts a, unnest('{{journal,listing,sweep,extras}}'::text[]) kind WHERE {made}"
    )
    scene.execute(
        "INSERT INTO account_tokens"
        " (account_id, generation, access_sealed, refresh_sealed, access_expires_at, obtained_at)"
        f" SELECT id, 1, '', '', now() + interval '1 h', now() FROM accounts a WHERE {made}"
    )
    scene.execute(
        "INSERT INTO sync_history (id, account_id, kind, status, requested_at, finished_at)"
        " SELECT gen_random_uuid(), a.id, CASE WHEN n = 1 THEN 'reconcile' ELSE 'incremental' END, 'succeeded',"
        " now() - n * interval '1 h', now() - n * interval '1 h'"
        f" FROM accounts a, generate_series(1, 30) n WHERE {made}"
    )
    scene.execute("VACUUM (ANALYZE)")
    spent, cpu = [], time.process_time()
    for _ in range(9):
        began = time.monotonic()
        text = gauges.exposition(scene.runtime)
        spent.append(time.monotonic() - began)
    with database.transaction(scene.runtime.db) as tx:
        kept = len(counters.totals(tx))
    bounds = {"scrape_s": Bound(statistics.median(spent), SCRAPE_SECONDS)}
    figures: dict[str, object] = {
        "accounts": ACCOUNTS,
        "scrapes_s": sorted(spent),
        "cpu_s_of_the_api_each": (time.process_time() - cpu) / len(spent),
        "kb": len(text) / 1024,
        "lines": text.count(b"\n"),
        "rows_of_counters": kept,
    }
    return Outcome("scrape", scene.orders, bounds, figures)


if __name__ == "__main__":
    sys.exit(main())
