"""One attempt: a POST within 15 seconds, no redirects, 2 KB of the answer. Whatever goes wrong is an answer, too.

The status decides; what comes after it is only kept to be shown.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import cache
from ssl import SSLContext
from types import TracebackType
from typing import Self

import httpcore

from orders_backup.errors import WebhookTargetError
from orders_backup.webhooks import guard
from orders_backup.webhooks.guard import Target
from orders_backup.webhooks.schedule import Answer

SECONDS = 15.0
ANSWER_BYTES = 2048
USER_AGENT = "Allegro-Orders-Backup-Webhooks/1.0"


class Sender:
    """The connections to one endpoint; safe among threads. No other endpoint waits for any of them."""

    def __init__(
        self,
        allowed: frozenset[str],
        clock: Callable[[], datetime],
        *,
        most: int,
        seconds: float | None = None,
        lookup: guard.Resolve = guard.resolve,
        wire: httpcore.NetworkBackend | None = None,
    ) -> None:
        self._seconds = SECONDS if seconds is None else seconds
        self._clock = clock
        self._deadline = guard.Deadline()
        self._pool = httpcore.ConnectionPool(
            ssl_context=_tls(),
            max_connections=most,
            max_keepalive_connections=most,
            keepalive_expiry=30,
            network_backend=guard.Pinned(allowed, self._deadline, lookup=lookup, wire=wire),
        )

    def post(self, target: Target, headers: dict[str, str], body: bytes) -> Answer:
        """How it went; never raises for anything the endpoint or the network did."""
        at, began = self._clock(), time.monotonic()

        def seconds() -> float:
            return time.monotonic() - began

        try:
            with self._deadline.of(self._seconds):
                status, answered, retry_after = self._exchange(target, headers, body)
        except WebhookTargetError as error:
            return Answer(at, seconds(), error=str(error))
        except httpcore.TimeoutException:
            return Answer(at, seconds(), error=f"The endpoint did not answer within {self._seconds:g} s.")
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return Answer(at, seconds(), error=f"No answer: {type(error).__name__}: {error}"[:300])
        return Answer(at, seconds(), status=status, body=answered, retry_after=retry_after)

    def _exchange(self, target: Target, headers: dict[str, str], body: bytes) -> tuple[int, bytes, str | None]:
        own = {"Host": target.authority, "Content-Type": "application/json", "User-Agent": USER_AGENT}
        sent: list[tuple[bytes | str, bytes | str]] = [*own.items(), *headers.items()]
        waits = dict.fromkeys(("connect", "read", "write", "pool"), self._seconds)
        read = bytearray()
        with self._pool.stream("POST", target.url, headers=sent, content=body, extensions={"timeout": waits}) as answer:
            asked = [value.decode("latin-1") for name, value in answer.headers if name.lower() == b"retry-after"]
            with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
                for chunk in answer.iter_stream():
                    read += chunk
                    if len(read) >= ANSWER_BYTES:
                        break
        return answer.status, bytes(read[:ANSWER_BYTES]), next(iter(asked), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()


@cache
def _tls() -> SSLContext:
    """Loaded once: reading the world's certificate authorities takes longer than a delivery."""
    return httpcore.default_ssl_context()
