"""`python -m bench.pages`: pages of orders from one API process, the very one that `up` starts. One line of JSON a leg.

The throughput of full pages stands against two others on the same orders: a bare loop that fetches and decompresses the
same bodies and does nothing else (half of its speed is owed), and the same page made by a pydantic model from the JSONB
projection in FastAPI (twice its speed). A page at any depth may take 1.5 times as long as the first one (p99): for a
seller, for a user of many accounts under row-level security, and for a key that sees all; in every sorting. The two are
asked in turn, so that whatever else the machine does hits both.

Of a search, a word that few orders hold may take three times as long as the first page of everything: it reads as
many orders, from all over the archive, after it found them by one look into the index. A word that every tenth order
holds has to be ordered before its newest hundred are known; SEARCH_COMMON says how much that may be.

PAGES_ORDERS says how many orders there are, PAGES_ROUNDS how often each is asked.
"""

import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any
from urllib.parse import urlencode

import psycopg
from bench import asking, backfill, filling
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
"""Connections that ask at the same time; what one process can do, whoever asks."""
ROUNDS = 3
SECONDS = 5.0
"""Of each kind in each round; the best round counts."""
PLACES = 200
"""Depths at which pages are asked for."""
SORTS = ("-ordered_at", "ordered_at", "-updated_at", "updated_at")
LATEST = datetime(2100, 1, 1, tzinfo=UTC)

BARE = """
    SELECT o.ordered_at, o.order_id, v.dictionary_id, v.body
    FROM orders o JOIN order_versions v USING (account_id, order_id, version)
    WHERE o.account_id = %(account)s AND (o.ordered_at, o.order_id) < (%(at)s, %(id)s)
    ORDER BY o.ordered_at DESC, o.order_id DESC LIMIT 100
"""


def measure(scene: Scene, crowd: Crowd) -> Iterator[Outcome]:
    """Each leg against an API process of its own making."""
    with asking.served(scene.runtime) as port:
        yield throughput(scene, crowd, port)
        yield depth(scene, crowd, port)
        yield search(scene, crowd, port)


# How fast


def throughput(scene: Scene, crowd: Crowd, port: int) -> Outcome:
    """Pages a second of one seller, newest first, page after page; three ways in turn."""
    places = [(row.ordered_at, row.order_id) for row in scene.rows(PLACED, account=crowd.account)]
    key, path = asking.key(scene.runtime), f"/api/v1/orders?limit=100&account_id={crowd.account}"
    with _pydantic() as other, _bare(scene, crowd) as bare:
        asked = [Client(other) for _ in range(AT_ONCE)]
        ours = [_walk(Client(port, key), path) for _ in range(AT_ONCE)]
        theirs = [_pages_of_pydantic(one, crowd, places) for one in asked]
        ways: dict[str, list[Iterator[int]]] = {
            "ours": ours,
            "ours_alone": ours[:1],
            "bare": [bare],
            "pydantic": theirs,
        }
        found = {name: [0.0] * ROUNDS for name in ways}
        for number in range(ROUNDS):
            for name, some in ways.items():
                found[name][number] = _rate(some)
    best = {name: max(rates) for name, rates in found.items()}
    bounds = {
        "of_the_bare_loop": Bound(best["ours"] / best["bare"], OF_BARE, at_least=True),
        "of_pydantic": Bound(best["ours"] / best["pydantic"], OF_PYDANTIC, at_least=True),
    }
    figures: dict[str, object] = {"pages_a_second": best, "load_of_the_last_minute": os.getloadavg()[0]}
    return Outcome("pages_throughput", crowd.orders, bounds, figures)
