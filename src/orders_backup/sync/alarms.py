"""Warnings of an account in the log: what could lose orders soon, once a day for each."""

from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.engine import Connection

from orders_backup.accounts import facts, warnings
from orders_backup.sync import discoveries

log = structlog.get_logger()


def give(tx: Connection, account_id: UUID, *, now: datetime) -> None:
    """Logs what threatens orders of this account, unless that was logged today already."""
    for warning in facts.warnings_of(tx, [account_id])[account_id]:
        if not discoveries.is_first_today(tx, account_id, warning.code, now=now):
            continue
        if warning.code == warnings.CLIFF_NEAR:
            log.error("cliff_neared", account_id=str(account_id), code=warning.code)
        else:
            log.warning("account_warned", account_id=str(account_id), code=warning.code)
