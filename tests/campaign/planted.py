"""Bugs to be planted, each an exact replacement in the product's source, and the runs that have to find them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """`old` stands exactly once in `file`, below `src/orders_backup`. `weather`: the families of faults that can show
    it, played in every seed; empty: whatever the seeds draw. `is_rush`: in every seed a shop with so many orders that a
    low limit is reached. `also`: a second replacement, in the same file or in `also_file`, where one net lies under
    another. `named`: which of NAMED it is."""

    name: str
    file: str
    old: str
    new: str
    weather: str = ""
    is_rush: bool = False
    also: tuple[str, str] = ("", "")
    also_file: str = ""
    named: str = ""

    @property
    def edits(self) -> list[tuple[str, str, str]]:
        """Each as file, old, new."""
        edits = [(self.file, self.old, self.new), (self.also_file or self.file, *self.also)]
        return [edit for edit in edits if edit[1]]


NAMED = {
    "cursor before data",
    "no fence",
    "delete-lock",
    "no confirms",
    "window counter",
    "spool skipped",
    "older overwrites newer",
    "dedup by event id",
    "filter not verified",
}
"""The classic ones; each has to be found."""

BUGS = (
    Bug(
        "the cursor moves before its events are stored",
        "sync/pull.py",
        """        job.runtime.codec.prepare(job.runtime.db, [])
""",
        """        ahead = plan.later(job.cursor or "0", [event.event_id for event in page.events])
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            state.move_cursor(tx, job.lease, seen=job.cursor, cursor=ahead)
        job.cursor = ahead
""",
        weather="crash,database",
        named="cursor before data",
    ),
    Bug(
        "no fence: whoever lost a lease writes all the same",
        "due.py",
        "    if tx.execute(_fencing(lease.table), values).rowcount != 1:",
        "    if tx.execute(_fencing(lease.table), values) is None:",
        weather="freeze",
        named="no fence",
    ),
    Bug(
        "a claim makes no new generation",
        "due.py",
        "lease_generation=table.c.lease_generation + 1)",
        "lease_generation=table.c.lease_generation)",
        weather="freeze",
    ),
    Bug(
        "a refresh begins although another one is under way",
        "accounts/tokens.py",
        "if row.intent_at is not None and row.intent_at > now - INTENT_HOLDS:",
        "if row.intent_at is not None and row.intent_at > now:",
        weather="freeze,tokens",
    ),
    Bug(
        "the new pair is not kept on the disk",
        "accounts/tokens.py",
        """    keep(runtime, account_id, begun.generation + 1, sealed)
    return _store(""",
        "    return _store(",
        weather="outage,tokens",
        named="spool skipped",
    ),
    Bug(
        "a token pair is stored without the fence of its generation",
        "accounts/pairs.py",
        "mine = _of(account_id) & (account_tokens.c.generation == generation)",
        "mine = _of(account_id)",
        weather="freeze,tokens",
    ),
    Bug(
        "an older reading overwrites a newer one",
        "orders/changes.py",
        """    if reading.sent_at < head.read_at:
        return Verdict.LATE
""",
        "",
        weather="freeze",
        named="older overwrites newer",
    ),
    Bug(
        "dedup by event alone: the same bytes make a version",
        "orders/changes.py",
        "return Verdict.SAME if reading.sha256 == head.sha256 else Verdict.CHANGED",
        "return Verdict.CHANGED",
        named="dedup by event id",
    ),
    Bug(
        "the journal is read from the cursor on, without an overlap",
        "sync/pull.py",
        "plan.later(plan.overlapped(cursor), plan.credible([known] if known else [], now=job.now()))",
        "cursor",
        weather="journal",
    ),
    Bug(
        "the filter is not verified: rows from outside a window count for it",
        "sync/listing.py",
        "inside=all(is_inside(wanted, one) for one in readings if is_placed(listing, one)),",
        "inside=bool(wanted),",
        weather="lists",
        also_file="sync/windows.py",
        also=(
            """    found = evidence.stored_in(tx, window)
    unlisted""",
            """    from types import SimpleNamespace

    found = evidence.stored_in(tx, window)
    told = {"listed": window.total_count - set_aside, "fingerprint": window.fingerprint}
    found = SimpleNamespace(**{**found._mapping, **told})
    unlisted""",
        ),
        named="filter not verified",
    ),
    Bug(
        "a reading strikes a debt that is younger than itself",
        "sync/owed.py",
        "table.order_id == read, table.owed_at <= sent_at)",
        "table.order_id == read)",
        weather="freeze,journal",
    ),
    Bug(
        "a window is proven without counting",
        "sync/windows.py",
        """    found = evidence.stored_in(tx, window)
    unlisted""",
        """    from types import SimpleNamespace

    found = evidence.stored_in(tx, window)
    told = {"listed": window.total_count - set_aside, "fingerprint": window.fingerprint}
    found = SimpleNamespace(**{**found._mapping, **told})
    unlisted""",
        weather="lists",
    ),
    Bug(
        "the budget counts by the worker's clock",
        "budget.py",
        "    now = database.clock(tx)\n    rooms",
        """    import time
    from datetime import UTC

    from orders_backup import db as worker_clock

    now = worker_clock.datetime.now(UTC)
    rooms""",
        is_rush=True,
    ),
    Bug(
        "the budget refills twice as fast as the limit allows",
        "budget.py",
        "        return max(self.per_minute - self.burst, 1) / (60 + DELAY)",
        "        return self.per_minute / 60 * 2",
        weather="limits",
        is_rush=True,
    ),
    Bug(
        "a 429 silences nobody",
        "accounts/calls.py",
        """            budget.silence(self._runtime.db, self._buckets(route)[0].key, seconds=error.retry_after)
            raise""",
        """            raise""",
        weather="limits",
    ),
    Bug(
        "an outage sets orders aside",
        "sync/debts.py",
        "own = tried.landed or not _is_away(error)",
        "own = True",
        weather="network,outage",
    ),
    Bug(
        "a merged order's successor is forgotten",
        "orders/archive.py",
        """    if successor is not None:
        _supersede(tx, account_id, order_id, successor)
    return successor""",
        """    return successor""",
    ),
    Bug(
        "an order that was replaced is not read again",
        "sync/job.py",
        """    owed.owe(tx, job.account_id, doubtful, cause="merge", now=job.now())
""",
        "",
    ),
    Bug(
        "the feed is read by its numbers alone",
        "orders/feed.py",
        "WHERE (c.xid, c.seq) > (CAST(%(xid)s::text AS xid8), %(seq)s::bigint) AND c.xid",
        "WHERE c.seq > %(seq)s::bigint AND %(xid)s::text IS NOT NULL AND c.xid",
    ),
    Bug(
        "invalid_grant is believed inside the grace",
        "accounts/tokens.py",
        "    is_final = is_refused and begun.was_refused and begun.intent_at >= begun.first_at + GRACE",
        "    is_final = is_refused",
        weather="tokens",
    ),
    Bug(
        "the cursor is pinned where the journal is when it is first read, not before the backfill",
        "sync/backfill.py",
        """    if not has_cursor:
        pull.pin(job)
""",
        "",
        weather="crash,freeze",
    ),
    Bug(
        "a debt is struck when its reading begins",
        "sync/debts.py",
        """    reading = changes.read(answer.sent_at, answer.body)
    if not isinstance""",
        """    reading = changes.read(answer.sent_at, answer.body)
    with database.transaction(job.runtime.db) as tx:
        owed.paid(tx, job.account_id, [debt.order_id], sent_at=job.now())
    if not isinstance""",
        weather="crash,database",
    ),
    Bug(
        "events are stored and their orders are not owed",
        "sync/pull.py",
        """            owed.owe(tx, job.account_id, plan.debts(new), cause="event", now=job.now())
""",
        """            owed.owe(tx, job.account_id, plan.debts(new[:-1]), cause="event", now=job.now())
""",
    ),
    Bug(
        "a page that a crash interrupted is counted twice",
        "sync/windows.py",
        """        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            current = _as_it_is""",
        """        with database.transaction(job.runtime.db) as early:
            job.fence(early)
            state.count(early, question.run.id, Recorded(unchanged=len(pages[0].orders)))
        with database.transaction(job.runtime.db) as tx:
            job.fence(tx)
            current = _as_it_is""",
        weather="crash,database",
    ),
    Bug(
        "a transaction stays open during a call",
        "accounts/tokens.py",
        """    try:
        pair = oauth.refresh(runtime.oauth, begun.refresh_token)
    except""",
        """    try:
        with database.transaction(runtime.db) as tx:
            database.clock(tx)
            pair = oauth.refresh(runtime.oauth, begun.refresh_token)
    except""",
    ),
    Bug(
        "the device's pair is not kept before it is used",
        "accounts/connect.py",
        """        try:
            spool.keep(journal.spool_folder(runtime), row.account_id, f"device-{row.user_code}", sealed)
        except""",
        """        try:
            pass
        except""",
        weather="outage,database",
    ),
    Bug(
        "a lock that anyone may take away: who lost a lease gives the work back all the same",
        "sync/job.py",
        """    except LeaseLostError:
        log.warning("sync_lease_lost", account_id=str(account_id), kind=kind)
""",
        """    except LeaseLostError:
        with database.transaction(runtime.db) as tx:
            taken = "UPDATE syncs SET leased_until = NULL, rung_at = NULL WHERE account_id = %s AND kind = %s"
            tx.exec_driver_sql(taken, (account_id, kind))
""",
        weather="freeze",
        named="delete-lock",
    ),
    Bug(
        "no confirms: what was sent once counts as heard",
        "due.py",
        """                table.c.rung_at < now - again_after,
""",
        "",
        weather="broker",
        named="no confirms",
    ),
    Bug(
        "the budget counts by the minute of the clock",
        "budget.py",
        """    available = bucket.burst - max((level.full_at - now).total_seconds(), 0.0) * bucket.rate
    over""",
        """    minute = now.replace(second=0, microsecond=0)
    available = bucket.per_minute - max((level.full_at - minute).total_seconds(), 0.0) * bucket.per_minute / 60
    over""",
        weather="limits",
        is_rush=True,
        named="window counter",
        also=(
            """    seconds = taken / (in_force(level, now=now) * bucket.rate)
    full_at = max(level.full_at, now) +""",
            """    seconds = taken * 60 / bucket.per_minute
    full_at = max(level.full_at, now.replace(second=0, microsecond=0)) +""",
        ),
    ),
    Bug(
        "a sweep counts its calls without a fence",
        "sync/sweeps.py",
        """            job.fence(tx)
            state.count_calls""",
        """            state.count_calls""",
        weather="freeze",
    ),
)
