"""One round: claim, look, decide, write, tell, note who took it. Whoever notices that a round is late may do it."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import due, metrics
from orders_backup.alerts import decide, facts, rules, state, texts
from orders_backup.alerts.decide import Alert, Silence
from orders_backup.alerts.picture import Picture
from orders_backup.alerts.rules import Judgement, Round
from orders_backup.alerts.state import Sent
from orders_backup.channels import Outcome
from orders_backup.due import Lease
from orders_backup.errors import LeaseLostError
from orders_backup.runtime import Runtime
from orders_backup.tables import watches

EVERY: dict[Round, timedelta] = {
    "quick": timedelta(minutes=1),
    "thorough": timedelta(minutes=15),
    "hourly": timedelta(hours=1),
}
ROUNDS: dict[str, Round] = {kind: kind for kind in EVERY}
"""By the word that a message brings."""
LEASE = timedelta(minutes=2)
"""Longer than any step of a round: the statement time-out is a minute, sending ends after 20 s."""

log = structlog.get_logger()


def begin(tx: Connection) -> None:
    """The rounds exist, and the scheduler lives."""
    state.begin(tx, list(EVERY))
    state.tick(tx)


def work(runtime: Runtime, kind: Round) -> None:
    """One round, if it is due and nobody holds it. Raises DatabaseUnavailableError; then the lease runs out."""
    with database.transaction(runtime.db) as tx:
        lease = due.claim(tx, watches, {"kind": kind}, lease=LEASE)
    if lease is None:
        return
    try:
        _work(runtime, kind, lease)
    except LeaseLostError:
        log.warning("alert_round_lost")


def _work(runtime: Runtime, kind: Round, lease: Lease) -> None:
    judgement, now = _look(runtime, kind)
    with database.transaction(runtime.db) as tx:
        due.fence(tx, lease, extend=LEASE)
        alerts, silences = _decided(tx, kind, judgement, now)
        ready = _ready(tx, runtime.channels.names, now)
        if kind == "thorough":
            state.forget(tx, runtime.channels.names)
    given = {name: decide.to_tell(alerts, silences, name, now=now) for name in ready}
    outcomes = tell(runtime, given)
    with database.transaction(runtime.db) as tx:
        due.fence(tx, lease, extend=LEASE)
        state.put(tx, _told(alerts, given, outcomes, channels=runtime.channels.names, now=now))
        state.record(tx, [Sent(name, outcome.error) for name, outcome in outcomes.items()], now=now)
        due.settle(tx, lease, due_at=lease.now + EVERY[kind], looked_at=now)


def _look(runtime: Runtime, kind: Round) -> tuple[Judgement, datetime]:
    failing = facts.parts(runtime) if kind == "quick" else None
    looks: dict[Round, Callable[[Connection], Picture]] = {
        "quick": lambda tx: facts.quick(runtime, tx, failing),
        "thorough": lambda tx: facts.thorough(runtime, tx),
        "hourly": lambda tx: facts.hourly(runtime, tx),
    }
    with database.snapshot(runtime.db) as tx:
        picture = looks[kind](tx)
    return rules.judge(picture, kind), picture.now


def _decided(tx: Connection, kind: Round, judgement: Judgement, now: datetime) -> tuple[list[Alert], list[Silence]]:
    """Writes what becomes of this round's alerts, and says how they are now."""
    known = state.known(tx, [rule.name for rule in rules.RULES if rule.round == kind])
    decision = decide.decide(known, judgement, now=now)
    state.write(tx, decision)
    opened = [one for one in decision.written if one.opened_at == now]
    over = [one for one in decision.written if one.recovered_at == now]
    for rule, some in _by_rule(opened):
        log.warning("alert_opened", rule=rule, code=some[0].severity, account_id=_only(some), alerts=len(some))
    for rule, some in _by_rule(over):
        log.info("alert_recovered", rule=rule, code=some[0].severity, account_id=_only(some), alerts=len(some))
    after = {one.alert_id: one for one in [*known, *decision.written]}
    dropped = set(decision.dropped)
    return [one for one in after.values() if one.alert_id not in dropped], state.silences(tx)


def _by_rule(alerts: Sequence[Alert]) -> list[tuple[str, list[Alert]]]:
    """A line of the log for each rule: a thousand accounts are one cause."""
    found: dict[str, list[Alert]] = {}
    for one in alerts:
        found.setdefault(one.rule, []).append(one)
    return list(found.items())


def _only(alerts: Sequence[Alert]) -> str | None:
    """The account, where it is about one alone."""
    return str(alerts[0].account_id) if len(alerts) == 1 and alerts[0].account_id else None


def _ready(tx: Connection, names: Sequence[str], now: datetime) -> list[str]:
    """The channels that may be tried now: one that fails is left alone for a while."""
    known = state.channels(tx)
    resting = {
        one.channel for one in known.values() if one.failures and now < decide.try_again_at(one.failures, one.tried_at)
    }
    return [name for name in names if name not in resting]


def tell(runtime: Runtime, given: dict[str, list[Alert]]) -> dict[str, Outcome]:
    """Sends each channel its news, a message for each kind of news and severity. No transaction is open."""
    installation = where(runtime)
    messages = {
        name: [
            texts.message(some, news, severity, installation=installation)
            for (news, severity), some in decide.grouped(alerts).items()
        ]
        for name, alerts in given.items()
    }
    outcomes = runtime.channels.send(messages)
    for name, outcome in outcomes.items():
        metrics.ALERTS.labels("sent").inc(outcome.taken)
        if outcome.error is not None:
            metrics.ALERTS.labels("failed").inc()
            log.error("alert_channel_failed", channel=name, reason=outcome.error)
    return outcomes


def where(runtime: Runtime) -> str:
    """How this installation is told from others."""
    return f"Allegro Orders Backup ({runtime.settings.allegro_environment})"


def _told(
    alerts: Sequence[Alert],
    given: dict[str, list[Alert]],
    outcomes: dict[str, Outcome],
    *,
    channels: Sequence[str],
    now: datetime,
) -> list[Alert]:
    """The alerts whose news was taken, marked."""
    takers: dict[object, list[str]] = {}
    for name, outcome in outcomes.items():
        for some in list(decide.grouped(given[name]).values())[: outcome.taken]:
            for alert in some:
                takers.setdefault(alert.alert_id, []).append(name)
    return [
        decide.told(one, by=takers[one.alert_id], channels=channels, now=now)
        for one in alerts
        if one.alert_id in takers
    ]
