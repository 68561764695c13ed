"""Every failure of the REST API as problem+json (RFC 9457), and how OpenAPI says so. Failures are raised elsewhere."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.routing import Route

from orders_backup.errors import (
    AllegroError,
    AllegroLimitError,
    AmbiguousOrderError,
    BudgetExhaustedError,
    InvalidRequestError,
    NotAuthenticatedError,
    OrdersBackupError,
    RequestInProgressError,
    TooManyRequestsError,
)

MEDIA_TYPE = "application/problem+json"
OURS = "Something failed on our side; nothing is wrong with the request. The log has more under this trace_id."

_HTTP = {
    400: ("invalid_request", "Invalid request"),
    404: ("not_found", "Not found"),
    405: ("method_not_allowed", "Method not allowed"),
    413: ("request_too_large", "Request too large"),
}

_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "trace_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened and what to do, for a person."},
        "code": {"type": "string", "description": "Stable; made for programs."},
        "trace_id": {"type": "string", "description": "The same as in the header `trace-id` and in the log."},
        "errors": {
            "type": "array",
            "description": "With `invalid_request`: which parameters or fields.",
            "items": {
                "type": "object",
                "required": ["in", "name", "message"],
                "properties": {name: {"type": "string"} for name in ("in", "name", "message")},
            },
        },
        "account_ids": {
            "type": "array",
            "description": "With `ambiguous_order`: the accounts that hold the order.",
            "items": {"type": "string", "format": "uuid"},
        },
    },
}

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
    "description": "Sent again with the same request within a day, it answers what the first was told.",
}


def render(
    request: Request,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **members: object,
) -> Response:
    """A problem as the caller gets it. `members`: what RFC 9457 calls extension members."""
    body = {
        "type": f"urn:problem:orders-backup:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "trace_id": request.state.trace_id,
        **members,
    }
    return Response(msgspec.json.encode(body), status_code=status, headers=headers, media_type=MEDIA_TYPE)


def unexpected(request: Request) -> Response:
    """A failure that nobody foresaw, without a word about our insides."""
    return render(request, 500, OrdersBackupError.code, OrdersBackupError.title, OURS)


def install(app: FastAPI) -> None:
    """Handlers for our own errors, refused parameters, and what the router answers by itself."""
    app.add_exception_handler(OrdersBackupError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with our problems in place of FastAPI's own error shapes."""
    if app.openapi_schema:
        return app.openapi_schema
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
        servers=app.servers,
        contact=app.contact,
    )
    components = schema.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(name, None)
    components.setdefault("schemas", {})["Problem"] = _SCHEMA
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    components["responses"] = {"Problem": {"description": "A problem (RFC 9457).", "content": content}}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if operation.get("security"):
                operation["description"] += f"\n\nNeeds the scope `{_take_scope(operation)}`."
                if method == "post":
                    operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
            answers: dict[str, Any] = operation["responses"]
            answers.pop("422", None)
            for status in _possible(path, operation):
                answers[status] = {"$ref": "#/components/responses/Problem"}
    app.openapi_schema = schema
    return schema


def _take_scope(operation: dict[str, Any]) -> str:
    """The scope that the operation needs; OpenAPI has a place for scopes only where OAuth gives them."""
    found: set[str] = {scope for one in operation["security"] for scopes in one.values() for scope in scopes}
    operation["security"] = [{name: [] for name in one} for one in operation["security"]]
    return found.pop()


def _possible(path: str, operation: dict[str, Any]) -> list[str]:
    named = {parameter["name"] for parameter in operation.get("parameters", [])}
    possible = ["401", "403", "422", "429"] if operation.get("security") else []
    possible += ["404"] if "account_id" in named or "{" in path else []
    return [*possible, *(["409"] if "order_id" in named else []), "default"]


async def _ours(request: Request, error: Exception) -> Response:
    if not isinstance(error, OrdersBackupError):  # pragma: no cover - installed for this class alone
        raise error
    is_shown = error.status < 500 or isinstance(error, AllegroError)
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, NotAuthenticatedError) else {}
    wait = _wait(error)
    headers |= {} if wait is None else {"Retry-After": str(wait)}
    members = {"account_ids": error.account_ids} if isinstance(error, AmbiguousOrderError) else {}
    detail = str(error) if is_shown else OURS
    return render(request, error.status, error.code, error.title, detail, headers=headers, **members)


def _wait(error: OrdersBackupError) -> int | None:
    """Seconds after which it is worth another try; None where that would change nothing."""
    if isinstance(error, BudgetExhaustedError):
        return max(1, math.ceil((error.retry_at - datetime.now(UTC)).total_seconds()))
    if isinstance(error, AllegroLimitError):
        return math.ceil(error.retry_after or 65)
    if isinstance(error, TooManyRequestsError):
        return error.retry_after
    if isinstance(error, RequestInProgressError):
        return 1
    return 5 if error.status == 503 else None


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):  # pragma: no cover - installed for this class alone
        raise error
    found = [_refusal(one) for one in error.errors()]
    detail = "; ".join(f"{one['name']}: {one['message']}" for one in found[:10]) + "."
    kind = InvalidRequestError
    return render(request, kind.status, kind.code, kind.title, detail, errors=found)


def _refusal(error: dict[str, Any]) -> dict[str, str]:
    where, *path = [str(part) for part in error["loc"]]
    messages = {
        "extra_forbidden": "is not known here; leave it out",
        "missing": "is missing",
        "json_invalid": "is not JSON",
        "string_pattern_mismatch": "holds a character that is not allowed",
    }
    message = messages.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    name = "body" if error["type"] == "json_invalid" else ".".join(path) or where
    return {"in": where, "name": name[:200], "message": message}


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):  # pragma: no cover - installed for this class alone
        raise error
    code, title = _HTTP.get(error.status_code, ("http_error", "HTTP error"))
    details = {
        404: "There is nothing at this address; /docs lists every route.",
        405: f"This address does not take {request.method}; see the header Allow.",
    }
    detail = details.get(error.status_code, str(error.detail))
    headers = {"Allow": _allowed(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    return render(request, error.status_code, code, title, detail, headers=headers)


def _allowed(request: Request) -> str:
    """Every method of the address; the router names those of the first route alone that it finds there."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = [route.methods or set() for route in routes if route.path_regex.match(request.url.path)]
    return ", ".join(sorted(set[str]().union(*found)))
