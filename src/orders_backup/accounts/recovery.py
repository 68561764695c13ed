"""Newer pairs than the database knows: found in the journal and taken over. A restored dump costs no login by this."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Row

from orders_backup import db as database
from orders_backup.accounts import journal, pairs
from orders_backup.accounts.journal import FORGOTTEN, Entry
from orders_backup.accounts.spool import SealedPair
from orders_backup.errors import SealedValueError, StorageUnavailableError
from orders_backup.runtime import Runtime
from orders_backup.tables import account_tokens, accounts

RESTORING = "restoring"
"""The reason of an account whose orders are coming back: nothing is asked of Allegro for it until then."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one account. `outcome`: `level` (the database has the newest), `adopted`, or `forgotten`."""

    account_id: UUID
    outcome: str
    generation_before: int
    generation: int


def look(runtime: Runtime, account_id: UUID, *, everywhere: bool, spare: bool = False) -> Recovered | None:
    """Takes over the newest pair of the journal where it is newer than the row's; None where there is no row.

    `everywhere`: in object storage too. `spare`: the row's refresh token is dead, so a second pair of the same
    generation will do, which an answer that came too late brought. An account that was disconnected after the
    dump is disconnected again. Raises StorageUnavailableError.
    """
    with database.transaction(runtime.db) as tx:
        row = pairs.found(tx, account_id)
    if row is None:
        return None
    known = journal.entries(runtime, account_id, everywhere=everywhere)
    ended = max((one.generation for one in known if one.mark == FORGOTTEN), default=0)
    if ended >= row.generation and not any(one.generation > ended for one in known):
        return _forget_again(runtime, account_id, row.generation, ended)
    for one in sorted(known, reverse=True):
        is_newer = one.generation > row.generation or (spare and _is_spare(one, row))
        pair = (
            _readable(runtime, account_id, one, everywhere=everywhere) if is_newer and one.generation > ended else None
        )
        if pair is not None:
            return _take_over(runtime, account_id, row.generation, one, pair)
    return Recovered(account_id, "level", row.generation, row.generation)


def bring_back(runtime: Runtime, account_id: UUID) -> Recovered | None:
    """The newest pair of the journal becomes that of an account that has none, because it came back from its archive;
    one that has a newer one keeps it. None where there is none that opens, or the account was disconnected after it.
    Raises StorageUnavailableError."""
    if (found := look(runtime, account_id, everywhere=True)) is not None:
        return found if found.outcome != "forgotten" else None
    known = journal.entries(runtime, account_id, everywhere=True)
    ended = max((one.generation for one in known if one.mark == FORGOTTEN), default=0)
    for one in sorted(known, reverse=True):
        pair = _readable(runtime, account_id, one, everywhere=True) if one.generation > ended else None
        if pair is None:
            continue
        with database.transaction(runtime.db) as tx:
            pairs.adopt(tx, account_id, one.generation, pair, now=database.clock(tx))
        log.warning("token_adopted", account_id=str(account_id), generation=one.generation, before=0)
        return Recovered(account_id, "adopted", 0, one.generation)
    return None


def recover(runtime: Runtime) -> Iterator[Recovered]:
    """Every account, one after the other, after a restore. Raises StorageUnavailableError."""
    with database.transaction(runtime.db) as tx:
        ids = tx.execute(sa.select(account_tokens.c.account_id).order_by(account_tokens.c.account_id)).scalars().all()
    for account_id in ids:
        found = look(runtime, account_id, everywhere=True)
        if found is not None:
            yield found


def highest(runtime: Runtime, account_id: UUID, *, instead: int) -> int | None:
    """The highest generation the journal knows of, None for none; `instead` where it cannot be asked now."""
    try:
        known = journal.entries(runtime, account_id, everywhere=True)
    except StorageUnavailableError:
        return instead
    return max((one.generation for one in known), default=None)


def _is_spare(one: Entry, row: "Row[Any]") -> bool:
    return one.generation == row.generation and one != journal.entry(row.generation, pairs.sealed(row))


def _readable(runtime: Runtime, account_id: UUID, one: Entry, *, everywhere: bool) -> SealedPair | None:
    """The pair of an entry; None where it is gone or does not open: then an older one may still serve."""
    pair = journal.pair(runtime, account_id, one, everywhere=everywhere) if one.mark != FORGOTTEN else None
    if pair is None:
        return None
    try:
        pairs.opened(runtime, account_id, one.generation, pair, now=runtime.clock.now())
    except SealedValueError:
        log.warning("journal_entry_refused", account_id=str(account_id), generation=one.generation)
        return None
    return pair


def _take_over(runtime: Runtime, account_id: UUID, before: int, one: Entry, pair: SealedPair) -> Recovered:
    generation = one.generation
    if generation == before:
        generation, now = before + 1, runtime.clock.now()
        clear = pairs.opened(runtime, account_id, before, pair, now=now)
        pair = pairs.seal(runtime, account_id, generation, clear, now=now)
    with database.transaction(runtime.db) as tx:
        taken = pairs.take_over(tx, account_id, generation, pair)
    if not taken:
        return Recovered(account_id, "level", before, before)
    log.warning("token_adopted", account_id=str(account_id), generation=generation, before=before)
    return Recovered(account_id, "adopted", before, generation)


def _forget_again(runtime: Runtime, account_id: UUID, before: int, ended: int) -> Recovered:
    with database.transaction(runtime.db) as tx:
        pairs.forget(tx, account_id, at_least=ended)
        mine = (accounts.c.id == account_id) & accounts.c.reason.is_distinct_from(RESTORING)
        tx.execute(sa.update(accounts).values(status="disconnected", reason=None).where(mine))
    log.warning("account_disconnected", account_id=str(account_id), generation=ended)
    return Recovered(account_id, "forgotten", before, ended)
