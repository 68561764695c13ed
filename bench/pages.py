"""`python -m bench.pages`: pages of orders from one API process, the very one that `up` starts. One line of JSON a leg.

The throughput of full pages stands against two others on the same orders, in turn: a bare loop that fetches and
decompresses the same bodies and does nothing else (half of its speed is owed), and the same page made by a pydantic
model from the JSONB projection in FastAPI (twice its speed).

A page at any depth may take 1.5 times as long as the first one (p99), for a seller, for a user of many accounts under
row-level security, and for a key that sees all. Both are asked in turn: whatever else the machine does hits both.

A search by an id, or by a word that one order in ten thousand holds, may take three times as long as the first page of
everything: it finds them by one look into the index, and reads as many orders from all over the archive. Frequent words
are told without a bound: all orders that hold them have to be ordered before the newest hundred are known.

ARCHIVE_ORDERS says how many orders there are, PAGES_ROUNDS how often each page is asked for.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
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
AT_ONCE = 4
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
WORDS = """
    SELECT word, ndoc FROM ts_stat(
        'SELECT words FROM orders WHERE account_id = ''{account}'' AND strpos(order_id, ''+'') = 0')
    WHERE word ~ '^[a-z]{{4,}}$' ORDER BY ndoc, word
"""
"""Of the orders that all others were copied from, rare ones first."""


def measure(scene: Scene, crowd: Crowd, *, rounds: int, sorts: Sequence[str]) -> Iterator[Outcome]:
    """Leg by leg, of one API process."""
    with asking.served(scene.runtime) as port:
        yield throughput(scene, crowd, port)
        yield depth(scene, crowd, port, rounds=rounds, sorts=sorts)
        yield search(scene, crowd, port, rounds=rounds)


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


def depth(scene: Scene, crowd: Crowd, port: int, *, rounds: int, sorts: Sequence[str]) -> Outcome:
    """The first page and one from anywhere, in turn; the places are those that a walk through the whole list gave."""
    looks = {
        "account": (asking.key(scene.runtime), {"account_id": str(crowd.account)}),
        "user": (asking.key(scene.runtime, crowd.user), {}),
        "all": (asking.key(scene.runtime), {}),
    }
    bounds: dict[str, Bound] = {}
    figures: dict[str, object] = {"accounts_of_the_user": crowd.accounts_of_user, "accounts": filling.ACCOUNTS + 1}
    for who, (key, narrowed) in looks.items():
        for sort in sorts:
            client, query = Client(port, key), urlencode({**narrowed, "sort": sort})
            cursors, walked = _places(client, query)
            first, deep = _in_turn(client, f"/api/v1/orders?limit=100&{query}", cursors, rounds)
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


def _in_turn(client: Client, path: str, cursors: list[str], rounds: int) -> tuple[list[float], list[float]]:
    first, deep = [], []
    for number in range(rounds):
        first.append(client.page(path).seconds)
        deep.append(client.page(path, cursors[number * 7919 % len(cursors)]).seconds)
    return first, deep


# Search


def search(scene: Scene, crowd: Crowd, port: int, *, rounds: int) -> Outcome:
    """First pages by words, each in turn with the first page of everything; one in twenty of those without a bound."""
    stored = scene.rows(WORDS.format(account=crowd.account))
    originals = scene.rows(ORIGINALS, account=crowd.account)
    rare, often = [row.word for row in stored[:100]], [row.word for row in stored if row.ndoc > len(originals) / 10]
    ids = [row.order_id for row in originals[:100]]
    logins = [row.buyer_login for row in originals[:100]]
    seller = {"account_id": str(crowd.account)}
    questions: dict[str, list[dict[str, str]]] = {
        "id": [{"q": one} for one in ids],
        "rare_word": [{"q": one} for one in rare],
        "rare_word_and_status": [{"q": one, "status": "CANCELLED"} for one in rare],
        "login": [{"q": one} for one in logins],
        "word_of_a_tenth": [{"q": often[0]}],
        "word_of_a_tenth_and_status": [{"q": often[0], "status": "CANCELLED"}],
        "word_of_a_tenth_of_a_seller": [{"q": often[0], **seller}],
        "word_of_all": [{"q": often[-1]}],
    }
    bounds: dict[str, Bound] = {}
    figures: dict[str, object] = {"rare": rare[:3], "of_a_tenth": often[0], "of_all": often[-1]}
    for who, user_id in (("all", None), ("user", crowd.user)):
        client = Client(port, asking.key(scene.runtime, user_id))
        for name, asked in questions.items():
            is_bounded = name.startswith(("id", "rare"))
            if who == "user" and asked[0].keys() >= seller.keys():
                continue
            first, found = [], []
            for number in range(rounds if is_bounded else max(rounds // 20, 10)):
                first.append(client.page("/api/v1/orders?limit=100").seconds)
                query = urlencode({"limit": "100", **asked[number % len(asked)]})
                found.append(client.page(f"/api/v1/orders?{query}").seconds)
            figures[f"{name}_{who}"] = {"first_ms": _shown(first), "found_ms": _shown(found)}
            if is_bounded:
                ratio = asking.percentile(found, 99) / asking.percentile(first, 99)
                bounds[f"{name}_{who}"] = Bound(ratio, SEARCH_RARE)
    return Outcome("pages_search", crowd.orders, bounds, figures)


ORIGINALS = """
    SELECT order_id, buyer_login FROM orders WHERE account_id = :account AND strpos(order_id, '+') = 0 ORDER BY order_id
"""


def _shown(seconds: list[float]) -> dict[str, float]:
    return {f"p{one}": asking.percentile(seconds, one) * 1000 for one in (50, 99)}


def main() -> int:
    """A line a leg; 0 where every bound holds."""
    with scenes.built(int(os.environ.get("BENCH_ORDERS", "10000"))) as scene:
        account_id, _ = backfill.measure(scene)
        crowd, broken = filling.fill(scene, account_id), 0
        rounds = int(os.environ.get("PAGES_ROUNDS", "600"))
        for outcome in measure(scene, crowd, rounds=rounds, sorts=SORTS):
            print(outcome.line(), flush=True)
            broken += not outcome.ok
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
