"""What an attempt means: delivered, tried again when, given up; and how the endpoint is. PURE: no I/O, no clock.

An endpoint that failed ten times in a row is *open*: one attempt at a time, and a pause before each, so that it costs
next to nothing; the first success closes it. One that answered nothing well for five days is disabled and looked at
once an hour; a success makes it active again.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

SECOND, MINUTE, HOUR = 1.0, 60.0, 3600.0
SCHEDULE = (
    0.0,
    *(5 * SECOND, 5 * MINUTE, 30 * MINUTE),
    *(2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
)
"""Seconds before each attempt, counted from the one before it: Standard Webhooks' own example, ten attempts."""
JITTER = 0.1
"""Of each wait, at most, on top of it."""
LONGEST_RETRY_AFTER = 24 * HOUR

OPENS_AFTER = 10
FIRST_PAUSE, LONGEST_PAUSE = 5 * SECOND, 5 * MINUTE
DISABLED_AFTER = timedelta(days=5)
PROBED_EVERY = timedelta(hours=1)

SLOW_SECONDS = 2.0
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """How one attempt went. `status` None: no answer, and `error` says why. `body`: its first 2 KB."""

    at: datetime
    seconds: float
    status: int | None = None
    error: str | None = None
    body: bytes = b""
    retry_after: str | None = None

    @property
    def is_success(self) -> bool:
        """2xx and nothing else: a redirect is a failure (Standard Webhooks)."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def says(self) -> str | None:
        """Why it failed, in a few words."""
        if self.is_success:
            return None
        return self.error or f"The endpoint answered {self.status}."


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery: its status, and, where it goes on, after how many seconds."""

    status: str
    wait: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint is. `failures`: attempts that failed one after the other, since `failing_since`."""

    status: str
    reason: str | None
    failures: int
    failing_since: datetime | None
    silent_until: datetime | None
    answer_seconds: float | None

    @property
    def is_open(self) -> bool:
        return self.failures >= OPENS_AFTER or self.status == "disabled"


def judge(answer: Answer, tries: int, *, is_disabled: bool, draw: Callable[[], float] = random.random) -> Verdict:
    """After the attempt that was number `tries` of the schedule. One of a disabled endpoint spends nothing of it."""
    if answer.is_success:
        return Verdict("delivered")
    if is_disabled or answer.status == 410:
        return Verdict("pending", 0.0)
    if tries >= len(SCHEDULE):
        return Verdict("failed")
    wait = SCHEDULE[tries] * (1 + JITTER * draw())
    return Verdict("pending", max(wait, retry_after(answer) or 0.0))


def retry_after(answer: Answer) -> float | None:
    """Seconds the endpoint asks for (RFC 9110: a number, or a date); None where it asks for nothing we understand."""
    text = (answer.retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - answer.at
    return min(max(wait.total_seconds(), 0.0), LONGEST_RETRY_AFTER)


def after(health: Health, answer: Answer) -> Health:
    """How the endpoint is after one more answer."""
    known = answer.seconds if health.answer_seconds is None else health.answer_seconds
    seconds = known + _SMOOTHING * (answer.seconds - known)
    if answer.is_success:
        is_back = health.reason == "failing"
        status, reason = ("active", None) if is_back else (health.status, health.reason)
        return Health(status, reason, 0, None, None, seconds)
    since = health.failing_since or answer.at
    worse = replace(health, failures=health.failures + 1, failing_since=since, answer_seconds=seconds)
    if answer.status == 410:  # whoever says so has gone for good; only a person brings him back
        return replace(worse, status="disabled", reason="gone")
    if health.status == "active" and answer.at - since >= DISABLED_AFTER:
        worse = replace(worse, status="disabled", reason="failing")
    return replace(worse, silent_until=_silent_until(worse, answer))


def _silent_until(health: Health, answer: Answer) -> datetime | None:
    """An open endpoint gets a pause, one that is asked to be left alone its wish."""
    pause = 0.0
    if health.is_open:
        pause = min(FIRST_PAUSE * 2.0 ** min(max(health.failures - OPENS_AFTER, 0), 10), LONGEST_PAUSE)
    if answer.status in {429, 503}:
        pause = max(pause, retry_after(answer) or 0.0)
    until = answer.at + timedelta(seconds=pause)
    return until if pause and (health.silent_until is None or until > health.silent_until) else health.silent_until
