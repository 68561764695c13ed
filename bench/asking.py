"""The API as `up` starts it, and a client that costs next to nothing: it reads an answer and finds its cursor."""

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles
from urllib.parse import quote
from uuid import UUID

import msgspec
from bench import scene as scenes

from orders_backup import access, local
from orders_backup import db as database
from orders_backup.local import processes
from orders_backup.local.processes import Child
from orders_backup.local.server import on_a_free_port
from orders_backup.runtime import Runtime

HOST = "127.0.0.1"
LIMIT = 100
IDLE = 2.0
"""Seconds after which a connection is opened anew; a server closes it after five."""
_CURSOR = b'"next_cursor":'


class _Place(msgspec.Struct):
    next_cursor: str | None
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """An answer's bytes, where to go on, and the seconds from asking to having read it."""

    body: bytes
    cursor: str | None
    has_more: bool
    seconds: float


class Client:
    """One connection with one key. Answers come uncompressed: what compression costs is the caller's to choose."""

    def __init__(self, port: int, key: str = "") -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=120)
        self._asked_at = 0.0
        self._headers = {"X-API-Key": key, "Accept-Encoding": "identity"}

    def page(self, path: str, cursor: str | None = None) -> Page:
        """The page after the cursor; `path` with its query. The cursor is looked for at the end, nothing is parsed."""
        target = path if cursor is None else f"{path}&cursor={quote(cursor)}"
        if time.perf_counter() - self._asked_at > IDLE:
            self._connection.close()
        began = self._asked_at = time.perf_counter()
        self._connection.request("GET", target, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - began
        assert answer.status == http.HTTPStatus.OK, (answer.status, body[:500])
        at = body.rfind(_CURSOR)
        place = msgspec.json.decode(b"{" + body[at:], type=_Place) if at >= 0 else _Place(None)
        return Page(body, place.next_cursor, place.has_more, seconds)


@contextmanager
def served(runtime: Runtime) -> Iterator[int]:
    """One API process; its port."""

    def on(port: int) -> Child:
        return local.application_children(runtime.settings, HOST, port, 1)[0]

    child, port = on_a_free_port(on, lambda _, port: processes.accepts_connections(HOST, port), within=scenes.WITHIN)
    try:
        yield port
    finally:
        child.stop(within=30)


def key(runtime: Runtime, user_id: UUID | None = None) -> str:
    """One that may read orders; of a user, or of all."""
    with database.transaction(runtime.db) as tx:
        return access.create_key(tx, name="bench", scopes=["orders:read"], user_id=user_id)


def percentile(seconds: list[float], percent: int) -> float:
    return quantiles(seconds, n=100)[percent - 1]
