"""How safe it is what is stored: the newest backup, the drills, how far the archives are behind. One truth for metrics,
alerts and the doctor."""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.settings import Settings

DRILLS = {"sample": "drill_sample", "whole": "drill_whole", "dump": "drill_dump"}
"""What is rehearsed, and the kind of its rows."""


@dataclass(frozen=True, slots=True)
class Drilled:
    """The drills of a kind: `age` in seconds since one brought a report (None: no such drill is planned, or nothing was
    there to rehearse yet), whether the newest failed and none of everything passed since, and its sentence."""

    age: float | None
    failed: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class Safety:
    """`backup_age`, in seconds: of the newest verified dump, or since one was wanted first; None: none is wanted.
    `backup_error`: why the newest attempt failed. `archive_age`: how long the oldest has waited for its archive."""

    backup_age: float | None
    backup_bytes: int | None
    backup_error: str | None
    drills: dict[str, Drilled]
    archive_age: float


_BACKUP = sa.text("""
    SELECT extract(epoch FROM clock_timestamp() - coalesce(
               (SELECT max(started_at) FROM backups WHERE kind = 'dump' AND state = 'succeeded'),
               (SELECT min(created_at) FROM backups))) AS age,
           (SELECT bytes FROM backups WHERE kind = 'dump' AND state = 'succeeded'
             ORDER BY started_at DESC LIMIT 1) AS bytes,
           (SELECT CASE WHEN error_code IS NOT NULL AND state <> 'succeeded' THEN last_error END FROM backups
             WHERE kind = 'dump' AND state <> 'removed' ORDER BY created_at DESC LIMIT 1) AS error
""")
_DRILLS = sa.text("""
    SELECT kind, extract(epoch FROM clock_timestamp() - max(finished_at) FILTER (WHERE report IS NOT NULL)) AS age,
           (array_agg(state ORDER BY finished_at DESC))[1] = 'failed' AND max(finished_at) > coalesce(
               (SELECT max(finished_at) FROM backups WHERE kind = 'drill_whole' AND state = 'succeeded'),
               '-infinity') AS failed,
           (array_agg(last_error ORDER BY finished_at DESC))[1] AS error
      FROM backups WHERE kind <> 'dump' AND finished_at IS NOT NULL GROUP BY kind
""")
_WAITED = sa.text("""
    SELECT CASE WHEN EXISTS (SELECT FROM archives WHERE versions > 0)
                THEN extract(epoch FROM clock_timestamp() - min(created_at)) END FROM backups
""")
_ARCHIVES = sa.text("""
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - least(
               (SELECT stored_at FROM order_changes t WHERE t.account_id = k.account_id AND t.xid >= k.cursor_xid
                 ORDER BY xid, seq LIMIT 1),
               (SELECT stored_at FROM order_events t WHERE t.account_id = k.account_id AND t.xid >= k.cursor_xid
                 ORDER BY xid, event_id LIMIT 1)))), 0)
      FROM archives k JOIN accounts a ON a.id = k.account_id WHERE a.reason IS DISTINCT FROM 'restoring'
""")


def look(tx: Connection, settings: Settings) -> Safety | None:
    """None where there is no bucket, and so nothing of this."""
    if not settings.s3_bucket:
        return None
    backup = tx.execute(_BACKUP).one()
    is_wanted = settings.backup_interval > timedelta(0)
    return Safety(
        backup_age=float(backup.age or 0) if is_wanted else None,
        backup_bytes=backup.bytes,
        backup_error=backup.error if is_wanted else None,
        drills=_drills(tx, settings),
        archive_age=archive_age(tx),
    )


def archive_age(tx: Connection) -> float:
    """In seconds; 0: everything is in the archives."""
    return float(tx.execute(_ARCHIVES).scalar_one())


def _drills(tx: Connection, settings: Settings) -> dict[str, Drilled]:
    intervals = {"sample": settings.drill_interval, "whole": settings.drill_whole_interval}
    ran = {row.kind: row for row in tx.execute(_DRILLS)}
    waited = tx.execute(_WAITED).scalar_one()
    found = {}
    for name, kind in DRILLS.items():
        row = ran.get(kind)
        age = waited if row is None or row.age is None else row.age
        is_planned = intervals.get(name, timedelta(0)) > timedelta(0) and age is not None
        found[name] = Drilled(
            float(age) if is_planned else None, bool(row and row.failed), row.error if row and row.failed else None
        )
    return found
