"""The SQL that reads accounts for the API and the operator's page. Nothing is written here."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.accounts import facts
from orders_backup.accounts.warnings import AccountWarning
from orders_backup.errors import NotFoundError
from orders_backup.tables import accounts

Status = Literal["pending", "active", "denied", "expired", "reauthorization_required", "disconnected"]
ExtraKind = Literal["shipments", "invoices", "returns", "refunds"]
BackfillState = Literal["none", "queued", "running", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class Backfill:
    """How far the history is loaded. `progress` runs from 0 to 1; null while `expected` is unknown."""

    state: BackfillState
    progress: float | None
    listed: int
    expected: int | None


@dataclass(frozen=True, slots=True)
class Account:
    """One connected seller of one user.

    `user_code`, the two addresses and `expires_at` belong to a device flow that waits for the seller, else null.
    `sync_interval_seconds` null: the service's default. `extras`: what is kept beside the orders; `extras_off`: kinds
    of it that Allegro refuses at present, with the reason. `owed`: orders that still have to be read; `set_aside`:
    those among them that failed too often. `lag_seconds`: from the newest event at Allegro to its storing.
    `warnings`: what could cost orders if nobody does anything, the gravest first.
    """

    id: uuid.UUID
    user_id: uuid.UUID
    name: str
    status: Status
    reason: str | None
    existing_account_id: uuid.UUID | None
    seller_id: str | None
    seller_login: str | None
    user_code: str | None
    verification_uri: str | None
    verification_uri_complete: str | None
    expires_at: datetime | None
    sync_interval_seconds: int | None
    paused: bool
    extras: list[ExtraKind]
    extras_off: dict[str, str]
    created_at: datetime
    connected_at: datetime | None
    token_expires_at: datetime | None
    orders: int
    versions: int
    owed: int
    set_aside: int
    backfill: Backfill
    next_sync_at: datetime | None
    last_synced_at: datetime | None
    lag_seconds: float | None
    last_error: str | None
    warnings: list[AccountWarning]


@dataclass(frozen=True, slots=True)
class Position:
    """The account after which a list goes on."""

    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    id: uuid.UUID


_ACCOUNTS = """
SELECT a.id, a.user_id, a.name, a.status, a.reason, a.existing_account_id, a.seller_id, a.seller_login,
       f.user_code, f.verification_uri, f.verification_uri_complete, f.expires_at,
       a.sync_interval_seconds, a.paused, a.created_at, a.connected_at, a.extras,
       (SELECT coalesce(jsonb_object_agg(e.kind, e.reason), '{}') FROM extra_kinds e
         WHERE e.account_id = a.id AND e.off_until > clock_timestamp() AND e.kind = ANY (a.extras)) AS extras_off,
       t.access_expires_at AS token_expires_at,
       (SELECT count(*) FROM orders o WHERE o.account_id = a.id) AS orders,
       (SELECT count(*) FROM order_versions v WHERE v.account_id = a.id) AS versions,
       w.owed, w.set_aside,
       b.status AS backfill_state, b.listed AS backfill_listed, b.expected AS backfill_expected,
       CASE WHEN a.status = 'active' AND NOT a.paused THEN s.next_sync_at END AS next_sync_at,
       s.last_synced_at, s.lag_seconds,
       coalesce(t.last_error, f.last_error, s.last_error) AS last_error
FROM accounts a
LEFT JOIN device_flows f ON f.account_id = a.id
LEFT JOIN account_tokens t ON t.account_id = a.id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE set_aside_at IS NULL) AS owed, count(set_aside_at) AS set_aside
    FROM owed_orders WHERE account_id = a.id
) w
CROSS JOIN LATERAL (
    SELECT min(due_at) AS next_sync_at, max(succeeded_at) AS last_synced_at,
           max(lag_seconds) FILTER (WHERE kind = 'journal') AS lag_seconds,
           min(last_error) FILTER (WHERE failures > 0) AS last_error
    FROM syncs WHERE account_id = a.id AND kind <> 'extras'
) s
LEFT JOIN LATERAL (
    SELECT status, listed, expected FROM sync_history
    WHERE account_id = a.id AND kind = 'backfill' ORDER BY requested_at DESC, id LIMIT 1
) b ON true
"""
"""One row per account. The counts are of index entries only; they cost about a tenth of a second per million."""

_ONE = sa.text(f"{_ACCOUNTS} WHERE a.id = :account_id AND (CAST(:seen_by AS uuid) IS NULL OR a.user_id = :seen_by)")

_LIST = sa.text(
    f"""{_ACCOUNTS}
WHERE a.id IN (
    SELECT id FROM accounts
    WHERE (CAST(:seen_by AS uuid) IS NULL OR user_id = :seen_by)
      AND (CAST(:user_id AS uuid) IS NULL OR user_id = :user_id)
      AND (CAST(:status AS text) IS NULL OR status = :status)
      AND (CAST(:after_created_at AS timestamptz) IS NULL OR (created_at, id) > (:after_created_at, :after_id))
    ORDER BY created_at, id LIMIT :limit
)
ORDER BY a.created_at, a.id"""
)


def visible(
    seen_by: uuid.UUID | None, *, user_id: uuid.UUID | None = None, account_id: uuid.UUID | None = None
) -> sa.Subquery:
    """The ids and users of the accounts a caller may see (`seen_by` None: all), narrowed as asked, to join with."""
    query = sa.select(accounts.c.id, accounts.c.user_id)
    for column, value in (
        (accounts.c.user_id, seen_by),
        (accounts.c.user_id, user_id),
        (accounts.c.id, account_id),
    ):
        query = query if value is None else query.where(column == value)
    return query.subquery("seen")


def require(tx: Connection, account_id: uuid.UUID, *, seen_by: uuid.UUID | None) -> None:
    """Raises NotFoundError unless the caller may see the account."""
    if tx.execute(sa.select(visible(seen_by, account_id=account_id))).one_or_none() is None:
        raise _missing(account_id)


def get(tx: Connection, account_id: uuid.UUID, *, seen_by: uuid.UUID | None) -> Account:
    """One account. Raises NotFoundError where there is none that the caller may see."""
    row = tx.execute(_ONE, {"account_id": account_id, "seen_by": seen_by}).mappings().one_or_none()
    if row is None:
        raise _missing(account_id)
    return _account(dict(row), facts.warnings_of(tx, [account_id]))


def page(
    tx: Connection,
    *,
    seen_by: uuid.UUID | None,
    user_id: uuid.UUID | None,
    status: str | None,
    after: Position | None,
    limit: int,
) -> tuple[list[Account], Position | None]:
    """Accounts in the order they were made, and the position to go on from; None: that was all."""
    values = {
        "seen_by": seen_by,
        "user_id": user_id,
        "status": status,
        "after_created_at": after.created_at if after else None,
        "after_id": after.id if after else None,
        "limit": limit + 1,
    }
    rows = [dict(row) for row in tx.execute(_LIST, values).mappings()]
    warnings = facts.warnings_of(tx, [row["id"] for row in rows])
    found = [_account(row, warnings) for row in rows]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], Position(last.created_at, last.id) if last else None


def progress(state: str, listed: int, expected: int | None) -> float | None:
    """The share of a run that is done, 0 to 1; None while nobody knows how much there is."""
    if state == "succeeded" or expected == 0:
        return 1.0
    return None if expected is None else min(1.0, listed / expected)


def _account(row: dict[str, Any], warnings: dict[uuid.UUID, list[AccountWarning]]) -> Account:
    state: BackfillState = row.pop("backfill_state") or "none"
    listed, expected = row.pop("backfill_listed") or 0, row.pop("backfill_expected")
    backfill = Backfill(state, progress(state, listed, expected), listed, expected)
    return Account(**row, backfill=backfill, warnings=warnings[row["id"]])


def _missing(account_id: uuid.UUID) -> NotFoundError:
    return NotFoundError(f"There is no account {account_id}, or this key may not see it.")
