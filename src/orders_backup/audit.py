"""Who changed what: a line before every act, and how it ended. Knows nothing of HTTP; alone writes `audit_log`."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.tables import audit_log


@dataclass(frozen=True, slots=True)
class Act:
    """One act. `actor`: the id of an API key, or `cli:` and the name of the operating system's user. `status`: as HTTP
    tells it; None where the process ended before the act did."""

    seq: int
    at: datetime
    actor: str
    user_id: uuid.UUID | None
    act: str
    target: dict[str, str]
    trace_id: str | None
    status: int | None


def begin(
    tx: Connection,
    *,
    actor: str,
    act: str,
    target: Mapping[str, str],
    user_id: uuid.UUID | None = None,
    trace_id: str | None = None,
) -> int:
    """Notes an act that is about to begin; the number under which to note its end."""
    row = {"actor": actor, "act": act, "target": dict(target), "user_id": user_id, "trace_id": trace_id}
    return int(tx.execute(sa.insert(audit_log).values(row).returning(audit_log.c.seq)).scalar_one())


def end(tx: Connection, seq: int, *, status: int) -> None:
    """Notes how it ended."""
    tx.execute(sa.update(audit_log).where(audit_log.c.seq == seq).values(status=status))


def acts(tx: Connection, *, seen_by: uuid.UUID | None, before: int | None, limit: int) -> list[Act]:
    """What was done, newest first; by keys of one user where the caller is bound to one."""
    query = sa.select(*(audit_log.c[name] for name in Act.__dataclass_fields__))
    query = query.order_by(audit_log.c.seq.desc()).limit(limit)
    if seen_by is not None:
        query = query.where(audit_log.c.user_id == seen_by)
    if before is not None:
        query = query.where(audit_log.c.seq < before)
    return [Act(**row) for row in tx.execute(query).mappings()]
