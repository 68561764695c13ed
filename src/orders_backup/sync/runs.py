"""How a run over windows ends, a listing or a sweep: what it says of itself, and what it makes due."""

from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.engine import Row

from orders_backup import db as database
from orders_backup import metrics
from orders_backup.sync import evidence, owed, state
from orders_backup.sync.job import Job

COUNTED = ("listed", "inserted", "updated", "unchanged", "set_aside", "calls")

log = structlog.get_logger()


def finish(job: Job, run_id: UUID) -> "Row[Any]":
    """All windows are closed: the run proved them all, or its `error` says how many it could not. What it found owed
    is due."""
    now = job.now()
    with database.transaction(job.runtime.db) as tx:
        job.fence(tx)
        unproven = [window for window in evidence.windows(tx, job.account_id, run_id) if window.status == "unstable"]
        error = f"{len(unproven)} windows kept changing while they were read." if unproven else None
        state.finish_run(tx, run_id, error=error, now=now)
        run = state.run(tx, run_id)
    with database.transaction(job.runtime.db) as tx:  # by itself: a journal's job holds its row and makes this one due
        if owed.next_at(tx, job.account_id) is not None:
            state.make_journal_due(tx, job.account_id)
    metrics.SYNCS.labels(run.kind, run.status).inc()
    if error is None:
        job.values["succeeded_at"] = now
    counts = {name: getattr(run, name) for name in COUNTED}
    ids = {"account_id": str(job.account_id), "run_id": str(run_id)}
    log.info("sync_finished", **ids, kind=run.kind, status=run.status, unproven=len(unproven), **counts)
    return run
