"""A claimed backup kept alive from a thread of its own, because some of its steps say nothing for an hour."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from orders_backup import db as database
from orders_backup import due
from orders_backup.errors import DatabaseUnavailableError, LeaseLostError, StoppingError
from orders_backup.runtime import Runtime

BEAT_EVERY = 3.0
QUIET_FOR = 7200.0
"""Seconds that a step may take without a word (an index of a scratch database); then nothing is kept alive any more."""


@dataclass(slots=True)
class Heart:
    """`moved_at`: when the work was last seen to go on, `beat_at`: when the lease was extended, both by the monotonic
    clock; `sign`: who is given a sign of life, too."""

    runtime: Runtime
    lease: due.Lease
    sign: Callable[[float], None]
    moved_at: float = field(default_factory=time.monotonic)
    beat_at: float = field(default_factory=time.monotonic)
    is_lost: bool = False

    def alive(self) -> None:
        """The work goes on. Raises LeaseLostError where it is another's by now (a process that was frozen asks before
        it does anything), and StoppingError where the process ends."""
        self.moved_at = time.monotonic()
        if self.runtime.stopping.is_set():
            raise StoppingError("This worker was asked to end; the backup is made elsewhere.")
        if not self.is_lost and self.moved_at - self.beat_at > 3 * BEAT_EVERY:
            self.beat()
        if self.is_lost:
            raise LeaseLostError("Another worker took over this work.")

    def beat(self) -> None:
        """Extends the lease, unless nothing was seen to go on for very long."""
        now = time.monotonic()
        if now - self.moved_at > QUIET_FOR:
            return
        try:
            with database.transaction(self.runtime.db) as tx:
                due.fence(tx, self.lease, extend=self.runtime.settings.lease)
        except LeaseLostError:
            self.is_lost = True
        except DatabaseUnavailableError:
            return
        else:
            self.beat_at = now
            self.sign(now)


@contextmanager
def beating(runtime: Runtime, lease: due.Lease, sign: Callable[[float], None]) -> Iterator[Heart]:
    """A heart that beats until the end of the block."""
    heart, ended = Heart(runtime, lease, sign), threading.Event()

    def keep_beating() -> None:
        while not ended.wait(BEAT_EVERY) and not heart.is_lost:
            heart.beat()

    thread = threading.Thread(target=keep_beating, name="heart", daemon=True)
    thread.start()
    try:
        yield heart
    finally:
        ended.set()
        thread.join()
