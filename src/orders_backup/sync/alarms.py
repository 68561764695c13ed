"""Warnings of accounts in the log: what could lose orders soon, once a day for each, whether they are synced or not.

The scheduler looks, because who is paused or has lost his login has no syncs. Alone writes `warnings_given`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup.accounts import facts, warnings

EVERY = 3600.0
"""Seconds from one round of all accounts to the next."""
AT_ONCE = 500
"""Accounts at a time; the scheduler has other things to do."""

log = structlog.get_logger()

_SOME = sa.text("""
SELECT id FROM accounts WHERE id > :after AND connected_at IS NOT NULL AND status <> 'disconnected'
 ORDER BY id LIMIT :limit
""")

_FORGET = sa.text("""
DELETE FROM warnings_given w WHERE account_id = ANY (CAST(:ids AS uuid[])) AND NOT (
    day >= CAST(:today AS date) - 1 AND EXISTS (
        SELECT FROM unnest(CAST(:accounts AS uuid[]), CAST(:codes AS text[])) AS held (account_id, code)
         WHERE held.account_id = w.account_id AND held.code = w.code))
""")

_NOTE = sa.text("""
INSERT INTO warnings_given (account_id, code, day)
SELECT account_id, code, CAST(:today AS date)
  FROM unnest(CAST(:accounts AS uuid[]), CAST(:codes AS text[])) AS held (account_id, code)
    ON CONFLICT DO NOTHING RETURNING account_id, code
""")


@dataclass(slots=True)
class Rounds:
    """How far one scheduler is in its round of the connected accounts. `after`: the account it looked at last; None:
    the round that began at `began_at`, on the monotonic clock, is over."""

    began_at: float = -math.inf
    after: UUID | None = None

    def go_on(self, db: Engine, *, at: float) -> None:
        """Some more accounts, unless it is too early for the next round."""
        if self.after is None:
            if at - self.began_at < EVERY:
                return
            self.began_at, self.after = at, UUID(int=0)
        with database.transaction(db) as tx:
            tx.execute(sa.text("SET LOCAL statement_timeout = '20s'"))
            ids = list(tx.execute(_SOME, {"after": self.after, "limit": AT_ONCE}).scalars())
            given = give(tx, ids, now=database.clock(tx))
        self.after = ids[-1] if len(ids) == AT_ONCE else None
        for account_id, code in given:
            if code == warnings.CLIFF_NEAR:
                log.error("cliff_neared", account_id=str(account_id), code=code)
            else:
                log.warning("account_warned", account_id=str(account_id), code=code)


def give(tx: Connection, account_ids: Sequence[UUID], *, now: datetime) -> list[tuple[UUID, str]]:
    """Notes what threatens orders of these accounts, and forgets what no longer does. Answers with what was not noted
    today already."""
    found = facts.warnings_of(tx, account_ids)
    held = [(account_id, one.code) for account_id, several in found.items() for one in several]
    values = {
        "ids": list(account_ids),
        "today": now.date(),
        "accounts": [account_id for account_id, _ in held],
        "codes": [code for _, code in held],
    }
    tx.execute(_FORGET, values)
    return [(row.account_id, row.code) for row in tx.execute(_NOTE, values)]
