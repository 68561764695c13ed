"""How long until a journal is polled again: what is known of its rhythm, and what was set."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.sync import plan
from orders_backup.sync.job import Job
from orders_backup.sync.plan import Rhythm
from orders_backup.tables import syncs


def interval(tx: Connection, job: Job, *, now: datetime) -> timedelta:
    """Until the next poll, after a reading to the end; never longer than from one full sync to the next.

    What was learned is stored when the job settles.
    """
    settings = job.runtime.settings
    bounds = plan.interval(
        settings.events_interval, settings.events_interval_shortest, settings.events_interval_longest
    )
    table = syncs.c
    query = sa.select(table.event_rate, table.event_at).where(
        table.account_id == job.account_id, table.kind == "journal"
    )
    row = tx.execute(query).one()
    before = Rhythm(row.event_rate or 0.0, row.event_at)
    known = plan.rhythm(before, events=job.new_events, since=job.followed_at, now=now)
    wait = min(plan.poll_after(known, bounds, now=now), max(job.interval, bounds.usual))
    wait = plan.while_short(wait, in_force=job.calls.in_force)
    job.values |= {"event_rate": known.rate, "event_at": known.event_at, "poll_seconds": wait.total_seconds()}
    return wait
