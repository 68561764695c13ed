"""The SQL of restores: how far an account is that is brought back; this module alone writes `restores`."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup.tables import restores


@dataclass(frozen=True, slots=True)
class Mark:
    """How far an account is; its columns are told in tables.py."""

    account_id: UUID
    source: str | None
    records: int
    versions: int
    last_order_id: str | None
    phase: str


_COLUMNS = [restores.c[name] for name in Mark.__dataclass_fields__]


def get(tx: Connection, account_id: UUID) -> Mark | None:
    row = tx.execute(sa.select(*_COLUMNS).where(restores.c.account_id == account_id)).mappings().one_or_none()
    return None if row is None else Mark(**row)


def begin(tx: Connection, account_id: UUID) -> Mark:
    """From the beginning, whatever was before."""
    tx.execute(sa.delete(restores).where(restores.c.account_id == account_id))
    tx.execute(insert(restores).values(account_id=account_id))
    return Mark(account_id, None, 0, 0, None, "bytes")


def note(tx: Connection, account_id: UUID, **values: Any) -> None:
    """In the transaction that gets so far."""
    tx.execute(sa.update(restores).values(values).where(restores.c.account_id == account_id))


def finish(tx: Connection, account_id: UUID) -> None:
    note(tx, account_id, phase="finished", finished_at=sa.func.clock_timestamp())
