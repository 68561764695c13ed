"""`python -m bench.feed`: 10,000 changes a second of four writers, read by three over HTTP. One line of JSON.

Each writer is a process that copies changes as the archive does: most in short transactions, some in transactions that
stay open for up to three seconds while others overtake them, some of which end in a rollback. Each reader is a process
that asks one API process, as `up` starts it, for `/api/v1/changes` with `wait`, cursor after cursor. Nobody may miss a
change or see one twice, and soon after the last commit everybody has everything.

FEED_SECONDS says how long they write.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import sqlalchemy as sa
from bench import asking
from bench import scene as scenes
from bench.asking import Client
from bench.figures import Bound, Outcome
from pydantic import SecretStr
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup import local, vault
from orders_backup import runtime as runtimes
from orders_backup.local import directory
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.tables import accounts, order_changes

WRITERS, READERS, ACCOUNTS = 4, 3, 20
PER_SECOND = 10_000
TOLERANCE = 0.99
WITHIN = 5.0
"""Seconds from the last commit until every reader has everything."""
IN_LONG_ONES = 0.1
"""Of all changes: the share in transactions that stay open."""
LONGEST = 3.0
ROLLED_BACK = 0.1
TICK = 0.1
COLUMNS = ("account_id", "order_id", "version", "kinds", "cause")
END = "end"


class _Item(msgspec.Struct):
    order_id: str


class _Page(msgspec.Struct):
    items: list[_Item]


def measure(runtime: Runtime) -> Outcome:
    """Writers and readers begin together; a last change tells the readers that they have everything."""
    seconds = float(os.environ.get("FEED_SECONDS", "30"))
    ids = [uuid4() for _ in range(ACCOUNTS)]
    with database.transaction(runtime.db) as tx:
        rows = [
            {"id": one, "user_id": uuid4(), "name": "bench", "status": "active", "seller_id": str(one)} for one in ids
        ]
        tx.execute(sa.insert(accounts), rows)
    with asking.served(runtime) as port, ExitStack() as stack:
        key, url = asking.key(runtime), runtime.settings.database_url
        readers = [stack.enter_context(_process("read", str(port), key)) for _ in range(READERS)]
        writers = [
            stack.enter_context(_process("write", url, str(number), str(seconds), *map(str, ids)))
            for number in range(WRITERS)
        ]
        for process in (*readers, *writers):
            assert _told(process) == "ready"
        began = time.monotonic()
        for process in (*readers, *writers):
            assert process.stdin is not None
            print(file=process.stdin, flush=True)
        written = Counter(one for writer in writers for one in _told(writer)["written"])
        wall = time.monotonic() - began
        with database.transaction(runtime.db) as tx:
            _write(tx, ids, [END])
        ended = time.monotonic()
        seen = [_told(reader) for reader in readers]
    late = [one["ended"] - ended for one in seen]
    counts = [Counter(one["seen"]) for one in seen]
    bounds = {
        "written_a_second": Bound(written.total() / seconds, PER_SECOND * TOLERANCE, at_least=True),
        "missed": Bound(sum((written - count).total() for count in counts), 0),
        "repeated_or_never_written": Bound(sum((count - written).total() for count in counts), 0),
        "seconds_behind_at_the_end": Bound(max(late), WITHIN),
    }
    figures: dict[str, object] = {
        "read_a_second_by_each": written.total() / (wall + max(late)),
        "pages": [one["pages"] for one in seen],
        "seconds_behind": {f"reader_{number}": one for number, one in enumerate(late)},
        "load_of_the_last_minute": os.getloadavg()[0],
    }
    return Outcome("feed", written.total(), bounds, figures)


# In the processes of the bench


def write(url: str, writer: str, seconds: float, ids: Sequence[UUID]) -> dict[str, list[str]]:
    """The names of all changes that were committed."""
    db, share = database.connect(url, pool_size=2), PER_SECOND / WRITERS
    _go()
    until = time.monotonic() + seconds
    kept: list[str] = []

    def at_length() -> None:
        draw, number = random.Random(writer), 0
        while time.monotonic() < until:
            stays = draw.uniform(0, LONGEST)
            some = [f"{writer}-long-{number + one}" for one in range(int(share * IN_LONG_ONES * stays) + 1)]
            number += len(some)
            if _slowly(db, ids, some, stays, is_kept=draw.random() >= ROLLED_BACK):
                kept.extend(some)

    slow = threading.Thread(target=at_length)
    slow.start()
    short: list[str] = []
    draw, began = random.Random(), time.monotonic()
    while (now := time.monotonic()) < until:
        owed = int((min(now, until) - began + TICK) * share) - len(short)
        while owed > 0:
            some = [f"{writer}-short-{len(short) + one}" for one in range(min(owed, draw.randint(1, 400)))]
            with database.transaction(db) as tx:
                _write(tx, ids, some)
            short += some
            owed -= len(some)
        time.sleep(TICK)
    slow.join()
    return {"written": short + kept}


def _slowly(db: Engine, ids: Sequence[UUID], some: Sequence[str], stays: float, *, is_kept: bool) -> bool:
    """Numbers are taken at both ends of the transaction, so that others lie between them."""
    with db.connect() as tx, tx.begin() as held:
        _write(tx, ids, some[::2])
        time.sleep(stays)
        _write(tx, ids, some[1::2])
        if not is_kept:
            held.rollback()
    return is_kept


def _write(tx: Connection, ids: Sequence[UUID], names: Sequence[str]) -> None:
    """As the archive does."""
    rows = [(random.choice(ids), name, 1, "{order.status_changed}", "bench") for name in names]
    database.copy(tx, order_changes, COLUMNS, rows)


def read(port: int, key: str) -> dict[str, object]:
    """Everything up to the last change: names, pages, and when it was through."""
    client, cursor, pages = Client(port, key), None, 0
    seen: list[str] = []
    _go()
    while END not in seen[-1:]:
        page = client.page("/api/v1/changes?limit=1000&wait=20", cursor)
        seen += [one.order_id for one in msgspec.json.decode(page.body, type=_Page).items]
        cursor, pages = page.cursor, pages + 1
    return {"seen": seen[:-1], "pages": pages, "ended": time.monotonic()}


@contextmanager
def _process(*words: str) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
        [sys.executable, "-m", "bench.feed", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _told(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def _go() -> None:
    """Everybody begins together."""
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()


@contextmanager
def opened() -> Iterator[Runtime]:
    """A database and nothing else."""
    with tempfile.TemporaryDirectory(prefix="orders-backup-bench-") as folder:
        data_dir = directory.prepared(Path(folder) / "data")
        with local.start_postgres(data_dir) as postgres:
            settings = Settings(
                data_dir=data_dir,
                database_url=postgres.url,
                encryption_keys=SecretStr(vault.new_key()),
                rate_limit_api=scenes.UNLIMITED,
            )
            runtime = runtimes.build(settings)
            database.migrate(runtime.db)
            yield runtime
            runtime.close()


def main() -> int:
    """With arguments what one process does, without them the whole bench."""
    if len(sys.argv) > 1:
        what, *words = sys.argv[1:]
        told: object
        if what == "read":
            told = read(int(words[0]), words[1])
        else:
            told = write(words[0], words[1], float(words[2]), [UUID(one) for one in words[3:]])
        print(json.dumps(told), flush=True)
        return 0
    with opened() as runtime:
        outcome = measure(runtime)
    print(outcome.line(), flush=True)
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
