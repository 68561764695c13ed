"""A million orders exported, each format in a process of its own: orders a second against a bare loop that fetches and
decompresses the same rows, and the most memory the process had.

ARCHIVE_ORDERS says how many; the formats that decode each order get a fifth of them. `python -m bench.exports` makes an
archive for it alone.
"""

import json
import os
import subprocess
import sys
import time

from bench import backfill, filling
from bench import scene as scenes
from bench.figures import Bound, Outcome
from bench.scene import Scene

from orders_backup import db as database
from orders_backup.codec import Codec
from orders_backup.exports import csv_lines, jsonl, parquet, reading
from orders_backup.exports.kept import Tally
from orders_backup.orders.queries import Filter

ORDERS_A_SECOND = 20_000.0
MEGABYTES = 200.0
ROUNDS = {"bare": 2, "jsonl": 2, "csv": 1, "parquet": 1}
"""The best of so many counts."""
FORMATS = {"jsonl": jsonl.stream, "csv": csv_lines.stream, "parquet": parquet.stream}


def measure(scene: Scene, orders: int) -> Outcome:
    """Each loop over the whole archive, which has so many orders."""
    url = scene.runtime.settings.database_url
    found = {name: [_run(name, url, orders) for _ in range(rounds)] for name, rounds in ROUNDS.items()}
    best = {name: min(runs, key=lambda run: run["seconds"]) for name, runs in found.items()}
    rate = {name: run["orders"] / run["seconds"] for name, run in best.items()}
    bounds = {
        "jsonl_orders_a_second": Bound(rate["jsonl"], ORDERS_A_SECOND, at_least=True),
        **{f"{name}_megabytes": Bound(max(run["megabytes"] for run in found[name]), MEGABYTES) for name in FORMATS},
        "orders_left_out": Bound(best["bare"]["orders"] - best["jsonl"]["orders"], 0),
    }
    figures: dict[str, object] = {
        "orders_a_second": rate,
        "of_the_bare_loop": {name: rate[name] / rate["bare"] for name in FORMATS},
        "client_cpu_s": {name: run["cpu"] for name, run in best.items()},
        "megabytes_written": {name: run["bytes"] / 2**20 for name, run in best.items()},
    }
    return Outcome("exports", int(best["bare"]["orders"]), bounds, figures)


def _run(name: str, url: str, orders: int) -> dict[str, float]:
    limit = str(orders if name in {"bare", "jsonl"} else orders // 5)
    ended = subprocess.run(
        [sys.executable, "-m", "bench.exports", name, url, limit], stdout=subprocess.PIPE, check=True, text=True
    )
    told: dict[str, float] = json.loads(ended.stdout)
    return told


def _loop(name: str, url: str, limit: int) -> None:
    """In the process that is measured: prints what it did."""
    db, codec, tally, size = database.connect(url, pool_size=2), Codec(), Tally(), 0
    began, cpu = time.monotonic(), time.process_time()
    if name == "bare":
        size = _bare(url, codec, tally, limit)
    else:
        for chunk in FORMATS[name](reading.walk(db, codec, Filter(), limit=limit), tally):
            size += len(chunk)
    told = {"orders": tally.orders, "seconds": time.monotonic() - began, "bytes": size}
    print(json.dumps({**told, "cpu": time.process_time() - cpu, "megabytes": scenes.peak_megabytes(os.getpid())}))


def _bare(url: str, codec: Codec, tally: Tally, limit: int) -> int:
    """What nobody can do without: every row by one statement, every body decompressed and dropped."""
    query = f"""SELECT v.dictionary_id, v.body
                FROM orders o JOIN order_versions v USING (account_id, order_id, version) LIMIT {limit}"""
    size = 0
    with database.transaction(database.connect(url, pool_size=1)) as tx, database.cursor(tx, "bare") as cursor:
        openers = {row[0]: codec.opener(tx, row[0]) for row in tx.exec_driver_sql("SELECT id FROM codec_dictionaries")}
        openers[None] = codec.opener(tx, None)
        cursor.execute(query, binary=True)
        while rows := cursor.fetchmany(500):
            for dictionary_id, body in rows:
                size += len(openers[dictionary_id](body))
            tally.orders += len(rows)
    return size


def main() -> int:
    """With arguments the loop of one process, without them the whole bench on an archive of its own."""
    if len(sys.argv) > 1:
        _loop(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        return 0
    with scenes.built(int(os.environ.get("BENCH_ORDERS", "10000"))) as scene:
        account_id, _ = backfill.measure(scene)
        outcome = measure(scene, filling.fill(scene, account_id).orders)
    print(outcome.line(), flush=True)
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
