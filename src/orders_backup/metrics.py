"""What a process counts, by name. Nobody reads these here: counters.py adds those of all processes up in PostgreSQL.

No label holds an account, an order or anything else that grows. docs/operating.md lists all metrics.
"""

import json
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric

PREFIX = "orders_backup_"
REGISTRY = CollectorRegistry()
BUCKETS: dict[str, tuple[float, ...]] = {}
"""The upper bounds of each histogram, in seconds."""

STATUSES = frozenset({200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 502, 503, 504})
"""Told one by one; of others only the hundred, so that nobody's odd answers grow the labels."""

Key = tuple[str, str]
"""Name and labels (JSON) of a sample."""


def _counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(PREFIX + name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, labels: Sequence[str] = (), *, buckets: tuple[float, ...]) -> Histogram:
    BUCKETS[PREFIX + name] = (*buckets, float("inf"))
    return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=REGISTRY)


CALLS = _counter("allegro_calls", "Calls to Allegro, by what was answered (none: nothing).", ["route", "status"])
CALL_SECONDS = _histogram(
    "allegro_call_seconds", "Time of a call to Allegro.", ["route"], buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
)
CALL_BYTES = _counter("allegro_bytes", "Bytes that Allegro answered, unpacked.", ["route"])

REQUESTS = _counter("requests", "Requests to our API.", ["method", "route", "status"])
REQUEST_SECONDS = _histogram(
    "request_seconds", "Time of a request to our API.", ["route"], buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
)

WAITED = _counter("budget_waited_seconds", "Time that jobs waited for the request budget.", ["route_class"])
BLOCKED = _counter("budget_blocked_seconds", "Time for which work was put off for want of budget.", ["route_class"])
POSTPONED = _counter("budget_postponed", "How often work was put off for want of budget.", ["route_class"])

LAG = _histogram(
    "sync_lag_seconds",
    "From an event's occurredAt to its being stored.",
    buckets=(30, 60, 120, 180, 300, 600, 1800, 3600, 21600, 86400),
)
SYNCS = _counter("syncs", "Runs that ended.", ["kind", "status"])
ORDERS = _counter("orders_read", "Orders that were read, by what they turned out to be.", ["what"])
VERSION_BYTES = _counter("version_bytes", "Bytes of new versions, as they came (wire) and as kept (stored).", ["form"])
DISCOVERIES = _counter("discoveries", "Orders that a net caught and the journal had let through.", ["net", "what"])
RESTARTS = _counter("lists_reread", "Lists of Allegro's that were read again because they were unsound.", ["cause"])
LEASES_LOST = _counter("leases_lost", "Writes that were refused because another worker had taken the work over.")
TASKS = _counter("tasks", "Tasks of workers, by how they ended.", ["task", "outcome"])
DELIVERIES = _counter("webhook_attempts", "Attempts to deliver a webhook.", ["outcome"])
DELIVERY_SECONDS = _histogram(
    "webhook_attempt_seconds", "Time of an attempt.", buckets=(0.05, 0.1, 0.25, 0.5, 1, 5, 15)
)
ALERTS = _counter("alert_messages", "Messages of alerts, by channel's answer.", ["outcome"])
READINESS = _counter("readiness_checks", "Checks of readiness; each is a write to the database.")


TASK_NAMES = (
    *("poll_device", "refresh_token", "deliver", "export", "archive", "backup"),
    *("sync_journal", "sync_listing", "sync_sweep", "sync_extras"),
    *("watch_quick", "watch_thorough", "watch_hourly"),
)
OUTCOMES = ("done", "postponed", "failed", "crashed")
_FORM = "/order/checkout-forms"
ROUTES = (
    *("/me", "/order/event-stats", "/order/events", "/order/customer-returns", "/payments/refunds"),
    *(_FORM, f"{_FORM}/{{id}}", f"{_FORM}/{{id}}/shipments", f"{_FORM}/{{id}}/invoices"),
    *("/auth/oauth/device", "/auth/oauth/token"),
)
"""Of Allegro's API."""


def status(code: int | None) -> str:
    """A status as a label."""
    if code is None:
        return "none"
    return str(code) if code in STATUSES else f"{code // 100}xx"


class Tally:
    """What this process counted and has not yet told."""

    def __init__(self) -> None:
        self._told: dict[Key, float] = {}

    def untold(self) -> dict[Key, float]:
        """How much each sample grew since it was told, in a fixed order."""
        grown = ((key, value - self._told.get(key, 0.0)) for key, value in _samples())
        return dict(sorted((key, by) for key, by in grown if by))

    def tell(self, grown: dict[Key, float]) -> None:
        """These have arrived."""
        for key, by in grown.items():
            self._told[key] = self._told.get(key, 0.0) + by


TALLY = Tally()


def _samples() -> Iterator[tuple[Key, float]]:
    for metric in REGISTRY.collect():
        for one in metric.samples:
            if not one.name.endswith("_created"):
                yield (one.name, json.dumps(one.labels, sort_keys=True)), one.value


def _key(name: str, **labels: str) -> Key:
    return PREFIX + name, json.dumps(labels, sort_keys=True)


_ALERTED = [_key("tasks_total", task=task, outcome=outcome) for task in TASK_NAMES for outcome in OUTCOMES]
_ALERTED += [_key("allegro_calls_total", route=route, status="429") for route in ROUTES]
"""Told from the beginning: to Prometheus a sample that comes into being with 1 did not increase."""


def families(totals: dict[Key, float]) -> Iterator[Metric]:
    """Every metric that processes count, with these sums as its samples."""
    totals = dict.fromkeys(_ALERTED, 0.0) | totals
    by_name: dict[str, list[tuple[dict[str, str], float]]] = {}
    for (name, text), value in totals.items():
        by_name.setdefault(name, []).append((json.loads(text), value))
    for known in REGISTRY.collect():
        metric = Metric(known.name, known.documentation, known.type)
        if known.type == "histogram":
            _add_histogram(metric, by_name)
        for labels, value in by_name.get(f"{known.name}_total", []):
            metric.add_sample(f"{known.name}_total", labels, value)
        yield metric


def _add_histogram(metric: Metric, by_name: dict[str, list[tuple[dict[str, str], float]]]) -> None:
    """Every bucket, in order: only those that ever grew are kept."""
    name = metric.name
    counted = {json.dumps(labels, sort_keys=True): value for labels, value in by_name.get(f"{name}_bucket", [])}
    for labels, count in by_name.get(f"{name}_count", []):
        for bound in BUCKETS[name]:
            of = {**labels, "le": "+Inf" if bound == float("inf") else str(float(bound))}
            metric.add_sample(f"{name}_bucket", of, counted.get(json.dumps(of, sort_keys=True), 0.0))
        metric.add_sample(f"{name}_count", labels, count)
    for labels, value in by_name.get(f"{name}_sum", []):
        metric.add_sample(f"{name}_sum", labels, value)
