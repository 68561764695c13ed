"""The routes of orders: find them, read one at any moment, its versions and events, and the change feed."""

import asyncio
import base64
import time
import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query, Request, Response, Security
from starlette.concurrency import run_in_threadpool

from orders_backup import db as database
from orders_backup import drift, rest
from orders_backup.access import Caller
from orders_backup.accounts import queries as accounts
from orders_backup.errors import InvalidRequestError
from orders_backup.orders import feed, history, pages, queries, shapes
from orders_backup.orders.queries import Filter

router = rest.router("", "orders")

Reader = Annotated[Caller, Security(rest.caller, scopes=["orders:read"])]
Admin = Annotated[Caller, Security(rest.caller, scopes=["admin"])]
OrderId = Annotated[rest.Word, Path(description="Allegro's id of the order.")]
AccountId = Annotated[uuid.UUID | None, Query(description="Needed where several accounts hold the order.")]
Fields = Literal["summary", "full"]
OCTETS = "application/octet-stream"
SEARCHED = (
    "Words that all have to be found, in any version: in the order's id, the buyer's login, e-mail and names, companies"
    " and tax ids, names of offers, tracking numbers. Neither case nor accents matter; of a word of three letters or"
    " more its beginning is enough."
)
AT = "As they were last read at or before this moment: all orders of one `account_id`, in the order of their ids."
LOOK_AGAIN_AFTER = 0.5
"""Seconds between two looks into the feed for somebody who waits."""


async def _filter(  # noqa: PLR0917 - one parameter per filter, as the contract lists them
    caller: Reader,
    user_id: uuid.UUID | None = None,
    account_id: uuid.UUID | None = None,
    status: rest.Word | None = None,
    fulfillment_status: rest.Word | None = None,
    buyer_login: rest.Word | None = None,
    marketplace: rest.Word | None = None,
    ordered_from: rest.Moment | None = None,
    ordered_to: rest.Moment | None = None,
    updated_from: rest.Moment | None = None,
    updated_to: rest.Moment | None = None,
    q: Annotated[rest.Word | None, Query(description=SEARCHED)] = None,
    sort: queries.Sort = "-ordered_at",
) -> Filter:
    return Filter(
        seen_by=caller.user_id,
        user_id=user_id,
        account_id=account_id,
        status=status,
        fulfillment_status=fulfillment_status,
        buyer_login=buyer_login,
        marketplace=marketplace,
        ordered_from=ordered_from,
        ordered_to=ordered_to,
        updated_from=updated_from,
        updated_to=updated_to,
        q=q,
        sort=sort,
    )


@router.get("/orders", responses={200: {"model": shapes.OrderPage}})
def list_orders(
    *,
    request: Request,
    caller: Reader,
    wanted: Annotated[Filter, Depends(_filter)],
    at: Annotated[rest.Moment | None, Query(description=AT)] = None,
    fields: Fields = "full",
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """Orders with their newest documents. Times are half-open: from inclusive, to exclusive.

    Orders that arrive or change while you page never repeat or hide another one; one whose sorting time moves
    may show twice (`updated_at`) or not at all (`-updated_at`). To follow changes, use the change feed.
    """
    if at is not None:
        return _list_at(request, wanted, at, full=fields == "full", limit=limit, cursor=cursor)
    after = rest.position(request, cursor, queries.Position, query=wanted)
    runtime = rest.runtime(request)
    if wanted.q is not None:
        with database.snapshot(runtime.db) as tx:
            places, has_more = pages.search(tx, wanted, after=after, limit=limit)
    with rest.reading(request) as tx:
        if wanted.q is not None:
            items, last = pages.those(tx, runtime.codec, places, wanted, full=fields == "full")
            more = last if has_more else None
        else:
            items, more = pages.page(tx, runtime.codec, wanted, after=after, limit=limit, full=fields == "full")
        if not items and wanted.account_id is not None:
            accounts.require(tx, wanted.account_id, seen_by=caller.user_id)
    return rest.page(items, rest.cursor(request, more, query=wanted) if more else None)


def _list_at(request: Request, wanted: Filter, at: datetime, *, full: bool, limit: int, cursor: str | None) -> Response:
    account_id, seen_by = wanted.account_id, wanted.seen_by
    if account_id is None or wanted != Filter(seen_by=seen_by, account_id=account_id):
        raise InvalidRequestError("at: name an account_id and no other filter; such a list comes in the order of ids.")
    query = ("at", account_id, at)
    after = rest.position(request, cursor, queries.Id, query=query) or ""
    with rest.reading(request) as tx:
        accounts.require(tx, account_id, seen_by=seen_by)
        codec = rest.runtime(request).codec
        items, more = history.all_at(tx, codec, account_id, at, after=after, limit=limit, full=full)
    return rest.page(items, rest.cursor(request, more, query=query) if more else None)


@router.get("/orders/{order_id}", responses={200: {"model": shapes.Order}})
def show_order(
    *,
    request: Request,
    caller: Reader,
    order_id: OrderId,
    account_id: AccountId = None,
    at: Annotated[rest.Moment | None, Query(description="As it was last read at or before this moment.")] = None,
) -> Response:
    """One order, now or as we knew it at a moment of the past."""
    runtime = rest.runtime(request)
    with rest.reading(request) as tx:
        holder = queries.find(tx, order_id, seen_by=caller.user_id, account_id=account_id)
        if at is None:
            return rest.answer(queries.get(tx, runtime.codec, holder, order_id))
        return rest.answer(history.at(tx, runtime.codec, holder, order_id, at))


@router.get("/orders/{order_id}/versions", responses={200: {"model": shapes.VersionPage}})
def list_versions(
    *,
    request: Request,
    caller: Reader,
    order_id: OrderId,
    account_id: AccountId = None,
    fields: Fields = "summary",
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """Every version we ever read, in the order they were stored."""
    runtime, query = rest.runtime(request), ("versions", order_id, account_id)
    after = rest.position(request, cursor, history.VersionNumber, query=query) or 0
    with rest.reading(request) as tx:
        holder = queries.find(tx, order_id, seen_by=caller.user_id, account_id=account_id)
        items, more = history.versions(
            tx, runtime.codec, holder, order_id, after=after, limit=limit, full=fields == "full"
        )
    return rest.page(items, rest.cursor(request, more, query=query) if more else None)


@router.get(
    "/orders/{order_id}/versions/{number}",
    responses={200: {"model": shapes.Version, "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}},
)
def show_version(
    *,
    request: Request,
    caller: Reader,
    order_id: OrderId,
    number: Annotated[int, Path(ge=1, le=2**31 - 1)],
    account_id: AccountId = None,
) -> Response:
    """One version; with `Accept: application/octet-stream` its exact bytes and their SHA-256 in `Repr-Digest`."""
    runtime = rest.runtime(request)
    with rest.reading(request) as tx:
        holder = queries.find(tx, order_id, seen_by=caller.user_id, account_id=account_id)
        version, body = history.version(tx, runtime.codec, holder, order_id, number)
    digest = base64.b64encode(bytes.fromhex(version.sha256)).decode()
    if not rest.accepts(request, OCTETS):
        return rest.answer(version, headers={"Vary": "Accept"})
    headers = {"Repr-Digest": f"sha-256=:{digest}:", "Digest": f"SHA-256={digest}", "Vary": "Accept"}
    return Response(body, media_type=OCTETS, headers=headers)


@router.get("/orders/{order_id}/diff", responses={200: {"model": shapes.Diff}})
def show_diff(
    *,
    request: Request,
    caller: Reader,
    order_id: OrderId,
    since: Annotated[
        int | None, Query(alias="from", ge=1, le=2**31 - 1, description="The version before `to`.")
    ] = None,
    until: Annotated[int | None, Query(alias="to", ge=1, le=2**31 - 1, description="The newest version.")] = None,
    account_id: AccountId = None,
) -> Response:
    """What differs between two versions: a JSON Patch (RFC 6902), each step with a sentence for a person."""
    runtime = rest.runtime(request)
    with rest.reading(request) as tx:
        holder = queries.find(tx, order_id, seen_by=caller.user_id, account_id=account_id)
        return rest.answer(history.diff(tx, runtime.codec, holder, order_id, since=since, until=until))


@router.get("/orders/{order_id}/events", responses={200: {"model": shapes.EventPage}})
def list_events(
    *,
    request: Request,
    caller: Reader,
    order_id: OrderId,
    account_id: AccountId = None,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """What Allegro's journal said about the order, in the order we stored it."""
    runtime, query = rest.runtime(request), ("events", order_id, account_id)
    after = rest.position(request, cursor, history.EventPosition, query=query)
    with rest.reading(request) as tx:
        holder = queries.find(tx, order_id, seen_by=caller.user_id, account_id=account_id)
        items, more = history.events(tx, runtime.codec, holder, order_id, after=after, limit=limit)
    return rest.page(items, rest.cursor(request, more, query=query) if more else None)


@router.get("/changes", responses={200: {"model": shapes.ChangePage}})
async def list_changes(
    *,
    request: Request,
    caller: Reader,
    account_id: uuid.UUID | None = None,
    fields: Fields = "summary",
    wait: Annotated[float, Query(ge=0, le=30, description="Seconds to wait for a change where there is none.")] = 0,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """Every change since the cursor, none missing and none twice. Without a cursor: from the beginning.

    Keep `next_cursor` and ask again. Changes written at the same time come in any order; of two changes of one
    order the one with the higher `version` is the newer. `fields=full`: each with its version's document.
    """
    query = ("changes", account_id)
    after = rest.position(request, cursor, feed.Position, query=query) or feed.START
    runtime, ends_at = rest.runtime(request), time.monotonic() + wait

    def look(after: feed.Position) -> tuple[list[Any], feed.Position, bool]:
        with database.statements(runtime.db) as tx:
            newest = feed.newest(tx)
        with rest.reading(request) as tx:
            if account_id is not None:
                accounts.require(tx, account_id, seen_by=caller.user_id)
            found, reached, has_more = feed.page(
                tx, seen_by=caller.user_id, account_id=account_id, after=after, limit=limit, newest=newest
            )
            told = feed.with_documents(tx, runtime.codec, found) if fields == "full" else found
            return list(told), reached, has_more

    items, reached, has_more = await run_in_threadpool(look, after)
    while not items and time.monotonic() < ends_at and not await request.is_disconnected():
        await asyncio.sleep(min(LOOK_AGAIN_AFTER, max(ends_at - time.monotonic(), 0)))
        items, reached, has_more = await run_in_threadpool(look, reached)
    return rest.answer(shapes.ChangePage(items, rest.cursor(request, reached, query=query), has_more))


@router.get("/schema-drift", responses={200: {"model": shapes.DriftPage}})
def list_schema_drift(request: Request, caller: Admin) -> Response:
    """In what Allegro's documents differ from the shape this program knows, newest finding first; at most 1,000.

    Of the whole installation; a key that is bound to one user is shown no examples.
    """
    with rest.reading(request) as tx:
        return rest.page(drift.findings(tx, seen_by=caller.user_id), None)
