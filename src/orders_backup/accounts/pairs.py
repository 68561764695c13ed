"""The rows of account_tokens: sealed pairs under a generation fence. Their only writer; nothing is asked of Allegro.

Whoever locks an account and its tokens locks the account first: connecting, losing and forgetting meet there.
"""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from orders_backup import db as database
from orders_backup.accounts.spool import SealedPair
from orders_backup.allegro.oauth import Pair
from orders_backup.errors import ReauthorizationRequiredError
from orders_backup.runtime import Runtime
from orders_backup.tables import account_tokens, accounts

REFRESH_AT = (0.75, 0.85)
"""The share of the access token's life after which it is renewed; the spread keeps accounts apart."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token to be sent to Allegro, and which generation of the account's pair it is."""

    value: str = field(repr=False)
    generation: int
    expires_at: datetime


def seal(runtime: Runtime, account_id: UUID, generation: object, pair: Pair, *, now: datetime) -> SealedPair:
    """Both tokens, each bound to the account, the generation and its field."""
    return SealedPair(
        runtime.vault.seal(pair.access_token, account_id, generation, "access"),
        runtime.vault.seal(pair.refresh_token, account_id, generation, "refresh"),
        now + timedelta(seconds=pair.expires_in),
    )


def opened(runtime: Runtime, account_id: UUID, generation: object, sealed: SealedPair, *, now: datetime) -> Pair:
    """The pair in the clear; `expires_in` counts from `now`. Raises SealedValueError."""
    return Pair(
        runtime.vault.open(sealed.access_sealed, account_id, generation, "access"),
        runtime.vault.open(sealed.refresh_sealed, account_id, generation, "refresh"),
        (sealed.access_expires_at - now).total_seconds(),
    )


# Reading


def found(tx: Connection, account_id: UUID) -> "Row[Any] | None":
    return tx.execute(sa.select(account_tokens).where(_of(account_id))).one_or_none()


def locked(tx: Connection, account_id: UUID) -> "Row[Any] | None":
    return tx.execute(sa.select(account_tokens).where(_of(account_id)).with_for_update()).one_or_none()


def sealed(row: "Row[Any]") -> SealedPair:
    return SealedPair(row.access_sealed, row.refresh_sealed, row.access_expires_at)


def access(runtime: Runtime, account_id: UUID, row: "Row[Any] | None") -> AccessToken:
    """The row's access token. Raises ReauthorizationRequiredError where there is no row."""
    if row is None:
        raise ReauthorizationRequiredError("This account has no tokens; connect it again.")
    value = runtime.vault.open(row.access_sealed, account_id, row.generation, "access")
    return AccessToken(value, row.generation, row.access_expires_at)


# Writing


def adopt(tx: Connection, account_id: UUID, generation: int, fresh: SealedPair, *, now: datetime) -> None:
    """The pair of a finished device flow becomes the account's, whatever was there before."""
    values = _stored(fresh, generation, now=now) | {"obtained_at": now}
    statement = insert(account_tokens).values(account_id=account_id, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["account_id"], set_=values))


def next_login(tx: Connection, account_id: UUID, *, known: int | None) -> int:
    """The generation of a new login: above all that were ever given. `known`: the journal's highest, None for none."""
    row = locked(tx, account_id)
    forgotten = tx.execute(sa.select(accounts.c.forgotten_generation).where(accounts.c.id == account_id)).scalar_one()
    given = [one for one in (known, forgotten, row and row.generation) if one is not None]
    return max(given) + 2 if given else 1  # a refresh under way may still bring one more


def renew(tx: Connection, account_id: UUID, generation: int, fresh: SealedPair) -> bool:
    """The refreshed pair in the row, if that still has the generation the refresh began with."""
    now = database.clock(tx)
    values = _stored(fresh, generation + 1, now=now) | {"obtained_at": now}
    mine = _of(account_id) & (account_tokens.c.generation == generation)
    return tx.execute(sa.update(account_tokens).values(values).where(mine)).rowcount == 1


def take_over(tx: Connection, account_id: UUID, generation: int, newer: SealedPair) -> bool:
    """A pair of the journal in the row, if that has an older one; an account that was lost for want of it is active."""
    lock_account(tx, account_id)
    row = locked(tx, account_id)
    if row is None or row.generation >= generation:
        return False
    values = _stored(newer, generation, now=database.clock(tx))
    tx.execute(sa.update(account_tokens).values(values).where(_of(account_id)))
    lost = (accounts.c.id == account_id) & (accounts.c.status == "reauthorization_required")
    tx.execute(sa.update(accounts).values(status="active", reason=None).where(lost))
    return True


def forget(tx: Connection, account_id: UUID, *, at_least: int = 0) -> None:
    """The account's tokens are deleted; their generation is remembered and never given again."""
    lock_account(tx, account_id)
    gone = tx.execute(sa.delete(account_tokens).where(_of(account_id)).returning(account_tokens.c.generation))
    if (last := gone.scalar_one_or_none()) is not None:
        values = {"forgotten_generation": max(last, at_least)}
        tx.execute(sa.update(accounts).values(values).where(accounts.c.id == account_id))


def lose(tx: Connection, account_id: UUID, *, reason: str) -> None:
    """The seller has to connect again: polling stops, cursor and orders stay. The account is locked already."""
    tx.execute(sa.update(account_tokens).values(due_at=None).where(_of(account_id)))
    tx.execute(
        sa.update(accounts)
        .values(status="reauthorization_required", reason=reason)
        .where(accounts.c.id == account_id, accounts.c.status == "active")
    )


def lock_account(tx: Connection, account_id: UUID) -> None:
    tx.execute(sa.select(accounts.c.id).where(accounts.c.id == account_id).with_for_update(key_share=True))


def _of(account_id: UUID) -> sa.ColumnElement[bool]:
    return account_tokens.c.account_id == account_id


def _stored(fresh: SealedPair, generation: int, *, now: datetime) -> dict[str, Any]:
    """The row's values for a pair; the next refresh is due at 75 to 85 % of what is left of the access token's life."""
    life = fresh.access_expires_at - now
    return {
        "generation": generation,
        "access_sealed": fresh.access_sealed,
        "refresh_sealed": fresh.refresh_sealed,
        "access_expires_at": fresh.access_expires_at,
        "intent_at": None,
        "intent_first_at": None,
        "due_at": now + life * random.uniform(*REFRESH_AT),  # noqa: S311 – spread, not secrecy
        "rung_at": None,
        "failures": 0,
        "last_error": None,
    }
