"""The rows of webhooks: made, changed, read, and how they are. Deliveries are not here."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import due
from orders_backup.accounts import queries as accounts
from orders_backup.errors import ConflictError, NotFoundError
from orders_backup.orders.feed import Position
from orders_backup.tables import webhooks
from orders_backup.vault import Vault
from orders_backup.webhooks import outbox, schedule, sign
from orders_backup.webhooks.outbox import Endpoint
from orders_backup.webhooks.schedule import Health

Content = Literal["thin", "full"]
Status = Literal["active", "paused", "disabled"]
Reason = Literal["failing", "gone"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint. `event_types`, `account_ids` empty: all. `content` full: messages carry the order's document.

    `status` disabled for a `reason`: `failing` (no success for five days; tried once an hour) or `gone` (it answered
    410). `failures`: attempts that failed one after the other, since `failing_since`; nothing is sent before
    `silent_until`. `pending`: messages that are still owed to it. `old_secret_until`: two secrets sign until then.
    """

    id: uuid.UUID
    user_id: uuid.UUID | None
    url: str
    description: str
    event_types: list[str]
    account_ids: list[uuid.UUID]
    content: Content
    status: Status
    reason: Reason | None
    failures: int
    failing_since: datetime | None
    silent_until: datetime | None
    last_error: str | None
    last_delivered_at: datetime | None
    pending: int
    old_secret_until: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class At:
    """The endpoint after which a list goes on."""

    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Held:
    """An endpoint as whoever delivers to it sees it. `now`: the database's clock."""

    endpoint: Endpoint
    url: str
    is_full: bool
    secrets: tuple[str, ...]
    health: Health
    last_error: str | None
    now: datetime

    @property
    def wants_news(self) -> bool:
        return self.health.status == "active" or self.health.reason == "failing"


_SHOWN = """
SELECT w.webhook_id AS id, w.user_id, w.url, w.description, w.event_types, w.account_ids, w.content, w.status, w.reason,
       w.failures, w.failing_since, w.silent_until, w.last_error, w.last_delivered_at, w.created_at,
       (SELECT count(*) FROM webhook_deliveries d
         WHERE d.webhook_id = w.webhook_id AND d.status = 'pending') AS pending,
       CASE WHEN w.old_secret_until > clock_timestamp() THEN w.old_secret_until END AS old_secret_until
FROM webhooks w WHERE (CAST(:seen_by AS uuid) IS NULL OR w.user_id = :seen_by)
"""


def page(tx: Connection, *, seen_by: uuid.UUID | None, after: At | None, limit: int) -> tuple[list[Webhook], At | None]:
    """Endpoints, oldest first, and the position to go on from; None: that was all."""
    values = {
        "seen_by": seen_by,
        "at": after.created_at if after else None,
        "id": after.id if after else None,
        "limit": limit + 1,
    }
    query = f"""{_SHOWN} AND (CAST(:at AS timestamptz) IS NULL OR (w.created_at, w.webhook_id) > (:at, :id))
                ORDER BY w.created_at, w.webhook_id LIMIT :limit"""
    found = [Webhook(**row) for row in tx.execute(sa.text(query), values).mappings()]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], At(last.created_at, last.id) if last else None


def get(tx: Connection, webhook_id: uuid.UUID, *, seen_by: uuid.UUID | None) -> Webhook:
    """One endpoint. Raises NotFoundError where there is none that the caller may see."""
    query = sa.text(f"{_SHOWN} AND w.webhook_id = :id")
    row = tx.execute(query, {"seen_by": seen_by, "id": webhook_id}).mappings().one_or_none()
    if row is None:
        raise _missing(webhook_id)
    return Webhook(**row)


def lock(tx: Connection, webhook_id: uuid.UUID, *, seen_by: uuid.UUID | None) -> "sa.Row[Any]":
    """The row, which nobody else changes until the end of the transaction. Raises NotFoundError."""
    return _row(tx, sa.select(webhooks).with_for_update(), webhook_id, seen_by)


def row(tx: Connection, webhook_id: uuid.UUID, *, seen_by: uuid.UUID | None) -> "sa.Row[Any]":
    """The row as it is now. Raises NotFoundError."""
    return _row(tx, sa.select(webhooks), webhook_id, seen_by)


def _row(tx: Connection, query: "sa.Select[Any]", webhook_id: uuid.UUID, seen_by: uuid.UUID | None) -> "sa.Row[Any]":
    query = query.where(webhooks.c.webhook_id == webhook_id)
    found = tx.execute(query if seen_by is None else query.where(webhooks.c.user_id == seen_by)).one_or_none()
    if found is None:
        raise _missing(webhook_id)
    return found


def make(
    tx: Connection,
    vault: Vault,
    *,
    user_id: uuid.UUID | None,
    url: str,
    description: str,
    event_types: Sequence[str],
    account_ids: Sequence[uuid.UUID],
    content: Content,
) -> tuple[uuid.UUID, str]:
    """A new endpoint, which is told of what changes from now on, and its secret. Raises NotFoundError for an account
    that is not of this user."""
    require_accounts(tx, account_ids, user_id=user_id)
    webhook_id, secret = uuid.uuid4(), sign.new_secret()
    values = {
        "webhook_id": webhook_id,
        "user_id": user_id,
        "url": url,
        "description": description,
        "event_types": list(event_types),
        "account_ids": list(account_ids),
        "content": content,
        "secret_sealed": vault.seal(secret, *_bound(webhook_id)),
        "cursor_xid": sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()),
    }
    tx.execute(sa.insert(webhooks).values(values))
    return webhook_id, secret


def require_accounts(tx: Connection, account_ids: Sequence[uuid.UUID], *, user_id: uuid.UUID | None) -> None:
    """Raises NotFoundError unless all of them are this user's; None: anybody's."""
    seen = accounts.visible(user_id)
    found = set(tx.execute(sa.select(seen.c.id).where(seen.c.id.in_(account_ids))).scalars()) if account_ids else set()
    if missing := [one for one in account_ids if one not in found]:
        raise NotFoundError(f"There is no account {missing[0]}, or this key may not see it.")


def change(tx: Connection, webhook_id: uuid.UUID, row: "sa.Row[Any]", values: dict[str, Any]) -> None:
    """Changes a locked endpoint. Made active again, it is tried with one message at first; what it missed follows."""
    status = values.get("status")
    if status == "active" and row.status != "active":
        values |= {
            "reason": None,
            "failures": schedule.OPENS_AFTER if row.status == "disabled" else row.failures,
            "failing_since": None,
            "silent_until": None,
        }
    if status == "paused":
        values |= {"reason": None}
    if values.get("url") not in {None, row.url}:  # another receiver: what is known of the old one says nothing of it
        known = {"failures": 0, "failing_since": None, "silent_until": None, "answer_seconds": None}
        values = known | values if row.status == "active" else values
        outbox.hurry(tx, webhook_id)
        due.make_due(tx, webhooks, {"webhook_id": webhook_id})
    if values:
        tx.execute(sa.update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(values))
    if status == "active":
        due.make_due(tx, webhooks, {"webhook_id": webhook_id})


def remove(tx: Connection, webhook_id: uuid.UUID) -> None:
    """Deletes an endpoint with its deliveries; who delivers to it right now loses his lease."""
    tx.execute(sa.delete(webhooks).where(webhooks.c.webhook_id == webhook_id))


def rotate(tx: Connection, vault: Vault, webhook_id: uuid.UUID, *, overlap: timedelta) -> str:
    """A new secret for a locked endpoint; the one in force until now signs as well for `overlap` longer."""
    secret = sign.new_secret()
    values = {
        "old_secret_sealed": webhooks.c.secret_sealed,
        "old_secret_until": sa.func.clock_timestamp() + overlap,
        "secret_sealed": vault.seal(secret, *_bound(webhook_id)),
    }
    tx.execute(sa.update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(values))
    return secret


def require_reachable(row: "sa.Row[Any]") -> None:
    """Raises ConflictError where nothing is sent to the endpoint at present."""
    if row.status == "paused" or row.reason == "gone":
        state = "is paused" if row.status == "paused" else "said that it is gone (410)"
        raise ConflictError(f'The webhook {state}; make it active first: PATCH with {{"status": "active"}}.')


def hold(tx: Connection, vault: Vault, webhook_id: uuid.UUID) -> Held:
    """The endpoint as it is now, for the holder of its lease."""
    now = sa.func.clock_timestamp()
    xid = sa.cast(sa.cast(webhooks.c.cursor_xid, sa.Text), sa.BigInteger).label("xid")
    signs = sa.func.coalesce(webhooks.c.old_secret_until > now, sa.false()).label("old_signs")
    row = tx.execute(sa.select(webhooks, xid, signs, now.label("now")).where(webhooks.c.webhook_id == webhook_id)).one()
    sealed = [row.secret_sealed, *([row.old_secret_sealed] if row.old_signs else [])]
    cursor = Position(row.xid, row.cursor_seq)
    return Held(
        endpoint=Endpoint(webhook_id, row.user_id, tuple(row.account_ids), tuple(row.event_types), cursor),
        url=row.url,
        is_full=row.content == "full",
        secrets=tuple(vault.open(one, *_bound(webhook_id)) for one in sealed),
        health=Health(row.status, row.reason, row.failures, row.failing_since, row.silent_until, row.answer_seconds),
        last_error=row.last_error,
        now=row.now,
    )


def keep(tx: Connection, webhook_id: uuid.UUID, health: Health, *, last_error: str | None, has_success: bool) -> None:
    """Writes down how the endpoint is."""
    values: dict[str, Any] = {
        "status": health.status,
        "reason": health.reason,
        "failures": health.failures,
        "failing_since": health.failing_since,
        "silent_until": health.silent_until,
        "answer_seconds": health.answer_seconds,
        "last_error": last_error if health.failures else None,
    }
    if has_success:
        values["last_delivered_at"] = sa.func.clock_timestamp()
    tx.execute(sa.update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(values))


def _bound(webhook_id: uuid.UUID) -> tuple[object, ...]:
    return (webhook_id, "webhook secret")


def _missing(webhook_id: uuid.UUID) -> NotFoundError:
    return NotFoundError(f"There is no webhook {webhook_id}, or this key may not see it.")
