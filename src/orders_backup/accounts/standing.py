"""The SQL of how every connected account stands: what doctor and alerts judge. Nothing is written here."""

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

STALE = "greatest(interval '15 min', 6 * CAST(:interval AS interval), make_interval(secs => 3 * j.poll_seconds))"
"""A journal (`j`) that was not read for so long is not just waiting for its turn. Of who sells little the interval that
was chosen last may be long."""

_STANDING = sa.text(f"""
SELECT a.id, a.status, a.paused, a.connected_at, j.succeeded_at AS followed_at, j.poll_seconds,
       coalesce(j.succeeded_at, a.connected_at) < clock_timestamp() - {STALE} AS is_stale,
       f.kinds, f.errors, t.generation, t.refresh_sealed, t.access_expires_at, r.status AS proven, o.owed
  FROM accounts a
  LEFT JOIN syncs j ON j.account_id = a.id AND j.kind = 'journal'
  LEFT JOIN account_tokens t ON t.account_id = a.id
 CROSS JOIN LATERAL (SELECT array_agg(kind ORDER BY kind) AS kinds, array_agg(last_error ORDER BY kind) AS errors
                       FROM syncs WHERE account_id = a.id AND failures >= 3 AND due_at IS NOT NULL) f
  LEFT JOIN LATERAL (SELECT status FROM sync_history
                      WHERE account_id = a.id AND kind IN ('backfill', 'reconcile') AND finished_at IS NOT NULL
                        AND (kind = 'backfill' OR (range_from IS NULL AND range_to IS NULL))
                      ORDER BY requested_at DESC LIMIT 1) r ON true
 CROSS JOIN LATERAL (SELECT count(*) AS owed FROM owed_orders WHERE account_id = a.id AND set_aside_at IS NULL
                        AND owed_at < clock_timestamp() - interval '1 h') o
 WHERE a.status IN ('active', 'reauthorization_required')
 ORDER BY a.id
""")

_WAITING = sa.text("""
SELECT 'sync ' || kind AS work, extract(epoch FROM clock_timestamp() - min(due_at)) AS seconds FROM syncs
 WHERE due_at < clock_timestamp() - interval '10 min'
   AND (leased_until IS NULL OR leased_until < clock_timestamp()) GROUP BY kind
""")


def of_all(tx: Connection, *, interval: timedelta) -> list[Any]:
    """A row for every account that is, or was, active; `interval`: from one reading of a journal to the next."""
    return list(tx.execute(_STANDING, {"interval": interval}))


def waiting(tx: Connection) -> list[Any]:
    """The kinds of syncs that have been due for ten minutes and that nobody does, and for how many seconds."""
    return list(tx.execute(_WAITING))
