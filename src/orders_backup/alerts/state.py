"""The SQL of alerts, silences, channels and rounds; this module alone writes them, but for the claimable columns."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.engine import Connection

from orders_backup.alerts.decide import OLD_NEWS, Alert, Decision, Silence
from orders_backup.alerts.picture import Channel
from orders_backup.alerts.rules import Round
from orders_backup.errors import NotFoundError
from orders_backup.tables import alert_channels, alert_silences, alerts, watches

KEPT = timedelta(days=400)
"""For so long what is over is shown."""
_ALERT = [alerts.c[name] for name in Alert.__dataclass_fields__]
_NOW = sa.func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class Sent:
    """How sending by a channel went: `error` None where it took all it was given."""

    channel: str
    error: str | None


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What is known of a channel."""

    channel: str
    failures: int
    tried_at: datetime


@dataclass(frozen=True, slots=True)
class Watch:
    """`began_at`: since when anybody looks; `ticked_at`: when a scheduler lived last."""

    began_at: datetime
    ticked_at: datetime | None


# Rounds


def begin(tx: Connection, kinds: Sequence[str]) -> None:
    """Makes the rounds that nobody made yet; they are due at once."""
    rows = [{"kind": kind, "due_at": _NOW} for kind in kinds]
    tx.execute(insert(watches).values(rows).on_conflict_do_nothing())


def tick(tx: Connection) -> None:
    """The scheduler lives."""
    tx.execute(sa.update(watches).values(ticked_at=_NOW).where(watches.c.kind == "quick"))


def watch(tx: Connection, kind: Round) -> Watch:
    """How a round stands that was begun."""
    columns = (watches.c.began_at, watches.c.ticked_at)
    return Watch(*tx.execute(sa.select(*columns).where(watches.c.kind == kind)).one())


def neglected(tx: Connection, kinds: Sequence[Round], *, after: timedelta) -> list[Round]:
    """Rounds that have been due for so long and that nobody holds."""
    late = sa.and_(watches.c.due_at < _NOW - after, sa.func.coalesce(watches.c.leased_until < _NOW, sa.true()))
    query = sa.select(watches.c.kind).where(watches.c.kind.in_(kinds), late).order_by(watches.c.due_at)
    return list(tx.execute(query).scalars())


# Alerts


def known(tx: Connection, rules: Collection[str]) -> list[Alert]:
    """Of these rules, for each subject the alert that is not over, and the newest one that was over of late."""
    mine = alerts.c.rule.in_(list(rules))
    live = sa.select(*_ALERT).where(mine, alerts.c.recovered_at.is_(None))
    over = sa.select(*_ALERT).where(mine, alerts.c.recovered_at > _NOW - 2 * OLD_NEWS)
    over = over.ext(distinct_on(alerts.c.rule, alerts.c.subject))
    over = over.order_by(alerts.c.rule, alerts.c.subject, alerts.c.recovered_at.desc())
    return [Alert(**row) for query in (live, over) for row in tx.execute(query).mappings()]


def write(tx: Connection, decision: Decision) -> None:
    """Everything that was decided, in one go."""
    if decision.dropped:
        tx.execute(sa.delete(alerts).where(alerts.c.alert_id.in_(decision.dropped)))
    put(tx, decision.written)


def put(tx: Connection, some: Sequence[Alert]) -> None:
    if not some:
        return
    statement = insert(alerts)
    changed = {name: statement.excluded[name] for name in Alert.__dataclass_fields__ if name != "alert_id"}
    rows = [{**asdict(one), "told_by": list(one.told_by)} for one in some]
    tx.execute(statement.on_conflict_do_update(index_elements=["alert_id"], set_=changed), rows)


def forget(tx: Connection, channels: Sequence[str]) -> None:
    """What was over long ago goes, and silences that ended, and channels that are set no more."""
    set_no_more = alert_channels.c.channel.not_in(channels)
    tx.execute(sa.delete(alert_channels).where(set_no_more, alert_channels.c.tried_at < _NOW - OLD_NEWS))
    tx.execute(sa.delete(alerts).where(alerts.c.recovered_at < _NOW - KEPT))
    tx.execute(sa.delete(alert_silences).where(alert_silences.c.until < _NOW - KEPT))


# Channels


def channels(tx: Connection) -> dict[str, ChannelState]:
    columns = [alert_channels.c[name] for name in ChannelState.__dataclass_fields__]
    return {row["channel"]: ChannelState(**row) for row in tx.execute(sa.select(*columns)).mappings()}


def failing(tx: Connection, names: Collection[str]) -> list[Channel]:
    """How the channels that are set are."""
    return [Channel(one.channel, one.failures) for one in channels(tx).values() if one.channel in names]


def record(tx: Connection, sent: Sequence[Sent], *, now: datetime) -> None:
    """Notes how it went. Others may note the same channel at the same time: each counts."""
    table = alert_channels
    for one in sent:
        has_failed = one.error is not None
        row = {"channel": one.channel, "failures": int(has_failed), "tried_at": now, "error": one.error}
        statement = insert(table).values(**row, taken_at=None if has_failed else now)
        changed = {
            "failures": table.c.failures + 1 if has_failed else 0,
            "tried_at": now,
            "error": one.error,
            "taken_at": table.c.taken_at if has_failed else now,
        }
        tx.execute(statement.on_conflict_do_update(index_elements=["channel"], set_=changed))


# Silences


def silences(tx: Connection) -> list[Silence]:
    """Those in force."""
    columns = [alert_silences.c[name] for name in Silence.__dataclass_fields__]
    query = sa.select(*columns).where(alert_silences.c.until > _NOW)
    return [Silence(**row) for row in tx.execute(query).mappings()]


def silence(tx: Connection, *, rule: str | None, subject: str | None, until: datetime, reason: str) -> UUID:
    silence_id = uuid4()
    row = {"rule": rule, "subject": subject, "until": until, "reason": reason}
    tx.execute(sa.insert(alert_silences).values(silence_id=silence_id, **row))
    return silence_id


def end_silence(tx: Connection, silence_id: UUID) -> None:
    """It is told again from now on. Raises NotFoundError where it has ended, or never was."""
    statement = sa.update(alert_silences).values(until=_NOW)
    statement = statement.where(alert_silences.c.silence_id == silence_id, alert_silences.c.until > _NOW)
    if tx.execute(statement).rowcount != 1:
        raise NotFoundError("There is no such silence in force.")
