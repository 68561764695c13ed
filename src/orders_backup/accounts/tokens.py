"""The refresh of a token pair: made once, never lost.

A refresh token works once, and for 60 seconds more (Allegro's staff, 2023). So: a durable intent before the call;
the new pair on disk before anything else can fail; the database's row under a generation fence; and after a crash
the same steps again with the spooled pair or, inside the grace, with the old token.
"""

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row

from orders_backup import budget
from orders_backup import db as database
from orders_backup.accounts import journal, pairs, recovery
from orders_backup.accounts.pairs import AccessToken
from orders_backup.accounts.spool import SealedPair
from orders_backup.allegro import oauth
from orders_backup.budget import Bucket, Priority
from orders_backup.errors import (
    AllegroError,
    AllegroLimitError,
    AllegroUnavailableError,
    BudgetExhaustedError,
    ReauthorizationRequiredError,
    StorageUnavailableError,
    TokenBusyError,
    TokenRefusedError,
)
from orders_backup.runtime import Runtime
from orders_backup.tables import account_tokens

GRACE = timedelta(seconds=60)
"""How long a used refresh token still works, from its first use (Allegro's authorization tutorial)."""
LAST_USE = timedelta(seconds=55)
"""From here to the end of the grace nobody calls: Allegro's clock may say that it is over."""
INTENT_HOLDS = timedelta(seconds=15)
"""Longer than the call's deadline: afterwards whoever began the refresh is gone."""
TRY_AGAIN = timedelta(seconds=16)
UNKNOWN_AGAIN = timedelta(seconds=25)
"""While nobody knows whether a call used up the token: two more tries fit into the grace of each, however long an
outage lasts."""
LIMITED_FOR = timedelta(minutes=5)
REFUSED_TIMES = 3

log = structlog.get_logger()


def current(runtime: Runtime, account_id: UUID) -> AccessToken:
    """The access token in force. Raises ReauthorizationRequiredError where the account has none."""
    with database.transaction(runtime.db) as tx:
        row = pairs.found(tx, account_id)
    return pairs.access(runtime, account_id, row)


def refresh_due(runtime: Runtime, account_id: UUID) -> None:
    """The background's refresh: does nothing where the token is not due any more."""
    with database.transaction(runtime.db) as tx:
        row = pairs.found(tx, account_id)
        now = database.clock(tx)
    if row is not None and row.due_at is not None and row.due_at <= now:
        refresh(runtime, account_id, seen=row.generation)


def refresh(runtime: Runtime, account_id: UUID, *, seen: int, refused: bool = False) -> AccessToken:
    """A newer access token than generation `seen`: another worker's, one from the journal, or a fresh one.

    `refused`: Allegro answered 401 to generation `seen`, so the database may be an old one: the journal is asked
    everywhere. Raises TokenBusyError while another worker refreshes, ReauthorizationRequiredError where the token
    is dead, BudgetExhaustedError, and AllegroError where the outcome is open; then the refresh stays due.
    """
    known = _known(runtime, account_id, seen=seen, refused=refused)
    if isinstance(known, AccessToken):
        return known
    _take_permit(runtime, account_id)
    began = time.monotonic()
    begun = _begin(runtime, account_id, seen=known)
    if isinstance(begun, AccessToken):
        return begun
    if time.monotonic() - began > INTENT_HOLDS.total_seconds():
        raise TokenBusyError("This refresh was begun too long ago; it is begun again.")
    try:
        pair = oauth.refresh(runtime.oauth, begun.refresh_token)
    except AllegroError as error:
        return _after_failure(runtime, account_id, begun, error)
    sealed = pairs.seal(runtime, account_id, begun.generation + 1, pair, now=begun.intent_at)
    keep(runtime, account_id, begun.generation + 1, sealed)
    return _store(runtime, account_id, begun.generation, sealed)


def keep(runtime: Runtime, account_id: UUID, generation: int, sealed: SealedPair) -> None:
    """On the disk. A full or broken disk must not lose what the database can still take."""
    try:
        journal.spooled(runtime, account_id, generation, sealed)
    except OSError as error:
        log.critical("token_spool_failed", account_id=str(account_id), generation=generation, exc_info=error)


def _known(runtime: Runtime, account_id: UUID, *, seen: int, refused: bool) -> AccessToken | int:
    """A newer token for which nobody needs to be asked; else the generation that has to be refreshed."""
    with database.transaction(runtime.db) as tx:
        row = pairs.found(tx, account_id)
        now = database.clock(tx)
    if row is None or row.generation > seen:
        return pairs.access(runtime, account_id, row)
    is_late = row.access_expires_at <= now  # an outage of hours, or a restored database
    is_newer, _ = _looked(runtime, account_id, everywhere=refused or is_late)
    if is_newer:
        token = current(runtime, account_id)
        return token if token.expires_at > now else token.generation
    _need_nobody_at_it(row, now)
    return seen


def _looked(runtime: Runtime, account_id: UUID, *, everywhere: bool, spare: bool = False) -> tuple[bool, bool]:
    """Whether the row has a newer pair now, or none any more; and whether all places were looked at."""
    try:
        found, is_all = recovery.look(runtime, account_id, everywhere=everywhere, spare=spare), True
    except StorageUnavailableError:
        log.warning("token_journal_missed", account_id=str(account_id))
        found, is_all = recovery.look(runtime, account_id, everywhere=False, spare=spare), False
    return found is not None and found.outcome != "level", is_all


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
    was_refused: bool


def _begin(runtime: Runtime, account_id: UUID, *, seen: int) -> _Begun | AccessToken:
    """Step one: look under the row's lock whether there is still something to do, and write the intent."""
    with database.transaction(runtime.db) as tx:
        row = pairs.locked(tx, account_id)
        now = database.clock(tx)
        if row is None or row.generation > seen:
            return pairs.access(runtime, account_id, row)
        _need_nobody_at_it(row, now)
        first_at = row.intent_first_at or now
        values = {"intent_at": now, "intent_first_at": first_at, "due_at": now + INTENT_HOLDS, "rung_at": None}
        tx.execute(sa.update(account_tokens).values(values).where(account_tokens.c.account_id == account_id))
    token = runtime.vault.open(row.refresh_sealed, account_id, row.generation, "refresh")
    return _Begun(row.generation, token, now, first_at, row.failures, row.last_error == TokenRefusedError.code)


def _need_nobody_at_it(row: "Row[Any]", now: datetime) -> None:
    """Raises TokenBusyError while somebody may be calling, and where a call would come at the very end of the grace."""
    if row.intent_at is not None and row.intent_at > now - INTENT_HOLDS:
        raise TokenBusyError("Another worker is refreshing this account's token.")
    if row.intent_first_at is not None and LAST_USE < now - row.intent_first_at < GRACE:
        raise TokenBusyError("The grace of this account's refresh token is about to end.")


def _store(runtime: Runtime, account_id: UUID, generation: int, sealed: SealedPair) -> AccessToken:
    """The last step: the new pair in the row, if nobody stored a newer one; only then is it used."""
    with database.transaction(runtime.db) as tx:
        is_ours = pairs.renew(tx, account_id, generation, sealed)
        row = pairs.found(tx, account_id)
    if is_ours:
        log.info("token_refreshed", account_id=str(account_id), generation=generation + 1)
    return pairs.access(runtime, account_id, row)


def _after_failure(runtime: Runtime, account_id: UUID, begun: _Begun, error: AllegroError) -> AccessToken:
    """What a failed call means. Refused: the journal may have a newer pair; the token is dead only if it has none."""
    is_refused = _is_refused(error)
    is_final = is_refused and begun.was_refused and begun.intent_at >= begun.first_at + GRACE
    if is_refused:
        is_newer, is_all = _looked(runtime, account_id, everywhere=True, spare=is_final)
        if is_newer:
            return current(runtime, account_id)
        is_final &= is_all
    raise _settled(runtime, account_id, begun, error, is_final=is_final) from None


def _settled(runtime: Runtime, account_id: UUID, begun: _Begun, error: AllegroError, *, is_final: bool) -> Exception:
    """Writes down what a failed call means, and gives back the error to raise."""
    with database.transaction(runtime.db) as tx:
        pairs.lock_account(tx, account_id)
        row = pairs.locked(tx, account_id)
        now = database.clock(tx)
        if row is None or row.generation != begun.generation:
            return TokenBusyError("Another worker has stored a newer token.")
        values = {"failures": begun.failures + 1, "last_error": error.code, "due_at": _again_at(begun, error, now)}
        if isinstance(error, AllegroLimitError) and begun.first_at == begun.intent_at:
            values |= {"intent_at": None, "intent_first_at": None}
        tx.execute(sa.update(account_tokens).values(values).where(account_tokens.c.account_id == account_id))
        is_dead = is_final or _was_removed(tx, account_id, begun, error)
        if is_dead:
            pairs.lose(tx, account_id, reason=error.error if isinstance(error, TokenRefusedError) else error.code)
    if is_dead:
        reason = error.error if isinstance(error, TokenRefusedError) else None
        log.critical("token_lost", account_id=str(account_id), code=error.code, reason=reason)
        return ReauthorizationRequiredError(
            "Allegro no longer accepts this seller's tokens; connect the account again."
        )
    return error


def _again_at(begun: _Begun, error: AllegroError, now: datetime) -> datetime:
    """When to try again: soon while the grace runs, and for ever while each call may have used up the token."""
    if isinstance(error, AllegroLimitError) and begun.first_at == begun.intent_at:
        return now + LIMITED_FOR
    if now < begun.first_at + GRACE:
        soon = max(begun.intent_at + TRY_AGAIN, now)
        return soon if soon < begun.first_at + LAST_USE else max(soon, begun.first_at + GRACE)
    if isinstance(error, AllegroUnavailableError):
        return begun.intent_at + UNKNOWN_AGAIN
    return max(begun.intent_at + TRY_AGAIN, now + min(timedelta(seconds=2 ** min(begun.failures, 9)), LIMITED_FOR))


def _is_refused(error: AllegroError) -> bool:
    """The token itself, not our credentials or our way of asking."""
    codes = {"invalid_grant", "invalid_token"}
    return isinstance(error, TokenRefusedError) and error.http_status == 400 and error.error in codes


def _was_removed(tx: Connection, account_id: UUID, begun: _Begun, error: AllegroError) -> bool:
    """401 may be our own credentials: final for one seller only while other sellers' tokens are renewed."""
    if not isinstance(error, TokenRefusedError) or error.http_status != 401 or begun.failures < REFUSED_TIMES:
        return False
    others = sa.select(account_tokens.c.account_id).where(
        account_tokens.c.account_id != account_id, account_tokens.c.obtained_at > begun.first_at
    )
    return tx.execute(others.limit(1)).one_or_none() is not None
