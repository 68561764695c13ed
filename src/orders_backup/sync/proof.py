"""What stands between the evidence and the word complete. PURE: no I/O, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orders_backup.accounts import warnings
from orders_backup.accounts.warnings import Span
from orders_backup.sync import plan

LASTS = warnings.CERTIFICATE_LASTS
STALE = timedelta(days=1)
"""A journal that was not followed for this long says nothing of today."""
EDGE = timedelta(minutes=10)
"""The windows of a run may end this much inside what it set out to prove: they are planned before it begins."""


@dataclass(frozen=True, slots=True)
class Proven:
    """One window of the certificate. `listed`: Allegro's totalCount; `stored`: ours of these; `missing`: the rest.

    `method`: `ids` compared every order, `count` only their number. `superseded`: ours whose id Allegro gave up;
    `beyond_reach`: ours that are older than what Allegro guarantees to list, and that it no longer lists; `unlisted`:
    ours that it did not list although it should, and that were read one by one then (merged away, or its list was not
    whole). `explained`: these and what is set aside, the differences that have a reason.
    """

    window_from: datetime
    window_to: datetime
    method: str
    status: str
    listed: int | None
    stored: int | None
    missing: int | None
    superseded: int | None
    set_aside: int | None
    beyond_reach: int | None
    unlisted: int | None
    explained: int
    found_missing: int
    found_changed: int
    checked_at: datetime | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to judge. `status` and `is_paused` of the account; `began_at`, `checked_at`: of the newest finished
    run over everything, whose `windows` these are; `ids_checked_at`: when all of the year was last compared order by
    order; `followed_at`: when the journal was last read to its end, or pinned; `acknowledged`: of what is set aside and
    unreadable, how much somebody took note of; `contradicted`: orders that Allegro did
    not list and that were found there by themselves."""

    now: datetime
    status: str
    is_paused: bool
    is_backfilled: bool
    began_at: datetime | None
    checked_at: datetime | None
    ids_checked_at: datetime | None
    followed_at: datetime | None
    windows: Sequence[Proven]
    owed: int
    set_aside: int
    unreadable: int
    acknowledged: int
    contradicted: int


def questions(evidence: Evidence) -> list[str]:
    """Every reason not to say complete, as sentences; none: it is."""
    return [*_of_the_account(evidence), *_of_the_run(evidence), *_of_its_age(evidence), *_of_single_orders(evidence)]


def _of_the_account(evidence: Evidence) -> list[str]:
    found = []
    if evidence.status == "disconnected":
        found.append("The account is disconnected: what happened at Allegro since then is not known.")
    elif evidence.status == "reauthorization_required":
        found.append("The seller has to connect again: what happens at Allegro until then is not known.")
    elif evidence.status != "active":
        found.append(f"The account is {evidence.status}: it is not connected.")
    elif evidence.is_paused:
        found.append("The account is paused: what happens at Allegro until it is resumed is not known.")
    if not evidence.is_backfilled:
        found.append("The history has not been loaded to its end yet.")
    return found


def _of_the_run(evidence: Evidence) -> list[str]:
    if evidence.began_at is None:
        return ["No run over the whole list has finished yet."]
    found = []
    unproven = sum(one.status not in {"verified", "beyond_reach"} for one in evidence.windows)
    if unproven:
        found.append(f"{unproven} windows kept changing while they were read.")
    since, until = evidence.began_at - plan.REACH + EDGE, evidence.began_at - EDGE
    spans = [Span(one.window_from, one.window_to, evidence.now) for one in evidence.windows]
    if warnings.uncovered(since, until, spans):
        found.append("Some purchase times lie in no window of the newest run.")
    return found


def _of_its_age(evidence: Evidence) -> list[str]:
    found, now = [], evidence.now
    if evidence.checked_at is not None and now - evidence.checked_at > LASTS:
        found.append(f"The newest evidence is {_days(now - evidence.checked_at)} old.")
    elif evidence.ids_checked_at is not None and now - evidence.ids_checked_at > LASTS:
        age = _days(now - evidence.ids_checked_at)
        found.append(f"The whole year was last compared order by order {age} ago; since then it was counted.")
    elif evidence.checked_at is not None and evidence.ids_checked_at is None:
        found.append("The whole year was never compared order by order without a window left open.")
    if evidence.followed_at is not None and now - evidence.followed_at > STALE:
        found.append(f"The event journal was last followed {_days(now - evidence.followed_at)} ago.")
    return found


def _of_single_orders(evidence: Evidence) -> list[str]:
    found = []
    if evidence.owed:
        found.append(f"{evidence.owed} orders are named by events or sweeps and not yet read.")
    unanswered = evidence.set_aside + evidence.unreadable - evidence.acknowledged
    if unanswered:
        found.append(f"{unanswered} orders could not be read and are set aside; nobody acknowledged them.")
    if evidence.contradicted:
        found.append(f"{evidence.contradicted} orders were not listed and are still there: the list was not whole.")
    return found


def _days(age: timedelta) -> str:
    return "1 day" if age.days == 1 else f"{age.days} days"
