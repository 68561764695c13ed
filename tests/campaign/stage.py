"""The stage: simulated processes that run the product's own tasks, and everything that can happen between two steps."""

import contextlib
import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import httpx
import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Engine

from allegro_simulator.world import World
from orders_backup import runtime as runtimes
from orders_backup import worker as background
from orders_backup.accounts import spool
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

from . import knobs, wires
from .hand import HAND
from .wires import Wire

CRASHES = ("crash", "crash_after")
FAILURES: dict[str, type[psycopg.Error]] = {
    "cut": psycopg.OperationalError,
    "deadlock": psycopg.errors.DeadlockDetected,
    "serialization": psycopg.errors.SerializationFailure,
    "timeout": psycopg.errors.QueryCanceled,
}
INJECTED = (psycopg.Error, sa.exc.SQLAlchemyError, httpx.HTTPError, OSError)
HERE = Path(__file__).parent
OURS = "campaign:"
"""How trouble begins that tells of the campaign itself and of no broken promise."""
TOLD_ELSEWHERE = {"task", "exc_info", "trace_id", "run_id"}
"""Fields of a log line that name it anew each time, or that the trace has anyway."""
UNFENCED = {"request_budget", "account_tokens", "codec_dictionaries"}
"""What a process may write although another one took over its job: these have fences of their own."""


class Crash(BaseException):
    """The process is dead: whatever it does from now on raises this again and touches nothing."""


@dataclass(slots=True)
class Worker:
    """A simulated process. `stale`: another one took over the job that this one is in and had claimed."""

    name: str
    skew: float
    runtime: Runtime
    tasks: dict[str, Callable[..., None]]
    dead: bool = False
    stale: bool = False
    has_claimed: bool = False
    job: tuple[str, dict[str, str]] | None = None


@dataclass(slots=True)
class Armed:
    """An action that waits for the `count`-th boundary of its place. `unless`: where it may not strike."""

    place: str
    count: int
    action: str
    seconds: float = 0.0


class Door:
    """The engine as one process has it: shut to the dead."""

    def __init__(self, engine: Engine, comes: Callable[[], None]) -> None:
        self._engine, self._comes = engine, comes

    def begin(self) -> Any:
        self._comes()
        return self._engine.begin()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class _Celery:
    """What the product registers its tasks with and sends its messages to."""

    def __init__(self, send: Callable[[str, dict[str, str]], None]) -> None:
        self.tasks: dict[str, Callable[..., None]] = {}
        self._send = send

    def task(self, *, name: str, **_: object) -> Callable[[Callable[..., None]], Callable[..., None]]:
        def keep(work: Callable[..., None]) -> Callable[..., None]:
            self.tasks[name] = work
            return work

        return keep

    def send_task(self, name: str, *, kwargs: dict[str, str], **_: object) -> None:
        self._send(name, kwargs)


class _Files(ModuleType):
    """What the spool imports as `os`: every step on the disk is a boundary too."""

    def __init__(self, boundary: Callable[[str], None]) -> None:
        super().__init__("os")
        self._boundary = boundary

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in {"open", "fsync", "rename", "replace", "unlink", "link"}:
            return real

        def stepped(*args: Any, **options: Any) -> Any:
            self._boundary(f"file {name}")
            return real(*args, **options)

        return stepped


@dataclass(slots=True)
class Stage:
    """One seed's world, database and processes. `trouble`: what was seen broken on the way."""

    engine: Engine
    world: World
    settings: Settings
    road: Callable[["Stage", Worker], Any]
    trace: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    queue: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stack: list[Worker] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    armed: list[Armed] = field(default_factory=list)
    exactly: dict[int, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    disrupted: list[datetime] = field(default_factory=list)
    boundaries: int = 0
    held: int = 0
    born: int = 0
    skews: tuple[float, ...] = (0.0,)
    down_until: datetime | None = None
    digest: Any = field(default_factory=hashlib.sha256)
    names: dict[str, str] = field(default_factory=dict)
    _writing: tuple[Wire, str | None] | None = None
    _written: dict[int, set[str]] = field(default_factory=dict)
    may_strike: Callable[[str, float], bool] = lambda *_: True
    interlude: Callable[[], None] = lambda: None

    # Processes

    def start(self) -> Worker:
        """A new process, with the product's own composition but for the engine and the way to Allegro."""
        skew = self.skews[self.born % len(self.skews)]
        self.born += 1
        place: list[Worker] = []
        door = cast(Engine, Door(self.engine, lambda: self._comes(place[0])))
        road = self.road
        worker = Worker(f"P{self.born}", skew, cast(Runtime, None), {})
        place.append(worker)
        with knobs.engine(door):
            worker.runtime = runtimes.build(self.settings, transport=road(self, worker))
        app = _Celery(lambda task, key: self.queue.append((task, key)))
        background.register(cast(Any, app), worker.runtime)
        worker.tasks = app.tasks
        self.workers.append(worker)
        return worker

    @property
    def running(self) -> Worker | None:
        return self.stack[-1] if self.stack else None

    @contextlib.contextmanager
    def as_process(self, worker: Worker) -> Iterator[None]:
        """The block is done by this process; if it dies of it, another one is started in its place."""
        before, HAND.skew = HAND.skew, worker.skew
        self.stack.append(worker)
        try:
            yield
        except Crash:
            self.say("is dead")
        finally:
            self.stack.pop()
            HAND.skew = before
            if worker.dead:
                self.workers.remove(worker)
                self.start()

    def idle(self) -> Worker:
        return next(worker for worker in self.workers if worker not in self.stack)

    def tick(self, *, wake: bool = True) -> None:
        """The scheduler's tick, done by the process that is free."""
        worker = self.idle()
        app = cast(Any, _Celery(lambda task, key: self.queue.append((task, key))))
        with self.as_process(worker):
            try:
                background.tick(worker.runtime, app, wake=wake)
            except DatabaseUnavailableError:
                self.say("tick failed")

    def deliver(self, place: int = 0) -> None:
        """One message reaches a process."""
        task, key = self.queue.pop(place)
        self.work(task, key)

    def work(self, task: str, key: dict[str, str]) -> None:
        worker = self.idle()
        with self.as_process(worker):
            worker.job, worker.stale, worker.has_claimed = (task, key), False, False
            self.say(f"{task} {' '.join(self.name(value) for value in key.values())}")
            worker.tasks[task](**key)
        worker.job, worker.stale = None, False

    # What is told

    def name(self, value: str) -> str:
        return self.names.get(value, value)

    def say(self, text: str) -> None:
        who = "  ".join(worker.name for worker in self.stack) or "-"
        self.trace.append(f"{HAND.seconds():11.3f} {self.boundaries:5} {who:8} {text}")

    def logged(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = event.pop("event")
        if name == "call_finished":  # every wire is watched anyway
            raise structlog.DropEvent
        told = {key: value for key, value in event.items() if key not in TOLD_ELSEWHERE}
        self.say(f"log {name} " + " ".join(f"{key}={self.name(str(value))}" for key, value in sorted(told.items())))
        if name == "task_crashed" or event.get("exc_info"):
            self.trouble.append(_unnamed())
        raise structlog.DropEvent

    # Boundaries: the watch on every wire, and on the spool's files

    def boundary(self, place: str, what: str = "") -> Armed | None:
        """The next boundary; the action that strikes here, if one does."""
        self.boundaries += 1
        self.places.append(place)
        if (action := self.exactly.pop(self.boundaries, None)) is not None:
            return Armed(place, 0, action, 60.0)
        for armed in self.armed:
            if armed.place == place.partition(" ")[0]:
                armed.count -= 1
                if armed.count <= 0 and self.may_strike(armed.action, armed.seconds):
                    self.armed.remove(armed)
                    self.say(f"{armed.action} at {place} {' '.join(what[:80].split())[:60]!r}")
                    return armed
        return None

    def dies(self) -> None:
        worker = self.running
        assert worker is not None
        worker.dead = True
        self.disrupted.append(HAND.now)
        self.say("crashes")
        raise Crash

    def fails(self, wire: Wire, kind: str) -> None:
        self.disrupted.append(HAND.now)
        if kind == "cut":
            wire.close()
        raise FAILURES[kind](f"made to fail: {kind}")

    def _comes(self, worker: Worker) -> None:
        """A process begins a transaction: not if it is dead, and not if the database is away."""
        if worker.dead:
            raise Crash
        if self.down_until is not None and HAND.now < self.down_until:
            HAND.forward(0.05)
            self.disrupted.append(HAND.now)
            raise psycopg.OperationalError("made to fail: nobody listens")

    def states(self, wire: Wire, statement: str, *, begins: bool) -> None:
        if self._living() is None:
            return
        if begins:
            self._written[id(wire)] = set()
        self.digest.update(statement.encode())
        struck = self.boundary("begin" if begins else "statement", statement)
        if struck is not None:
            self._strike(wire, struck)
        self._writing = (wire, wires.table_written(statement))

    def _strike(self, wire: Wire, struck: Armed) -> None:
        if struck.action in CRASHES:
            self.dies()
        elif struck.action == "freeze":
            self.held += 1
            self.freeze(struck.seconds)
            self.held -= 1
        elif struck.action == "outage":
            self.down_until = HAND.now + timedelta(seconds=struck.seconds)
            self.fails(wire, "cut")
        else:
            self.fails(wire, struck.action)

    def wrote(self, rows: int) -> None:
        if self._writing is not None and rows > 0 and self._writing[1]:
            self._written.setdefault(id(self._writing[0]), set()).add(self._writing[1])
        self._writing = None

    def commits(self, wire: Wire, really: Callable[[], None]) -> None:
        worker = self._living()
        if worker is None:
            return really()
        struck = self.boundary("commit", ", ".join(sorted(self._written.get(id(wire), ()))))
        action = struck.action if struck else ""
        if action == "crash":
            self.dies()
        elif action == "outage":
            self.down_until = HAND.now + timedelta(seconds=struck.seconds if struck else 0)
            self.fails(wire, "cut")
        elif action in FAILURES:
            self.fails(wire, action)
        really()
        self._check_fence(worker, self._written.pop(id(wire), set()))
        if action == "crash_after":
            self.dies()
        elif action == "lost":
            self.fails(wire, "cut")
        return None

    def _check_fence(self, worker: Worker, written: set[str]) -> None:
        table = background.TABLES.get(worker.job[0]) if worker.job else None
        worker.has_claimed |= table is not None and table.name in written
        if worker.stale and (wrongly := written - UNFENCED):
            self.trouble.append(f"fence: a process whose job was taken over wrote {', '.join(sorted(wrongly))}")

    def files(self, what: str) -> None:
        if self._living() is None:
            return
        struck = self.boundary(what)
        if struck is not None and struck.action in CRASHES:
            self.dies()
        elif struck is not None and struck.action == "disk":
            self.disrupted.append(HAND.now)
            raise OSError(28, "made to fail: no space left on device")

    def _living(self) -> Worker | None:
        worker = self.running
        if worker is not None and worker.dead:
            raise Crash
        return worker

    # A process that stands still while others work

    def freeze(self, seconds: float) -> None:
        """The running process stands still; meanwhile time passes and another one does what is due."""
        worker = self.running
        if worker is None or len(self.stack) > 1:
            return
        self.say(f"stands still for {seconds:.1f} s")
        self.disrupted.append(HAND.now)
        before = self._lease(worker)
        HAND.forward(seconds)
        self.interlude()
        worker.stale |= worker.has_claimed and self._lease(worker) != before
        self.say("goes on" + (", its job taken over" if worker.stale else ""))

    def _lease(self, worker: Worker) -> object:
        """Whoever takes the job over leaves a mark here, even where he should forget to raise the generation."""
        if worker.job is None or (table := background.TABLES.get(worker.job[0])) is None:
            return None
        key = worker.job[1]
        where = " AND ".join(f"{name}::text = :{name}" for name in key)
        found = self.rows(f"SELECT lease_generation, leased_until FROM {table.name} WHERE {where}", **key)
        return tuple(found[0]) if found else None

    # The campaign's own look at the database

    def rows(self, query: str, **values: object) -> list[Any]:
        return wires.look(self.engine, query, **values)

    def one(self, query: str, **values: object) -> Any:
        rows = self.rows(query, **values)
        return rows[0][0] if rows else None


class WatchedFolder(type(Path())):  # type: ignore[misc]
    """The data directory: what the spool renames and removes there is a boundary too."""

    __slots__ = ()

    def rename(self, target: Any) -> Any:
        _step("file rename")
        return super().rename(target)

    def unlink(self, missing_ok: bool = False) -> None:
        _step("file unlink")
        super().unlink(missing_ok)


def _step(what: str) -> None:
    if isinstance(wires.LINE.watch, Stage):
        wires.LINE.watch.files(what)


@contextlib.contextmanager
def watched_files() -> Iterator[None]:
    """The spool's steps on the disk are boundaries of the stage that watches."""
    real, spool.os = spool.os, _Files(_step)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        spool.os = real  # type: ignore[attr-defined]


@contextlib.contextmanager
def playing(stage: Stage) -> Iterator[None]:
    """The stage watches every wire and hears every log line."""
    wires.LINE.watch = stage
    known = structlog.get_config()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, stage.logged], cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        wires.LINE.watch = wires.Nobody()
        structlog.configure(**known)
        for worker in stage.workers:
            worker.runtime.allegro.close()
            worker.runtime.oauth.close()


def _unnamed() -> str:
    """What nobody gave a name: the product's failure, or the campaign's own, which proves nothing."""
    error = sys.exc_info()[1]
    assert error is not None
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    is_ours = Path(place).parent == HERE and not isinstance(error, INJECTED)
    return f"{OURS if is_ours else 'crash without a name:'} {traceback.format_exc(limit=-6)}"
