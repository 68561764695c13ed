"""The routes of what could not be read: look at it, try again, acknowledge it."""

import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from orders_backup import db as database
from orders_backup import rest
from orders_backup.access import Caller
from orders_backup.accounts import queries as accounts
from orders_backup.sync import set_aside
from orders_backup.sync.set_aside import Item, Retried

router = APIRouter(prefix=rest.V1, tags=["set aside"])

Syncer = Annotated[Caller, Security(rest.caller, scopes=["sync"])]
Reader = Annotated[Caller, Security(rest.caller, scopes=["orders:read"])]
Ids = Annotated[list[rest.Word], Field(min_length=1, max_length=1000)]
OCTETS = "application/octet-stream"


class Retry(BaseModel):
    """Which to try again, by the ids of the list; all where none are named."""

    model_config = ConfigDict(extra="forbid")

    ids: Ids | None = None


class Acknowledgement(BaseModel):
    """Which to take note of, all where none are named, and why nothing more can be done."""

    model_config = ConfigDict(extra="forbid")

    ids: Ids | None = None
    reason: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"^[^\x00]*$")
    ]


@dataclass
class ItemPage:
    """A page of what is set aside, orders first."""

    items: list[Item]
    next_cursor: str | None


@dataclass
class Acknowledged:
    """How many were newly taken note of."""

    acknowledged: int


@router.get("/accounts/{account_id}/set-aside", responses={200: {"model": ItemPage}})
def list_set_aside(
    request: Request,
    caller: Reader,
    account_id: uuid.UUID,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """Orders that failed five times, and bytes that name no order."""
    query = ("set-aside", account_id)
    after = rest.position(cursor, set_aside.Position, query=query)
    with database.snapshot(rest.runtime(request).db) as tx:
        accounts.require(tx, account_id, seen_by=caller.user_id)
        items, more = set_aside.page(tx, account_id, after=after, limit=limit)
    return rest.page(items, rest.cursor(more, query=query) if more else None)


@router.get(
    "/accounts/{account_id}/set-aside/{item_id}",
    response_class=Response,
    responses={200: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}},
)
def show_set_aside(
    request: Request,
    caller: Reader,
    account_id: uuid.UUID,
    item_id: Annotated[rest.Word, Path(description="The SHA-256 of the bytes, hexadecimal.")],
) -> Response:
    """The exact bytes of an unreadable one, whatever `Accept` says: they are of no other form."""
    with database.snapshot(rest.runtime(request).db) as tx:
        accounts.require(tx, account_id, seen_by=caller.user_id)
        body = set_aside.body(tx, account_id, item_id)
    return Response(body, media_type=OCTETS, headers={"Content-Disposition": "attachment"})


@router.post("/accounts/{account_id}/set-aside/retry", responses={200: {"model": Retried}})
def retry_set_aside(request: Request, caller: Syncer, account_id: uuid.UUID, body: Retry) -> Response:
    """Orders are read again now; bytes are read by the present program and archived where it understands them."""
    runtime = rest.runtime(request)
    with database.transaction(runtime.db) as tx:
        accounts.require(tx, account_id, seen_by=caller.user_id)
        return rest.answer(set_aside.retry(tx, runtime.codec, account_id, body.ids, now=database.clock(tx)))


@router.post("/accounts/{account_id}/set-aside/acknowledge", responses={200: {"model": Acknowledged}})
def acknowledge_set_aside(request: Request, caller: Syncer, account_id: uuid.UUID, body: Acknowledgement) -> Response:
    """Take note of what nobody can read, so that the certificate can be complete; it goes on naming them."""
    with database.transaction(rest.runtime(request).db) as tx:
        accounts.require(tx, account_id, seen_by=caller.user_id)
        return rest.answer(Acknowledged(set_aside.acknowledge(tx, account_id, body.ids, reason=body.reason)))
