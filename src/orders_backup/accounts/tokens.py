"""Token pairs: sealed, refreshed once, never lost. The only writer of account_tokens.

A refresh token works once, and for 60 seconds more (Allegro's staff, 2023). So: a durable intent before the call;
the new pair on disk before anything else can fail; the database's row under a generation fence; and after a crash
the same steps again with the spooled pair or, inside the grace, with the old token.
"""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from orders_backup import budget
from orders_backup import db as database
from orders_backup.accounts import spool
from orders_backup.accounts.spool import SealedPair
from orders_backup.allegro import oauth
from orders_backup.allegro.oauth import Pair
from orders_backup.budget import Bucket, Priority
from orders_backup.errors import (
    AllegroError,
    AllegroLimitError,
    BudgetExhaustedError,
    ReauthorizationRequiredError,
    TokenBusyError,
    TokenRefusedError,
)
from orders_backup.runtime import Runtime
from orders_backup.tables import account_tokens, accounts

GRACE = timedelta(seconds=60)
"""How long a used refresh token still works, from its first use (Allegro's authorization tutorial)."""
INTENT_HOLDS = timedelta(seconds=15)
"""Longer than the call's deadline: afterwards whoever began the refresh is gone."""
REFRESH_AT = (0.75, 0.85)
"""The share of the access token's life after which it is renewed; the spread keeps accounts apart."""
LIMITED_FOR = timedelta(minutes=5)
REFUSED_TIMES = 3

log = structlog.get_logger()


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


def adopt(tx: Connection, runtime: Runtime, account_id: UUID, pair: Pair, *, now: datetime) -> None:
    """The pair of a finished device flow becomes the account's next generation, whatever was there before."""
    row = _locked(tx, account_id)
    query = sa.select(accounts.c.forgotten_generation).where(accounts.c.id == account_id)
    last = tx.execute(query).scalar_one() if row is None else row.generation
    generation = 1 if last is None else last + 2  # a refresh under way may still bring last + 1
    values = _stored(seal(runtime, account_id, generation, pair, now=now), generation, now=now)
    statement = insert(account_tokens).values(account_id=account_id, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["account_id"], set_=values))


def forget(tx: Connection, account_id: UUID) -> None:
    """The account's tokens are deleted; their generation is remembered and never given again."""
    mine = account_tokens.c.account_id == account_id
    generation = tx.execute(sa.delete(account_tokens).where(mine).returning(account_tokens.c.generation))
    if (last := generation.scalar_one_or_none()) is not None:
        tx.execute(sa.update(accounts).values(forgotten_generation=last).where(accounts.c.id == account_id))


def current(runtime: Runtime, account_id: UUID) -> AccessToken:
    """The access token in force. Raises ReauthorizationRequiredError where the account has none."""
    with database.transaction(runtime.db) as tx:
        row = tx.execute(sa.select(account_tokens).where(account_tokens.c.account_id == account_id)).one_or_none()
    return _access(runtime, account_id, row)


def refresh_due(runtime: Runtime, account_id: UUID) -> None:
    """The background's refresh: does nothing where the token is not due any more."""
    with database.transaction(runtime.db) as tx:
        row = tx.execute(sa.select(account_tokens).where(account_tokens.c.account_id == account_id)).one_or_none()
        now = database.clock(tx)
    if row is not None and row.due_at is not None and row.due_at <= now:
        refresh(runtime, account_id, seen=row.generation)


def refresh(runtime: Runtime, account_id: UUID, *, seen: int) -> AccessToken:
    """A newer access token than generation `seen`: another worker's, the spooled one, or a fresh one.

    Raises TokenBusyError while another worker refreshes, ReauthorizationRequiredError where the token is dead,
    BudgetExhaustedError, and AllegroError where the outcome is open; then the refresh stays due.
    """
    _take_permit(runtime, account_id)
    begun = _begin(runtime, account_id, seen=seen)
    if isinstance(begun, AccessToken):
        return begun
    now = begun.intent_at
    try:
        pair = oauth.refresh(runtime.oauth, begun.refresh_token)
    except AllegroError as error:
        raise _settle_failure(runtime, account_id, begun, error) from None
    sealed = seal(runtime, account_id, begun.generation + 1, pair, now=now)
    spool.keep(_folder(runtime), account_id, str(begun.generation + 1), sealed)
    return _store(runtime, account_id, begun.generation, sealed)


def _take_permit(runtime: Runtime, account_id: UUID) -> None:
    """One request of the budget. While the outcome of a refresh is open and the grace runs, a silence of the whole
    client id is no reason to lose the login: then the account's own bucket decides alone."""
    mine = Bucket(f"account:{account_id}:auth", runtime.settings.rate_limit_auth)
    all_of_us = Bucket(f"client:{runtime.oauth.client_id}", runtime.settings.rate_limit_client)
    try:
        budget.take(runtime.db, [all_of_us, mine], 1, priority=Priority.TOKEN)
    except BudgetExhaustedError:
        table = account_tokens.c
        is_open = table.intent_first_at > sa.func.clock_timestamp() - GRACE
        with database.transaction(runtime.db) as tx:
            found = tx.execute(sa.select(table.account_id).where(table.account_id == account_id, is_open)).one_or_none()
        if found is None:
            raise
        budget.take(runtime.db, [mine], 1, priority=Priority.TOKEN)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A refresh whose intent is durable. `first_at`: the first call that may have used up the token."""

    generation: int
    refresh_token: str = field(repr=False)
    intent_at: datetime
    first_at: datetime
    failures: int


def _begin(runtime: Runtime, account_id: UUID, *, seen: int) -> _Begun | AccessToken:
    """Step one: look under the row's lock whether there is still something to do, and write the intent."""
    with database.transaction(runtime.db) as tx:
        row = _locked(tx, account_id)
        now = database.clock(tx)
        if row is None or row.generation > seen:
            return _access(runtime, account_id, row)
        if row.intent_at is not None and row.intent_at > now - INTENT_HOLDS:
            raise TokenBusyError("Another worker is refreshing this account's token.")
        first_at = row.intent_first_at or now
        waiting = spool.find(_folder(runtime), account_id, str(row.generation + 1))
        if waiting is None:
            values = {"intent_at": now, "intent_first_at": first_at, "due_at": now + INTENT_HOLDS, "rung_at": None}
            tx.execute(sa.update(account_tokens).values(values).where(account_tokens.c.account_id == account_id))
    if waiting is not None:
        return _store(runtime, account_id, row.generation, waiting)
    token = runtime.vault.open(row.refresh_sealed, account_id, row.generation, "refresh")
    return _Begun(row.generation, token, now, first_at, row.failures)


def _store(runtime: Runtime, account_id: UUID, generation: int, sealed: SealedPair) -> AccessToken:
    """The last step: the new pair in the row, if nobody stored a newer one; then the spool may forget it."""
    with database.transaction(runtime.db) as tx:
        values = _stored(sealed, generation + 1, now=database.clock(tx))
        table = account_tokens.c
        mine = (table.account_id == account_id) & (table.generation == generation)
        tx.execute(sa.update(account_tokens).values(values).where(mine))
        row = tx.execute(sa.select(account_tokens).where(table.account_id == account_id)).one_or_none()
    spool.discard(_folder(runtime), account_id, str(generation + 1))
    log.info("token_refreshed", account_id=str(account_id), generation=generation + 1)
    return _access(runtime, account_id, row)


def _settle_failure(runtime: Runtime, account_id: UUID, begun: _Begun, error: AllegroError) -> Exception:
    """Writes down what a failed call means, and gives back the error to raise.

    No answer: the token may be used up, so it is tried again inside the grace. Refused: dead only when the grace
    has passed since the first call, so that a refusal that crossed with a lost answer costs no login.
    """
    table = account_tokens.c
    with database.transaction(runtime.db) as tx:
        row = _locked(tx, account_id)
        now = database.clock(tx)
        if row is None or row.generation != begun.generation:
            return TokenBusyError("Another worker has stored a newer token.")
        values = {"failures": begun.failures + 1, "last_error": error.code, "due_at": now + timedelta(seconds=16)}
        is_dead = False
        is_open = begun.first_at < begun.intent_at
        if isinstance(error, AllegroLimitError) and not is_open:
            values |= {"intent_at": None, "intent_first_at": None, "due_at": now + LIMITED_FOR}
        elif isinstance(error, TokenRefusedError):
            is_dead = _is_dead(tx, account_id, begun, error, now=now)
        elif begun.failures > REFUSED_TIMES:
            values["due_at"] = now + min(timedelta(seconds=2**begun.failures), LIMITED_FOR)
        tx.execute(sa.update(account_tokens).values(values).where(table.account_id == account_id))
        if is_dead:
            lose(tx, account_id, reason=error.error if isinstance(error, TokenRefusedError) else error.code)
    if is_dead:
        log.critical("token_lost", account_id=str(account_id), error=str(error))
        return ReauthorizationRequiredError(
            "Allegro no longer accepts this seller's tokens; connect the account again."
        )
    return error


def _is_dead(tx: Connection, account_id: UUID, begun: _Begun, error: TokenRefusedError, *, now: datetime) -> bool:
    """400 after the grace is final. 401 may be our own credentials: final only while other accounts are accepted."""
    if error.http_status == 400:
        return error.error in {"invalid_grant", "invalid_token"} and now >= begun.first_at + GRACE
    others = sa.select(account_tokens.c.account_id).where(
        account_tokens.c.account_id != account_id, account_tokens.c.obtained_at > begun.first_at
    )
    return begun.failures >= REFUSED_TIMES and tx.execute(others.limit(1)).one_or_none() is not None


def lose(tx: Connection, account_id: UUID, *, reason: str) -> None:
    """The seller has to connect again: polling stops, cursor and orders stay."""
    tx.execute(sa.update(account_tokens).values(due_at=None).where(account_tokens.c.account_id == account_id))
    tx.execute(
        sa.update(accounts)
        .values(status="reauthorization_required", reason=reason)
        .where(accounts.c.id == account_id, accounts.c.status == "active")
    )


def _stored(sealed: SealedPair, generation: int, *, now: datetime) -> dict[str, Any]:
    """The row's values for a fresh pair; the next refresh is due at 75 to 85 % of the access token's life."""
    life = sealed.access_expires_at - now
    return {
        "generation": generation,
        "access_sealed": sealed.access_sealed,
        "refresh_sealed": sealed.refresh_sealed,
        "access_expires_at": sealed.access_expires_at,
        "obtained_at": now,
        "intent_at": None,
        "intent_first_at": None,
        "due_at": now + life * random.uniform(*REFRESH_AT),  # noqa: S311 – spread, not secrecy
        "rung_at": None,
        "failures": 0,
        "last_error": None,
    }


def _locked(tx: Connection, account_id: UUID) -> "Row[Any] | None":
    query = sa.select(account_tokens).where(account_tokens.c.account_id == account_id).with_for_update()
    return tx.execute(query).one_or_none()


def _access(runtime: Runtime, account_id: UUID, row: "Row[Any] | None") -> AccessToken:
    if row is None:
        raise ReauthorizationRequiredError("This account has no tokens; connect it again.")
    value = runtime.vault.open(row.access_sealed, account_id, row.generation, "access")
    return AccessToken(value, row.generation, row.access_expires_at)


def _folder(runtime: Runtime) -> Path:
    return runtime.settings.data_dir / "spool"
