"""`python -m bench.backups`: archives of accounts written to a bucket and brought back, one line of JSON.

BENCH_VERSIONS says how many versions there are, of accounts of 50,000 each. Exit code 1 where a bound is broken. The
bucket is `rclone serve s3` on this machine's disk.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import sqlalchemy as sa
from bench.figures import Bound, Outcome
from pydantic import SecretStr

from allegro_simulator.world import World
from orders_backup import db as database
from orders_backup import local, vault
from orders_backup import runtime as runtimes
from orders_backup.backups import dumps, job, restore, shelf, state
from orders_backup.local import postgres, processes
from orders_backup.orders import archive, changes
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.tables import accounts

OF_AN_ACCOUNT = 50_000
BATCH = 500
ALL_WITHIN = 300.0 / 1_000_000
ONE_WITHIN = 60.0
BYTES_A_VERSION = 450
MEGABYTE = 1024 * 1024
START = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> int:
    versions = int(os.environ.get("BENCH_VERSIONS", "50000"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "s3" / "bucket").mkdir(parents=True)
        port = processes.free_port()
        rclone = str(Path(sys.executable).with_name("rclone"))
        options = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "key,secret", str(home / "s3")]
        server = subprocess.Popen([rclone, "--config", "/dev/null", *options], stderr=subprocess.DEVNULL)
        try:
            with local.start_postgres(home / "one") as one, local.start_postgres(home / "other") as other:
                shared = Settings(
                    s3_bucket="bucket",
                    s3_endpoint_url=f"http://127.0.0.1:{port}",
                    aws_access_key_id="key",
                    aws_secret_access_key=SecretStr("secret"),
                    encryption_keys=SecretStr(vault.new_key()),
                )
                outcome = _measured(
                    _runtime(shared, one.url, home / "a"), _runtime(shared, other.url, home / "b"), versions
                )
        finally:
            server.kill()
            server.wait()
    print(outcome.line(), flush=True)
    return 0 if outcome.ok else 1


def _runtime(shared: Settings, url: str, data_dir: Path) -> Runtime:
    built = runtimes.build(shared.model_copy(update={"database_url": url, "data_dir": data_dir}))
    database.migrate(built.db)
    return built


def _measured(here: Runtime, there: Runtime, versions: int) -> Outcome:
    ids = [uuid4() for _ in range(max(1, versions // OF_AN_ACCOUNT))]
    of_one = versions // len(ids)
    world = World(seed=5)
    seller = world.add_seller(min(of_one, OF_AN_ACCOUNT))
    bodies = [world.body(form) for form in world.orders(seller.id)]
    for number, account_id in enumerate(ids):
        _fill(here, account_id, bodies, of_one, number)
    alone = _seconds(lambda: _dump_alone(here))
    sealed = _seconds(lambda: dumps.create(here, postgres.find(), now=datetime.now(UTC)))
    writing = _seconds(lambda: _write(here, ids))
    store = restore.store_of(here)
    links = [link for account_id in ids for link in shelf.chain(store, account_id)]
    size = sum(part.bytes for link in links for part in link.manifest.parts) + 2048 * len(links)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    one = _seconds(lambda: list(restore.restore(there, ids[0])))
    rest = _seconds(lambda: list(restore.restore_all(there))) if len(ids) > 1 else 0.0
    with database.transaction(there.db) as tx:
        counted = tx.execute(
            sa.text("SELECT (SELECT count(*) FROM order_versions), (SELECT count(*) FROM orders)")
        ).one()
    assert tuple(counted) == (of_one * len(ids), of_one * len(ids)), counted
    bounds = {
        "bytes_per_version": Bound(size / versions, BYTES_A_VERSION),
        "seconds_to_restore_an_account": Bound(one, ONE_WITHIN * max(1.0, of_one / OF_AN_ACCOUNT)),
        "seconds_to_restore_all": Bound(one + rest, ALL_WITHIN * versions if versions >= 1_000_000 else ONE_WITHIN),
        "megabytes_more_to_restore": Bound(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - memory, 300),
    }
    figures = {
        "seconds_of_pg_dump_alone": alone,
        "sealed_backup_to_pg_dump_alone": sealed / alone,
        "versions_a_second_written": versions / writing,
        "versions_a_second_restored": versions / (one + rest),
        "accounts": len(ids),
        "megabytes_at_most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes_of_an_order": sum(map(len, bodies)) / len(bodies),
    }
    return Outcome("backups", versions, bounds, dict(figures))


def _fill(runtime: Runtime, account_id: UUID, bodies: list[bytes], count: int, number: int) -> None:
    """An account with orders of different ids, made of a few thousand bodies."""
    row = {"id": account_id, "user_id": uuid4(), "name": "bench", "status": "active", "seller_id": str(number + 1)}
    with database.transaction(runtime.db) as tx:
        tx.execute(sa.insert(accounts).values(row))
    for first in range(0, count, BATCH):
        at = START + timedelta(seconds=first)
        readings = [changes.read(at, _another(bodies, place)) for place in range(first, min(first + BATCH, count))]
        runtime.codec.prepare(runtime.db, [one.body for one in readings])
        with database.transaction(runtime.db) as tx:
            archive.record(tx, runtime.codec, account_id, readings, cause="backfill")


def _another(bodies: list[bytes], place: int) -> bytes:
    """The body with another id of the order and of whatever in it looks like one."""
    body = bodies[place % len(bodies)]
    lap = f"{place // len(bodies):04x}".encode()
    return body.replace(b"-8000-", b"-" + lap + b"-").replace(b"-11f", b"-" + lap[-2:] + b"f")


def _write(runtime: Runtime, ids: list[UUID]) -> None:
    with database.transaction(runtime.db) as tx:
        state.wake(tx)
    for account_id in ids:
        job.work(runtime, account_id, slice_seconds=3600)


def _dump_alone(runtime: Runtime) -> None:
    """As plain as pg_dump can be asked, to nowhere."""
    command = [str(postgres.find() / "pg_dump"), "--format=custom", "--compress=0", "--file=/dev/null"]
    subprocess.run(command, env=dumps.environment(runtime.db), check=True)


def _seconds(work: "object") -> float:
    began = time.monotonic()
    work()  # type: ignore[operator]
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
