"""Metrics: what a scrape tells, that all processes are in it, and what the dashboard and the rules ask for."""

import json
import os
import re
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import Engine
from tests.journeys.services import require
from tests.shop import Shop

from orders_backup import budget, counters, due, gauges, metrics, worker
from orders_backup import db as database
from orders_backup.accounts.calls import Calls, Route
from orders_backup.alerts import watch
from orders_backup.allegro import answers
from orders_backup.budget import Bucket, Priority
from orders_backup.errors import BudgetExhaustedError, LeaseLostError
from orders_backup.runtime import Runtime
from orders_backup.tables import accounts, syncs
from orders_backup.webhooks import endpoints

ROOT = Path(__file__).parents[2]
PROMTOOL = Path("/usr/bin/promtool")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(runtime: Runtime) -> Samples:
    """Every sample of a scrape, by name and labels."""
    text = gauges.exposition(runtime).decode()
    return {
        (sample.name.removeprefix("orders_backup_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def told(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return told(after, name, **labels) - before.get((name, tuple(sorted(labels.items()))), 0.0)


def documented() -> set[str]:
    section = (ROOT / "docs/operating.md").read_text().partition("### Metrics\n")[2].partition("\n#")[0]
    return set(re.findall(r"^\| `(orders_backup_[a-z_]+)`", section, re.MULTILINE))


def families(runtime: Runtime) -> dict[str, str]:
    """Every family by the name that is asked for, with its type."""
    found = {}
    for family in text_string_to_metric_families(gauges.exposition(runtime).decode()):
        found[f"{family.name}_total" if family.type == "counter" else family.name] = family.type
    return found


# What a scrape tells


def test_a_backfill_shows_in_figures(shop: Shop) -> None:
    before = scraped(shop.runtime)
    shop.backfill()
    shop.follow()
    after = scraped(shop.runtime)
    assert grown(before, after, "orders_read_total", what="inserted") == 250
    calls = shop.world.counts["/order/checkout-forms", 200]
    assert grown(before, after, "allegro_calls_total", route="/order/checkout-forms", status="200") == calls
    assert grown(before, after, "allegro_call_seconds_count", route="/order/checkout-forms") == calls
    assert grown(before, after, "syncs_total", kind="backfill", status="succeeded") == 1
    size = shop.value("SELECT sum(size) FROM order_versions WHERE account_id = :account")
    kept = shop.value("SELECT sum(length(body)) FROM order_versions WHERE account_id = :account")
    assert grown(before, after, "version_bytes_total", form="wire") == size
    assert grown(before, after, "version_bytes_total", form="stored") == kept
    assert told(after, "accounts", status="active") == 1
    assert told(after, "database_up") == 1


def test_the_lag_of_events_is_told_from_when_they_occurred(level: Shop) -> None:
    before = scraped(level.runtime)
    level.world.happens(level.seller_id, 5)
    level.follow()
    after = scraped(level.runtime)
    count = grown(before, after, "sync_lag_seconds_count")
    assert count == level.value("SELECT count(*) FROM order_events WHERE occurred_at > now() - interval '1 h'") > 0
    assert grown(before, after, "sync_lag_seconds_bucket", le="+Inf") == count
    assert grown(before, after, "sync_lag_seconds_bucket", le="30.0") == 0  # the world's clock is minutes behind
    told_of = [
        after["sync_lag_seconds_bucket", (("le", str(float(bound)).replace("inf", "+Inf")),)]
        for bound in metrics.BUCKETS["orders_backup_sync_lag_seconds"]
    ]
    assert told_of == sorted(told_of)


def test_what_a_net_catches_shows(level: Shop) -> None:
    before = scraped(level.runtime)
    level.world.buys(level.seller_id, silently=True)
    level.sweep()
    after = scraped(level.runtime)
    assert grown(before, after, "discoveries_total", net="full", what="missing") == 1


def test_calls_that_fail_are_counted_by_what_was_answered(level: Shop) -> None:
    before = scraped(level.runtime)
    level.world.goes_down(status=503)
    level.follow()
    after = scraped(level.runtime)
    assert grown(before, after, "allegro_calls_total", route="/order/events", status="503") >= 1
    assert told(after, "due", work="sync_journal") == 0
    level.change("UPDATE syncs SET failures = 3, due_at = now() - interval '90 s' WHERE kind = 'journal'")
    later = scraped(level.runtime)
    assert told(later, "failing", work="sync_journal") == 1
    assert told(later, "due", work="sync_journal") == 1
    assert 90 <= told(later, "due_age_seconds", work="sync_journal") < 120


def test_statuses_that_nobody_knows_do_not_grow_the_labels() -> None:
    def answered(status: int) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(status, content=b"{}"))
        with httpx.Client(base_url="https://allegro.example", transport=transport) as http:
            answers.send(http, "GET", "/me")

    for status in (418, 451, 599, 299):
        answered(status)
    of_me = {labels for (name, labels), _ in metrics._samples() if name.endswith("allegro_calls_total")}
    assert {json.loads(labels)["status"] for labels in of_me} <= {str(one) for one in metrics.STATUSES} | {
        "none",
        "1xx",
        "2xx",
        "3xx",
        "4xx",
        "5xx",
    }


def test_work_that_the_budget_puts_off_is_counted_with_its_time(runtime: Runtime, db: Engine) -> None:
    before = scraped(runtime)
    budget.silence(db, f"client:{runtime.settings.allegro_client_id}", seconds=30)
    with pytest.raises(BudgetExhaustedError):
        Calls(runtime, uuid4(), priority=Priority.LIVE).permits(Route.EVENTS, 1)
    after = scraped(runtime)
    assert grown(before, after, "budget_postponed_total", route_class="events") == 1
    assert 20 < grown(before, after, "budget_blocked_seconds_total", route_class="events") <= 30
    assert 20 < told(after, "budget_silent_seconds") <= 30
    assert told(after, "budget_pace_ratio", bucket="client") == pytest.approx(0.75, abs=0.01)


def test_a_bucket_that_is_drained_is_used(runtime: Runtime, db: Engine) -> None:
    bucket = Bucket(f"client:{runtime.settings.allegro_client_id}", runtime.settings.rate_limit_client)
    assert told(scraped(runtime), "budget_used_ratio", bucket="client") == 0
    budget.take(db, [bucket], bucket.burst, priority=Priority.TOKEN)
    assert told(scraped(runtime), "budget_used_ratio", bucket="client") > 0.3


def test_a_lost_lease_is_counted(runtime: Runtime, db: Engine) -> None:
    account_id = uuid4()
    with database.transaction(db) as tx:
        row = {"id": account_id, "user_id": uuid4(), "name": "shop", "status": "active", "seller_id": "1"}
        tx.execute(sa.insert(accounts).values(row))
        key = {"account_id": account_id, "kind": "journal"}
        tx.execute(sa.insert(syncs).values(**key, due_at=sa.func.now()))
        lease = due.claim(tx, syncs, key, lease=timedelta(seconds=1))
        tx.execute(sa.update(syncs).values(lease_generation=9))
    before = scraped(runtime)
    assert lease is not None
    with pytest.raises(LeaseLostError), database.transaction(db) as tx:
        due.fence(tx, lease, extend=timedelta(seconds=1))
    assert grown(before, scraped(runtime), "leases_lost_total") == 1


def test_what_is_open_late_and_unproven_is_told(level: Shop) -> None:
    level.change("UPDATE accounts SET connected_at = now() - interval '40 days'")
    level.change(
        "UPDATE sync_history SET status = 'failed', finished_at = now() - interval '36 days' WHERE kind = 'backfill'"
    )
    level.change("UPDATE sync_windows SET status = 'unstable', missing = 2")
    level.change("UPDATE syncs SET succeeded_at = now() - interval '700 s' WHERE kind = 'journal'")
    level.change("""INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at, set_aside_at)
                    VALUES (:account, 'a', 'event', now() - interval '50 s', now(), NULL),
                           (:account, 'b', 'event', now(), now(), now())""")
    level.change("UPDATE account_tokens SET access_expires_at = now(), obtained_at = now() - interval '80 days'")
    after = scraped(level.runtime)
    windows = level.value(
        "SELECT count(*) FROM sync_windows w JOIN sync_history h ON h.id = w.run_id WHERE kind = 'backfill'"
    )
    assert (told(after, "accounts_uncertified"), told(after, "accounts_unproven")) == (1, 1)
    assert told(after, "orders_missing") == 2 * windows > 0
    assert 700 <= told(after, "journal_age_seconds", quantile="1") < 720
    assert (told(after, "orders_open", state="owed"), told(after, "orders_open", state="set_aside")) == (1, 1)
    assert 50 <= told(after, "orders_owed_age_seconds") < 70
    assert told(after, "tokens_expired") == 1
    assert told(after, "token_age_seconds") >= 80 * 86400


# All processes in one


def test_counts_of_other_processes_are_in_the_sum(runtime: Runtime, database_url: str) -> None:
    before = scraped(runtime)
    program = f"""
from orders_backup import counters, db, metrics
engine = db.connect({database_url!r})
metrics.TASKS.labels("sync_journal", "done").inc(7)
counters.report(engine)
counters.report(engine)
metrics.TASKS.labels("sync_journal", "done").inc(2)
counters.report(engine)
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
    assert grown(before, scraped(runtime), "tasks_total", task="sync_journal", outcome="done") == 18


def test_what_could_not_be_told_is_told_the_next_time(runtime: Runtime, db: Engine) -> None:
    before = scraped(runtime)
    metrics.TASKS.labels("refresh_token", "done").inc()
    with database.transaction(db) as tx:
        tx.execute(sa.text("ALTER TABLE counters RENAME TO away"))
    with pytest.raises(sa.exc.ProgrammingError):
        counters.report(db)
    with database.transaction(db) as tx:
        tx.execute(sa.text("ALTER TABLE away RENAME TO counters"))
    assert grown(before, scraped(runtime), "tasks_total", task="refresh_token", outcome="done") == 1


def test_a_process_that_ends_tells_what_it_counted_last(runtime: Runtime) -> None:
    before = scraped(runtime)
    stopping = threading.Event()
    reporting = counters.keep_reporting(runtime.db, stopping)
    metrics.TASKS.labels("deliver", "done").inc(3)
    stopping.set()
    reporting.join()
    with database.transaction(runtime.db) as tx:
        kept = counters.totals(tx)
    known = before.get(("tasks_total", (("outcome", "done"), ("task", "deliver"))), 0.0)
    assert kept["orders_backup_tasks_total", '{"outcome": "done", "task": "deliver"}'] - known == 3


def test_reports_go_on_after_the_database_was_away(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "EVERY", 0.01)
    away = database.connect("postgresql://nobody@127.0.0.1:9/none")
    stopping = threading.Event()
    metrics.TASKS.labels("deliver", "failed").inc()
    reporting = counters.keep_reporting(away, stopping)
    reporting.join(0.5)
    assert reporting.is_alive()
    stopping.set()
    reporting.join()
    away.dispose()
    assert told(scraped(runtime), "tasks_total", task="deliver", outcome="failed") >= 1


def test_without_a_database_a_scrape_still_answers_and_says_so(runtime: Runtime) -> None:
    away = database.connect("postgresql://nobody@127.0.0.1:9/none")
    found = gauges.exposition(Runtime(**{name: getattr(runtime, name) for name in Runtime.__slots__} | {"db": away}))
    assert b"orders_backup_database_up 0.0" in found
    away.dispose()


def test_a_database_that_takes_no_writes_is_up_and_read(runtime: Runtime, db: Engine) -> None:
    with db.connect().execution_options(isolation_level="AUTOCOMMIT") as admin:
        name = admin.execute(sa.text("SELECT current_database()")).scalar_one()
        admin.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    runtime.db.dispose()
    metrics.TASKS.labels("deliver", "done").inc()
    with pytest.raises(sa.exc.DBAPIError):
        counters.report(runtime.db)
    found = scraped(runtime)
    assert (told(found, "database_up"), told(found, "workers")) == (1, 0)


def test_a_schema_of_another_program_breaks_no_scrape(runtime: Runtime, db: Engine) -> None:
    with database.transaction(db) as tx:
        tx.execute(sa.text("ALTER TABLE worker_slots RENAME TO away"))
    found = scraped(runtime)
    assert told(found, "database_up") == 0
    assert told(found, "pool_connections", state="in_use") == 0


def test_the_oldest_message_is_told_and_those_of_endpoints_that_rest_are_not(runtime: Runtime, db: Engine) -> None:
    options: Any = {"description": "", "event_types": [], "account_ids": [], "content": "thin"}
    with database.transaction(db) as tx:
        for status, days in (("active", 1), ("paused", 9), ("disabled", 9)):
            made, _ = endpoints.make(tx, runtime.vault, user_id=None, url="https://example.com/hook", **options)
            reason = "'failing'" if status == "disabled" else "NULL"
            values = {"id": made, "status": status, "days": days}
            tx.execute(
                sa.text(f"UPDATE webhooks SET status = :status, reason = {reason} WHERE webhook_id = :id"), values
            )
            tx.execute(
                sa.text("""INSERT INTO webhook_deliveries (webhook_id, seq, order_id, type, kinds, cause, occurred_at,
                                                           created_at, due_at)
                           SELECT :id, n, n::text, 'order.new', '{}', 'event', now(),
                                  now() - make_interval(days => :days) + make_interval(secs => n),
                                  now() + make_interval(secs => n) FROM generate_series(0, 10050) n"""),
                values,
            )
    found = scraped(runtime)
    assert told(found, "webhook_pending") == 10_000
    assert 86_400 <= told(found, "webhook_oldest_seconds") < 86_500
    with database.transaction(db) as tx:
        tx.execute(sa.text("UPDATE webhooks SET status = 'paused' WHERE status = 'active'"))
    assert told(scraped(runtime), "webhook_oldest_seconds") == 0


def test_what_is_alerted_on_is_told_before_it_first_happens(level: Shop) -> None:
    """An increase is seen only from a sample before."""
    level.look()
    found = scraped(level.runtime)
    tasks = {f"sync_{kind}" for kind in worker.SYNCS} | {f"watch_{kind}" for kind in watch.ROUNDS}
    tasks |= set(worker.TABLES) - {"sync", "watch"}
    for task in tasks:
        for outcome in ("done", "postponed", "failed", "crashed"):
            assert ("tasks_total", (("outcome", outcome), ("task", task))) in found
    called = {dict(labels)["route"] for name, labels in found if name == "allegro_call_seconds_count"}
    assert {"/order/checkout-forms/{id}/shipments", "/payments/refunds", "/auth/oauth/token"} <= called
    for route in called:
        assert told(found, "allegro_calls_total", route=route, status="429") == 0


def test_who_asks_often_is_answered_from_the_newest_page(runtime: Runtime) -> None:
    page = gauges.Page(runtime)
    first = page.text()
    metrics.TASKS.labels("sync_sweep", "done").inc()
    assert page.text() is first


# What is documented, shown and alerted on


def test_every_metric_is_documented_and_nothing_else_is(runtime: Runtime) -> None:
    assert documented() == set(families(runtime))


def test_no_metric_has_an_account_or_anything_else_that_grows_as_a_label(level: Shop) -> None:
    known = {"bucket", "code", "form", "kind", "le", "method", "net", "outcome", "quantile", "route", "route_class"}
    known |= {"state", "channel", "rule", "severity", "status", "table", "task", "version", "what", "work"}
    labels = {name for _, labels in scraped(level.runtime) for name, _ in labels}
    assert labels <= known
    values = {value for _, labels in scraped(level.runtime) for _, value in labels}
    assert [value for value in values if re.search(r"[0-9a-f]{8}-[0-9a-f]{4}|@|\d{9}", value)] == []


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "deploy/grafana/orders-backup.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    return panels + [rule["expr"] for rule in rules()]


FUNCTIONS = {
    *("sum", "max", "min", "rate", "increase", "histogram_quantile", "by", "without", "on", "ignoring", "clamp_min"),
    *("or", "and", "unless", "absent", "vector", "le", "bool", "time", "topk", "count"),
}


def named(query: str) -> set[str]:
    """The metrics that a query in PromQL names: its words but functions, labels and what stands in braces."""
    bare = re.sub(r'"[^"]*"', '""', query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - FUNCTIONS


def selected(query: str) -> list[tuple[str, dict[str, str]]]:
    """Each metric with the labels that the query wants of it."""
    found = re.findall(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*\{([^}]*)\}", query)
    return [(name, dict(re.findall(r'([a-z_]+)\s*(?:=|!=|=~|!~)\s*"([^"]*)"', wanted))) for name, wanted in found]


def test_the_tokenizer_finds_every_metric_of_a_query() -> None:
    query = (
        'sum by (a, b) (rate(x_total{c=~"d|e", f!="}"}[5m])) / on (g) max(y) > 3 and histogram_quantile(0.9, z_bucket)'
    )
    assert named(query) == {"x_total", "y", "z_bucket"}


def test_every_query_names_metrics_that_exist(runtime: Runtime) -> None:
    known = {"up"}
    for name, kind in families(runtime).items():
        known |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    found = {query: named(query) for query in queries()}
    assert len(found) > 50
    assert {query: names for query, names in found.items() if not names or names - known} == {}


@pytest.mark.parametrize("query", queries())
def test_every_query_wants_labels_that_its_metrics_have(query: str) -> None:
    text = (ROOT / "docs/operating.md").read_text()
    for name, wanted in selected(query):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        line = next((line for line in text.splitlines() if line.startswith(f"| `{base}`")), None)
        labels = set(re.findall(r"`([a-z_]+)`", line.split("|")[2])) if line else {"job", "instance"}
        assert set(wanted) <= labels | {"le", "job"}, (query, name)


def test_every_rule_says_how_bad_it_is_what_is_wrong_and_what_to_do() -> None:
    text = (ROOT / "docs/operating.md").read_text()
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found) > 10
    for rule in found:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert {"summary", "description"} <= set(rule["annotations"])
        assert f"| `{rule['alert']}` |" in text, rule["alert"]


def test_every_panel_shows_something_and_lies_beside_the_others() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        taken |= cells
        assert panel["type"] == "row" or all(target["expr"] for target in panel["targets"])
    assert max(x for x, _ in taken) < 24


def test_promtool_takes_the_rules() -> None:
    require(PROMTOOL)
    subprocess.run([PROMTOOL, "check", "rules", str(ROOT / "deploy/prometheus/alerts.yaml")], check=True)
