"""What all routes of the REST API share: who calls, parameters, cursors, answers as bytes. No route is here."""

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Query, Request, Response, Security
from fastapi.dependencies.models import Dependant
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from pydantic import AfterValidator, BeforeValidator, StringConstraints

from orders_backup import access
from orders_backup import db as database
from orders_backup.access import Caller
from orders_backup.errors import InvalidRequestError, NotAuthenticatedError
from orders_backup.runtime import Runtime

T = TypeVar("T")

V1 = "/api/v1"
NOT_STORED = {"Cache-Control": "no-store"}
"""Of answers that tell a secret."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_DIGEST_BYTES = 6


def _moment(value: object) -> object:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("write a moment with its time zone, as 2026-01-31T12:00:00Z (in an address, + is %2B)")
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999") from None


Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_utc)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many items at most.")]
CursorText = Annotated[str | None, Query(max_length=2000, description="`next_cursor` of the page before, unchanged.")]


def runtime(request: Request) -> Runtime:
    """What the process works with."""
    held: Runtime = request.app.state.runtime
    return held


def caller(
    request: Request,
    wanted: SecurityScopes,
    key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
) -> Caller:
    """Who asks, allowed to; every route under `/api/v1` depends on this. In a transaction of its own.

    Raises NotAuthenticatedError, MissingScopeError, and InvalidRequestError for query parameters the route
    does not know: a mistyped filter would otherwise quietly widen the answer.
    """
    presented = key or (bearer.credentials if bearer else "")
    if not presented:
        raise NotAuthenticatedError("Send an API key in the header X-API-Key or as Authorization: Bearer.")
    with database.transaction(runtime(request).db) as tx:
        found = access.authenticate(tx, presented, now=datetime.now(UTC))
    request.state.key_id = found.key_id
    for scope in wanted.scopes:
        found.require(scope)
    _refuse_unknown_parameters(request)
    return found


def _refuse_unknown_parameters(request: Request) -> None:
    known = _query_parameters(request.scope["route"].dependant)
    given = [name for name, _ in request.query_params.multi_items()]
    unknown = sorted(set(given) - set(known))
    if unknown:
        may = f"it takes {', '.join(known)}" if known else "it takes none"
        raise InvalidRequestError(f"Unknown query parameter: {', '.join(unknown)[:200]}; {may}.")
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise InvalidRequestError(f"Given more than once: {', '.join(twice)}; give each parameter once.")


def _query_parameters(dependant: Dependant) -> list[str]:
    own = [field.alias for field in dependant.query_params]
    return own + [name for inner in dependant.dependencies for name in _query_parameters(inner)]


def answer(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON. Archived bytes inside it (`msgspec.Raw`) go out as they are."""
    return Response(msgspec.json.encode(value), status_code=status, headers=headers, media_type="application/json")


def page(items: list[Any], next_cursor: str | None) -> Response:
    """A list as every list is answered."""
    return answer({"items": items, "next_cursor": next_cursor})


def cursor(position: object, *, query: object) -> str:
    """An opaque cursor: the position after which to go on, tied to the query it belongs to."""
    return base64.urlsafe_b64encode(_digest(query) + msgspec.json.encode(position)).rstrip(b"=").decode()


def position(text: str | None, shape: type[T], *, query: object) -> T | None:
    """What `cursor` wrote, None where there is none. Raises InvalidRequestError for any other text or query."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = msgspec.json.decode(raw[_DIGEST_BYTES:], type=shape)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise InvalidRequestError(
            "cursor: not a cursor of this service; send next_cursor of the page before, unchanged."
        ) from None
    if raw[:_DIGEST_BYTES] != _digest(query):
        raise InvalidRequestError(
            "cursor: belongs to another query; repeat the filters of the page before, or start without a cursor."
        )
    return found


def _digest(query: object) -> bytes:
    return hashlib.sha256(repr(query).encode()).digest()[:_DIGEST_BYTES]


def accepts(request: Request, media_type: str) -> bool:
    """Whether the caller names this media type in `Accept`."""
    named = (part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(","))
    return media_type in named
