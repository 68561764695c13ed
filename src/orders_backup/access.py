"""Who may call: API keys with their scopes, hashed at rest. Knows nothing of HTTP; this module alone writes `api_keys`.

A key reads `aob_live_<id>_<secret><crc>`: the id finds the row, the secret (256 random bits) proves the caller,
the CRC-32 tells a typing error without asking the database. The secret is random and long, so a plain SHA-256
is the right hash: there is nothing to guess.
"""

import hashlib
import hmac
import math
import re
import secrets
import uuid
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.errors import (
    ConflictError,
    InvalidRequestError,
    MissingScopeError,
    NotAuthenticatedError,
    NotFoundError,
    TooManyRequestsError,
)
from orders_backup.tables import api_keys

SCOPES = (
    "accounts:read",
    "accounts:write",
    "sync",
    "orders:read",
    "exports",
    "webhooks",
    "backups",
    "admin",
)
"""Every right a key can have; none implies another."""

USED_AGAIN_AFTER = timedelta(minutes=1)
"""`last_used_at` is written at most this often."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(r"(aob_live_([0-9A-Za-z]{12})_([0-9A-Za-z]{43}))([0-9A-Za-z]{6})")
_NOBODY = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `user_id` None: the key sees every user."""

    key_id: str
    scopes: frozenset[str]
    user_id: uuid.UUID | None

    def require(self, scope: str) -> None:
        """Raises MissingScopeError naming the scope."""
        if scope not in self.scopes:
            raise MissingScopeError(f"This needs the scope {scope}; the key has {', '.join(sorted(self.scopes))}.")

    def require_user(self, user_id: uuid.UUID) -> None:
        """Raises MissingScopeError where the key is bound to another user."""
        if self.user_id not in {None, user_id}:
            raise MissingScopeError("This key is bound to another user; use a key of that user, or an unbound one.")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a key may still ask at once, and in how many seconds it has all of its `quota` a minute again."""

    quota: int
    remaining: int
    reset: int


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is listed; its secret was shown once, when it was made."""

    id: str
    name: str
    scopes: list[str]
    user_id: uuid.UUID | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Position:
    """The key after which a list goes on."""

    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    id: Annotated[str, msgspec.Meta(max_length=12)]


_COLUMNS = [api_keys.c[name] for name in Key.__dataclass_fields__]


def _seen(seen_by: uuid.UUID | None) -> list[sa.ColumnElement[bool]]:
    """The keys that a caller bound to a user may know of: that user's."""
    return [] if seen_by is None else [api_keys.c.user_id == seen_by]


def create_key(
    tx: Connection,
    *,
    name: str,
    scopes: Collection[str],
    user_id: uuid.UUID | None = None,
    expires_at: datetime | None = None,
) -> str:
    """A new key, whole: it can be shown now and never again. Raises InvalidRequestError."""
    if not name.strip() or len(name) > 200 or "\x00" in name:
        raise InvalidRequestError("A key needs a name of 1 to 200 characters that says who uses it.")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InvalidRequestError(
            f"{', '.join(unknown) or 'No scope'} cannot be given; choose among {', '.join(SCOPES)}."
        )
    key_id, secret = _text(secrets.randbits(71), 12), _text(secrets.randbits(256), 43)
    values = {
        "id": key_id,
        "name": name.strip(),
        "secret_sha256": hashlib.sha256(secret.encode()).digest(),
        "scopes": sorted(set(scopes)),
        "user_id": user_id,
        "expires_at": expires_at,
        "ends_at": expires_at,
    }
    tx.execute(sa.insert(api_keys).values(values))
    body = f"aob_live_{key_id}_{secret}"
    return body + _checksum(body)


def list_keys(
    tx: Connection, *, seen_by: uuid.UUID | None = None, after: Position | None = None, limit: int | None = None
) -> list[Key]:
    """Keys that were ever made, oldest first; those of one user where the caller is bound to one."""
    query = sa.select(*_COLUMNS).where(*_seen(seen_by)).order_by(api_keys.c.created_at, api_keys.c.id).limit(limit)
    if after is not None:
        key = sa.tuple_(api_keys.c.created_at, api_keys.c.id)
        query = query.where(key > sa.tuple_(sa.literal(after.created_at), sa.literal(after.id)))
    return [Key(**row) for row in tx.execute(query).mappings()]


def get_key(tx: Connection, key_id: str, *, seen_by: uuid.UUID | None = None) -> Key:
    """One key. Raises NotFoundError."""
    row = tx.execute(sa.select(*_COLUMNS).where(api_keys.c.id == key_id, *_seen(seen_by))).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no API key {key_id!r}.")
    return Key(**row)


def rotate_key(tx: Connection, key_id: str, *, overlap: timedelta, seen_by: uuid.UUID | None = None) -> str:
    """A new key with the rights and the end of an old one, which works `overlap` longer, so that nobody stands outside.

    Raises NotFoundError, and ConflictError where the old one is no longer in force.
    """
    get_key(tx, key_id, seen_by=seen_by)
    now = sa.func.clock_timestamp()
    expires_at = api_keys.c.expires_at
    in_force = api_keys.c.revoked_at.is_(None) & (expires_at.is_(None) | (expires_at > now))
    statement = sa.update(api_keys).values(expires_at=sa.func.least(expires_at, now + overlap))
    statement = statement.where(api_keys.c.id == key_id, in_force)
    old = tx.execute(statement.returning(*_COLUMNS, api_keys.c.ends_at)).one_or_none()
    if old is None:
        raise ConflictError(f"The API key {key_id!r} is revoked or expired; make a new one.")
    return create_key(tx, name=old.name, scopes=old.scopes, user_id=old.user_id, expires_at=old.ends_at)


def revoke_key(tx: Connection, key_id: str, *, seen_by: uuid.UUID | None = None) -> None:
    """The key is refused from now on; revoking it again changes nothing. Raises NotFoundError."""
    revoked_at = sa.func.coalesce(api_keys.c.revoked_at, sa.func.clock_timestamp())
    statement = sa.update(api_keys).values(revoked_at=revoked_at).where(api_keys.c.id == key_id, *_seen(seen_by))
    if tx.execute(statement).rowcount != 1:
        raise NotFoundError(f"There is no API key {key_id!r}.")


def id_of(key: str) -> str:
    """The id in a whole key."""
    return key.split("_")[2]


def spend(tx: Connection, key_id: str, *, quota: int) -> Allowance:
    """Counts one request of a key that may ask `quota` times a minute (GCRA). Raises TooManyRequestsError.

    Losing the last of these counts in a crash harms nobody, so no request waits for the disk: the statement itself
    says so to PostgreSQL.
    """
    one = timedelta(minutes=1) / quota
    spent = tx.execute(_SPENT, {"key_id": key_id, "one": one}).one_or_none()
    if spent is None:
        over = float(tx.execute(_AHEAD, {"key_id": key_id}).scalar_one()) - 60
        wait = max(1, math.ceil(over + one.total_seconds()))
        raise TooManyRequestsError(f"This key may ask {quota} times a minute; ask again in {wait} s.", wait)
    left = max(float(spent.ahead), 0.0)
    return Allowance(quota, int((60 - left) * quota / 60 + 1e-6), math.ceil(left))


_ID = api_keys.c.id == sa.bindparam("key_id")
_NOW = sa.func.clock_timestamp()
_UNTIL = sa.func.greatest(sa.func.coalesce(api_keys.c.spent_until, _NOW), _NOW) + sa.bindparam("one", type_=sa.Interval)
_AHEAD = sa.select(sa.func.extract("epoch", api_keys.c.spent_until - _NOW)).where(_ID)
_SPENT = (
    sa.update(api_keys)
    .values(spent_until=_UNTIL)
    .where(_ID, _NOW + timedelta(minutes=1) >= _UNTIL)
    .returning(
        sa.func.extract("epoch", api_keys.c.spent_until - _NOW).label("ahead"),
        sa.func.set_config("synchronous_commit", "off", True),
    )
)
_KNOWN = sa.select(api_keys).where(_ID)
"""Written once, because every request needs them."""


def authenticate(tx: Connection, presented: str, *, now: datetime) -> Caller:
    """The caller behind a presented key. Raises NotAuthenticatedError.

    An unknown id is compared with a hash that nothing has, so that it costs what a wrong secret costs.
    """
    match = _KEY.fullmatch(presented)
    if match is None or not hmac.compare_digest(_checksum(match[1]), match[4]):
        raise NotAuthenticatedError("This is not an API key: it is incomplete or mistyped. Copy it again, whole.")
    row = tx.execute(_KNOWN, {"key_id": match[2]}).one_or_none()
    known = _NOBODY if row is None else row.secret_sha256
    is_right = hmac.compare_digest(hashlib.sha256(match[3].encode()).digest(), known)
    if row is None or not is_right:
        raise NotAuthenticatedError("This API key is unknown.")
    if row.revoked_at is not None:
        raise NotAuthenticatedError("This API key was revoked.")
    if row.expires_at is not None and row.expires_at <= now:
        raise NotAuthenticatedError(f"This API key expired at {row.expires_at.astimezone(UTC).isoformat()}.")
    if row.last_used_at is None or row.last_used_at <= now - USED_AGAIN_AFTER:
        tx.execute(sa.update(api_keys).values(last_used_at=now).where(api_keys.c.id == row.id))
    return Caller(row.id, frozenset(row.scopes), row.user_id)


def _checksum(body: str) -> str:
    return _text(zlib.crc32(body.encode()), 6)


def _text(number: int, length: int) -> str:
    """A number in base 62, padded."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
