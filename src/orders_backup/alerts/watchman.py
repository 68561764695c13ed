"""A thread beside API and scheduler for when the usual way fails: it does rounds that nobody does, and tells of a
database that is away, which no row can.

All watchmen of a machine speak once: what was told stands in a file in DATA_DIR.
"""

import fcntl
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import structlog

from orders_backup import db as database
from orders_backup import health
from orders_backup.alerts import decide, state, texts, watch
from orders_backup.alerts.rules import BY_NAME
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.runtime import Runtime

LOOK_EVERY = 15.0
NEGLECTED_AFTER = timedelta(minutes=3)
"""A round that is so late is done by whoever notices."""
REMIND = decide.REMIND["critical"].total_seconds()
HOLD = BY_NAME["database_failing"].hold.total_seconds()

Word = Literal["away", "back"]

log = structlog.get_logger()


@dataclass(slots=True)
class Memory:
    """What this process knows of an outage, in seconds since 1970: since when the database is away, what was told last
    and when."""

    away_since: float | None = None
    told: Word = "back"
    told_at: float = 0.0


def keep_watch(runtime: Runtime, stopping: threading.Event) -> threading.Thread:
    """The thread; it looks until `stopping`."""
    memory = Memory()

    def keep() -> None:
        while not stopping.wait(LOOK_EVERY):
            try:
                look(runtime, memory, now=time.time())
            except DatabaseUnavailableError:  # went away in between: the next look tells
                continue
            except Exception:
                log.exception("alert_watch_crashed")

    thread = threading.Thread(target=keep, name="watchman", daemon=True)
    thread.start()
    return thread


def look(runtime: Runtime, memory: Memory, *, now: float) -> None:
    """One look: is the database there, and does somebody do the rounds?"""
    found = health.look_at_database(runtime).parts
    is_away = found["database"] != health.OK
    memory.away_since = (memory.away_since or now) if is_away else None
    _tell(runtime, memory, now=now)
    if is_away or found["migrations"] != health.OK:
        return
    with database.transaction(runtime.db) as tx:
        state.begin(tx, list(watch.EVERY))
        kinds = state.neglected(tx, list(watch.EVERY), after=NEGLECTED_AFTER)
    for kind in kinds:
        watch.work(runtime, kind)


def due_word(memory: Memory, *, now: float) -> Word | None:
    """What is to be told now."""
    if memory.away_since is None:
        return "back" if memory.told == "away" else None
    has_held = now - memory.away_since >= HOLD
    return "away" if has_held and (memory.told == "back" or now - memory.told_at >= REMIND) else None


def _tell(runtime: Runtime, memory: Memory, *, now: float) -> None:
    with _shared(runtime.settings.data_dir / "database-away", memory, now=now) as is_mine:
        word = due_word(memory, now=now)
        if word is None or not is_mine:
            return
        message = texts.without_database(away=word == "away", installation=watch.where(runtime))
        outcomes = runtime.channels.send({name: [message] for name in runtime.channels.names})
        if word == "away":
            log.error("database_alert_attempted", status=word, attempts=len(outcomes))
        else:
            log.info("database_alert_attempted", status=word, attempts=len(outcomes))
        if any(outcome.taken for outcome in outcomes.values()) or word == "back":
            memory.told, memory.told_at = word, now


@contextmanager
def _shared(file: Path, memory: Memory, *, now: float) -> Iterator[bool]:
    """Brings into memory what any watchman of this machine told last, and notes what this one tells. False: another one
    is speaking. Without a file each process speaks for itself."""
    try:
        stream = file.open("a+", errors="replace")
    except OSError:
        yield True
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        stream.seek(0)
        word, _, at = stream.read().strip().partition(" ")
        if word in {"away", "back"} and re.fullmatch(r"\d{1,12}(\.\d+)?", at, re.ASCII) and float(at) <= now:
            memory.told, memory.told_at = ("away" if word == "away" else "back"), float(at)
        before = (memory.told, memory.told_at)
        yield True
        if (memory.told, memory.told_at) != before:
            stream.truncate(0)
            stream.write(f"{memory.told} {memory.told_at}\n")
