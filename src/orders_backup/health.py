"""Whether the parts that this service stands on work, proven by using each: a write, a message, an object."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import exc

from orders_backup import bell, counters, metrics, roster
from orders_backup import db as database
from orders_backup import store as stores
from orders_backup.errors import DatabaseUnavailableError, StorageUnavailableError
from orders_backup.runtime import Runtime

OK = "ok"
NOT_SET = "not set"
AWAY = "does not answer"
UNKNOWN = "unknown"

BROKER_WITHIN = 2.0
"""Seconds that a message may take to the broker and back."""
BROKER_EVERY, STORAGE_EVERY = 5.0, 60.0
"""Seconds for which an answer counts: whoever probes often costs no more."""
WORKERS_ANSWER_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """`parts`: `ok`, `not set`, or in a few words what is wrong with it. `workers` is told and decides nothing: where
    none works, what is stored can still be read."""

    parts: dict[str, str]
    workers: str

    @property
    def failing(self) -> dict[str, str]:
        return {name: state for name, state in self.parts.items() if state not in {OK, NOT_SET}}


@dataclass(slots=True)
class Probe:
    """Looks at the parts; remembers for a while how those are that cost something to look at."""

    runtime: Runtime
    lock: threading.Lock = field(default_factory=threading.Lock)
    known: dict[str, tuple[float, str]] = field(default_factory=dict)

    def look(self) -> Health:
        url = self.runtime.settings.broker_url
        parts, workers = look_at_database(self.runtime)
        parts["broker"] = self._lately("broker", BROKER_EVERY, lambda: look_at_broker(url))
        parts["storage"] = self._lately("storage", STORAGE_EVERY, lambda: look_at_storage(self.runtime.store))
        return Health(parts, workers)

    def _lately(self, part: str, seconds: float, look: Callable[[], str]) -> str:
        """What is well is believed for a while; what is not is looked at again at once."""
        with self.lock:
            at, state = self.known.get(part, (0.0, UNKNOWN))
            if state not in {OK, NOT_SET} or time.monotonic() - at > seconds:
                at, state = time.monotonic(), look()
                self.known[part] = (at, state)
            return state


def look_at_database(runtime: Runtime) -> tuple[dict[str, str], str]:
    """Database and migrations, proven by a committed write, and when a worker last heard its canary."""
    parts, workers = {"database": OK, "migrations": OK}, UNKNOWN
    try:
        with database.transaction(runtime.db) as tx:
            if not database.is_migrated(tx):
                parts["migrations"] = "the schema is not at this program's revision; run `orders-backup migrate`"
                return parts, workers
            workers = _workers(roster.newest_answer(tx))
        metrics.READINESS.inc()
        counters.report(runtime.db, durable=True)
    except DatabaseUnavailableError:
        parts["database"] = AWAY
        parts["migrations"] = parts["migrations"] if workers != UNKNOWN else UNKNOWN
    except exc.DBAPIError:
        parts["database"] = "cannot be written to"
    return parts, workers


def look_at_broker(url: str) -> str:
    """A message of our own, there and back."""
    if not url:
        return "BROKER_URL is not set"
    try:
        is_back = bell.round_trip(url, within=BROKER_WITHIN)
    except bell.AWAY:
        return AWAY
    return OK if is_back else "loses messages"


def look_at_storage(store: stores.Store | None) -> str:
    """An object of our own, written, read and removed."""
    if store is None:
        return NOT_SET
    key, content = f"health/{secrets.token_hex(8)}", secrets.token_bytes(16)
    try:
        stores.put(store, key, content)
        found = stores.get(store, key)
        stores.delete(store, [key])
    except StorageUnavailableError:
        return AWAY
    return OK if found == content else "does not keep what is put there"


def _workers(seconds: float | None) -> str:
    """`ok`, or since when no worker has answered its canary."""
    if seconds is None:
        return "none has answered yet"
    return OK if seconds < WORKERS_ANSWER_WITHIN else f"none has answered for {seconds:.0f} s"
