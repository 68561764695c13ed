"""What the owner of an account should know before it costs orders: facts in, warnings out. PURE: no I/O, no clock.

To add a warning: a fact, a rule that answers with a sentence or None, a line in RULES, a line in docs/api.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orders_backup.allegro import horizon

CLIFF_NEAR = "cliff_near"
JOURNAL_GAP_NEAR = "journal_gap_near"

CLIFF = timedelta(days=7)
"""Purchases that leave what Allegro guarantees within this long have to be proven by now."""
GAP_NEAR = timedelta(days=45)
"""A journal that was not followed for this long has a fortnight left before Allegro drops events."""
CERTIFICATE_LASTS = timedelta(days=35)
"""Evidence older than this proves nothing any more: the whole year is listed every 30 days."""
SETTLING = timedelta(days=1)
"""A newly connected account has this long to load its history before it is warned about."""


@dataclass(frozen=True, slots=True)
class AccountWarning:
    """`code` is stable and made for programs, `sentence` for a person."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Span:
    """A window of purchase time [since, until) that was verified at `checked_at`."""

    since: datetime
    until: datetime
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at. `followed_at`: when the journal was last read to its end; `certified_at`: when the whole
    year was last proven order by order; `changed_at`: the latest change of an order on the cliff, `owed_there`: those
    of them that still have to be read; `spans`: windows there that were verified while evidence lasts."""

    now: datetime
    status: str
    connected_at: datetime | None
    followed_at: datetime | None
    certified_at: datetime | None
    set_aside: int
    changed_at: datetime | None
    owed_there: int
    spans: Sequence[Span]


def all_of(facts: Facts) -> list[AccountWarning]:
    """Every warning that these facts give, the gravest first. None for an account that is not, or no more, connected:
    who disconnects wants nothing more."""
    if facts.connected_at is None or facts.status == "disconnected":
        return []
    found = [(code, rule(facts)) for code, rule in RULES]
    return [AccountWarning(code, sentence) for code, sentence in found if sentence is not None]


def _cliff_near(facts: Facts) -> str | None:
    """Orders are about to fall off Allegro's list, and what is kept of them was not compared since they changed."""
    since, until = cliff(facts.now)
    if _is_settling(facts):
        return None
    spans = [span for span in facts.spans if facts.changed_at is None or span.checked_at >= facts.changed_at]
    if not uncovered(since, until, spans) and not facts.owed_there:
        return None
    return (
        f"Orders bought before {until:%Y-%m-%d} fall off Allegro's list within {CLIFF.days} days, and not all of them"
        " were compared since they last changed."
    )


def _journal_gap_near(facts: Facts) -> str | None:
    followed_at = facts.followed_at or facts.connected_at
    if followed_at is None or facts.now - followed_at <= GAP_NEAR:
        return None
    days = (facts.now - followed_at).days
    return f"The journal was not followed for {days} days; Allegro drops events after {horizon.JOURNAL.days}."


def _certificate_old(facts: Facts) -> str | None:
    if _is_settling(facts):
        return None
    if facts.certified_at is None:
        return "The whole year was never proven order by order."
    days = (facts.now - facts.certified_at).days
    if facts.now - facts.certified_at <= CERTIFICATE_LASTS:
        return None
    return f"The whole year was last proven order by order {days} days ago."


def _set_aside(facts: Facts) -> str | None:
    return f"{facts.set_aside} orders could not be read and are set aside." if facts.set_aside else None


def _reauthorization_required(facts: Facts) -> str | None:
    return "The seller has to connect again." if facts.status == "reauthorization_required" else None


RULES: tuple[tuple[str, Callable[[Facts], str | None]], ...] = (
    (CLIFF_NEAR, _cliff_near),
    ("reauthorization_required", _reauthorization_required),
    (JOURNAL_GAP_NEAR, _journal_gap_near),
    ("set_aside", _set_aside),
    ("certificate_old", _certificate_old),
)


def cliff(now: datetime) -> tuple[datetime, datetime]:
    """The purchases that are next to leave what Allegro guarantees."""
    return now - horizon.REACH, now - horizon.REACH + CLIFF


def uncovered(since: datetime, until: datetime, spans: Sequence[Span]) -> bool:
    """Whether any moment of [since, until) lies in none of the spans."""
    reached = since
    for span in sorted(spans, key=lambda one: one.since):
        if span.since > reached:
            break
        reached = max(reached, span.until)
    return reached < until


def _is_settling(facts: Facts) -> bool:
    return facts.connected_at is None or facts.now - facts.connected_at < SETTLING
