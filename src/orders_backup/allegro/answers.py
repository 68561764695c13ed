"""One HTTP call and its answer's bytes, read within bounds of size and time. Knows no address and no field."""

import functools
import ssl
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import structlog

from orders_backup import metrics, traces
from orders_backup.errors import AllegroAnswerError, AllegroUnavailableError, AllegroUnreadableError

LARGEST = 16 * 1024 * 1024
"""Bytes of an answer, unpacked. A hundred ordinary orders are 300 kB."""
BEGINNING = 64 * 1024
"""How much is kept of a larger one."""
LONGEST_SECONDS = 40.0
"""From asking to the last byte; each of them has the client's own time limit besides."""
ENCODINGS = {"": "", "identity": "", "gzip": "gzip", "x-gzip": "gzip"}
"""What we ask for. The HTTP library would unpack others too, and some without any bound."""
_GZIP = 31
_PIECE = 256 * 1024

log = structlog.get_logger()


@functools.cache
def trust() -> ssl.SSLContext:
    """Whom we believe to be Allegro; read once, because reading all certificates takes 25 ms."""
    return httpx.create_ssl_context()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose bytes have all arrived."""

    status_code: int
    headers: httpx.Headers
    content: bytes


def send(
    http: httpx.Client, method: str, path: str, *, route: str = "", within: float | None = None, **request: Any
) -> Answer:
    """Raises httpx.HTTPError where the connection fails; AllegroUnreadableError for a 200 of more than LARGEST;
    AllegroAnswerError for one that cannot be unpacked. Of other answers a long body is cut: nobody reads it.

    `route`: the path as it may be told of, where it has an id in it. `within`: seconds until the last byte.
    """
    ends_at = time.monotonic() + (LONGEST_SECONDS if within is None else within)
    with _watched(method, route or path) as seen, http.stream(method, path, **request) as answer:
        seen.status, seen.trace_id = answer.status_code, answer.headers.get("trace-id")
        try:
            content = _read(answer, ends_at)
        except AllegroAnswerError:
            if answer.status_code == 200:
                raise
            content = b""
        seen.bytes = len(content)
        return Answer(answer.status_code, answer.headers, content)


@dataclass(slots=True)
class _Seen:
    """What may be told of a call."""

    status: int | None = None
    trace_id: str | None = None
    bytes: int = 0
    error: str | None = None


@contextmanager
def _watched(method: str, route: str) -> Iterator[_Seen]:
    """Around every call to Allegro: a count, a span, and one line in the log. None can hold a query, body or token."""
    seen, began = _Seen(), time.monotonic()
    with traces.span(f"{method} {route}", "CLIENT", **{"http.request.method": method, "http.route": route}) as told:
        try:
            yield seen
        except BaseException as error:
            seen.error = type(error).__name__
            raise
        finally:
            told["http.response.status_code"] = seen.status
            _report(method, route, seen, time.monotonic() - began)


def _report(method: str, route: str, seen: _Seen, seconds: float) -> None:
    metrics.CALLS.labels(route, metrics.status(seen.status)).inc()
    metrics.CALL_SECONDS.labels(route).observe(seconds)
    metrics.CALL_BYTES.labels(route).inc(seen.bytes)
    log.info(
        "call_finished",
        method=method,
        route=route,
        status=seen.status,
        duration_ms=round(seconds * 1000, 1),
        bytes=seen.bytes,
        allegro_trace_id=seen.trace_id,
        error=seen.error,
    )


def _read(answer: httpx.Response, ends_at: float) -> bytes:
    encoding = ENCODINGS.get(answer.headers.get("content-encoding", "").strip().lower())
    if encoding is None:
        raise AllegroAnswerError("Allegro packed its answer in a way that was not asked for.", http_status=200)
    pieces, size = [], 0
    for piece in _unpacked(answer, ends_at) if encoding else _arriving(answer, ends_at):
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST:
            beginning = b"".join(pieces)[:BEGINNING]
            raise AllegroUnreadableError(
                f"Allegro's answer is larger than {LARGEST >> 20} MiB.", beginning, is_whole=False, http_status=200
            )
    return b"".join(pieces)


def _unpacked(answer: httpx.Response, ends_at: float) -> Iterator[bytes]:
    """Never more than a piece at once, however much a few packed bytes hold."""
    unpacker = zlib.decompressobj(_GZIP)
    try:
        for packed in _arriving(answer, ends_at):
            rest = packed
            while rest and not unpacker.eof:
                yield unpacker.decompress(rest, _PIECE)
                rest = unpacker.unconsumed_tail
        while not unpacker.eof and (piece := unpacker.decompress(b"", _PIECE)):
            yield piece
    except zlib.error:
        raise AllegroAnswerError("Allegro's answer cannot be unpacked.") from None
    if not unpacker.eof:
        raise AllegroAnswerError("Allegro's answer cannot be unpacked: it was cut off.")


def _arriving(answer: httpx.Response, ends_at: float) -> Iterator[bytes]:
    """The bytes as they come off the wire."""
    assert isinstance(answer.stream, httpx.SyncByteStream)  # noqa: S101 – a synchronous client has no other
    for piece in answer.stream:
        yield piece
        if time.monotonic() > ends_at:
            raise AllegroUnavailableError("Allegro's answer took longer than it may.")
