"""Whether the parts that this service stands on work, proven by using each: a write, a message, an object."""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
DATABASE_EVERY, BROKER_EVERY, STORAGE_EVERY = 1.0, 5.0, 60.0
"""Seconds for which it counts that a part works: whoever probes often costs no more."""
FAILED_FOR = 2.0
"""Seconds for which it counts that it does not."""
FIRST_WITHIN = 5.0
"""Seconds that whoever asks meanwhile waits for the very first look."""
WORKERS_ANSWER_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """`parts`: `ok`, `not set`, or in a few words what is wrong with it. `workers` is told and decides nothing: where
    none works, what is stored can still be read."""

    parts: dict[str, str]
    workers: str = UNKNOWN

    @property
    def failing(self) -> dict[str, str]:
        return {name: state for name, state in self.parts.items() if state not in {OK, NOT_SET}}


@dataclass(slots=True)
class Lately:
    """How one part is, looked at by one thread at a time. Whoever asks meanwhile is told what was found last, so that
    a part that hangs holds one thread of the API and not all."""

    look: Callable[[], Health]
    seconds: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    known: tuple[float, Health] | None = None

    def found(self) -> Health | None:
        """None: nothing is known yet, and somebody still looks."""
        if self._fresh() is None and self.lock.acquire(timeout=FIRST_WITHIN if self.known is None else 0):
            try:
                if self._fresh() is None:
                    self.known = (time.monotonic(), self.look())
            finally:
                self.lock.release()
        return self.known[1] if self.known else None

    def _fresh(self) -> Health | None:
        if self.known is None:
            return None
        at, health = self.known
        return health if time.monotonic() - at < (FAILED_FOR if health.failing else self.seconds) else None


class Probe:
    """Looks at the parts; remembers for a while how they are."""

    def __init__(self, runtime: Runtime) -> None:
        self._store, self._key = runtime.store, f"health/{secrets.token_hex(8)}"
        url, store, key = runtime.settings.broker_url, self._store, self._key
        self._parts = {
            "database": Lately(lambda: look_at_database(runtime), DATABASE_EVERY),
            "broker": Lately(lambda: Health({"broker": look_at_broker(url)}), BROKER_EVERY),
            "storage": Lately(lambda: Health({"storage": look_at_storage(store, key)}), STORAGE_EVERY),
        }

    def look(self) -> Health:
        found = [part.found() or Health({name: UNKNOWN}) for name, part in self._parts.items()]
        parts = {name: state for one in found for name, state in one.parts.items()}
        return Health({"database": UNKNOWN, "migrations": UNKNOWN} | parts, found[0].workers)

    def close(self) -> None:
        """Takes the object out of the bucket by which that was probed."""
        if self._store is not None:
            with suppress(StorageUnavailableError):
                stores.delete(self._store, [self._key])


def look_at_database(runtime: Runtime) -> Health:
    """Database and migrations, proven by a committed write, and when a worker last heard its canary."""
    parts, workers = {"database": OK, "migrations": OK}, UNKNOWN
    try:
        with database.transaction(runtime.db) as tx:
            if not database.is_migrated(tx):
                parts["migrations"] = "the schema is not at this program's revision; run `orders-backup migrate`"
                return Health(parts, workers)
            workers = _workers(roster.newest_answer(tx))
        metrics.READINESS.inc()
        counters.report(runtime.db, durable=True)
    except DatabaseUnavailableError:
        parts["database"] = AWAY
        parts["migrations"] = parts["migrations"] if workers != UNKNOWN else UNKNOWN
    except exc.DBAPIError:
        parts["database"] = "cannot be written to"
    return Health(parts, workers)


def look_at_broker(url: str) -> str:
    """A message of our own, there and back."""
    if not url:
        return "BROKER_URL is not set"
    try:
        is_back = bell.round_trip(url, within=BROKER_WITHIN)
    except bell.AWAY:
        return AWAY
    return OK if is_back else "loses messages"


def look_at_storage(store: stores.Store | None, key: str) -> str:
    """An object of our own, written and read. It is always the same one: in a bucket that keeps every version of what
    was deleted, new ones would add up."""
    if store is None:
        return NOT_SET
    content = secrets.token_bytes(16)
    try:
        stores.put(store, key, content)
        found = stores.get(store, key)
    except StorageUnavailableError:
        return AWAY
    return OK if found == content else "does not keep what is put there"


def _workers(seconds: float | None) -> str:
    """`ok`, or since when no worker has answered its canary."""
    if seconds is None:
        return "none has answered yet"
    return OK if seconds < WORKERS_ANSWER_WITHIN else f"none has answered for {seconds:.0f} s"
