"""The SQL of what an account's warnings look at. Nothing is written here, and nothing decided."""

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.accounts import warnings
from orders_backup.accounts.warnings import AccountWarning, Facts, Span
from orders_backup.allegro import horizon

_FACTS = sa.text("""
SELECT a.id, a.status, a.connected_at, t.now, j.succeeded_at AS followed_at, p.certified_at, w.set_aside,
       c.changed_at, w.owed_there, v.since, v.until, v.checked_at
  FROM (SELECT clock_timestamp() AS now) t
 CROSS JOIN accounts a
 CROSS JOIN LATERAL (SELECT t.now - CAST(:reach AS interval) AS since,
                            t.now - CAST(:reach AS interval) + CAST(:cliff AS interval) AS until) z
  LEFT JOIN syncs j ON j.account_id = a.id AND j.kind = 'journal'
 CROSS JOIN LATERAL (
       SELECT max(finished_at) AS certified_at FROM sync_history
        WHERE account_id = a.id AND kind IN ('backfill', 'reconcile') AND status = 'succeeded'
          AND (kind = 'backfill' OR (range_from IS NULL AND range_to IS NULL))) p
 CROSS JOIN LATERAL (
       SELECT count(d.set_aside_at) AS set_aside,
              count(*) FILTER (WHERE o.ordered_at >= z.since AND o.ordered_at < z.until) AS owed_there
         FROM owed_orders d LEFT JOIN orders o ON o.account_id = d.account_id AND o.order_id = d.order_id
        WHERE d.account_id = a.id) w
 CROSS JOIN LATERAL (
       SELECT max(updated_at) AS changed_at FROM orders
        WHERE account_id = a.id AND ordered_at >= z.since AND ordered_at < z.until) c
 CROSS JOIN LATERAL (
       SELECT array_agg(window_from) AS since, array_agg(window_to) AS until, array_agg(checked_at) AS checked_at
         FROM sync_windows
        WHERE account_id = a.id AND status = 'verified' AND fulfillment = ''
          AND checked_at > t.now - CAST(:lasts AS interval)
          AND window_from < z.until AND window_to > z.since) v
 WHERE a.id = ANY (CAST(:accounts AS uuid[]))
""")


def warnings_of(tx: Connection, account_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[AccountWarning]]:
    """The warnings of each of these accounts."""
    lengths = {
        "reach": horizon.REACH,
        "cliff": warnings.CLIFF,
        "lasts": warnings.CERTIFICATE_LASTS,
    }
    rows = tx.execute(_FACTS, {"accounts": list(account_ids), **lengths})
    return {row.id: warnings.all_of(_facts(row)) for row in rows}


def _facts(row: "sa.Row[Any]") -> Facts:
    spans = zip(row.since or [], row.until or [], row.checked_at or [], strict=True)
    return Facts(
        now=row.now,
        status=row.status,
        connected_at=row.connected_at,
        followed_at=row.followed_at,
        certified_at=row.certified_at,
        set_aside=row.set_aside,
        changed_at=row.changed_at,
        owed_there=row.owed_there,
        spans=[Span(*span) for span in spans],
    )
