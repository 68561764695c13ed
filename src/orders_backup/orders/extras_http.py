"""The routes of what belongs to an order: tracking numbers, invoices' metadata, returns, refunds; their versions."""

import base64
import uuid
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response, Security

from orders_backup import db as database
from orders_backup import rest
from orders_backup.access import Caller
from orders_backup.accounts.queries import ExtraKind
from orders_backup.orders import extras_queries as queries

router = APIRouter(prefix=rest.V1, tags=["orders"])

Reader = Annotated[Caller, Security(rest.caller, scopes=["orders:read"])]
OrderId = Annotated[rest.Word, Path(description="Allegro's id of the order.")]
AccountId = Annotated[uuid.UUID | None, Query(description="Needed where several accounts hold the order.")]
ExtraId = Annotated[rest.Word, Path(description="The document's id: of shipments and invoices that of the order.")]
OCTETS = "application/octet-stream"
EXTRA = "/orders/{order_id}/extras/{kind}/{extra_id}/versions"


@router.get("/orders/{order_id}/extras", responses={200: {"model": queries.ExtraPage}})
def list_extras(
    *,
    request: Request,
    caller: Reader,
    order_id: OrderId,
    account_id: AccountId = None,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """What belongs to the order, each document in its newest version."""
    runtime, query = rest.runtime(request), ("extras", order_id, account_id)
    after = rest.position(cursor, queries.Position, query=query)
    with database.snapshot(runtime.db) as tx:
        holder = queries.find(tx, order_id, seen_by=caller.user_id, account_id=account_id)
        items, more = queries.page(tx, runtime.codec, holder, order_id, after=after, limit=limit)
    return rest.page(items, rest.cursor(more, query=query) if more else None)


@router.get(EXTRA, responses={200: {"model": queries.ExtraVersionPage}})
def list_extra_versions(
    *,
    request: Request,
    caller: Reader,
    order_id: OrderId,
    kind: ExtraKind,
    extra_id: ExtraId,
    account_id: AccountId = None,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """Every version of a document that we ever read, in the order they were stored."""
    runtime, query = rest.runtime(request), ("extra versions", order_id, kind, extra_id, account_id)
    after = rest.position(cursor, queries.VersionNumber, query=query) or 0
    with database.snapshot(runtime.db) as tx:
        holder = queries.find(tx, order_id, seen_by=caller.user_id, account_id=account_id)
        items, more = queries.versions(tx, holder, order_id, (kind, extra_id), after=after, limit=limit)
    return rest.page(items, rest.cursor(more, query=query) if more else None)


@router.get(
    EXTRA + "/{number}",
    responses={
        200: {"model": queries.ExtraVersion, "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
    },
)
def show_extra_version(
    *,
    request: Request,
    caller: Reader,
    order_id: OrderId,
    kind: ExtraKind,
    extra_id: ExtraId,
    number: Annotated[int, Path(ge=1, le=2**31 - 1)],
    account_id: AccountId = None,
) -> Response:
    """One version; with `Accept: application/octet-stream` its exact bytes and their SHA-256 in `Repr-Digest`."""
    runtime = rest.runtime(request)
    with database.snapshot(runtime.db) as tx:
        holder = queries.find(tx, order_id, seen_by=caller.user_id, account_id=account_id)
        version, body = queries.version(tx, runtime.codec, holder, order_id, (kind, extra_id), number=number)
    if not rest.accepts(request, OCTETS):
        return rest.answer(version, headers={"Vary": "Accept"})
    digest = base64.b64encode(bytes.fromhex(version.sha256)).decode()
    headers = {"Repr-Digest": f"sha-256=:{digest}:", "Digest": f"SHA-256={digest}", "Vary": "Accept"}
    return Response(body, media_type=OCTETS, headers=headers)
