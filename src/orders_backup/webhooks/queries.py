"""The SQL that shows deliveries and attempts. Nothing is written here."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.errors import NotFoundError
from orders_backup.tables import webhook_attempts, webhook_deliveries
from orders_backup.webhooks import sign

Status = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message to an endpoint; `id` is its `webhook-id`. `seq`: the change it tells of, null for a test.

    `failed`: given up after the last attempt of the schedule; a replay brings it back. `due_at` null while pending: it
    waits for an earlier message of the same order.
    """

    id: str
    seq: int | None
    account_id: uuid.UUID | None
    order_id: str | None
    version: int | None
    type: str
    kinds: list[str]
    status: Status
    due_at: datetime | None
    attempts: int
    last_status_code: int | None
    last_error: str | None
    occurred_at: datetime
    created_at: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. `status_code` null: there was no answer, `error` says why; `answer`: its first 2 KB,
    of a failure whose message carried no order."""

    number: int
    attempted_at: datetime
    seconds: float
    status_code: int | None
    error: str | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class DeliveryWithAttempts(Delivery):
    """A delivery and every attempt of it, oldest first."""

    attempt_list: list[Attempt]


@dataclass(frozen=True, slots=True)
class At:
    """The delivery after which a list goes on."""

    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    seq: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


_COLUMNS = [
    webhook_deliveries.c[name]
    for name in ("seq", *(n for n in Delivery.__dataclass_fields__ if n not in {"id", "seq"}))
]


def page(
    tx: Connection,
    webhook_id: uuid.UUID,
    *,
    status: Status | None,
    order_id: str | None,
    after: At | None,
    limit: int,
) -> tuple[list[Delivery], At | None]:
    """Deliveries, newest first, and the position to go on from; None: that was all."""
    table = webhook_deliveries.c
    query = sa.select(*_COLUMNS).where(table.webhook_id == webhook_id)
    query = query if status is None else query.where(table.status == status)
    query = query if order_id is None else query.where(table.order_id == order_id)
    if after is not None:
        place = sa.tuple_(sa.literal(after.created_at), sa.literal(after.seq, sa.BigInteger))
        query = query.where(sa.tuple_(table.created_at, table.seq) < place)
    query = query.order_by(table.created_at.desc(), table.seq.desc()).limit(limit + 1)
    rows = [dict(row) for row in tx.execute(query).mappings()]
    more = At(rows[limit - 1]["created_at"], rows[limit - 1]["seq"]) if len(rows) > limit else None
    return [Delivery(**_shown(webhook_id, row)) for row in rows[:limit]], more


def get(tx: Connection, webhook_id: uuid.UUID, delivery_id: str) -> DeliveryWithAttempts:
    """One delivery with its attempts. Raises NotFoundError."""
    seq, table = sign.seq_of(webhook_id, delivery_id), webhook_deliveries.c
    query = sa.select(*_COLUMNS).where(table.webhook_id == webhook_id, table.seq == seq)
    row = tx.execute(query).mappings().one_or_none() if seq is not None else None
    if row is None:
        raise NotFoundError(
            f"There is no delivery {delivery_id} of this webhook; it may have ended more than 30 days ago."
        )
    attempts = sa.select(*(webhook_attempts.c[name] for name in Attempt.__dataclass_fields__)).where(
        webhook_attempts.c.webhook_id == webhook_id, webhook_attempts.c.seq == seq
    )
    tried = tx.execute(attempts.order_by(webhook_attempts.c.number)).mappings()
    return DeliveryWithAttempts(**_shown(webhook_id, dict(row)), attempt_list=[Attempt(**one) for one in tried])


def _shown(webhook_id: uuid.UUID, row: dict[str, Any]) -> dict[str, Any]:
    seq: int = row.pop("seq")
    return {"id": sign.message_id(webhook_id, seq), "seq": seq if seq > 0 else None, **row}
