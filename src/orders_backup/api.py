"""The HTTP application: routers, health, a trace id and a log line per request. Routes stand in their rooms."""

import argparse
import atexit
import signal
import socket
import sys
import time
import uuid
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_compress import CompressMiddleware

from orders_backup import audit_http, counters, gauges, health, keys, log, metrics, problems, rest, settings, traces
from orders_backup import runtime as runtimes
from orders_backup.access import Allowance
from orders_backup.accounts import http as accounts
from orders_backup.alerts import http as alerts
from orders_backup.alerts import watchman
from orders_backup.backups import http as backups
from orders_backup.errors import OrdersBackupError
from orders_backup.exports import http as exports
from orders_backup.orders import extras_http as extras
from orders_backup.orders import http as orders
from orders_backup.runtime import Runtime
from orders_backup.sync import http as sync
from orders_backup.sync import set_aside_http as set_aside
from orders_backup.webhooks import http as webhooks

MAX_BODY_BYTES = 1024 * 1024
ROOMS = (accounts, sync, set_aside, exports, orders, extras, webhooks, alerts, backups, keys, audit_http)
"""The modules whose routes are mounted; exports first, so that `/orders/export` is none of the orders."""
TAGS = {
    "accounts": "Sellers: connected, watched, let go.",
    "syncs": "Runs and the certificate of completeness.",
    "set aside": "What could not be read.",
    "orders": "The archive and its change feed.",
    "exports": "Orders as files.",
    "webhooks": "Whoever wants to know is told.",
    "backups": "Copies of everything, and rehearsals.",
    "alerts": "What is wrong, and was.",
    "api keys": "Who may ask.",
    "audit log": "Who changed what.",
    "health": "For whoever watches the processes.",
}

_log = structlog.get_logger()


def create_app(runtime: Runtime) -> FastAPI:
    """The whole HTTP interface over a runtime that somebody else closes."""
    app = FastAPI(
        title="Allegro Orders Backup",
        version="1",
        description="Every Allegro order and every version of it, byte for byte. Errors are RFC 9457 problems.",
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        servers=[{"url": "/", "description": "This installation."}],
        contact={"name": "Who runs this installation"},
        redirect_slashes=False,
        redoc_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},  # ours holds no values
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.runtime = runtime
    app.state.metrics = gauges.Page(runtime)
    app.state.probe = health.Probe(runtime)
    app.openapi = lambda: problems.openapi(app)  # type: ignore[method-assign]
    app.add_middleware(CompressMiddleware)
    app.add_middleware(Observed)
    problems.install(app)
    for room in ROOMS:
        app.include_router(room.router)
    app.add_api_route("/healthz", healthz, tags=["health"], responses={200: {"model": dict[str, str]}})
    for path, answer in (("/healthz", healthz), ("/readyz", readyz)):
        app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/metrics", figures, tags=["health"], response_class=PlainTextResponse)
    app.add_api_route("/readyz", readyz, tags=["health"], responses={200: {"model": dict[str, str]}})
    return app


async def healthz() -> Response:
    """The process lives. No thread is asked for: all of them may wait for PostgreSQL."""
    return rest.answer({"status": "alive"})


def readyz(request: Request) -> Response:
    """Database, migrations, broker and storage work, each proven by using it; 503 says which does not. `workers` is
    told and decides nothing: where none works, what is stored can still be read."""
    probe: health.Probe = request.app.state.probe
    found = probe.look()
    told = {**found.parts, "workers": found.workers}
    if not found.failing:
        return rest.answer({"status": "ready", **told})
    detail = "; ".join(f"{name}: {state}" for name, state in found.failing.items()) + "."
    return problems.render(request, 503, "not_ready", "Not ready", detail, headers={"Retry-After": "5"}, parts=told)


def figures(request: Request) -> Response:
    """All processes in figures, for Prometheus."""
    page: gauges.Page = request.app.state.metrics
    return Response(page.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class Observed:
    """Around every request: a trace id, a limit on the body, one log line, and no failure that escapes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trace_id, started_at = log.new_trace_id(), time.perf_counter()
        scope.setdefault("state", {})["trace_id"] = trace_id
        seen: dict[str, int] = {"in": 0, "out": 0}

        async def receive_limited() -> Message:
            message = await receive()
            seen["in"] += len(message.get("body", b""))
            if seen["in"] > MAX_BODY_BYTES:
                raise HTTPException(413, f"A request may hold {MAX_BODY_BYTES} bytes at most.")
            return message

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                _label(message, trace_id, scope["state"].get("allowance"))
            seen["out"] += len(message.get("body", b""))
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(trace_id=trace_id),
            traces.span(scope["method"], "SERVER", **{"http.request.method": scope["method"]}) as told,
        ):
            try:
                await self.app(scope, receive_limited, send_observed)
            except Exception as error:
                _log.error("request_failed", **log.told(error))
                if "status" in seen:
                    raise
                await problems.unexpected(Request(scope))(scope, receive, send_observed)
            finally:
                _report(scope, seen, time.perf_counter() - started_at)
                told.update(_told(scope, seen))


def _label(message: Message, trace_id: str, allowance: Allowance | None) -> None:
    headers = MutableHeaders(scope=message)
    headers["trace-id"] = trace_id
    if allowance is not None:
        headers["RateLimit-Policy"] = f'"key";q={allowance.quota};w=60'
        headers["RateLimit"] = f'"key";r={allowance.remaining};t={allowance.reset}'
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")


def _report(scope: MutableMapping[str, Any], seen: dict[str, int], seconds: float) -> None:
    """A count, and one line, of which no field can hold a query, a body or a key."""
    route = getattr(scope.get("route"), "path", None)
    if route is not None:  # what leads nowhere is not ours, and of methods there are many
        metrics.REQUESTS.labels(scope["method"], route, metrics.status(seen.get("status"))).inc()
        metrics.REQUEST_SECONDS.labels(route).observe(seconds)
    _log.info(
        "request_finished",
        method=scope["method"],
        route=route,
        status=seen.get("status"),
        duration_ms=round(seconds * 1000, 1),
        request_bytes=seen["in"],
        bytes=seen["out"],
        key_id=scope["state"].get("key_id"),
        account_id=_account_id(scope),
    )


def _told(scope: MutableMapping[str, Any], seen: dict[str, int]) -> traces.Told:
    """What a span may tell of a request."""
    route = getattr(scope.get("route"), "path", None)
    return {
        "name": f"{scope['method']} {route}" if route else scope["method"],
        "http.route": route,
        "http.response.status_code": seen.get("status"),
        "account_id": _account_id(scope),
    }


def _account_id(scope: MutableMapping[str, Any]) -> str | None:
    """Of the path or the query, if it is one."""
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("account_id", [""])
    try:
        return str(uuid.UUID(scope.get("path_params", {}).get("account_id", asked[0])))
    except (ValueError, AttributeError):
        return None


def main(arguments: list[str] | None = None) -> int:
    """`python -m orders_backup.api`: serves until SIGTERM or SIGINT; 1 where it cannot start."""
    parser = argparse.ArgumentParser(prog="orders_backup.api", description="The REST API of Allegro Orders Backup.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default %(default)s)")
    parser.add_argument("--data-dir", type=Path, default=None, help="where `orders-backup up` keeps its data")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        configured = settings.load(data_dir=given.data_dir)
        log.configure(log_format=configured.log_format, level=configured.log_level)
        log.catch_all()
        if configured.otel_exporter_otlp_endpoint:
            atexit.register(traces.configure(configured.otel_exporter_otlp_endpoint, service="api"))
        runtime = runtimes.build(configured)
    except OrdersBackupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the person who started it
        return 1
    reporting = counters.keep_reporting(runtime.db, runtime.stopping)
    watching = watchman.keep_watch(runtime, runtime.stopping)
    try:
        return _serve(runtime, given.host, given.port)
    finally:
        runtime.stopping.set()
        reporting.join(timeout=5)
        watching.join(timeout=5)
        runtime.close()


def _serve(runtime: Runtime, host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such port"
        print(f"Cannot listen on {host}:{port}: {reason}. Choose another --port.", file=sys.stderr)  # noqa: T201
        return 1
    _log.info("api_started", host=host, port=listener.getsockname()[1])
    app = create_app(runtime)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=15)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        app.state.probe.close()
    return 0


def _stop(_number: int, _frame: object) -> None:
    """Uvicorn finishes the requests that run, then raises the signal again, and so ends here."""
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
