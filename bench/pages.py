"""`python -m bench.pages`: pages of orders from one API process, the very one that `up` starts. One line of JSON a leg.

The throughput of full pages stands against two others on the same orders, in turn: a bare loop that fetches and
decompresses the same bodies and does nothing else (half of its speed is owed), and the same page made by a pydantic
model from the JSONB projection in FastAPI (twice its speed).

A page at any depth may take 1.5 times as long as the first one (p99), for a seller, for a user of many accounts under
row-level security, and for a key that sees all. Both are asked in turn: whatever else the machine does hits both.

A search by a word that few orders hold may take three times as long as the first page of everything: it finds them by
one look into the index, and reads as many orders from all over the archive. The figures of a word that every eighth
order holds are told without a bound: all of them have to be ordered before its newest hundred are known.

PAGES_ORDERS says how many orders there are, PAGES_ROUNDS how often each page is asked for.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import urlencode

import psycopg
from bench import asking, backfill, filling, page_reference
from bench import scene as scenes
from bench.asking import Client
from bench.figures import Bound, Outcome
from bench.filling import Crowd
from bench.scene import Scene

from orders_backup import db as database
from orders_backup.codec import Codec

OF_BARE = 0.5
OF_PYDANTIC = 2.0
DEEPER = 1.5
SEARCH_RARE = 3.0
AT_ONCE = 2
"""Connections that ask at the same time."""
ROUNDS = 3
SECONDS = 3.0
"""Of each way in each round; the best round of each counts."""
DEPTHS = 200
"""Places at which pages are asked for."""
SORTS = ("-ordered_at", "ordered_at")
LATEST = datetime(2100, 1, 1, tzinfo=UTC)

BARE = b"""
    SELECT o.ordered_at, o.order_id, v.dictionary_id, v.body
    FROM orders o JOIN order_versions v USING (account_id, order_id, version)
    WHERE o.account_id = %(account)s AND (o.ordered_at, o.order_id) < (%(at)s::timestamptz, %(id)s::text)
    ORDER BY o.ordered_at DESC, o.order_id DESC LIMIT 100
"""
COMMON = """
    SELECT word, ndoc FROM ts_stat('SELECT words FROM orders TABLESAMPLE SYSTEM (1)')
    WHERE length(word) > 3 AND word NOT LIKE '@%' ORDER BY ndoc DESC LIMIT 1
"""


def measure(scene: Scene, crowd: Crowd) -> Iterator[Outcome]:
    """Leg by leg, of one API process."""
    with asking.served(scene.runtime) as port:
        yield throughput(scene, crowd, port)
        yield depth(scene, crowd, port)
        yield search(scene, crowd, port)


# Throughput


def throughput(scene: Scene, crowd: Crowd, port: int) -> Outcome:
    """Pages a second of one seller, newest first, page after page."""
    key, path = asking.key(scene.runtime), f"/api/v1/orders?limit=100&account_id={crowd.account}"
    with page_reference.served(scene) as other, _bare(scene, crowd) as bare:
        ours = [_walk(Client(port, key), path) for _ in range(AT_ONCE)]
        pydantic = [page_reference.pages(Client(other), crowd.account) for _ in range(AT_ONCE)]
        ways = {"ours": ours, "one_connection": ours[:1], "bare": [bare], "pydantic": pydantic}
        for some in ways.values():
            _rate(some, seconds=0.5)
        rounds = [{name: _rate(some, seconds=SECONDS) for name, some in ways.items()} for _ in range(ROUNDS)]
    best = {name: max(one[name] for one in rounds) for name in ways}
    bounds = {
        "of_the_bare_loop": Bound(best["ours"] / best["bare"], OF_BARE, at_least=True),
        "of_pydantic": Bound(best["ours"] / best["pydantic"], OF_PYDANTIC, at_least=True),
    }
    figures: dict[str, object] = {"pages_a_second": best, "load_of_the_last_minute": os.getloadavg()[0]}
    return Outcome("pages_throughput", crowd.orders, bounds, figures)


def _rate(ways: "list[Iterator[object]]", *, seconds: float) -> float:
    """Pages a second of several at once."""
    began = time.monotonic()

    def run(pages: "Iterator[object]") -> int:
        count = 0
        while time.monotonic() - began < seconds:
            next(pages)
            count += 1
        return count

    with ThreadPoolExecutor(len(ways)) as pool:
        return sum(pool.map(run, ways)) / (time.monotonic() - began)


def _walk(client: Client, path: str) -> Iterator[object]:
    cursor: str | None = None
    while True:
        page = client.page(path, cursor)
        cursor = page.cursor
        yield page


@contextmanager
def _bare(scene: Scene, crowd: Crowd) -> Iterator[Iterator[object]]:
    """What nobody can do without."""
    codec = Codec()
    with database.transaction(scene.runtime.db) as tx:
        ids = [None, *tx.exec_driver_sql("SELECT id FROM codec_dictionaries").scalars()]
        openers = {one: codec.opener(tx, one) for one in ids}

    def pages(cursor: "psycopg.Cursor[tuple[datetime, str, int | None, bytes]]") -> Iterator[object]:
        at, order_id = LATEST, ""
        while True:
            values = {"account": crowd.account, "at": at, "id": order_id}
            rows = cursor.execute(BARE, values, prepare=True).fetchall()
            yield [openers[row[2]](row[3]) for row in rows]
            at, order_id = rows[-1][:2] if len(rows) == asking.LIMIT else (LATEST, "")

    with psycopg.connect(scene.postgres.url, autocommit=True) as connection, connection.cursor(binary=True) as cursor:
        yield pages(cursor)


# Depth


def depth(scene: Scene, crowd: Crowd, port: int) -> Outcome:
    """The first page and one from anywhere, in turn; the places are those that a walk through the whole list gave."""
    looks = {
        "account": (asking.key(scene.runtime), {"account_id": str(crowd.account)}),
        "user": (asking.key(scene.runtime, crowd.user), {}),
        "all": (asking.key(scene.runtime), {}),
    }
    bounds: dict[str, Bound] = {}
    figures: dict[str, object] = {"accounts_of_the_user": crowd.accounts_of_user, "accounts": filling.ACCOUNTS + 1}
    for who, (key, narrowed) in looks.items():
        for sort in SORTS:
            client, query = Client(port, key), urlencode({**narrowed, "sort": sort})
            cursors, walked = _places(client, query)
            first, deep = _in_turn(client, f"/api/v1/orders?limit=100&{query}", cursors)
            name = f"{who}_{sort}"
            bounds[name] = Bound(asking.percentile(deep, 99) / asking.percentile(first, 99), DEEPER)
            figures[name] = {"orders": walked, "first_ms": _shown(first), "deep_ms": _shown(deep)}
    return Outcome("pages_depth", crowd.orders, bounds, figures)


def _places(client: Client, query: str) -> tuple[list[str], int]:
    """Cursors from all over the list, and how many orders it has: its pages of 1,000, walked to the end."""
    found: list[str] = []
    orders, cursor, path = 0, None, f"/api/v1/orders?limit=1000&fields=summary&{query}"
    while True:
        page = client.page(path, cursor)
        orders += page.body.count(b'"gone_at":')
        if (cursor := page.cursor) is None:
            return found[:: max(1, len(found) // DEPTHS)], orders
        found.append(cursor)


def _in_turn(client: Client, path: str, cursors: list[str]) -> tuple[list[float], list[float]]:
    first, deep = [], []
    for number in range(int(os.environ.get("PAGES_ROUNDS", "600"))):
        first.append(client.page(path).seconds)
        deep.append(client.page(path, cursors[number * 7919 % len(cursors)]).seconds)
    return first, deep


# Search


def search(scene: Scene, crowd: Crowd, port: int) -> Outcome:
    """First pages by words, each in turn with the first page of everything."""
    rare = scene.rows("SELECT order_id, buyer_login FROM orders WHERE account_id = :id LIMIT 100", id=crowd.account)
    common = scene.rows(COMMON)[0].word
    everything = Client(port, asking.key(scene.runtime))
    user = Client(port, asking.key(scene.runtime, crowd.user))
    questions: dict[str, Callable[[int], dict[str, str]]] = {
        "id": lambda n: {"q": rare[n % 100].order_id.partition("+")[0]},
        "login": lambda n: {"q": rare[n % 100].buyer_login},
        "login_cancelled": lambda n: {"q": rare[n % 100].buyer_login, "status": "CANCELLED"},
        "common": lambda _: {"q": common},
        "common_of_a_seller": lambda _: {"q": common, "account_id": str(crowd.account)},
        "common_and_login": lambda n: {"q": f"{common} {rare[n % 100].buyer_login}"},
    }
    bounds: dict[str, Bound] = {}
    figures: dict[str, object] = {"common_word": common}
    for name, asked in questions.items():
        for who, client in (("all", everything), ("user", user)):
            if who == "user" and name == "common_of_a_seller":
                continue
            rounds = int(os.environ.get("PAGES_ROUNDS", "600")) // (20 if name.startswith("common") else 3)
            first, found = [], []
            for number in range(max(rounds, 10)):
                first.append(client.page("/api/v1/orders?limit=100").seconds)
                found.append(client.page(f"/api/v1/orders?{urlencode({'limit': 100, **asked(number)})}").seconds)
            figures[f"{name}_{who}"] = {"first_ms": _shown(first), "found_ms": _shown(found)}
            if not name.startswith("common"):
                ratio = asking.percentile(found, 99) / asking.percentile(first, 99)
                bounds[f"{name}_{who}"] = Bound(ratio, SEARCH_RARE)
    return Outcome("pages_search", crowd.orders, bounds, figures)


def _shown(seconds: list[float]) -> dict[str, float]:
    return {f"p{one}": asking.percentile(seconds, one) * 1000 for one in (50, 99)}


def main() -> int:
    """A line a leg; 0 where every bound holds."""
    with scenes.built(int(os.environ.get("BENCH_ORDERS", "10000"))) as scene:
        account_id, _ = backfill.measure(scene)
        crowd = filling.fill(scene, account_id, int(os.environ.get("PAGES_ORDERS", "1000000")))
        broken = 0
        for outcome in measure(scene, crowd):
            print(outcome.line(), flush=True)
            broken += not outcome.ok
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
