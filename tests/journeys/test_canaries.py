"""What nobody may read stands nowhere: values planted everywhere, and looked for in all that the processes say."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import Engine
from tests.conftest import _temporary_database
from tests.journeys.test_whole_service import Service, running
from tests.watch.collector import Span, collecting
from tests.webhooks.conftest import Got, receiving

from allegro_simulator.world import World
from orders_backup import bell
from orders_backup import db as database
from orders_backup.settings import Settings
from orders_backup.sync import plan

CANARY = "k4n4r3k"
KEPT = re.compile(r"[0-9a-f-]{36}|\d[\d.:TZ-]*|[A-Z][A-Z_]+|")
"""What Allegro's documents need to be what they are: ids, numbers, moments, words of an enumeration."""


def planted(value: Any, *, words: bool = False) -> Any:
    """The document with a canary in every text of it; `words`: in those of enumerations as well."""
    if isinstance(value, dict):
        return {name: planted(one, words=words) for name, one in value.items()}
    if isinstance(value, list):
        return [planted(one, words=words) for one in value]
    if isinstance(value, str) and not KEPT.fullmatch(value):
        return f"Jan {CANARY}@example.com {value}"
    return f"{value}_{CANARY.upper()}" if words and isinstance(value, str) and value.isupper() else value


@contextmanager
def repeating() -> Iterator[int]:
    """A receiver of webhooks that refuses each message and repeats it; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(422)
            self.end_headers()
            self.wfile.write(body[-1500:])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


class Place:
    """The running service, its database and all that its processes have said."""

    def __init__(self, service: Service, world: World, db: Engine, folder: Path, url: str) -> None:
        self.service, self.world, self.db, self.folder, self.url = service, world, db, folder, url
        self.spans, self.alerts = list[Span](), list[Got]()

    def logs(self) -> str:
        """Every whole line."""
        texts = [path.read_text() for path in sorted((self.folder / "logs").glob("*.log"))]
        return "".join(text[: text.rfind("\n") + 1] for text in texts)

    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.logs().splitlines()]

    def wait_for(self, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [event for event in self.events() if holds(event)]
            return bool(found)

        self.service.wait(is_there, what)
        return found[-1]

    def execute(self, statement: str, **values: object) -> None:
        with database.transaction(self.db) as tx:
            tx.execute(sa.text(statement), values)


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, migrated_template: str, broker_url: str
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("canaries")
    world = World(seed=5, device_interval=1, clock=lambda: datetime.now(UTC) - 2 * plan.SETTLED)
    seller = world.add_seller(12)
    for number, form in enumerate(world.orders(seller.id)):
        document = planted(msgspec.json.decode(world.body(form)), words=number % 3 == 0)
        world.plants(form, msgspec.json.encode(document), silently=True)
    with ExitStack() as stack:
        database_url = stack.enter_context(_temporary_database(postgres_url, copy_of=migrated_template))[1]
        collector = stack.enter_context(collecting())
        echo = stack.enter_context(repeating())
        channel = stack.enter_context(receiving())
        told: dict[str, Any] = {"otel_exporter_otlp_endpoint": collector.url, "webhook_allowed_hosts": "127.0.0.1"}
        told |= {"alert_urls": SecretStr(f"json://{CANARY}:{CANARY}@127.0.0.1:{channel.port}/{CANARY}")}
        service = stack.enter_context(running(folder, database_url, broker_url, world, **told))
        db = database.connect(database_url)
        stack.callback(db.dispose)
        url = str(service.api.base_url).removesuffix("/api/v1/")
        here = Place(service, world, db, folder, url)
        here.spans, here.alerts = collector.spans, channel.accepted
        account_id = service.connect(seller.id)
        service.wait(lambda: len(service.kept(account_id)) >= 12, "the orders are kept")
        _disturb(here, account_id, seller.id, echo, Settings(broker_url=broker_url))
        yield here


def _disturb(place: Place, account_id: str, seller_id: str, echo: int, settings: Settings) -> None:
    """Everything goes wrong, each time with a value in hand."""
    ask = place.service.api
    # requests: path, query, header, body, and a failure that quotes what it was given
    ask.get(f"/{CANARY}")
    ask.get("/orders", params={"buyer_login": CANARY, "account_id": account_id, CANARY: CANARY})
    ask.get("/accounts", headers={"X-API-Key": f"aob_live_{CANARY}"})
    ask.patch(f"/accounts/{account_id}", json={"name": CANARY})
    place.execute(f"""CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION '{CANARY} %', NEW; END $$""")
    place.execute("CREATE TRIGGER tell BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION tell()")
    assert ask.patch(f"/accounts/{account_id}", json={"name": f"{CANARY} again"}).status_code == 500
    place.execute("DROP TRIGGER tell ON accounts")
    # a worker's task meets the same while it stores an order, and an order that it cannot read
    place.execute("CREATE TRIGGER tell BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION tell()")
    form = place.world.orders(seller_id)[1]
    place.world.plants(form, place.world.body(form).replace(CANARY.encode(), CANARY.encode() * 2))
    place.wait_for(lambda event: event["event"] == "task_crashed", "a task has crashed")
    place.execute("DROP TRIGGER tell ON orders")
    place.world.plants_event(seller_id, msgspec.json.encode({"id": CANARY, "order": {"buyer": CANARY}}))
    # messages that are none of ours
    app = bell.celery_app(settings)
    app.send_task("sync", kwargs={"account_id": CANARY, "kind": "journal"}, queue=bell.QUEUE)
    app.send_task("sync", kwargs={CANARY: CANARY}, queue=bell.QUEUE)
    app.send_task("watch", kwargs={"kind": CANARY}, queue=bell.QUEUE)
    app.send_task(f"say_{CANARY}", args=[CANARY], queue=bell.QUEUE)
    place.wait_for(lambda event: "celery" in event.get("logger", ""), "Celery has complained")
    # a webhook, whose endpoint refuses
    hook = {"user_id": place.service.get(f"/accounts/{account_id}")["user_id"], "url": "https://receiver.invalid/hook"}
    made = ask.post("/webhooks", json=hook)
    assert made.status_code == 201, made.text
    assert ask.post(f"/webhooks/{made.json()['id']}/test").status_code == 202
    place.wait_for(lambda event: event["event"] == "delivery_attempted", "an attempt was made")
    # one that gets whole orders and repeats them
    made = ask.post("/webhooks", json={**hook, "url": f"http://127.0.0.1:{echo}/hook", "content": "full"})
    assert made.status_code == 201, made.text
    form = place.world.orders(seller_id)[2]
    place.world.plants(form, place.world.body(form).replace(CANARY.encode(), CANARY.encode() * 2))
    place.wait_for(
        lambda event: (event["event"], event.get("status")) == ("delivery_attempted", 422), "an order was repeated"
    )
    # the login is refused: Allegro repeats the refresh token in its error
    place.world.rejects_tokens(seller_id)
    place.wait_for(
        lambda event: (event.get("route"), event.get("status")) == ("/auth/oauth/token", 400), "a refresh is refused"
    )
    # which is an alert, and so is what else is wrong
    place.wait_for(lambda event: event["event"] == "token_lost", "the login is lost")
    for _ in range(2):
        place.execute("UPDATE watches SET due_at = clock_timestamp()")
        place.service.wait(lambda: not _is_watch_due(place), "somebody has looked")
    place.service.wait(lambda: bool(place.alerts), "an alert has arrived")


def _is_watch_due(place: Place) -> bool:
    query = "SELECT count(*) FROM watches WHERE due_at < clock_timestamp() OR leased_until > clock_timestamp()"
    with database.transaction(place.db) as tx:
        return bool(tx.execute(sa.text(query)).scalar_one())


def test_no_alert_holds_what_was_planted(place: Place) -> None:
    told = [str(alert.message) for alert in place.alerts]
    assert any("token_lost" in one for one in told)
    assert [one for one in told if CANARY in one.lower() or "eyJ" in one] == []
    with database.transaction(place.db) as tx:
        query = "SELECT to_jsonb(a)::text FROM alerts a UNION ALL SELECT to_jsonb(c)::text FROM alert_channels c"
        rows = tx.execute(sa.text(query)).scalars().all()
    assert len(rows) > 1
    assert [one for one in rows if CANARY in one.lower()] == []


def test_no_log_holds_what_was_planted(place: Place) -> None:
    logs = place.logs()
    assert len(logs.splitlines()) > 40
    assert [line for line in logs.splitlines() if CANARY in line.lower()] == []
    assert "Traceback" not in logs


def test_no_log_holds_a_token(place: Place) -> None:
    logs = place.logs()
    registry = place.world._state.registry
    secrets = {"eyJ", "simulator-secret", *registry.accesses, *registry.refreshes}
    assert len(secrets) > 3
    assert [secret for secret in secrets if secret in logs] == []


def test_every_line_is_one_object_and_has_nothing_refused(place: Place) -> None:
    for event in place.events():
        assert {"timestamp", "level", "event"} <= set(event)
        assert "refused" not in event, json.dumps(event)


def test_the_record_of_an_attempt_tells_nothing_of_any_order(place: Place) -> None:
    with database.transaction(place.db) as tx:
        attempts = tx.execute(sa.text("SELECT to_jsonb(a)::text FROM webhook_attempts a")).scalars().all()
    assert any('"status_code": 422' in one for one in attempts)
    assert [one for one in attempts if CANARY in one.lower()] == []


def test_a_run_is_followed_from_the_request_to_the_calls_by_its_id(place: Place) -> None:
    run = next(event["run_id"] for event in place.events() if event["event"] == "sync_finished")
    said = {event["event"] for event in place.events() if event.get("run_id") == run}
    assert {"call_finished", "sync_finished"} <= said


def test_every_call_to_allegro_is_one_line(place: Place) -> None:
    lines = [event for event in place.events() if event["event"] == "call_finished"]
    told = Counter((line["route"], line.get("status")) for line in lines)
    assert told == Counter({call: count for call, count in place.world.counts.items() if count})


def test_no_span_holds_what_was_planted_and_each_has_the_id_of_its_lines(place: Place) -> None:
    place.service.wait(lambda: {span.service for span in place.spans} == {"api", "worker"}, "spans have arrived")
    assert [span.name for span in place.spans if CANARY in span.text.lower() or "eyJ" in span.text] == []
    named = {event["trace_id"] for event in place.events() if "trace_id" in event}
    done = [span for span in list(place.spans) if span.kind in {2, 5}]
    assert len(done) > 20
    assert {span.trace_id for span in done if span.name == "PATCH /api/v1/accounts/{account_id}"} <= named


def test_what_the_workers_counted_shows_at_the_api(place: Place) -> None:
    """Two workers and an API, each a process of its own."""
    crashed = re.compile(r'orders_backup_tasks_total\{outcome="crashed",task="sync_journal"\} [1-9]')
    place.service.wait(
        lambda: bool(crashed.search(httpx.get(f"{place.url}/metrics").text)), "the workers' counts have arrived"
    )
    told = httpx.get(f"{place.url}/metrics").text.splitlines()
    assert "orders_backup_workers 2.0" in told
    assert 'orders_backup_orders_read_total{what="inserted"} 12.0' in told


def test_health_and_metrics_say_nothing_either(place: Place) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json", "/metrics"):
        assert CANARY not in httpx.get(place.url + path).text.lower()
    assert CANARY not in place.service.api.get("/alerts").text.lower()
