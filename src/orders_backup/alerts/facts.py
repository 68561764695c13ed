"""Facts for the rules: the SQL, and the parts that have to be used to know how they are. Nothing is decided here."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import health, roster, safety
from orders_backup.accounts import facts as warnings
from orders_backup.accounts import standing
from orders_backup.alerts import state, usual
from orders_backup.alerts.fires import IN_A_ROW, QUIET
from orders_backup.alerts.picture import Account, Backups, Doubt, Endpoint, Picture, Quiet
from orders_backup.runtime import Runtime

AT_ONCE = 500
"""Accounts whose warnings are asked for together."""
AWAY = ("Allegro did not answer", "Allegro answered", "Allegro's answer", "Allegro packed")
"""How the sentences of failures begin that are Allegro's as a whole, and not an account's (allegro/client.py)."""
LONGEST_QUIET = timedelta(days=7)
OBJECT = "health/alerts"
"""By which the bucket is proven, always the same one."""

Parts = dict[str, str]


def parts(runtime: Runtime) -> Parts:
    """The parts beside the database that do not work, each proven by using it. No transaction is open meanwhile."""
    found = {"broker": health.look_at_broker(runtime.settings.broker_url)}
    found["storage"] = health.look_at_storage(runtime.store, OBJECT)
    return {name: told for name, told in found.items() if told not in {health.OK, health.NOT_SET}}


def quick(runtime: Runtime, tx: Connection, failing_parts: Parts | None) -> Picture:
    """What a round every minute looks at."""
    now, answered = database.clock(tx), roster.newest_answer(tx)
    watch = state.watch(tx, "quick")
    client = f"client:{runtime.settings.allegro_client_id}"
    return Picture(
        now=now,
        began_at=watch.began_at,
        events_interval=runtime.settings.events_interval,
        failing_parts=failing_parts,
        workers_answered=None if answered is None else timedelta(seconds=answered),
        ticked_at=watch.ticked_at,
        waiting={row.work: float(row.seconds) for row in standing.waiting(tx)},
        silent_until=tx.execute(_SILENT, {"client": client}).scalar_one_or_none(),
        accounts=[_account(row, now) for row in standing.of_all(tx, interval=runtime.settings.events_interval)],
        failing_work=[(row.work, row.subject) for row in tx.execute(_FAILING, {"least": IN_A_ROW})],
        endpoints=[Endpoint(row.webhook_id, row.status == "disabled", row.failures) for row in tx.execute(_ENDPOINTS)],
        channels=state.failing(tx, runtime.channels.names),
        backups=backups(runtime, tx),
    )


def backups(runtime: Runtime, tx: Connection) -> Backups | None:
    """How backups of the database and drills are. None: no bucket is set or no backup wanted, and the rules about them
    say nothing. Who wants a backup more rarely than every day is warned so much later."""
    found, now = safety.look(tx, runtime.settings), database.clock(tx)
    if found is None or found.backup_age is None:
        return None
    spare = max(runtime.settings.backup_interval - timedelta(days=1), timedelta(0))
    ages = [one.age for one in found.drills.values() if one.age is not None]
    return Backups(
        verified_at=now - timedelta(seconds=found.backup_age) + spare,
        has_failed=found.backup_error is not None,
        drill_at=now - timedelta(seconds=min(ages, default=0.0)),
        drill_ok=not any(one.failed for one in found.drills.values()),
    )


def thorough(runtime: Runtime, tx: Connection) -> Picture:
    """What a round every quarter of an hour looks at: completeness, account by account."""
    rows = standing.of_all(tx, interval=runtime.settings.events_interval)
    counted = {row.account_id: row for row in tx.execute(_OPEN, {"least": IN_A_ROW})}
    doubts = []
    for at in range(0, len(rows), AT_ONCE):
        some = rows[at : at + AT_ONCE]
        warned = warnings.warnings_of(tx, [row.id for row in some])
        doubts += [_doubt(row, {one.code for one in warned.get(row.id, ())}, counted.get(row.id)) for row in some]
    return Picture(
        database.clock(tx), state.watch(tx, "thorough").began_at, runtime.settings.events_interval, doubts=doubts
    )


def hourly(runtime: Runtime, tx: Connection) -> Picture:
    """What a round every hour looks at: accounts in which no order comes, and how many would be usual."""
    found = tx.execute(_QUIET, {"interval": runtime.settings.events_interval, "quiet": QUIET}).all()
    quiet = []
    for row in found:
        since = max(row.ordered_at, row.followed_at - LONGEST_QUIET)
        expected = 0.0 if row.is_stale else usual.expected(_counts(tx, row.id), since, row.followed_at)
        quiet.append(Quiet(row.id, since, row.followed_at, expected, is_stale=row.is_stale))
    return Picture(
        database.clock(tx), state.watch(tx, "hourly").began_at, runtime.settings.events_interval, quiet=quiet
    )


def _account(row: Any, now: datetime) -> Account:
    expires_at = row.access_expires_at
    return Account(
        account_id=row.id,
        is_active=row.status == "active",
        is_paused=row.paused,
        followed_at=row.followed_at,
        is_stale=bool(row.is_stale),
        polled_every=timedelta(seconds=row.poll_seconds or 0),
        failing=tuple(row.kinds or ()),
        is_allegro_away=any((error or "").startswith(AWAY) for error in row.errors or ()),
        login_expired_at=expires_at if expires_at is not None and expires_at < now else None,
        is_lost=row.status == "reauthorization_required",
    )


def _doubt(row: Any, warned: set[str], counted: Any) -> Doubt:
    return Doubt(
        row.id,
        frozenset(warned),
        is_unproven=row.proven == "failed" and not row.paused,
        owed=0 if row.paused else row.owed,
        failing=counted.failing if counted else 0,
        set_aside=counted.set_aside if counted else 0,
    )


def _counts(tx: Connection, account_id: UUID) -> Mapping[usual.Slot, int]:
    rows = tx.execute(_USUAL, {"account": account_id, "span": timedelta(weeks=usual.WEEKS), "zone": str(usual.WARSAW)})
    return {(row.day, row.hour): row.orders for row in rows}


_SILENT = sa.text("SELECT silent_until FROM request_budget WHERE key = :client")

_FAILING = sa.text("""
SELECT 'login' AS work, CAST(account_id AS text) AS subject FROM account_tokens
 WHERE failures >= :least AND due_at IS NOT NULL
 UNION ALL SELECT 'connect', CAST(account_id AS text) FROM device_flows WHERE failures >= :least AND due_at IS NOT NULL
 UNION ALL SELECT 'archive', CAST(account_id AS text) FROM archives WHERE failures >= :least AND due_at IS NOT NULL
 UNION ALL SELECT 'export', 'exports' FROM exports WHERE failures >= :least AND due_at IS NOT NULL
""")

_ENDPOINTS = sa.text("SELECT webhook_id, status, failures FROM webhooks WHERE status = 'disabled' OR failures > 0")

_OPEN = sa.text("""
SELECT account_id, CAST(sum(failing) AS integer) AS failing, CAST(sum(set_aside) AS integer) AS set_aside
  FROM (SELECT account_id, count(*) FILTER (WHERE set_aside_at IS NULL AND failures >= :least) AS failing,
               count(*) FILTER (WHERE set_aside_at IS NOT NULL AND acknowledged_at IS NULL) AS set_aside
          FROM owed_orders GROUP BY account_id
         UNION ALL
        SELECT account_id, 0, count(*) FROM unreadable_orders WHERE acknowledged_at IS NULL GROUP BY account_id) o
 GROUP BY account_id
""")
"""What is acknowledged leaves no question open."""

_QUIET = sa.text(f"""
SELECT a.id, j.succeeded_at AS followed_at, o.ordered_at,
       j.succeeded_at < clock_timestamp() - {standing.STALE} AS is_stale
  FROM accounts a JOIN syncs j ON j.account_id = a.id AND j.kind = 'journal'
  JOIN LATERAL (SELECT ordered_at FROM orders WHERE account_id = a.id AND ordered_at IS NOT NULL
                 ORDER BY ordered_at DESC LIMIT 1) o ON true
 WHERE a.status = 'active' AND NOT a.paused
   AND o.ordered_at < j.succeeded_at - CAST(:quiet AS interval)
 ORDER BY a.id
""")
"""Accounts that had no order for hours before their journal was read last."""

_USUAL = sa.text("""
SELECT CAST(extract(isodow FROM ordered_at AT TIME ZONE :zone) AS integer) AS day,
       CAST(extract(hour FROM ordered_at AT TIME ZONE :zone) AS integer) AS hour, count(*) AS orders
  FROM orders WHERE account_id = :account AND ordered_at > clock_timestamp() - CAST(:span AS interval) GROUP BY 1, 2
""")
