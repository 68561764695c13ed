"""Alerts as messages for people: rules, counts and ids of ours; never a name, an order or a secret. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orders_backup.alerts.decide import Alert, News
from orders_backup.alerts.fires import INSTALLATION
from orders_backup.alerts.rules import BY_NAME, Severity

NAMED = 5
"""Of more subjects of one rule so many are named, and the rest is counted."""
LONGEST = 3500
"""Characters of a message: what the narrowest of the usual channels takes."""

Tone = Literal["failure", "warning", "success", "info"]
_TONES: dict[Severity, Tone] = {"critical": "failure", "error": "failure", "warning": "warning"}


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel is given."""

    title: str
    body: str
    tone: Tone


def message(alerts: Sequence[Alert], news: News, severity: Severity, *, installation: str) -> Message:
    """One message of alerts of a kind and severity. `installation`: how this one is told from others."""
    kind = {"opened": severity, "reminder": f"still {severity}", "recovered": "recovered"}[news]
    counted = "" if len(alerts) == 1 else f" ({len(alerts)})"
    rules = sorted({one.rule for one in alerts}, key=list(BY_NAME).index)
    title = f"[{kind}] {', '.join(rules[:3])}{' …' if len(rules) > 3 else ''}{counted} – {installation}"
    parts = [_about(rule, [one for one in alerts if one.rule == rule], news) for rule in rules]
    return Message(title, _cut("\n\n".join(parts)), "success" if news == "recovered" else _TONES[severity])


def _about(rule: str, alerts: Sequence[Alert], news: News) -> str:
    known = BY_NAME[rule]
    lines = [f"{rule}: {known.means}"] if news != "recovered" else [f"{rule}: well again."]
    named = sorted(alerts, key=lambda one: (one.opened_at or one.fired_at, one.subject))[:NAMED]
    lines += [f"- {_line(one, news)}" for one in named if one.subject != INSTALLATION or one.detail]
    if len(alerts) > NAMED:
        lines.append(f"- and {len(alerts) - NAMED} more")
    return "\n".join([*lines, *([f"To do: {known.remedy}"] if news != "recovered" else [])])


def _line(alert: Alert, news: News) -> str:
    subject = "" if alert.subject == INSTALLATION else f"{alert.subject}: "
    since = f"since {alert.opened_at:%Y-%m-%d %H:%M} UTC" if alert.opened_at else ""
    if news == "recovered":
        return f"{subject}it was so {since}"
    return f"{subject}{alert.detail or since}" if news == "opened" else f"{subject}{since}. {alert.detail}".rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n…"


def test_message(*, installation: str) -> Message:
    return Message(f"[test] {installation}", "This channel works: alerts arrive here.", "info")


def without_database(*, away: bool, installation: str) -> Message:
    """What is told while nothing can be written down."""
    rule = BY_NAME["database_failing"]
    if away:
        body = f"{rule.name}: {rule.means}\nTo do: {rule.remedy}"
        return Message(f"[{rule.severity}] {rule.name} – {installation}", body, "failure")
    return Message(f"[recovered] {rule.name} – {installation}", f"{rule.name}: PostgreSQL answers again.", "success")
