"""The canary: a worker sends itself a message through the broker, and ends when it hears nothing any more.

Threads of a worker share its broker connection: one may be deaf while the process lives. What proves a worker is
therefore a message that came through, and not a pid; and where work waits while it has hands free, that it gets some.
Deafness is judged here, in memory: a PostgreSQL that is away ends nobody, and is only told.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from kombu.entity import Queue

from orders_backup import bell, refusal, roster
from orders_backup import db as database
from orders_backup.bell import Bell
from orders_backup.errors import DatabaseUnavailableError, SettingsError
from orders_backup.liveness import EX_CONFIG
from orders_backup.roster import Report
from orders_backup.runtime import Runtime

TASK = "canary"
EVERY = 10.0
"""Seconds from one canary to the next."""
FIRST = 1.0
"""… until the first was heard; and how long one usually takes, before that is reported."""
DEAF_AFTER = 30.0
"""Seconds in which canaries were sent, hands were free, and nothing was heard."""
STUCK_AFTER = 300.0
"""Seconds without an end or a sign of life after which a task does not end any more."""
QUEUE_LIVES = 600
"""Seconds after which the broker forgets the queue of a worker that is gone."""

logger = structlog.get_logger()


@dataclass(slots=True)
class Hearing:
    """What a worker has heard and what it is doing, on its monotonic clock. Every message heard counts, so a worker
    that is too busy for its canaries is not deaf; one whose hands are all full fetches nothing, and is not either.
    `beside`: threads that work and are none of its hands."""

    hands: int
    heard_at: float | None = None
    sent_at: float | None = None
    waiting_since: float | None = None
    hungry_since: float | None = None
    running: dict[int, tuple[float, Any]] = field(default_factory=dict)
    beside: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sent(self, now: float) -> None:
        """A canary has reached the broker."""
        with self.lock:
            self.sent_at = now
            if self.waiting_since is None and self._has_a_hand_free():
                self.waiting_since = now

    def not_sent(self) -> None:
        """The broker is away: who hears nothing then is not deaf."""
        with self.lock:
            self.waiting_since = self.hungry_since = None

    def saw_waiting(self, now: float, messages: int) -> None:
        """So many messages of work nobody has fetched; with a hand free this worker should soon get one of them."""
        with self.lock:
            if not messages or not self._has_a_hand_free():
                self.hungry_since = None
            elif self.hungry_since is None:
                self.hungry_since = now

    def heard(self, now: float) -> None:
        with self.lock:
            self.heard_at, self.waiting_since = now, None

    def _has_a_hand_free(self) -> bool:
        return len(self.running) - len(self.beside) < self.hands

    def began(self, now: float, work: Any, *, beside: bool = False) -> None:
        """A task has come, which is something heard; `beside`: one that goes on and was heard of before."""
        if not beside:
            self.heard(now)
        with self.lock:
            if beside:
                self.beside.add(threading.get_ident())
            else:
                self.hungry_since = None
            self.running[threading.get_ident()] = (now, work)

    def sign_of_life(self) -> Callable[[float], None]:
        """What this thread's task, if it may last, calls with the time now and then, from whatever thread, so as not
        to count as stuck."""
        thread = threading.get_ident()

        def sign(now: float) -> None:
            with self.lock:
                if thread in self.running:
                    self.running[thread] = (now, self.running[thread][1])

        return sign

    def ended(self) -> None:
        with self.lock:
            self.running.pop(threading.get_ident(), None)
            self.beside.discard(threading.get_ident())

    def working_on(self) -> list[Any]:
        with self.lock:
            return [work for _, work in self.running.values()]

    def verdict(self, now: float) -> str | None:
        """Why this worker is of no use any more; None while it is."""
        with self.lock:
            since = [began for began, _ in self.running.values()]
            if since and now - min(since) > STUCK_AFTER:
                return "stuck"
            waits = [since for since in (self.waiting_since, self.hungry_since) if since is not None]
            return "deaf" if waits and now - min(waits) > DEAF_AFTER else None


def queue_of(name: str) -> Queue:
    """A worker's own queue. Durable, since RabbitMQ gives up others; it goes by itself when nobody listens."""
    milliseconds = {"x-expires": QUEUE_LIVES * 1000, "x-message-ttl": int(EVERY) * 1000}
    return bell.queue(
        f"{bell.QUEUE}.canary.{name}", "", {"x-queue-type": "classic", "x-max-length": 10, **milliseconds}
    )


def listen(app: Bell, name: str, hearing: Hearing) -> Queue:
    """Makes the app's worker hear its own canaries, beside its work."""
    queue = queue_of(name)
    app.conf.task_queues = [*app.conf.task_queues, queue]

    def canary() -> None:
        hearing.heard(time.monotonic())

    app.task(name=TASK, shared=False)(canary)
    return queue


def sing(app: Bell, queue: Queue, hearing: Hearing) -> None:
    """Sends one canary. Where the broker is away, that is noted and nothing else."""
    declare = [queue, bell.dead_queue()] if app.is_amqp else [queue]
    try:
        app.send_task(TASK, queue=queue, declare=declare)
        messages = _waiting(app)
    except bell.AWAY as error:
        hearing.not_sent()
        logger.warning("canary_refused", error=type(error).__name__)
    else:
        hearing.sent(time.monotonic())
        hearing.saw_waiting(time.monotonic(), messages)


def _waiting(app: Bell) -> int:
    """None where the queue of all work is gone; who consumes it makes it anew."""
    try:
        return app.waiting()
    except bell.AWAY:
        return 0


def start_singing(app: Bell, queue: Queue, hearing: Hearing, runtime: Runtime) -> None:
    """A thread that sends canaries and reports to PostgreSQL, and may have to wait for either."""
    name = queue.name.rpartition(".canary.")[2]

    def keep_singing() -> None:
        checked = False
        while not runtime.stopping.wait(0 if hearing.heard_at is None else EVERY - FIRST):
            checked = checked or _checked(app)
            sing(app, queue, hearing)
            runtime.stopping.wait(FIRST)
            report(runtime, name, hearing)

    threading.Thread(target=keep_singing, name="canary", daemon=True).start()


def _checked(app: Bell) -> bool:
    """Whether the broker was asked for its policy; an unsafe one ends the process."""
    try:
        return refusal.check_broker(app)
    except SettingsError as error:
        logger.error("broker_refused", code=error.code)  # noqa: TRY400 - the sentence says it all
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - for the person who started it
        os._exit(EX_CONFIG)


def report(runtime: Runtime, name: str, hearing: Hearing) -> None:
    now = time.monotonic()
    sent_ago = None if hearing.sent_at is None else now - hearing.sent_at
    done_ago = None if hearing.heard_at is None else now - hearing.heard_at
    try:
        with database.transaction(runtime.db) as tx:
            roster.put(tx, Report(name, hearing.hands, sent_ago, done_ago))
    except DatabaseUnavailableError:
        logger.info("report_failed")
