"""Traces: spans of tasks and calls, with the ids of the log and no more than it tells."""

import builtins
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import structlog

from orders_backup import traces
from orders_backup.allegro import answers
from orders_backup.errors import SettingsError

from .collector import Collector, collecting

CANARY = "jan.k4n4r3k@example.com"
SERVER, CLIENT, CONSUMER = 2, 3, 5


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


def call(status: int, path: str = "/me") -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        if not status:
            raise httpx.ConnectError(f"cannot reach {CANARY}")
        return httpx.Response(status, content=CANARY.encode())

    with httpx.Client(base_url="https://allegro.example", transport=httpx.MockTransport(answer)) as http:
        answers.send(http, "GET", path, route="/me", params={"login": CANARY})


def test_a_task_and_its_calls_are_one_trace_with_the_id_of_the_log(collector: Collector) -> None:
    account_id = str(uuid4())
    close = traces.configure(collector.url, service="worker")
    bound = structlog.contextvars.bound_contextvars(trace_id="ab" * 16)
    with bound, traces.span("sync_journal", "CONSUMER", account_id=account_id):
        call(200, f"/me/{CANARY}")
        call(503)
    close()
    first, second, task = collector.spans
    assert {one.trace_id for one in collector.spans} == {"ab" * 16}
    assert (task.service, task.name, task.kind, task.told) == (
        "worker",
        "sync_journal",
        CONSUMER,
        {"account_id": account_id},
    )
    assert first.parent_id == second.parent_id == task.span_id
    assert (first.name, first.kind) == ("GET /me", CLIENT)
    assert first.told == {"http.request.method": "GET", "http.route": "/me", "http.response.status_code": "200"}
    assert second.told["http.response.status_code"] == "503"
    assert [one for one in collector.spans if "k4n4r3k" in one.text.lower()] == []


def test_a_failure_is_told_by_its_kind_and_never_by_its_text(collector: Collector) -> None:
    close = traces.configure(collector.url, service="worker")
    with pytest.raises(httpx.ConnectError), traces.span("sync_journal", "CONSUMER"):
        call(0)
    close()
    asked, task = collector.spans
    assert asked.is_error
    assert task.is_error
    assert (asked.told["error.type"], task.told["error.type"]) == ("ConnectError", "ConnectError")
    assert [one for one in collector.spans if "k4n4r3k" in one.text.lower()] == []


def test_a_collector_that_is_away_stops_nothing() -> None:
    close = traces.configure("http://127.0.0.1:9", service="worker")
    with traces.span("sync_journal", "CONSUMER"):
        call(200)
    close()


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    program = """
import sys
from orders_backup import api, cli, traces, worker
with traces.span("sync_journal", "CONSUMER", account_id="a") as told:
    told["http.route"] = "/me"
ours = ("opentelemetry.sdk", "opentelemetry.exporter")  # FastAPI imports the bare API by itself
sys.exit(any(name.startswith(ours) for name in sys.modules))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_the_extra_the_setting_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SettingsError, match=r"pip install 'allegro-orders-backup\[traces\]'"):
        traces.configure("http://127.0.0.1:9", service="worker")
