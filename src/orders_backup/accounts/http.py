"""The routes of accounts: connect a seller, look, change, reconnect, disconnect."""

import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import Request, Response, Security
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from orders_backup import db as database
from orders_backup import rest
from orders_backup.access import Caller
from orders_backup.accounts import connect, queries
from orders_backup.accounts.queries import Account

router = rest.router("/accounts", "accounts")

Reader = Annotated[Caller, Security(rest.caller, scopes=["accounts:read"])]
Writer = Annotated[Caller, Security(rest.caller, scopes=["accounts:write"])]
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$"),
    AfterValidator(str.strip),
]
Extras = Annotated[
    list[queries.ExtraKind],
    Field(max_length=100, description="What to keep beside the orders; all of it unless given."),
]
Interval = Annotated[rest.Whole, Field(ge=60, le=31_536_000, description="Seconds between full reconciling syncs.")]


class NewAccount(BaseModel):
    """A seller to connect. `user_id` is yours: whoever the account belongs to in your system."""

    model_config = ConfigDict(extra="forbid")

    user_id: uuid.UUID
    name: Name
    sync_interval_seconds: Interval | None = None
    extras: Extras | None = None


class AccountChange(BaseModel):
    """What is to change; what is absent stays. null for `sync_interval_seconds`: the service's own again."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    sync_interval_seconds: Interval | None = None
    paused: StrictBool | None = None
    extras: Extras | None = None


@dataclass
class AccountPage:
    """A page of accounts."""

    items: list[Account]
    next_cursor: str | None


@router.post("", status_code=202, responses={202: {"model": Account}})
def connect_account(request: Request, caller: Writer, body: NewAccount) -> Response:
    """Start the device flow: the seller opens `verification_uri_complete` before `expires_at` and agrees."""
    caller.require_user(body.user_id)
    runtime = rest.runtime(request)
    account_id = connect.begin(
        runtime,
        user_id=body.user_id,
        name=body.name,
        sync_interval_seconds=body.sync_interval_seconds,
        extras=body.extras,
    )
    with rest.reading(request) as tx:
        return rest.answer(queries.get(tx, account_id, seen_by=caller.user_id), status=202)


@router.get("", responses={200: {"model": AccountPage}})
def list_accounts(
    *,
    request: Request,
    caller: Reader,
    user_id: uuid.UUID | None = None,
    status: queries.Status | None = None,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """Accounts in the order they were made."""
    query = ("accounts", user_id, status)
    after = rest.position(request, cursor, queries.Position, query=query)
    with rest.reading(request) as tx:
        items, more = queries.page(tx, seen_by=caller.user_id, user_id=user_id, status=status, after=after, limit=limit)
    return rest.page(items, rest.cursor(request, more, query=query) if more else None)


@router.get("/{account_id}", responses={200: {"model": Account}})
def show_account(request: Request, caller: Reader, account_id: uuid.UUID) -> Response:
    """State, seller, next sync, token expiry, counts and lag of one account."""
    with rest.reading(request) as tx:
        return rest.answer(queries.get(tx, account_id, seen_by=caller.user_id))


@router.patch("/{account_id}", responses={200: {"model": Account}})
def change_account(request: Request, caller: Writer, account_id: uuid.UUID, body: AccountChange) -> Response:
    """Rename it, sync it more or less often, pause or resume it, choose what is kept beside its orders."""
    with rest.reading(request) as tx:
        queries.require(tx, account_id, seen_by=caller.user_id)
    with database.transaction(rest.runtime(request).db) as tx:
        connect.change(tx, account_id, body.model_dump(exclude_unset=True))
        changed = queries.get(tx, account_id, seen_by=caller.user_id)
    return rest.answer(changed)


@router.post("/{account_id}/reconnect", status_code=202, responses={202: {"model": Account}})
def reconnect_account(request: Request, caller: Writer, account_id: uuid.UUID) -> Response:
    """Start a new device flow for the same seller; its orders stay, and another seller is refused."""
    runtime = rest.runtime(request)
    with rest.reading(request) as tx:
        queries.require(tx, account_id, seen_by=caller.user_id)
    connect.begin_again(runtime, account_id)
    with rest.reading(request) as tx:
        return rest.answer(queries.get(tx, account_id, seen_by=caller.user_id), status=202)


@router.delete("/{account_id}", status_code=204)
def disconnect_account(request: Request, caller: Writer, account_id: uuid.UUID) -> Response:
    """Forget the tokens. The account and every order stay and can be read."""
    with rest.reading(request) as tx:
        queries.require(tx, account_id, seen_by=caller.user_id)
    with database.transaction(rest.runtime(request).db) as tx:
        connect.disconnect(tx, account_id)
    return Response(status_code=204)
