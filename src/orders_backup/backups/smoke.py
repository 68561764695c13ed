"""The service itself over a scratch database: its API, started for this, asked for orders and their exact bytes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO
from uuid import UUID

import httpx
import sqlalchemy as sa

from orders_backup import access
from orders_backup import db as database
from orders_backup.allegro import answers
from orders_backup.errors import BackupFailedError
from orders_backup.runtime import Runtime

ANSWER_WITHIN = 60.0
ORDERS = 5
"""Orders of a page, of each of which the bytes are asked for."""
QUOTA = 10_000_000


def findings(
    runtime: Runtime, scratch: Runtime, account_ids: Sequence[UUID], *, alive: Callable[[], None]
) -> Iterator[tuple[UUID, str]]:
    """What the API over the scratch database answers otherwise than what is alive lets expect, account by account.
    Raises BackupFailedError where it does not start."""
    with database.transaction(scratch.db) as tx:
        key = access.create_key(tx, name="drill", scopes=["orders:read"])
    with _served(scratch) as address, _client(address, key) as client:
        for account_id in account_ids:
            alive()
            try:
                for problem in _asked(runtime, client, account_id, expected=_orders(scratch, account_id)):
                    yield account_id, problem
            except httpx.HTTPError as error:
                yield account_id, f"The API over what came back does not answer: {type(error).__name__}."


def _asked(runtime: Runtime, client: httpx.Client, account_id: UUID, *, expected: int) -> Iterator[str]:
    asked = {"account_id": str(account_id)}
    answer = client.get("/orders", params={**asked, "limit": ORDERS})
    items = answer.json()["items"] if answer.status_code == 200 else []
    if len(items) != min(expected, ORDERS):
        yield f"The API over what came back answers {answer.status_code} with {len(items)} of {expected} orders."
    for item in items:
        path = f"/orders/{item['id']}/versions/{item['version']}"
        exact = client.get(path, params=asked, headers={"Accept": "application/octet-stream"})
        known = _digest(runtime, account_id, item["id"], item["version"])
        if exact.status_code != 200 or hashlib.sha256(exact.content).digest() != known:
            yield f"The API over what came back answers {exact.status_code} with other bytes than are alive."


def _orders(scratch: Runtime, account_id: UUID) -> int:
    query = "SELECT count(*) FROM (SELECT FROM orders WHERE account_id = :account LIMIT :most) o"
    with database.transaction(scratch.db) as tx:
        return int(tx.execute(sa.text(query), {"account": account_id, "most": ORDERS}).scalar_one())


def _digest(runtime: Runtime, account_id: UUID, order_id: str, version: int) -> bytes | None:
    query = "SELECT sha256 FROM order_versions WHERE (account_id, order_id, version) = (:account, :order, :version)"
    values = {"account": account_id, "order": order_id, "version": version}
    with database.transaction(runtime.db) as tx:
        found: bytes | None = tx.execute(sa.text(query), values).scalar_one_or_none()
    return None if found is None else bytes(found)


def _client(address: str, key: str) -> httpx.Client:
    headers = {"X-API-Key": key}
    return httpx.Client(
        base_url=f"{address}/api/v1", headers=headers, timeout=ANSWER_WITHIN, trust_env=False, verify=answers.trust()
    )


@contextmanager
def _served(scratch: Runtime) -> Iterator[str]:
    """The address of an API process that knows nothing but the scratch database, and ends with the block."""
    config = scratch.settings
    told = {
        "DATABASE_URL": config.database_url,
        "ENCRYPTION_KEYS": config.encryption_keys.get_secret_value(),
        "RATE_LIMIT_API": str(QUOTA),
    }
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "orders_backup.api", "--port", "0", "--data-dir", folder]
        with subprocess.Popen(  # noqa: S603 - our own words
            [*_dying_with_us(), *command],
            env={**kept, **told},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None  # noqa: S101 – asked for above
            try:
                port = _port(process.stdout)
                reading = threading.Thread(target=process.stdout.read, daemon=True)  # what the log says is let go
                reading.start()
                yield f"http://127.0.0.1:{port}"
            finally:
                process.kill()
            reading.join()


def _dying_with_us() -> list[str]:
    """What to put before a command, so that Linux ends it with the thread that started it."""
    return ["setpriv", "--pdeathsig", "KILL"] if sys.platform == "linux" and shutil.which("setpriv") else []


def _port(log: IO[bytes]) -> int:
    for line in log:
        told = json.loads(line) if line.startswith(b"{") else {}
        if told.get("event") == "api_started":
            return int(told["port"])
    raise BackupFailedError("The API over what came back does not start.")
