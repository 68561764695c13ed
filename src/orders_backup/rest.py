"""What all routes of the REST API share: who calls, parameters, cursors, answers as bytes, and what stands around a
request that changes something. No route is here."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import structlog
from fastapi import APIRouter, Query, Request, Response, Security
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from pydantic import AfterValidator, BeforeValidator, StringConstraints
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from orders_backup import access, audit, idempotency
from orders_backup import db as database
from orders_backup.access import Caller
from orders_backup.errors import (
    DatabaseUnavailableError,
    InvalidRequestError,
    NotAuthenticatedError,
    OrdersBackupError,
)
from orders_backup.idempotency import Promise
from orders_backup.runtime import Runtime

_log = structlog.get_logger()

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


def _number(value: object) -> object:
    if isinstance(value, str | bool):
        raise ValueError("must be a number")  # noqa: TRY004 - what pydantic understands
    return value


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999") from None


Moment = Annotated[datetime, BeforeValidator(_moment), AfterValidator(_utc)]
Whole = Annotated[int, BeforeValidator(_number)]
"""An integer of a body; 60.0 is one as well, by JSON Schema, and "60" is none."""
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
    """Who asks, allowed to; every route under `/api/v1` depends on this. Each of its statements stands by itself.

    Raises NotAuthenticatedError, TooManyRequestsError, MissingScopeError, and InvalidRequestError for query
    parameters the route does not know: a mistyped filter would otherwise quietly widen the answer.
    """
    presented = key or (bearer.credentials if bearer else "")
    if not presented:
        raise NotAuthenticatedError("Send an API key in the header X-API-Key or as Authorization: Bearer.")
    held = runtime(request)
    with database.statements(held.db) as tx:
        found = access.authenticate(tx, presented, now=datetime.now(UTC))
        request.state.key_id = found.key_id
        request.state.allowance = access.Allowance(held.settings.rate_limit_api, 0, 60)
        request.state.allowance = access.spend(tx, found.key_id, quota=held.settings.rate_limit_api)
    request.state.tenant = found.user_id
    for scope in wanted.scopes:
        found.require(scope)
    _refuse_unknown_parameters(request)
    if request.method in CHANGING:
        with database.transaction(held.db) as tx:
            _begin(tx, request, found)
    return found


def tenant(request: Request) -> UUID | None:
    """The user to whom the caller's key is bound; None: it sees every user."""
    bound: UUID | None = request.state.tenant
    return bound


@contextmanager
def reading(request: Request) -> Iterator[Connection]:
    """A snapshot to answer from. Beneath every filter of ours PostgreSQL shows a bound key its user's rows alone."""
    with database.snapshot(runtime(request).db) as tx:
        if (user_id := tenant(request)) is not None:
            database.confine(tx, user_id)
        yield tx


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


# Around a request that changes something

CHANGING = ("POST", "PATCH", "PUT", "DELETE")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(slots=True)
class _Act:
    """A request that changes something: its line in the audit log, and what its caller may repeat."""

    fingerprint: bytes
    audit_seq: int | None = None
    promise: Promise | None = None


class _Stored(msgspec.Struct):
    """An answer as it is told again."""

    status: int
    headers: list[tuple[str, str]]
    body: str


class _AnsweredBefore(Exception):  # noqa: N818 - no failure: the way past a route that must not run again
    def __init__(self, stored: _Stored) -> None:
        super().__init__()
        self.stored = stored


class Route(APIRoute):
    """Audits what changes something, and answers a repeated POST with what the first was told; names what was read by
    an ETag, and sends it only to who does not hold it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            if request.method not in CHANGING:
                return _if_it_differs(request, await handle(request))
            words = [request.method, request.url.path, request.url.query]
            digest = hashlib.sha256("\n".join(words).encode() + b"\n" + await request.body()).digest()
            act = request.state.act = _Act(digest)
            try:
                response = await handle(request)
            except _AnsweredBefore as before:
                headers = {"Idempotency-Replayed": "true", **dict(before.stored.headers)}
                return Response(before.stored.body, status_code=before.stored.status, headers=headers)
            except Exception as error:
                await run_in_threadpool(_end, request, act, _status(error), None, is_open=_is_open(error))
                raise
            await run_in_threadpool(_end, request, act, response.status_code, response)
            return response

        return handled


def router(prefix: str, tag: str) -> APIRouter:
    """A router as every room has one; `prefix` without the version."""
    return APIRouter(prefix=f"{V1}{prefix}", tags=[tag], route_class=Route)


def _if_it_differs(request: Request, response: Response) -> Response:
    """The answer under a weak ETag (the same for each compression of it), or 304 to whom has it already."""
    if response.status_code != 200 or "cache-control" in response.headers or isinstance(response, StreamingResponse):
        return response
    tag = f'W/"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    held = {one.strip() for one in request.headers.get("if-none-match", "").split(",")}
    if held & {tag, tag.removeprefix("W/"), "*"}:
        headers |= {"Vary": "Accept-Encoding"}  # as the answer that is left out
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def _begin(tx: Connection, request: Request, caller: Caller) -> None:
    act: _Act = request.state.act
    key = request.headers.get("idempotency-key")
    if key is not None and request.method == "POST":
        if not _IDEMPOTENCY_KEY.fullmatch(key):
            raise InvalidRequestError("Idempotency-Key: send 1 to 255 visible ASCII characters, such as a UUID.")
        promise = Promise(caller.key_id, key, act.fingerprint)
        if (before := idempotency.begin(tx, runtime(request).vault, promise)) is not None:
            raise _AnsweredBefore(msgspec.json.decode(before, type=_Stored))
        act.promise = promise
    act.audit_seq = audit.begin(
        tx,
        actor=caller.key_id,
        user_id=caller.user_id,
        act=request.scope["route"].name,
        target=request.path_params,
        trace_id=request.state.trace_id,
    )


def _end(request: Request, act: _Act, status: int, response: Response | None, *, is_open: bool = False) -> None:
    """The act's end, noted. What is done is done: a database that went away meanwhile does not change the answer.

    `is_open`: nobody knows whether it was done. Then its promise stays locked, as after a crash.
    """
    if act.audit_seq is None:
        return
    try:
        with database.transaction(runtime(request).db) as tx:
            audit.end(tx, act.audit_seq, status=status)
            if act.promise is not None and response is not None and status < 400:
                stored = _Stored(status, _kept(response), bytes(response.body).decode())
                idempotency.keep(tx, runtime(request).vault, act.promise, msgspec.json.encode(stored).decode())
            elif act.promise is not None and not is_open:
                idempotency.release(tx, act.promise)
    except DatabaseUnavailableError:
        _log.warning("act_unrecorded", seq=act.audit_seq)


def _kept(response: Response) -> list[tuple[str, str]]:
    return [(name, value) for name, value in response.headers.items() if name != "content-length"]


def _is_open(error: Exception) -> bool:
    """A COMMIT whose answer was lost, or a failure that nobody foresaw."""
    is_ours = isinstance(error, OrdersBackupError) and not isinstance(error, DatabaseUnavailableError)
    return not is_ours and not isinstance(error, RequestValidationError)


def _status(error: Exception) -> int:
    if isinstance(error, RequestValidationError):
        return InvalidRequestError.status
    return error.status if isinstance(error, OrdersBackupError) else 500


# What is answered


def answer(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON. Archived bytes inside it (`msgspec.Raw`) go out as they are."""
    return Response(msgspec.json.encode(value), status_code=status, headers=headers, media_type="application/json")


def page(items: list[Any], next_cursor: str | None) -> Response:
    """A list as every list is answered."""
    return answer({"items": items, "next_cursor": next_cursor})


def cursor(request: Request, position: object, *, query: object) -> str:
    """An opaque, signed cursor: the position after which to go on, tied to the query it belongs to."""
    content = _digest(query) + msgspec.json.encode(position)
    return base64.urlsafe_b64encode(runtime(request).vault.sign(content, purpose="cursor")).rstrip(b"=").decode()


def position(request: Request, text: str | None, shape: type[T], *, query: object) -> T | None:
    """What `cursor` wrote, None where there is none. Raises InvalidRequestError for any other text or query."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    content = runtime(request).vault.signed(raw, purpose="cursor")
    if content is None:
        raise InvalidRequestError(
            "cursor: not a cursor of this service; send next_cursor of the page before, unchanged."
        )
    if content[:_DIGEST_BYTES] != _digest(query):
        raise InvalidRequestError(
            "cursor: belongs to another query; repeat the filters of the page before, or start without a cursor."
        )
    try:
        return msgspec.json.decode(content[_DIGEST_BYTES:], type=shape)
    except msgspec.MsgspecError:
        raise InvalidRequestError(
            "cursor: was given out by another version of this service; start without a cursor."
        ) from None


def _digest(query: object) -> bytes:
    return hashlib.sha256(repr(query).encode()).digest()[:_DIGEST_BYTES]


def accepts(request: Request, media_type: str) -> bool:
    """Whether the caller names this media type in `Accept`."""
    named = (part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(","))
    return media_type in named
