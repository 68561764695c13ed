"""Every rule: what it means, how bad it is, what to do; and what follows from what. PURE.

To add one: a fact in picture.py and facts.py, a function in fires.py, a line in RULES, a line in docs/operating.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from orders_backup.alerts import fires
from orders_backup.alerts.fires import Fires, Firing
from orders_backup.alerts.picture import Picture

Severity = Literal["critical", "error", "warning"]
SEVERITIES: tuple[Severity, ...] = ("critical", "error", "warning")
Round = Literal["quick", "thorough", "hourly"]
"""How often rules are looked at; a rule of none is noticed where no round can be: watchman.py."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`hold`: how long it fires before it is an alert. `means` and `remedy` are told to people."""

    name: str
    severity: Severity
    round: Round | None
    hold: timedelta
    means: str
    remedy: str
    fires: Fires


@dataclass(frozen=True, slots=True)
class Judgement:
    """`rules`: of which anything can be said; what of them does not fire is well, but for what is `unknown`."""

    rules: frozenset[str]
    firing: Sequence[Firing]
    unknown: frozenset[tuple[str, str]] = frozenset()


def judge(picture: Picture, round_: Round) -> Judgement:
    """What fires of one round's rules. What follows from something worse that fires is left as it is."""
    found = {rule.name: rule.fires(picture) for rule in RULES if rule.round == round_}
    firing = {name: list(some) for name, some in found.items() if some is not None}
    hidden = {name for cause, names in FOLLOWS.items() if firing.get(cause) for name in names}
    known = frozenset(firing) - hidden
    told = [one for name in known for one in firing[name]]
    unknown = frozenset((one.rule, one.subject) for one in told if not one.is_known)
    return Judgement(known, [one for one in told if one.is_known], unknown)


FOLLOWS: dict[str, tuple[str, ...]] = {
    "broker_failing": ("workers_silent", "scheduler_silent", "work_waits", "no_sync", "sync_stale", "login_late"),
    "workers_silent": ("work_waits", "no_sync", "sync_stale", "login_late"),
    "scheduler_silent": ("work_waits", "no_sync", "sync_stale", "login_late"),
    "allegro_down": ("no_sync", "sync_failing", "sync_stale"),
}
"""What follows from what: while the first fires, the others are not judged, so that one cause is one message."""

_NOW, _MINUTE, _MINUTES = timedelta(0), timedelta(minutes=1), timedelta(minutes=3)

RULES: tuple[Rule, ...] = (
    Rule("database_failing", "critical", None, _MINUTE,
         "PostgreSQL does not answer: nothing is stored, all work waits.",
         "Is PostgreSQL running, DATABASE_URL right, and its disk not full? All goes on by itself.", fires.never),
    Rule("broker_failing", "critical", "quick", _MINUTE,
         "The message broker does not carry messages: nothing new is begun.",
         "Is the broker running, BROKER_URL right, and its memory not full?", fires.about_parts("broker")),
    Rule("storage_failing", "error", "quick", _MINUTES,
         "Object storage does not take and give objects: archives and backups wait, logins wait on the disk.",
         "Does the bucket exist, and may the key list, get, put and delete below S3_PREFIX?",
         fires.about_parts("storage")),
    Rule("workers_silent", "critical", "quick", _MINUTE,
         "No worker works: nothing is synced, delivered or archived.",
         "Start `orders-backup worker`; look for process_failed in the log.", fires.workers_silent),
    Rule("scheduler_silent", "critical", "quick", _NOW,
         "No scheduler ticks: nothing new is begun.",
         "Start `orders-backup scheduler`.", fires.scheduler_silent),
    Rule("work_waits", "error", "quick", _NOW,
         "Work has been due for more than ten minutes, and nobody does it.",
         "Are there enough workers? Is the budget used up?", fires.work_waits),
    Rule("allegro_down", "critical", "quick", _NOW,
         "Allegro does not answer, or with errors. Nothing is lost: cursors stay.",
         "Look at Allegro's status page and this machine's network.", fires.allegro_down),
    Rule("limit_exceeded", "warning", "quick", _NOW,
         "Allegro answered 429: its request limit was exceeded.",
         "Does another program use the same client id? Lower RATE_LIMIT_CLIENT by what it needs.",
         fires.limit_exceeded),
    Rule("no_sync", "critical", "quick", _NOW,
         "No account at all was synced successfully for too long.",
         "`orders-backup doctor` says why.", fires.no_sync),
    Rule("sync_failing", "error", "quick", _MINUTES,
         "A sync failed three times in a row or more; it is tried again by itself.",
         "`orders-backup doctor` names the reason.", fires.sync_failing),
    Rule("sync_stale", "error", "quick", _MINUTES,
         "An account's journal was not read to its end for six intervals.",
         "`orders-backup doctor`; are workers free, is the budget used up?", fires.sync_stale),
    Rule("operation_failing", "error", "quick", _NOW,
         "Work other than a sync failed three times in a row or more; it is tried again by itself.",
         "Look in the log for the account, or the work, that is named.", fires.operation_failing),
    Rule("token_lost", "critical", "quick", _NOW,
         "A login is dead: the account is not synced any more. Orders and cursor stay.",
         "Connect the seller again: POST /api/v1/accounts/{id}/reconnect.", fires.token_lost),
    Rule("login_late", "error", "quick", _NOW,
         "A login was not renewed in time.",
         "Are workers running, and does Allegro's authorization server answer?", fires.login_late),
    Rule("webhook_disabled", "error", "quick", _NOW,
         "A webhook's endpoint was given up.",
         "Mend the endpoint; its first success brings everything.", fires.webhook_disabled),
    Rule("webhook_failing", "warning", "quick", timedelta(minutes=10),
         "A webhook's endpoint takes nothing; messages wait for it.",
         "GET /api/v1/webhooks/{id}/deliveries tells what it answers.", fires.webhook_failing),
    Rule("channel_failing", "error", "quick", _NOW,
         "A channel of ALERT_URLS takes no alerts.",
         "`orders-backup alerts test` tries each channel.", fires.channel_failing),
    Rule("backup_missing", "critical", "quick", _NOW,
         "No backup of the database was made and verified in 26 hours.",
         "`orders-backup backup create` makes one now, and says what is in its way.", fires.backup_missing),
    Rule("backup_failed", "error", "quick", _NOW,
         "The newest backup of the database failed.",
         "`orders-backup backup create` says why.", fires.backup_failed),
    Rule("drill_missing", "error", "quick", _NOW,
         "No restore was rehearsed in 8 days.",
         "`orders-backup backup drill`.", fires.drill_missing),
    Rule("drill_failed", "critical", "quick", _NOW,
         "The newest rehearsal of a restore found damage.",
         "`orders-backup backup drill` says of which account and why.", fires.drill_failed),
    Rule("cliff_near", "critical", "thorough", _NOW,
         "Orders fall off Allegro's list within 7 days, and are not proven to be stored.",
         "`orders-backup sync ACCOUNT --kind reconcile`.", fires.warned("cliff_near")),
    Rule("journal_gap_near", "critical", "thorough", _NOW,
         "A journal was not read for 45 days; Allegro drops events after 60.",
         "Let this account be synced now.", fires.warned("journal_gap_near")),
    Rule("not_proven", "error", "thorough", _NOW,
         "A gap in completeness: the newest run over everything could not prove all.",
         "It is tried again by itself; `orders-backup certificate ACCOUNT` shows the windows.", fires.not_proven),
    Rule("certificate_old", "warning", "thorough", _NOW,
         "The whole year was not proven order by order for 35 days.",
         "`orders-backup sync ACCOUNT --kind reconcile`.", fires.warned("certificate_old")),
    Rule("orders_owed", "warning", "thorough", _NOW,
         "Orders have had to be read for more than an hour.",
         "Is the budget used up? Look for order_set_aside in the log.",
         fires.counted("orders_owed", lambda one: one.owed)),
    Rule("orders_failing", "warning", "thorough", _NOW,
         "The reading of orders failed three times in a row or more.",
         "They are tried again; the fifth time they are set aside.",
         fires.counted("orders_failing", lambda one: one.failing)),
    Rule("set_aside", "warning", "thorough", _NOW,
         "Orders could not be read and are set aside.",
         "`orders-backup set-aside list ACCOUNT`, then `retry` or `acknowledge`.",
         fires.counted("set_aside", lambda one: one.set_aside)),
    Rule("orders_unusual", "warning", "hourly", _NOW,
         "No orders for hours in which this account usually has many, although its journal is read.",
         "Does the shop sell? Are its offers active? If so, ask for a full sync.", fires.orders_unusual),
)  # fmt: skip
BY_NAME = {rule.name: rule for rule in RULES}
