"""What is sent on request: a test message, and messages of the past once more, under the ids they always had."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import due
from orders_backup.errors import ConflictError
from orders_backup.tables import webhook_deliveries, webhooks
from orders_backup.webhooks import outbox

MOST_AT_ONCE = 100_000
TEST = "webhook.test"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes: stored in [from, to), and up to the endpoint's cursor: what lies beyond it will come anyway."""

    stored_from: datetime
    stored_to: datetime
    order_id: str | None = None
    only_failed: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay does, or, as a dry run, would do. `matched` = `new` (never sent, or forgotten since) + `again`
    (delivered or given up before) + `pending` (waits to be sent anyway)."""

    dry_run: bool
    matched: int
    new: int
    again: int
    pending: int


_MATCHED = f"""
WITH c AS (
    SELECT * FROM order_changes c
    WHERE c.stored_at >= :since AND c.stored_at < :until
      AND (c.xid, c.seq) <= (SELECT cursor_xid, cursor_seq FROM webhooks WHERE webhook_id = :webhook_id)
      AND (CAST(:accounts AS uuid[]) IS NULL OR c.account_id = ANY (CAST(:accounts AS uuid[])))
      AND (CAST(:order_id AS text) IS NULL OR c.order_id = :order_id)),
sent AS (
    SELECT c.*, (SELECT d.status FROM webhook_deliveries d WHERE d.webhook_id = :webhook_id AND d.seq = c.seq) AS status
    FROM c),
matched AS (
    SELECT c.seq, c.account_id, c.order_id, c.version, t.type, c.kinds, c.cause, c.stored_at, c.status
    FROM sent c CROSS JOIN LATERAL ({outbox.TYPE}) t
    WHERE NOT :only_failed OR c.status = 'failed')
"""

_COUNT = sa.text(
    f"""{_MATCHED}
SELECT count(*) AS matched, count(*) FILTER (WHERE status IS NULL) AS new,
       count(*) FILTER (WHERE status IN ('delivered', 'failed')) AS again,
       count(*) FILTER (WHERE status = 'pending') AS pending
FROM (SELECT * FROM matched LIMIT CAST(:most AS bigint)) AS few"""
)

_REPLAY = sa.text(
    f"""{_MATCHED}
INSERT INTO webhook_deliveries AS d
       (webhook_id, seq, account_id, order_id, version, type, kinds, cause, occurred_at)
SELECT :webhook_id, seq, account_id, order_id, version, type, kinds, cause, stored_at FROM matched
ON CONFLICT (webhook_id, seq) DO UPDATE SET status = 'pending', tries = 0, created_at = clock_timestamp(), due_at = NULL
WHERE d.status <> 'pending'"""
)


def replay(tx: Connection, row: "sa.Row[Any]", wanted: Wanted, *, dry_run: bool) -> Replay:
    """Makes the messages of the past due once more, oldest first in each order. `row`: the endpoint, locked
    unless this only counts.

    Raises ConflictError where they are too many for one request.
    """
    wanted_accounts = outbox.accounts_of(tx, row.user_id, row.account_ids)
    values = {
        "webhook_id": row.webhook_id,
        "accounts": wanted_accounts,
        "since": wanted.stored_from,
        "until": wanted.stored_to,
        "order_id": wanted.order_id,
        "only_failed": wanted.only_failed,
        **outbox.kinds_of(row.event_types),
    }
    most = None if dry_run else MOST_AT_ONCE + 1
    found = Replay(dry_run, **tx.execute(_COUNT, {**values, "most": most}).mappings().one())
    if dry_run:
        return found
    if found.matched > MOST_AT_ONCE:
        raise ConflictError(
            f"More than {MOST_AT_ONCE:,} changes lie in this range; replay at most so many at once: narrow it."
        )
    tx.execute(_REPLAY, values)
    outbox.line_up(tx, row.webhook_id)
    due.make_due(tx, webhooks, {"webhook_id": row.webhook_id})
    return found


def test(tx: Connection, webhook_id: UUID) -> int:
    """A message that tells of nothing, before everything else that is due; answers its number."""
    now = sa.func.clock_timestamp()
    values = {
        "webhook_id": webhook_id,
        "seq": -sa.cast(sa.extract("epoch", now) * 1_000_000, sa.BigInteger),
        "type": TEST,
        "kinds": [TEST],
        "cause": "test",
        "occurred_at": now,
        "due_at": sa.func.to_timestamp(0),
    }
    made = sa.insert(webhook_deliveries).values(values).returning(webhook_deliveries.c.seq)
    seq: int = tx.execute(made).scalar_one()
    tx.execute(sa.update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(silent_until=None))
    due.make_due(tx, webhooks, {"webhook_id": webhook_id})
    return seq
