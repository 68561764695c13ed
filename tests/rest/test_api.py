"""The application around the routes: who may call, problems, health, logs, the process."""

import gzip
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import brotli
import httpx
import pytest
import zstandard
from fastapi.routing import APIRoute
from openapi_schema_validator import OAS31Validator
from structlog.testing import capture_logs

from orders_backup import access, api
from orders_backup import db as database
from orders_backup.orders import extras
from orders_backup.settings import Settings

if TYPE_CHECKING:
    from tests.rest.conftest import World


NAMELESS = b"{}"
EXPORT = "6b1f8f0e-4a52-4d3c-9a3e-0d6c2f1f7a11"
ITEM = hashlib.sha256(NAMELESS).hexdigest()
BACKUP = "0b1f8f0e-4a52-4d3c-9a3e-0d6c2f1f7a12"
BACKED_UP = """INSERT INTO backups (backup_id, kind, asked_by, state, dump_id)
               VALUES (:id, 'dump', 'schedule', 'succeeded', 'x')"""
SILENCE = "0b3f8f0e-4a52-4d3c-9a3e-0d6c2f1f7a12"
SILENCED = """INSERT INTO alert_silences (silence_id, subject, until)
              VALUES (:id, CAST(CAST(:account AS uuid) AS text), now() + interval '1 h')"""
EXPORTED = """INSERT INTO exports (export_id, user_id, format, filter, status, stored_in, parts)
              VALUES (:id, :user, 'jsonl', '{}', 'failed', 'disk', '[]')"""


def routes() -> list[tuple[str, str, str]]:
    """Method, path and scope of every route under /api/v1, as declared."""
    found = []
    for room in api.ROOMS:
        for route in room.router.routes:
            assert isinstance(route, APIRoute)
            scopes = [scope for inner in route.dependant.dependencies for scope in inner.own_oauth_scopes or []]
            assert len(set(scopes)) == 1, f"{route.path} must need exactly one scope"
            found += [(method, route.path.removeprefix("/api/v1"), scopes[0]) for method in route.methods or ()]
    return found


def filled(path: str, account: object, sync_id: object, webhook_id: object, delivery_id: object) -> str:
    return path.format(
        account_id=account,
        sync_id=sync_id,
        order_id="o",
        number=1,
        key_id="0" * 12,
        kind="returns",
        extra_id="r",
        item_id=ITEM,
        webhook_id=webhook_id,
        delivery_id=delivery_id,
        export_id=EXPORT,
        backup_id=BACKUP,
        silence_id=SILENCE,
    )


def body(method: str, path: str, user: object) -> dict[str, Any] | None:
    if path.startswith("/webhooks"):
        bodies = {"/webhooks": {"url": "https://example.com/", "user_id": str(user)}}
        bodies["/webhooks/{webhook_id}/replay"] = {"from": "2026-01-01T00:00:00Z"}
        return bodies.get(path) if method == "POST" else {"description": "x"} if method == "PATCH" else None
    if method == "PATCH":
        return {"name": "x"}
    if method != "POST" or path.endswith("reconnect") or path.startswith("/backups"):
        return None
    if path == "/exports":
        return {"format": "jsonl"}
    if path.endswith(("retry", "acknowledge")):
        return {"reason": "x"} if path.endswith("acknowledge") else {}
    return {"kind": "incremental"} if path.endswith("syncs") else {"user_id": str(user), "name": "x"}


@pytest.mark.parametrize(("method", "path", "scope"), routes())
def test_every_route_wants_a_key_with_its_scope_and_hides_other_users(
    world: "World", method: str, path: str, scope: str
) -> None:
    account, run_id = world.account(), uuid4()
    world.read(account, b'{"id":"o"}', NAMELESS)
    world.read(account, b'{"id":"o","status":"x"}', at=datetime.now(UTC))
    beside_it = extras.document("returns", "r", "o", datetime.now(UTC), b"{}", found=True)
    with database.transaction(world.runtime.db) as tx:
        extras.record(tx, world.runtime.codec, account, [beside_it])
    row = "INSERT INTO sync_history (id, account_id, kind, status) VALUES (:id, :account, 'full', 'queued')"
    world.execute(row, id=run_id, account=account)
    webhook, delivery = world.webhook()
    world.execute(EXPORTED, id=EXPORT, user=world.user)
    world.execute(BACKED_UP, id=BACKUP)
    world.execute(SILENCED, id=SILENCE, account=account)
    where, sent = filled(path, account, run_id, webhook, delivery), body(method, path, world.user)
    if path == "/alerts/silences" and method == "POST":
        sent = {"subject": str(account), "until": "2100-01-01T00:00:00Z"}
    where += "?format=jsonl" if path == "/orders/export" else ""

    def status(client: httpx.Client) -> tuple[int, str]:
        answer = client.request(method, where, json=sent)
        assert answer.is_success or answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, answer.json()["code"] if answer.status_code >= 400 else ""

    assert status(world.client()) == (401, "not_authenticated")
    assert status(world.client("aob_live_nonsense")) == (401, "not_authenticated")
    others = [one for one in access.SCOPES if one != scope]
    assert status(world.client(world.key(*others))) == (403, "missing_scope")
    if path.startswith("/api-keys"):
        return  # whose keys a key rules over is told in test_rest_keys.py
    if path.startswith("/backups"):
        return  # everybody's: which keys may see them is told in test_rest_backups.py
    stranger = world.client(world.key(scope, user=uuid4()))
    of_the_key = {"/schema-drift", "/audit-log", "/alerts/silences"}
    if path in of_the_key and method == "GET":  # of the whole installation; of the key's own user
        assert stranger.get(where).json()["items"] == []
    elif path in {"/orders/export", "/exports"}:  # what a key of another user finds there: tests/exports
        assert status(stranger)[0] == 202 if method == "POST" else stranger.get(where).is_success
    elif path in {"/accounts", "/orders", "/changes", "/webhooks", "/alerts"} and method == "GET":
        assert stranger.get(where).json()["items"] == []
        if path not in {"/accounts", "/webhooks"}:
            assert stranger.get(where, params={"account_id": str(account)}).status_code == 404
    else:
        expected = (403, "missing_scope") if path in {"/accounts", "/webhooks"} else (404, "not_found")
        assert status(stranger) == expected
    assert status(world.client(world.key(scope, user=world.user)))[0] not in {401, 403, 404}


def test_a_key_may_come_as_a_bearer(world: "World") -> None:
    key = world.key("orders:read")
    assert world.client().get("/orders", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    refused = world.client().get("/orders", headers={"Authorization": "Bearer nobody"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "says"),
    [
        ("GET", "/nowhere", 404, "not_found", "/docs"),
        ("GET", "/orders/", 404, "not_found", "/docs"),
        ("PUT", "/orders", 405, "method_not_allowed", "PUT"),
        ("GET", "/orders?limit=1001", 422, "invalid_request", "limit: Input should be less than or equal to 1000"),
        ("GET", "/orders?limit=0", 422, "invalid_request", "limit"),
        ("GET", "/orders?limt=5&qq=x", 422, "invalid_request", "limt, qq"),
        ("GET", "/orders?status=A&status=B", 422, "invalid_request", "more than once: status"),
        ("GET", "/orders?ordered_from=yesterday", 422, "invalid_request", "2026-01-31T12:00:00Z"),
        ("GET", "/orders?ordered_from=0001-01-01T00:00:00%2B14:00", 422, "invalid_request", "years"),
        ("GET", "/orders?sort=total", 422, "invalid_request", "-ordered_at"),
        ("GET", "/orders?status=a%00b", 422, "invalid_request", "not allowed"),
        ("GET", "/orders/a%00b", 422, "invalid_request", "not allowed"),
        ("GET", "/orders/none", 404, "not_found", "none"),
        ("GET", "/orders/none/versions/99999999999", 422, "invalid_request", "number"),
        ("GET", "/accounts/7", 422, "invalid_request", "account_id"),
        ("GET", "/accounts?user_id=6b1f0000-0000-4000-8000-000000000000&cursor=AAAA", 422, "invalid_request", "cursor"),
        ("POST", "/accounts", 422, "invalid_request", "missing"),
    ],
)
def test_every_refusal_is_a_problem_that_says_what_to_do(
    world: "World", method: str, path: str, status: int, code: str, says: str
) -> None:
    answer = world.ask.request(method, path)
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in problem["detail"]
    assert set(problem) >= {"type", "title", "trace_id"}
    assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"])
    assert answer.headers["trace-id"] == problem["trace_id"]


def test_bodies_that_are_no_json_or_too_large_are_refused(world: "World") -> None:
    headers = {"Content-Type": "application/json"}
    for content, status in ((b"{", 422), (b'{"name":"\\ud800","user_id":1}', 422), (b'"' + b"x" * 2**21 + b'"', 413)):
        answer = world.ask.post("/accounts", content=content, headers=headers)
        assert answer.status_code == status
        assert answer.json()["status"] == status


def test_an_unexpected_failure_shows_nothing_of_our_insides(world: "World") -> None:
    world.execute("DROP TABLE order_changes")
    with capture_logs() as logs:
        answer = world.ask.get("/changes")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert "order_changes" not in answer.text
    failed = next(line for line in logs if line["event"] == "request_failed")
    assert any(one.startswith("UndefinedTable") for one in (failed["error"], *failed.get("causes", [])))
    assert "DROP" not in str(failed)


def test_one_line_is_logged_per_request_without_queries_bodies_or_keys(world: "World") -> None:
    account = world.account()
    with capture_logs() as logs:
        answer = world.ask.get("/orders", params={"buyer_login": "canary-login", "account_id": str(account)})
        world.ask.patch(f"/accounts/{account}", json={"name": "canary-name"})
        world.ask.get("/canary-path")
    lines = [line for line in logs if line["event"] == "request_finished"]
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("GET", "/api/v1/orders", 200),
        ("PATCH", "/api/v1/accounts/{account_id}", 200),
        ("GET", None, 404),
    ]
    assert lines[0]["bytes"] == len(answer.content)
    assert lines[1]["account_id"] == str(account)
    assert lines[0]["duration_ms"] > 0
    assert "canary" not in str(logs)
    assert world.ask.headers["x-api-key"] not in str(logs)


def test_health_tells_whether_the_parts_answer(world: "World") -> None:
    at = world.url
    world.app.state.probe._parts["database"].seconds = 0
    assert httpx.get(f"{at}/healthz").json() == {"status": "alive"}
    ready = httpx.get(f"{at}/readyz", timeout=30)
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    world.execute("UPDATE alembic_version SET version_num = '0000'")
    unready = httpx.get(f"{at}/readyz", timeout=30)
    assert (unready.status_code, unready.json()["code"]) == (503, "not_ready")
    assert "migrations" in unready.json()["detail"]


def test_the_openapi_document_describes_the_answers_truthfully(world: "World") -> None:
    world.read(world.account(), b'{"id":"o"}')
    document = httpx.get(f"{world.url}/openapi.json").json()
    assert httpx.get(f"{world.url}/docs").status_code == 200
    assert "HTTPValidationError" not in str(document)
    for path in (
        "/accounts",
        "/orders",
        "/changes",
        "/orders/{order_id}",
        "/orders/{order_id}/versions",
        "/orders/{order_id}/extras",
    ):
        operation = document["paths"][f"/api/v1{path}"]["get"]
        assert {"401", "403", "422"} <= set(operation["responses"])
        assert operation["security"][0].keys() == {"APIKeyHeader"}
        shape = operation["responses"]["200"]["content"]["application/json"]["schema"]
        answer = world.ask.get(path.format(order_id="o")).json()
        OAS31Validator({**shape, "components": document["components"]}).validate(answer)
    problem = world.ask.get("/orders?x=1").json()
    OAS31Validator({**document["components"]["schemas"]["Problem"]}).validate(problem)


def test_the_process_serves_and_stops_cleanly(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "running.json").write_text(
        json.dumps(
            {
                "database_url": settings.database_url,
                "broker_url": settings.broker_url,
                "encryption_keys": settings.encryption_keys.get_secret_value(),
                "allegro_client_id": "x",
            }
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = _run(tmp_path, port)
        said = refused.communicate(timeout=30)[1]
        assert refused.returncode == 1
        assert said.startswith(f"Cannot listen on 127.0.0.1:{port}: ")
        assert said.count("\n") == 1
    process = _run(tmp_path, port)
    for _ in range(200):
        try:
            assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            break
        except httpx.TransportError:
            time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert "api_started" in events
    assert "request_finished" in events


def _run(data_dir: Path, port: int) -> "subprocess.Popen[str]":
    keep = {name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH", "HOME"}}
    command = [sys.executable, "-m", "orders_backup.api", "--port", str(port), "--data-dir", str(data_dir)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=keep, cwd=data_dir)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br"])
def test_answers_are_compressed_as_the_caller_can_read_them(world: "World", encoding: str) -> None:
    world.read(world.account(), *(b'{"id":"o-%d","name":"Kowalski"}' % number for number in range(100)))
    plain = world.ask.get("/orders", headers={"Accept-Encoding": "identity"})
    with world.ask.stream("GET", "/orders", headers={"Accept-Encoding": encoding}) as answer:
        packed = b"".join(answer.iter_raw())
    assert (answer.headers["content-encoding"], plain.headers.get("content-encoding")) == (encoding, None)
    assert len(packed) < len(plain.content) / 4
    unzstd = zstandard.ZstdDecompressor().decompressobj().decompress
    unpack = {"gzip": gzip.decompress, "br": brotli.decompress, "zstd": unzstd}[encoding]
    assert unpack(packed) == plain.content
    assert answer.headers["etag"] == plain.headers["etag"]


def test_exact_bytes_go_out_as_they_are(world: "World") -> None:
    body = b'{"id":"o",%s"n":1}' % (b" " * 5000)
    world.read(world.account(), body)
    headers = {"Accept": "application/octet-stream", "Accept-Encoding": "gzip, zstd, br"}
    with world.ask.stream("GET", "/orders/o/versions/1", headers=headers) as answer:
        assert b"".join(answer.iter_raw()) == body
    assert "content-encoding" not in answer.headers


def test_who_holds_an_answer_already_is_told_so(world: "World") -> None:
    account = world.account()
    world.read(account, b'{"id":"o"}')
    first = world.ask.get("/orders/o")
    tag = first.headers["ETag"]
    for held in (tag, f'"other", {tag}', "*"):
        again = world.ask.get("/orders/o", headers={"If-None-Match": held})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers["Vary"] == "Accept-Encoding"
    assert world.ask.get("/orders/o", headers={"If-None-Match": 'W/"other"'}).content == first.content
    world.read(account, b'{"id":"o","status":"SENT"}', at=datetime.now(UTC))
    changed = world.ask.get("/orders/o", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert world.ask.get("/orders/nobody", headers={"If-None-Match": "*"}).status_code == 404
