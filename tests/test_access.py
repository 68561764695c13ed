"""API keys: made, recognised, refused."""

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from orders_backup import access
from orders_backup import db as database
from orders_backup.errors import InvalidRequestError, MissingScopeError, NotAuthenticatedError, NotFoundError
from orders_backup.tables import api_keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_key_is_recognised_with_its_scopes_and_user(db: Engine) -> None:
    user = uuid4()
    with database.transaction(db) as tx:
        key = access.create_key(tx, name="shop", scopes=["sync", "orders:read"], user_id=user)
        caller = access.authenticate(tx, key, now=NOW)
    assert key.startswith("aob_live_")
    assert (caller.scopes, caller.user_id) == (frozenset({"sync", "orders:read"}), user)
    caller.require("sync")
    caller.require_user(user)
    with pytest.raises(MissingScopeError, match="admin"):
        caller.require("admin")
    with pytest.raises(MissingScopeError):
        caller.require_user(uuid4())


def test_the_database_holds_no_secret(db: Engine) -> None:
    with database.transaction(db) as tx:
        key = access.create_key(tx, name="shop", scopes=["sync"])
        row = tx.execute(sa.select(api_keys)).one()
    secret = key.removeprefix(f"aob_live_{row.id}_")[:-6]
    assert row.secret_sha256 == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(tuple(row))
    assert len(secret) * 5.954 > 256


def test_a_mistyped_key_is_refused_without_a_query(db: Engine) -> None:
    with database.transaction(db) as tx:
        key = access.create_key(tx, name="shop", scopes=["sync"])
        asked: list[str] = []
        sa.event.listen(tx, "before_cursor_execute", lambda *given: asked.append(given[2]))
        wrong = [key[:20] + ("x" if key[20] != "x" else "y") + key[21:], key[:-1], key + "A", "", "é" * 70, "aob_live_"]
        for one in [*wrong, key.lower(), f" {key}"]:
            with pytest.raises(NotAuthenticatedError):
                access.authenticate(tx, one, now=NOW)
        assert asked == []


def test_a_wrong_secret_and_an_unknown_id_are_refused_alike(db: Engine) -> None:
    with database.transaction(db) as tx:
        known = access.create_key(tx, name="a", scopes=["sync"])
        forged = known[:22] + access.create_key(tx, name="b", scopes=["sync"])[22:-6]
        forged += access._checksum(forged)
        unknown = f"aob_live_{'0' * 12}_{'0' * 43}"
        unknown += access._checksum(unknown)
        said = []
        for key in (forged, unknown):
            with pytest.raises(NotAuthenticatedError) as refused:
                access.authenticate(tx, key, now=NOW)
            said.append(str(refused.value))
    assert said[0] == said[1]


def test_an_expired_or_revoked_key_is_refused(db: Engine) -> None:
    with database.transaction(db) as tx:
        key = access.create_key(tx, name="a", scopes=["sync"], expires_at=NOW)
        access.authenticate(tx, key, now=NOW - timedelta(seconds=1))
        with pytest.raises(NotAuthenticatedError, match="expired"):
            access.authenticate(tx, key, now=NOW)
        listed = access.list_keys(tx)[0]
        access.revoke_key(tx, listed.id)
        with pytest.raises(NotAuthenticatedError, match="revoked"):
            access.authenticate(tx, key, now=NOW - timedelta(seconds=1))
        at = access.list_keys(tx)[0].revoked_at
        access.revoke_key(tx, listed.id)
        assert access.list_keys(tx)[0].revoked_at == at is not None
        with pytest.raises(NotFoundError):
            access.revoke_key(tx, "nobody")


def test_its_use_is_noted_at_most_once_a_minute(db: Engine) -> None:
    noted = []
    with database.transaction(db) as tx:
        key = access.create_key(tx, name="a", scopes=["sync"])
        for seconds in (0, 59, 60, 61):
            access.authenticate(tx, key, now=NOW + timedelta(seconds=seconds))
            noted.append(access.list_keys(tx)[0].last_used_at)
    assert noted == [NOW, NOW, NOW + timedelta(seconds=60), NOW + timedelta(seconds=60)]


def test_a_key_needs_a_name_and_scopes_that_exist(db: Engine) -> None:
    with database.transaction(db) as tx:
        for name, scopes in (("", ["sync"]), ("a", []), ("a", ["everything"]), ("a" * 201, ["sync"])):
            with pytest.raises(InvalidRequestError):
                access.create_key(tx, name=name, scopes=scopes)
        assert access.list_keys(tx) == []
