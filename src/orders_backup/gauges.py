"""The answer to /metrics: what stands in PostgreSQL, asked for at that moment, and what the processes counted.

Each query is bounded whatever the archive holds; together they are made at most once in `FRESH` seconds.
docs/decisions/0016-metrics.md tells why it is done this way.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Row

from orders_backup import budget, counters, metrics, roster, safety
from orders_backup import db as database
from orders_backup.budget import Bucket, Level, Priority
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.metrics import PREFIX
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.tables import request_budget

FRESH = 5.0
"""Seconds for which one answer serves whoever asks."""

QUANTILES = ("0.5", "0.95", "1")
STATES = ("active", "paused", "pending", "denied", "expired", "reauthorization_required", "disconnected")

WARNINGS = ("cliff_near", "reauthorization_required", "journal_gap_near", "set_aside", "certificate_old")

Figures = Iterator[Metric]


class Page:
    """The newest answer, for all who ask within a few seconds."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._made: tuple[float, bytes] | None = None

    def text(self) -> bytes:
        with self._lock:
            if self._made is None or time.monotonic() - self._made[0] > FRESH:
                self._made = (time.monotonic(), exposition(self._runtime))
            return self._made[1]


class _Found(Collector):
    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Sequence[Metric]:
        return self._found


def exposition(runtime: Runtime) -> bytes:
    """Every metric in Prometheus' text format. Where the database cannot be read, that is told instead."""
    up = _gauge("database_up", "Whether PostgreSQL answered this scrape.", 1.0)
    with suppress(DatabaseUnavailableError, exc.DBAPIError):  # what reads can be told where nothing can be written
        counters.report(runtime.db)
    try:
        with database.snapshot(runtime.db) as tx:
            found = [one for ask in _ASKED for one in ask(tx)]
            found += _budgets(tx, runtime.settings)
            found += _backups(tx, runtime.settings)
            found += metrics.families(counters.totals(tx))
    except (DatabaseUnavailableError, exc.DBAPIError):  # away, or a schema that is not this program's
        found, up = [], _gauge("database_up", "Whether PostgreSQL answered this scrape.", 0.0)
    return generate_latest(_Found([up, *found, *_own(runtime)]))


def _gauge(name: str, text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=None if value is None else float(value))


def _gauges(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    metric = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for of, value in values.items():
        metric.add_metric([of], float(value))
    return metric


def _row(tx: Connection, query: str, **values: object) -> "Row[Any]":
    return tx.execute(sa.text(query), values).one()


def _rows(tx: Connection, query: str) -> Sequence[Any]:
    return tx.execute(sa.text(query)).all()


def _accounts(tx: Connection) -> Figures:
    found = _rows(
        tx,
        """SELECT CASE WHEN status = 'active' AND paused THEN 'paused' ELSE status END, count(*)
             FROM accounts GROUP BY 1""",
    )
    counts = dict.fromkeys(STATES, 0.0) | {status: float(count) for status, count in found}
    yield _gauges("accounts", "Accounts, by the state of their connection.", "status", counts)
    warned = _rows(
        tx,
        """SELECT code, count(DISTINCT account_id) FROM warnings_given JOIN accounts ON accounts.id = account_id
            WHERE day >= CAST(now() AT TIME ZONE 'UTC' AS date) - 1 AND status <> 'disconnected' GROUP BY code""",
    )
    counts = dict.fromkeys(WARNINGS, 0.0) | {code: float(count) for code, count in warned}
    yield _gauges("accounts_warned", "Accounts, by what was found to threaten their orders.", "code", counts)


def _followed(tx: Connection) -> Figures:
    row = _row(
        tx,
        """SELECT percentile_disc(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM age)) AS ages,
                  count(*) FILTER (WHERE age > greatest(interval '1 h', make_interval(secs => 3 * poll_seconds)))
                      AS stale
             FROM (SELECT clock_timestamp() - coalesce(s.succeeded_at, a.connected_at) AS age, s.poll_seconds
                     FROM syncs s JOIN accounts a ON a.id = s.account_id
                    WHERE s.kind = 'journal' AND a.status = 'active' AND NOT a.paused) followed""",
    )
    values = dict(zip(QUANTILES, map(float, row.ages or [0, 0, 0]), strict=True))
    yield _gauges("journal_age_seconds", "Time since journals were read to their end.", "quantile", values)
    yield _gauge("journals_stale", "Journals not read for an hour, and for three of their own intervals.", row.stale)


def _due(tx: Connection) -> Figures:
    is_due = "due_at <= clock_timestamp() AND (leased_until IS NULL OR leased_until < clock_timestamp())"
    parts = [
        f"""SELECT {name} AS work, count(*) FILTER (WHERE {is_due}),
                   coalesce(extract(epoch FROM clock_timestamp() - min(due_at) FILTER (WHERE {is_due})), 0),
                   count(*) FILTER (WHERE failures >= 3)
              FROM {table} WHERE due_at IS NOT NULL GROUP BY 1"""
        for name, table in _WORK
    ]
    found = {row[0]: row for row in _rows(tx, " UNION ALL ".join(parts))}
    work = [f"sync_{kind}" for kind in ("journal", "listing", "sweep", "extras")]
    work += ["poll_device", "refresh_token", "deliver", "export"]
    for name, text, column in (
        ("due", "Work that is due and that nobody has claimed.", 1),
        ("due_age_seconds", "How long the oldest work has been due that nobody has claimed.", 2),
        ("failing", "Work that failed three times in a row or more.", 3),
    ):
        values = {one: float(found[one][column]) if one in found else 0.0 for one in work}
        yield _gauges(name, text, "work", values)


_WORK = (
    ("'sync_' || kind", "syncs"),
    ("'poll_device'", "device_flows"),
    ("'refresh_token'", "account_tokens"),
    ("'deliver'", "webhooks"),
    ("'export'", "exports"),
)


def _owed(tx: Connection) -> Figures:
    row = _row(
        tx,
        """SELECT count(*) FILTER (WHERE set_aside_at IS NULL) AS owed,
                  count(*) FILTER (WHERE set_aside_at IS NOT NULL AND acknowledged_at IS NULL) AS set_aside,
                  count(acknowledged_at) AS acknowledged,
                  coalesce(extract(epoch FROM
                      clock_timestamp() - min(owed_at) FILTER (WHERE set_aside_at IS NULL)), 0) AS age,
                  (SELECT count(*) FROM unreadable_orders WHERE acknowledged_at IS NULL) AS unreadable
             FROM owed_orders""",
    )
    states = ("owed", "set_aside", "acknowledged", "unreadable")
    values = {state: getattr(row, state) for state in states}
    yield _gauges("orders_open", "Orders that have yet to be read, or cannot be.", "state", values)
    yield _gauge("orders_owed_age_seconds", "How long the oldest order has had to be read.", row.age)


def _proven(tx: Connection) -> Figures:
    row = _row(
        tx,
        """SELECT count(*) FILTER (WHERE p.certified_at IS NULL
                                      OR p.certified_at < clock_timestamp() - interval '35 days') AS uncertified,
                  count(*) FILTER (WHERE r.status = 'failed') AS unproven, coalesce(sum(m.missing), 0) AS missing
             FROM accounts a
        LEFT JOIN LATERAL (SELECT max(finished_at) AS certified_at FROM sync_history
                            WHERE account_id = a.id AND kind IN ('backfill', 'reconcile') AND status = 'succeeded'
                              AND (kind = 'backfill' OR (range_from IS NULL AND range_to IS NULL))) p ON true
        LEFT JOIN LATERAL (SELECT id, status FROM sync_history
                            WHERE account_id = a.id AND kind IN ('backfill', 'reconcile') AND finished_at IS NOT NULL
                              AND (kind = 'backfill' OR (range_from IS NULL AND range_to IS NULL))
                            ORDER BY requested_at DESC LIMIT 1) r ON true
        LEFT JOIN LATERAL (SELECT sum(w.missing) AS missing FROM sync_windows w
                            WHERE w.account_id = a.id AND w.run_id = r.id) m ON r.status = 'failed'
            WHERE a.status IN ('active', 'reauthorization_required')
              AND a.connected_at < clock_timestamp() - interval '1 day'""",
    )
    yield _gauge(
        "accounts_uncertified", "Accounts whose year was not proven order by order in 35 days.", row.uncertified
    )
    yield _gauge("accounts_unproven", "Accounts whose newest run over everything could not prove all.", row.unproven)
    yield _gauge("orders_missing", "Orders that these runs found missing.", row.missing)


def _logins(tx: Connection) -> Figures:
    row = _row(
        tx,
        """SELECT count(*) FILTER (WHERE t.access_expires_at < clock_timestamp()) AS expired,
                  coalesce(extract(epoch FROM clock_timestamp() - min(t.intent_first_at)), 0) AS open,
                  coalesce(extract(epoch FROM clock_timestamp() - min(t.obtained_at)), 0) AS age
             FROM account_tokens t JOIN accounts a ON a.id = t.account_id WHERE a.status = 'active'""",
    )
    yield _gauge("tokens_expired", "Active accounts whose access token has expired.", row.expired)
    yield _gauge("token_refresh_open_seconds", "How long the oldest refresh has been without an outcome.", row.open)
    yield _gauge("token_age_seconds", "Age of the oldest login; unused it lives three months.", row.age)


def _webhooks(tx: Connection) -> Figures:
    found = _rows(tx, "SELECT status, count(*) FROM webhooks GROUP BY 1")
    states = dict.fromkeys(("active", "paused", "disabled"), 0.0) | {row[0]: float(row[1]) for row in found}
    yield _gauges("webhooks", "Endpoints, by how they are.", "status", states)
    pending = _row(tx, "SELECT count(*) FROM (SELECT FROM webhook_deliveries WHERE status = 'pending' LIMIT 10000) d")[
        0
    ]
    yield _gauge("webhook_pending", "Messages that are not delivered yet; 10,000 are counted at most.", pending)
    # Whatever waits behind nothing has a due_at, and the least tried have the earliest.
    age = _row(
        tx,
        """SELECT coalesce(extract(epoch FROM clock_timestamp() - min(d.created_at)), 0)
             FROM webhooks w
            CROSS JOIN LATERAL (SELECT created_at FROM webhook_deliveries
                                 WHERE webhook_id = w.webhook_id AND due_at IS NOT NULL
                                 ORDER BY due_at, seq LIMIT 100) d
            WHERE w.status = 'active'""",
    )[0]
    yield _gauge("webhook_oldest_seconds", "Age of the oldest of these that an active endpoint waits for.", age)


def _alerts(tx: Connection) -> Figures:
    found = _rows(
        tx, "SELECT severity, rule FROM alerts WHERE recovered_at IS NULL AND opened_at IS NOT NULL ORDER BY rule"
    )
    severities = dict.fromkeys(("critical", "error", "warning"), 0.0) | dict(Counter(severity for severity, _ in found))
    yield _gauges("alerts", "Alerts that are open.", "severity", severities)
    yield _gauges("alerts_by_rule", "The same by rule; none where none is.", "rule", dict(Counter(r for _, r in found)))
    failures = {row[0]: float(row[1]) for row in _rows(tx, "SELECT channel, failures FROM alert_channels")}
    yield _gauges("alert_channel_failures", "Failures in a row of a channel for alerts.", "channel", failures)
    looked = "max(coalesce(looked_at, began_at))"
    age = _row(tx, f"SELECT extract(epoch FROM clock_timestamp() - {looked}) FROM watches WHERE kind = 'quick'")[0]
    yield _gauge("alerts_looked_age_seconds", "Since the newest round in which rules were looked at.", age or 0)


def _crew(tx: Connection) -> Figures:
    row = _row(
        tx,
        """SELECT count(*) AS workers, coalesce(sum(slots), 0) AS slots,
                  count(*) FILTER (WHERE coalesce(canary_done_at, started_at)
                                       < clock_timestamp() - interval '60 s') AS deaf
             FROM worker_slots WHERE seen_at >= clock_timestamp() - CAST(:present AS interval)""",
        present=roster.PRESENT_FOR,
    )
    yield _gauge("workers", "Workers that reported in the last 30 seconds.", row.workers)
    yield _gauge("worker_slots", "How much they do at once.", row.slots)
    yield _gauge("workers_deaf", "Those of them that heard no canary for a minute.", row.deaf)
    age = roster.newest_answer(tx)
    yield _gauge("canary_age_seconds", "Since any worker last heard its canary.", float("inf") if age is None else age)


def _size(tx: Connection) -> Figures:
    names = "orders order_versions order_events order_changes order_extra_versions webhook_deliveries sync_windows"
    listed = ", ".join(f"('{name}')" for name in names.split())
    found = _rows(
        tx,
        f"""SELECT n, greatest(c.reltuples, 0), pg_total_relation_size(c.oid)
              FROM (VALUES {listed}) AS v (n) JOIN pg_class c ON c.oid = n::regclass""",
    )
    yield _gauges("table_rows", "Rows, as PostgreSQL estimates them.", "table", {row[0]: row[1] for row in found})
    yield _gauges("table_bytes", "Size with indexes.", "table", {row[0]: row[2] for row in found})
    row = _row(
        tx,
        """SELECT pg_database_size(current_database()) AS bytes, current_setting('max_connections')::int AS most,
                  (SELECT count(*) FROM schema_drift) AS drift""",
    )
    yield _gauge("database_bytes", "Size of the whole database.", row.bytes)
    yield _gauge("schema_drift", "Differences found between Allegro's documents and what is known.", row.drift)
    yield _gauge("db_connections_max", "Connections that PostgreSQL allows.", row.most)
    used = _rows(
        tx,
        """SELECT coalesce(state, 'other'), count(*) FROM pg_stat_activity
            WHERE datname = current_database() GROUP BY 1""",
    )
    yield _gauges("db_connections", "Connections to this database.", "state", {row[0]: row[1] for row in used})


_ASKED: tuple[Callable[[Connection], Figures], ...] = (
    _accounts,
    _followed,
    _due,
    _owed,
    _proven,
    _logins,
    _webhooks,
    _alerts,
    _crew,
    _size,
)


def _budgets(tx: Connection, settings: Settings) -> list[Metric]:
    """The buckets of the client id and its classes; those of accounts are too many."""
    client = f"client:{settings.allegro_client_id}"
    extras = Bucket(f"{client}:extras", settings.rate_limit_extras)
    classes = [Bucket(f"{client}:{name}", settings.rate_limit_client) for name in ("default", "orders", "events")]
    buckets = {"client": Bucket(client, settings.rate_limit_client), "extras": extras}
    buckets |= {one.key.rpartition(":")[2]: one for one in classes}
    now, query = database.clock(tx), sa.select(request_budget)
    query = query.where(request_budget.c.key.in_([bucket.key for bucket in buckets.values()]))
    levels = {row.key: Level(row.full_at, row.silent_until, row.pace, row.paced_at) for row in tx.execute(query)}
    known = {name: (bucket, levels.get(bucket.key, Level(now))) for name, bucket in buckets.items()}
    free = {name: budget.room(*one, now=now, priority=Priority.TOKEN)[0] for name, one in known.items()}
    used = {name: 1 - min(free[name] / bucket.burst, 1) for name, (bucket, _) in known.items()}
    pace = {name: budget.learned(level, now=now) for name, (_, level) in known.items()}
    silence = levels.get(client, Level(now)).silent_until or now
    return [
        _gauges(
            "budget_limit", "Requests a minute.", "bucket", {name: one.per_minute for name, one in buckets.items()}
        ),
        _gauges("budget_used_ratio", "How much of its burst a bucket has lent out.", "bucket", used),
        _gauges("budget_pace_ratio", "The share of the rate in force, after 429s and slow answers.", "bucket", pace),
        _gauge(
            "budget_silent_seconds", "For how long nobody may call Allegro.", max((silence - now).total_seconds(), 0)
        ),
    ]


def _backups(tx: Connection, settings: Settings) -> list[Metric]:
    """No samples where there is no bucket, and none of what nobody wants."""
    found = safety.look(tx, settings)
    drills = {} if found is None else found.drills
    ages = {name: one.age for name, one in drills.items() if one.age is not None}
    failed = {name: float(one.failed) for name, one in drills.items()}
    return [
        _gauge("backup_age_seconds", "Age of the newest verified backup.", None if found is None else found.backup_age),
        _gauge("backup_bytes", "Its size in the bucket.", None if found is None else found.backup_bytes),
        _gauge(
            "archive_age_seconds",
            "How long the oldest waits for its archive.",
            None if found is None else found.archive_age,
        ),
        _gauges("drill_age_seconds", "Since the last drill that brought a report.", "what", ages),
        _gauges("drill_failed", "Whether the newest drill failed.", "what", failed),
    ]


def _own(runtime: Runtime) -> list[Metric]:
    """What concerns the process that is asked."""
    pool: Any = runtime.db.pool
    used = {"in_use": pool.checkedout(), "idle": pool.checkedin()}
    build = GaugeMetricFamily(f"{PREFIX}build_info", "The program.", labels=["version"])
    build.add_metric([version("allegro-orders-backup")], 1)
    return [_gauges("pool_connections", "Connections of this process.", "state", used), build]
