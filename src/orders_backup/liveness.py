"""Processes that find themselves of no use end, so that whoever started them starts another. Knows no work.

A frozen process cannot judge itself: it touches a file, the pulse, and `orders-backup up` replaces who stops doing so.
"""

import os
import threading
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path

import structlog

LOOK_EVERY = 2.0
STOOD_STILL = 5.0
"""Seconds without a look after which a process knows that it was frozen itself, or its machine asleep."""
PATIENCE = 30.0
"""Seconds for which it then judges nothing: what came meanwhile was not looked at yet."""
STOP_WITHIN = 10.0
"""Seconds that work gets to end at its next page, when its process has to end."""
FAREWELL_WITHIN = 3.0
EX_SOFTWARE = 70
"""The exit code of a process that was of no use any more (sysexits.h)."""
EX_CONFIG = 78
"""… of one whose settings or broker are not as they must be."""

logger = structlog.get_logger()


@dataclass(slots=True)
class Lookout:
    """Asks for the verdict on the monotonic clock, which goes on while a process is frozen."""

    verdict: Callable[[float], str | None]
    looked_at: float | None = None
    patient_until: float = 0.0

    def look(self, now: float) -> str | None:
        if self.looked_at is not None and now - self.looked_at > STOOD_STILL:
            self.patient_until = now + PATIENCE
        self.looked_at = now
        return None if now < self.patient_until else self.verdict(now)


def start_looking(verdict: Callable[[float], str | None], *, pulse: Path | None, leave: Callable[[str], None]) -> None:
    """A thread that never waits for anybody: touches `pulse`, and leaves when `verdict` says why."""
    lookout = Lookout(verdict)

    def keep_looking() -> None:
        while not (reason := lookout.look(time.monotonic())):
            beat(pulse)
            time.sleep(LOOK_EVERY)
        leave(reason)

    threading.Thread(target=keep_looking, name="look", daemon=True).start()


def beat(pulse: Path | None) -> None:
    if pulse is None:
        return
    try:
        pulse.touch()
    except OSError as error:  # a full disk is no reason to end
        logger.warning("pulse_failed", error=type(error).__name__)


def leave_at_once(reason: str) -> None:
    logger.error("process_failed", reason=reason)
    os._exit(EX_SOFTWARE)


@dataclass(slots=True)
class Departure:
    """How a worker ends that does not end by itself: of no use, or asked to stop and not done in time.

    `farewell` gives back what stays undone; PostgreSQL may be away, so nobody waits for it for long.
    """

    stopping: threading.Event
    of_no_use: Callable[[float], str | None]
    undone: Callable[[], Sized]
    farewell: Callable[[], None]
    asked_at: float | None = None

    def verdict(self, now: float) -> str | None:
        if not self.stopping.is_set():
            return self.of_no_use(now)
        self.asked_at = self.asked_at or now
        return "asked to stop" if now - self.asked_at > STOP_WITHIN else None

    def leave(self, reason: str) -> None:
        """What can end gets the time for it; what cannot goes back to the others; then the process is over."""
        was_asked = self.stopping.is_set()
        logger.error("process_failed", reason=reason, undone=len(self.undone()))
        self.stopping.set()
        deadline = time.monotonic() + STOP_WITHIN
        while not was_asked and self.undone() and time.monotonic() < deadline:
            time.sleep(0.1)
        last = threading.Thread(target=self.farewell, daemon=True)
        last.start()
        last.join(FAREWELL_WITHIN)
        os._exit(0 if was_asked else EX_SOFTWARE)
