"""The routes of API keys: list, make, rotate, revoke. What a key is, access.py knows."""

import uuid
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Path, Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from orders_backup import access, rest
from orders_backup import db as database
from orders_backup.access import Caller, Key
from orders_backup.errors import InvalidRequestError

router = rest.router("/api-keys", "api keys")

Admin = Annotated[Caller, Security(rest.caller, scopes=["admin"])]
KeyId = Annotated[str, Path(pattern=r"^[0-9A-Za-z]{12}$", description="The key's id: its third part.")]
Overlap = Annotated[
    rest.Whole, Field(ge=0, le=30 * 86_400, description="Seconds for which the old key goes on working.")
]
DAY = 86_400


class NewKey(BaseModel):
    """A key to make. `user_id`: the only user whose data it sees; absent or null: every user's."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    scopes: Annotated[
        list[str],
        Field(
            min_length=1,
            max_length=len(access.SCOPES),
            json_schema_extra={"items": {"type": "string", "enum": sorted(access.SCOPES)}},
        ),
    ]
    user_id: uuid.UUID | None = None
    expires_at: rest.Moment | None = None


class Rotation(BaseModel):
    """How long both keys work."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: Overlap = DAY


@dataclass(frozen=True, slots=True)
class MadeKey(Key):
    """A key as it was just made. `key` is the whole of it, told this one time."""

    key: str


@dataclass
class KeyPage:
    """A page of keys, oldest first."""

    items: list[Key]
    next_cursor: str | None


@router.get("", responses={200: {"model": KeyPage}})
def list_keys(request: Request, caller: Admin, limit: rest.Limit = 100, cursor: rest.CursorText = None) -> Response:
    """Every key that was ever made, with its last use; the keys themselves are kept nowhere."""
    after = rest.position(request, cursor, access.Position, query="api-keys")
    with rest.reading(request) as tx:
        found = access.list_keys(tx, seen_by=caller.user_id, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    more = access.Position(last.created_at, last.id) if last else None
    return rest.page(found[:limit], rest.cursor(request, more, query="api-keys") if more else None)


@router.post("", status_code=201, responses={201: {"model": MadeKey}})
def make_key(request: Request, caller: Admin, body: NewKey) -> Response:
    """Make a key. A caller bound to a user makes keys of that user only."""
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
        raise InvalidRequestError("expires_at must lie in the future.")
    user_id = body.user_id or caller.user_id
    if user_id is not None:
        caller.require_user(user_id)
    with database.transaction(rest.runtime(request).db) as tx:
        key = access.create_key(tx, name=body.name, scopes=body.scopes, user_id=user_id, expires_at=body.expires_at)
        made = _made(access.get_key(tx, access.id_of(key)), key)
    return rest.answer(made, status=201, headers=rest.NOT_STORED)


@router.post("/{key_id}/rotate", status_code=201, responses={201: {"model": MadeKey}})
def rotate_key(request: Request, caller: Admin, key_id: KeyId, body: Rotation | None = None) -> Response:
    """Make a key with the same rights; the old one works for `overlap_seconds` longer (a day by default)."""
    overlap = timedelta(seconds=(body or Rotation()).overlap_seconds)
    with rest.reading(request) as tx:
        access.get_key(tx, key_id, seen_by=caller.user_id)
    with database.transaction(rest.runtime(request).db) as tx:
        key = access.rotate_key(tx, key_id, overlap=overlap, seen_by=caller.user_id)
        made = _made(access.get_key(tx, access.id_of(key)), key)
    return rest.answer(made, status=201, headers=rest.NOT_STORED)


@router.delete("/{key_id}", status_code=204)
def revoke_key(request: Request, caller: Admin, key_id: KeyId) -> Response:
    """Refuse a key from now on."""
    with rest.reading(request) as tx:
        access.get_key(tx, key_id, seen_by=caller.user_id)
    with database.transaction(rest.runtime(request).db) as tx:
        access.revoke_key(tx, key_id, seen_by=caller.user_id)
    return Response(status_code=204)


def _made(row: Key, key: str) -> MadeKey:
    return MadeKey(**{one.name: getattr(row, one.name) for one in fields(row)}, key=key)
