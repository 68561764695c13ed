"""The SQL that shows alerts and silences. Nothing is written here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.alerts.rules import BY_NAME, Severity
from orders_backup.errors import NotFoundError
from orders_backup.tables import accounts, alert_silences, alerts


@dataclass(frozen=True, slots=True)
class Shown:
    """An alert. `subject`: an account, a webhook, a channel, a kind of work, or `installation`; `detail`: as it was
    when it fired last. `recovered_at` null: it is open. `told_at` null: no channel took it yet."""

    id: UUID
    rule: str
    severity: Severity
    subject: str
    account_id: UUID | None
    means: str
    remedy: str
    detail: str
    opened_at: datetime
    seen_at: datetime
    recovered_at: datetime | None
    told_at: datetime | None


@dataclass(frozen=True, slots=True)
class ShownSilence:
    """Of what nothing is told; null: of any. `until`: when that ends, or ended."""

    id: UUID
    rule: str | None
    subject: str | None
    until: datetime
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class At:
    """The row after which a list goes on."""

    at: Annotated[datetime, msgspec.Meta(tz=True)]
    id: UUID


_SHOWN = ("rule", "severity", "subject", "account_id", "detail", "opened_at", "seen_at", "recovered_at", "told_at")
_SILENCE = ("rule", "subject", "until", "reason", "created_at")


def page(
    tx: Connection,
    *,
    seen_by: UUID | None,
    is_open: bool | None,
    rule: str | None,
    account_id: UUID | None,
    after: At | None,
    limit: int,
) -> tuple[list[Shown], At | None]:
    """Alerts, newest first, and the position to go on from; None: that was all. What has not held long enough to be an
    alert is none."""
    table = alerts.c
    query = sa.select(table.alert_id, table.fired_at, *(table[name] for name in _SHOWN))
    query = query.where(table.opened_at.is_not(None))
    query = query if is_open is None else query.where(table.recovered_at.is_(None) == is_open)
    query = query if rule is None else query.where(table.rule == rule)
    query = query if account_id is None else query.where(table.account_id == account_id)
    if seen_by is not None:
        query = query.where(table.account_id.in_(sa.select(accounts.c.id).where(accounts.c.user_id == seen_by)))
    if after is not None:
        query = query.where(sa.tuple_(table.fired_at, table.alert_id) < sa.tuple_(after.at, after.id))
    rows = tx.execute(query.order_by(table.fired_at.desc(), table.alert_id.desc()).limit(limit + 1)).all()
    more = At(rows[limit - 1].fired_at, rows[limit - 1].alert_id) if len(rows) > limit else None
    return [_shown(row) for row in rows[:limit]], more


def _shown(row: "sa.Row[Any]") -> Shown:
    known = BY_NAME.get(row.rule)
    values: dict[str, Any] = {name: getattr(row, name) for name in _SHOWN}
    means, remedy = (known.means, known.remedy) if known else ("", "")
    return Shown(id=row.alert_id, means=means, remedy=remedy, **values)


def silences(
    tx: Connection, *, seen_by: UUID | None, after: At | None, limit: int
) -> tuple[list[ShownSilence], At | None]:
    """Silences, newest first, those that ended too."""
    table = alert_silences.c
    query = sa.select(table.silence_id, *(table[name] for name in _SILENCE))
    if seen_by is not None:
        his = sa.select(sa.cast(accounts.c.id, sa.Text)).where(accounts.c.user_id == seen_by)
        query = query.where(table.subject.in_(his))
    if after is not None:
        query = query.where(sa.tuple_(table.created_at, table.silence_id) < sa.tuple_(after.at, after.id))
    rows = tx.execute(query.order_by(table.created_at.desc(), table.silence_id.desc()).limit(limit + 1)).all()
    more = At(rows[limit - 1].created_at, rows[limit - 1].silence_id) if len(rows) > limit else None
    shown = [ShownSilence(row.silence_id, *(getattr(row, name) for name in _SILENCE)) for row in rows[:limit]]
    return shown, more


def silence(tx: Connection, silence_id: UUID, *, seen_by: UUID | None) -> ShownSilence:
    """One silence. Raises NotFoundError."""
    table = alert_silences.c
    query = sa.select(table.silence_id, *(table[name] for name in _SILENCE)).where(table.silence_id == silence_id)
    row = tx.execute(query).one_or_none()
    if row is None or not _may_see(tx, row.subject, seen_by):
        raise NotFoundError("There is no such silence.")
    return ShownSilence(row.silence_id, *(getattr(row, name) for name in _SILENCE))


def require_subject(tx: Connection, subject: str | None, *, seen_by: UUID | None) -> None:
    """Raises NotFoundError unless the caller may silence this: who is bound to a user, only that user's accounts."""
    if not _may_see(tx, subject, seen_by):
        raise NotFoundError("A key that is bound to a user silences its user's accounts only: name one as `subject`.")


def _may_see(tx: Connection, subject: str | None, seen_by: UUID | None) -> bool:
    if seen_by is None:
        return True
    query = sa.select(accounts.c.id).where(accounts.c.user_id == seen_by, sa.cast(accounts.c.id, sa.Text) == subject)
    return tx.execute(query).first() is not None
