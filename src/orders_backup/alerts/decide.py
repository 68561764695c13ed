"""What becomes of what fires: alerts open, are told, reminded of, and recover. PURE.

Nobody is told here. A row says what is news, and by which channels it was told; whoever sends marks it then. So a crash
between writing and sending repeats a message at worst.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

from orders_backup.alerts.fires import Firing
from orders_backup.alerts.rules import BY_NAME, SEVERITIES, Judgement, Severity

News = Literal["opened", "reminder", "recovered"]

REMIND: dict[Severity, timedelta] = {
    "critical": timedelta(hours=1),
    "error": timedelta(hours=6),
    "warning": timedelta(hours=24),
}
QUIET_BEFORE_RECOVERED = timedelta(minutes=5)
"""For so long a rule has not fired before its alert is over."""
TELL_AGAIN = timedelta(minutes=30)
"""What recovered and comes back is told again so long after it was told last: what flaps must not storm."""
OLD_NEWS = timedelta(days=1)
"""That something is well again interests nobody after this long."""


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of `alerts`; its columns are told in tables.py."""

    alert_id: UUID
    rule: str
    subject: str
    account_id: UUID | None
    severity: Severity
    detail: str
    fired_at: datetime
    seen_at: datetime
    opened_at: datetime | None = None
    quiet_since: datetime | None = None
    recovered_at: datetime | None = None
    news: News | None = None
    told_by: Sequence[str] = ()
    told_at: datetime | None = None
    heard: News | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.rule, self.subject


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing is told of this rule, this subject, or both together, until then; None stands for any."""

    rule: str | None
    subject: str | None
    until: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """Rows to write, and the ids of rows to drop: of what fired too shortly to be an alert."""

    written: Sequence[Alert]
    dropped: Sequence[UUID]


def decide(known: Iterable[Alert], judgement: Judgement, *, now: datetime) -> Decision:
    """`known`: of each rule and subject the alert that is not over, and the newest one that is."""
    firing = {(one.rule, one.subject): one for one in judgement.firing}
    live, over = dict[tuple[str, str], Alert](), dict[tuple[str, str], Alert]()
    for alert in known:
        (over if alert.recovered_at else live)[alert.key] = alert
    written = [_fires(live.get(key), one, over.get(key), now) for key, one in firing.items()]
    dropped = []
    for key, alert in live.items():
        if key in firing or key in judgement.unknown or alert.rule not in judgement.rules:
            continue
        if alert.opened_at is None:
            dropped.append(alert.alert_id)
        else:
            written.append(_is_quiet(alert, now))
    for key, alert in over.items():
        if alert.news and (key in firing or _is_old_news(alert, now)):
            written.append(replace(alert, news=None))
    return Decision(written, dropped)


def _fires(alert: Alert | None, firing: Firing, before: Alert | None, now: datetime) -> Alert:
    rule = BY_NAME[firing.rule]
    if alert is None:
        alert = Alert(uuid4(), firing.rule, firing.subject, firing.account_id, rule.severity, "", now, now)
        if before is not None:
            alert = replace(alert, told_at=before.told_at, heard=before.heard)
    alert = replace(alert, seen_at=now, detail=firing.detail, severity=rule.severity, quiet_since=None)
    if alert.opened_at is None and now - alert.fired_at >= rule.hold:
        alert = replace(alert, opened_at=now)
    news = _news(alert, now) if alert.opened_at else None
    return alert if news is None else replace(alert, news=news, told_by=())


def _news(alert: Alert, now: datetime) -> News | None:
    """What is to be told of an open alert now; None: nothing new."""
    if alert.heard is None:
        return "opened"
    ago = now - (alert.told_at or alert.fired_at)
    if alert.heard == "recovered":
        return "opened" if ago >= TELL_AGAIN else None
    return "reminder" if ago >= REMIND[alert.severity] else None


def _is_quiet(alert: Alert, now: datetime) -> Alert:
    since = alert.quiet_since or now
    if now - since < QUIET_BEFORE_RECOVERED:
        return replace(alert, quiet_since=since)
    was_told = alert.heard in {"opened", "reminder"}
    news: News | None = "recovered" if was_told else None
    return replace(alert, quiet_since=since, recovered_at=now, news=news, told_by=())


def _is_old_news(alert: Alert, now: datetime) -> bool:
    return alert.recovered_at is not None and now - alert.recovered_at > OLD_NEWS


def told(alert: Alert, *, by: Sequence[str], channels: Sequence[str], now: datetime) -> Alert:
    """The alert after `by` took its news; news that every channel took is none any more."""
    if not by:
        return alert
    takers = sorted({*alert.told_by, *by})
    news = None if set(channels) <= set(takers) else alert.news
    told_at = alert.told_at if alert.told_by else now  # who is late to take it puts off no reminder
    return replace(alert, told_by=takers, told_at=told_at, heard=alert.news, news=news)


def is_silenced(alert: Alert, silences: Iterable[Silence], *, now: datetime) -> bool:
    return any(
        one.until > now and one.rule in {None, alert.rule} and one.subject in {None, alert.subject} for one in silences
    )


def to_tell(alerts: Iterable[Alert], silences: Sequence[Silence], channel: str, *, now: datetime) -> list[Alert]:
    """What this channel has not told yet; nothing of what does not fire at this moment and is not over either."""
    news = [one for one in alerts if one.news == "recovered" or (one.news and one.quiet_since is None)]
    return [one for one in news if channel not in one.told_by and not is_silenced(one, silences, now=now)]


def try_again_at(failures: int, tried_at: datetime) -> datetime:
    """When a channel that fails is tried again: after one, two, four … minutes, at most thirty."""
    return tried_at + timedelta(minutes=min(1 << min(max(failures - 1, 0), 10), 30))


def grouped(alerts: Sequence[Alert]) -> Mapping[tuple[News, Severity], list[Alert]]:
    """One message each: news of a kind and a severity, the gravest first."""
    kinds: tuple[News, ...] = ("opened", "reminder", "recovered")
    found = {
        (news, severity): [one for one in alerts if one.news == news and one.severity == severity]
        for news in kinds
        for severity in SEVERITIES
    }
    return {kind: some for kind, some in found.items() if some}
