"""The SQL of deliveries: the change feed turned into messages, whose turn it is, what became of them.

Everything here is done by whoever holds the endpoint's lease, so one at a time. Why an order's messages never change
places: the numbers (`seq`) of an account's changes rise in the order of their commits, because they are written under a
lock of the account; a pass over the feed turns everything that one snapshot sees into rows before anything of it is
sent; and of each order only the row with the lowest number is ever taken.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import due
from orders_backup.due import Key
from orders_backup.orders.feed import Position
from orders_backup.tables import accounts, webhooks
from orders_backup.webhooks.schedule import SLOW_SECONDS, Answer, Verdict

FIRST_KINDS = (
    "order.created",
    "order.cancelled",
    "order.returned",
    "order.superseded",
    "order.status_changed",
    "order.payment_changed",
    "order.fulfillment_changed",
    "order.delivery_changed",
)
"""A change of several kinds is one message: its type is the first of these, else the first by name, of those wanted."""
LAST_KIND = "order.other_changed"

PAGE = 5000
LARGEST_DOCUMENT = 1024 * 1024
KEPT_FOR = "30 days"
PRUNED_AT_ONCE = 2000


Order = tuple[str, str]
"""The ids of an account and of an order of it: what is strictly in order is so within one of these."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a pass over the feed needs to know. `user_id` None: every user's accounts; no accounts named: all."""

    webhook_id: UUID
    user_id: UUID | None
    account_ids: tuple[UUID, ...]
    event_types: tuple[str, ...]
    cursor: Position


@dataclass(frozen=True, slots=True)
class Message:
    """A delivery whose turn it is. `document`: the compressed bytes of the version, where the endpoint wants them."""

    seq: int
    account_id: UUID | None
    user_id: UUID | None
    order_id: str | None
    version: int | None
    type: str
    kinds: tuple[str, ...]
    cause: str
    occurred_at: datetime
    tries: int
    attempts: int
    size: int | None
    dictionary_id: int | None
    document: bytes | None

    @property
    def line(self) -> tuple[UUID | None, str | int]:
        """What is strictly in order with it: its order. A test stands in no line but its own."""
        return (self.account_id, self.order_id or self.seq)


# Who is rung for

_WAKE = """
WITH news AS (
    SELECT w.webhook_id FROM webhooks w
    WHERE w.status = 'active' AND (w.due_at IS NULL OR w.due_at > clock_timestamp())
      AND (w.leased_until IS NULL OR w.leased_until < clock_timestamp())
      AND (w.silent_until IS NULL OR w.silent_until <= clock_timestamp())
      AND CASE WHEN w.user_id IS NULL AND w.account_ids = '{}' THEN EXISTS (
            SELECT FROM order_changes c WHERE (c.xid, c.seq) > (w.cursor_xid, w.cursor_seq)
          ) ELSE EXISTS (
            SELECT FROM accounts a CROSS JOIN LATERAL (
                SELECT FROM order_changes c
                WHERE c.account_id = a.id AND (c.xid, c.seq) > (w.cursor_xid, w.cursor_seq) LIMIT 1) c
            WHERE (w.user_id IS NULL OR a.user_id = w.user_id)
              AND (w.account_ids = '{}' OR a.id = ANY (w.account_ids))
          ) END
    FOR UPDATE OF w SKIP LOCKED)
UPDATE webhooks w SET due_at = clock_timestamp(), rung_at = NULL FROM news WHERE w.webhook_id = news.webhook_id
"""


def wake(tx: Connection) -> None:
    """Makes due the endpoints for which something happened since; a look into an index for each that has nothing to
    do. One that is just being changed or deleted holds up no tick."""
    tx.execute(sa.text(_WAKE))


_HANGS = sa.or_(webhooks.c.failures > 0, sa.func.coalesce(webhooks.c.answer_seconds, 0) > SLOW_SECONDS)
_IS_WELL = ~_HANGS


def ring(tx: Connection, *, slots: int) -> list[Key]:
    """The endpoints to tell of now: in half of the slots, and of that half in its half those that fail or are slow,
    whose calls may hang."""
    rung: list[Key] = []
    for lane, most in ((_IS_WELL, max(slots // 2, 1)), (_HANGS, max(slots // 4, 1))):
        busy = sa.or_(due.told(webhooks), due.held(webhooks))
        query = sa.select(sa.func.count()).select_from(webhooks).where(webhooks.c.due_at.is_not(None), busy, lane)
        free = most - tx.execute(query).scalar_one()
        rung += due.ring(tx, webhooks, limit=free, only=[lane]) if free > 0 else []
    return rung


# The feed becomes deliveries

TYPE = """
SELECT kind AS type FROM unnest(c.kinds) AS kind
WHERE cardinality(CAST(:types AS text[])) = 0 OR kind = ANY (CAST(:types AS text[]))
ORDER BY kind = :last_kind, array_position(CAST(:first_kinds AS text[]), kind) NULLS LAST, kind LIMIT 1
"""

_NEWER = """
(c.xid, c.seq) > (CAST(CAST(:xid AS text) AS xid8), :seq)
AND pg_visible_in_snapshot(c.xid, CAST(CAST(:snapshot AS text) AS pg_snapshot))
"""

_OF_ALL = f"SELECT c.* FROM order_changes c WHERE {_NEWER} ORDER BY c.xid, c.seq LIMIT :limit"

_OF_SOME = f"""
SELECT c.* FROM unnest(CAST(:accounts AS uuid[])) AS wanted(id) CROSS JOIN LATERAL (
    SELECT * FROM order_changes c WHERE c.account_id = wanted.id AND {_NEWER} ORDER BY c.xid, c.seq LIMIT :limit) c
ORDER BY c.xid, c.seq LIMIT :limit
"""

_FAN_OUT = """
WITH c AS MATERIALIZED ({changes}), kept AS (
    INSERT INTO webhook_deliveries (webhook_id, seq, account_id, order_id, version, type, kinds, cause, occurred_at)
    SELECT :webhook_id, c.seq, c.account_id, c.order_id, c.version, t.type, c.kinds, c.cause, c.stored_at
    FROM c CROSS JOIN LATERAL ({type}) t
    ON CONFLICT DO NOTHING RETURNING account_id, order_id)
SELECT (SELECT array_agg(DISTINCT ARRAY[CAST(account_id AS text), order_id]) FROM kept) AS kept, count(*) AS read,
       (SELECT CAST(CAST(xid AS text) AS bigint) FROM c ORDER BY c.xid DESC, c.seq DESC LIMIT 1) AS xid,
       (SELECT seq FROM c ORDER BY c.xid DESC, c.seq DESC LIMIT 1) AS seq
FROM c
"""

_FIRST_OF_ITS_ORDER = """
(SELECT e.seq FROM webhook_deliveries e
  WHERE e.webhook_id = :webhook_id AND e.account_id = d.account_id AND e.order_id = d.order_id AND e.status = 'pending'
  ORDER BY e.seq LIMIT 1)
"""
"""Not as NOT EXISTS, and below with an array: a planner that knows nothing yet of rows that were just made would join
all with all."""

_STEP_BACK = f"""
UPDATE webhook_deliveries d SET due_at = NULL
WHERE d.webhook_id = :webhook_id AND d.due_at IS NOT NULL AND d.order_id IS NOT NULL AND d.seq <> {_FIRST_OF_ITS_ORDER}
"""

_STEP_FORWARD = """
UPDATE webhook_deliveries SET due_at = clock_timestamp()
WHERE webhook_id = :webhook_id AND seq = ANY (ARRAY(
    SELECT seq FROM (
        SELECT DISTINCT ON (account_id, order_id) seq, due_at FROM webhook_deliveries
        WHERE webhook_id = :webhook_id AND status = 'pending' AND order_id IS NOT NULL
        ORDER BY account_id, order_id, seq) head
    WHERE due_at IS NULL))
"""


@dataclass(frozen=True, slots=True)
class Horizon:
    """What one moment sees: `snapshot` names its transactions, below `xid` all have ended."""

    snapshot: str
    xid: int


def horizon(tx: Connection) -> Horizon:
    """The snapshot of this statement; everything visible in it was committed before."""
    row = tx.execute(
        sa.text(
            "SELECT CAST(pg_current_snapshot() AS text),"
            " CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
        )
    ).one()
    return Horizon(row[0], row[1])


def fan_out(
    tx: Connection, endpoint: Endpoint, seen: Horizon, *, after: Position, page: int
) -> tuple[list[Order], Position | None]:
    """One page of what the snapshot sees after the position: the orders of new rows, and where to go on; None: done.

    Rows beyond the horizon are taken as well, and read again by the next pass: their key keeps them from being
    doubled. The cursor moves in the same transaction, and never beyond the horizon.
    """
    wanted = accounts_of(tx, endpoint.user_id, endpoint.account_ids)
    changes = _OF_ALL if wanted is None else _OF_SOME
    values = {
        "webhook_id": endpoint.webhook_id,
        "xid": str(after.xid),
        "seq": after.seq,
        "snapshot": seen.snapshot,
        "accounts": wanted,
        "limit": page,
        **kinds_of(endpoint.event_types),
    }
    row = tx.execute(sa.text(_FAN_OUT.format(changes=changes, type=TYPE)), values).one()
    more = Position(row.xid, row.seq) if row.read == page else None
    reached = Position(seen.xid, 0)
    _move(tx, endpoint.webhook_id, min(more, reached, key=_place) if more else reached)
    return [(account_id, order_id) for account_id, order_id in row.kept or ()], more


def line_up(tx: Connection, webhook_id: UUID) -> None:
    """Of each order the first pending message is due and no other: after a long pass, a crash in one, or a replay.
    Reads everything that is pending."""
    tx.execute(sa.text(_STEP_BACK), {"webhook_id": webhook_id})
    tx.execute(sa.text(_STEP_FORWARD), {"webhook_id": webhook_id})


def accounts_of(tx: Connection, user_id: UUID | None, account_ids: Sequence[UUID]) -> list[UUID] | None:
    """Whose changes an endpoint wants; None: everybody's."""
    if user_id is None:
        return list(account_ids) or None
    query = sa.select(accounts.c.id).where(accounts.c.user_id == user_id)
    query = query.where(accounts.c.id.in_(account_ids)) if account_ids else query
    return list(tx.execute(query).scalars())


def kinds_of(event_types: Sequence[str]) -> dict[str, object]:
    """The values of TYPE: the kinds that are wanted, and in which order."""
    return {"types": list(event_types), "first_kinds": list(FIRST_KINDS), "last_kind": LAST_KIND}


def _move(tx: Connection, webhook_id: UUID, to: Position) -> None:
    """The cursor never goes back."""
    statement = """UPDATE webhooks SET cursor_xid = CAST(CAST(:xid AS text) AS xid8), cursor_seq = :seq
                    WHERE webhook_id = :id AND (cursor_xid, cursor_seq) < (CAST(CAST(:xid AS text) AS xid8), :seq)"""
    tx.execute(sa.text(statement), {"id": webhook_id, "xid": str(to.xid), "seq": to.seq})


def _place(position: Position) -> tuple[int, int]:
    return (position.xid, position.seq)


# Whose turn it is, and what became of it

_TAKE = f"""
SELECT d.seq, d.account_id, a.user_id, d.order_id, d.version, d.type, d.kinds, d.cause, d.occurred_at, d.tries,
       d.attempts, v.size, v.dictionary_id, v.body AS document
FROM webhook_deliveries d LEFT JOIN accounts a ON a.id = d.account_id
LEFT JOIN order_versions v ON :full AND v.account_id = d.account_id AND v.order_id = d.order_id
                          AND v.version = d.version AND v.size <= :largest
WHERE d.webhook_id = :webhook_id AND d.due_at <= clock_timestamp() AND d.seq <> ALL (CAST(:busy AS bigint[]))
  AND (d.order_id IS NULL OR d.seq = {_FIRST_OF_ITS_ORDER})
ORDER BY d.due_at, d.seq LIMIT :limit
"""


def take(tx: Connection, webhook_id: UUID, *, busy: Collection[int], full: bool, limit: int) -> list[Message]:
    """What is due now and the first of its order, the longest due first; not what is `busy`: on the way already."""
    values = {
        "webhook_id": webhook_id,
        "busy": list(busy),
        "full": full,
        "largest": LARGEST_DOCUMENT,
        "limit": limit,
    }
    rows = tx.execute(sa.text(_TAKE), values).mappings()
    return [Message(**{**row, "kinds": tuple(row["kinds"])}) for row in rows]


@dataclass(frozen=True, slots=True)
class Result:
    """An attempt, and what it means for its delivery."""

    message: Message
    answer: Answer
    verdict: Verdict

    @property
    def kept(self) -> str | None:
        """What is kept of the answer: of a failure, for a person to read. None where the message carried an order,
        which whoever got it may repeat, whole or in part and in whatever words."""
        if self.answer.is_success or self.message.document is not None:
            return None
        return self.answer.body.decode(errors="replace").replace("\x00", "\ufffd")


_SETTLE = """
UPDATE webhook_deliveries d
SET status = r.status, due_at = clock_timestamp() + make_interval(secs => r.wait), attempts = r.number,
    tries = d.tries + CAST(r.spent AS int), last_status_code = r.code, last_error = r.error,
    delivered_at = CASE WHEN r.status = 'delivered' THEN clock_timestamp() ELSE d.delivered_at END
FROM unnest(CAST(:seqs AS bigint[]), CAST(:statuses AS text[]), CAST(:waits AS float8[]), CAST(:numbers AS int[]),
            CAST(:spent AS bool[]), CAST(:codes AS int[]), CAST(:errors AS text[]))
     AS r(seq, status, wait, number, spent, code, error)
WHERE d.webhook_id = :webhook_id AND d.seq = ANY (CAST(:seqs AS bigint[])) AND d.seq = r.seq AND d.status = 'pending'
"""

_NOTE = """
INSERT INTO webhook_attempts (webhook_id, seq, number, attempted_at, seconds, status_code, error, answer)
SELECT :webhook_id, r.* FROM unnest(CAST(:seqs AS bigint[]), CAST(:numbers AS int[]), CAST(:at AS timestamptz[]),
       CAST(:seconds AS float8[]), CAST(:codes AS int[]), CAST(:errors AS text[]), CAST(:answers AS text[])) AS r
"""

_NEXT = """
UPDATE webhook_deliveries d SET due_at = clock_timestamp()
FROM unnest(CAST(:accounts AS uuid[]), CAST(:orders AS text[])) AS ended(account_id, order_id)
CROSS JOIN LATERAL (
    SELECT n.seq FROM webhook_deliveries n
    WHERE n.webhook_id = :webhook_id AND n.account_id = ended.account_id AND n.order_id = ended.order_id
      AND n.status = 'pending' ORDER BY n.seq LIMIT 1) AS following
WHERE d.webhook_id = :webhook_id AND d.seq = following.seq AND d.due_at IS NULL
"""


def record(tx: Connection, webhook_id: UUID, results: Sequence[Result], *, is_spent: bool) -> None:
    """Writes the attempts down and makes due what waited for those that ended. `is_spent`: they count on the
    schedule, which those of a disabled endpoint do not."""
    if not results:
        return
    values: dict[str, Any] = {
        "webhook_id": webhook_id,
        "seqs": [one.message.seq for one in results],
        "statuses": [one.verdict.status for one in results],
        "waits": [one.verdict.wait for one in results],
        "numbers": [one.message.attempts + 1 for one in results],
        "spent": [is_spent and one.answer.status != 410 for one in results],
        "codes": [one.answer.status for one in results],
        "errors": [one.answer.says for one in results],
        "at": [one.answer.at for one in results],
        "seconds": [one.answer.seconds for one in results],
        "answers": [one.kept for one in results],
    }
    tx.execute(sa.text(_SETTLE), values)
    tx.execute(sa.text(_NOTE), values)
    of_orders = [one.message for one in results if one.verdict.status != "pending" and one.message.order_id]
    let_go(tx, webhook_id, {(str(one.account_id), str(one.order_id)) for one in of_orders})


def let_go(tx: Connection, webhook_id: UUID, orders: Collection[Order]) -> None:
    """The first pending message of each of these orders is due, unless it waits for its next try."""
    if orders:
        of_accounts, ids = zip(*orders, strict=True)
        tx.execute(sa.text(_NEXT), {"webhook_id": webhook_id, "accounts": list(of_accounts), "orders": list(ids)})


def hurry(tx: Connection, webhook_id: UUID) -> None:
    """The endpoint is back: what was waiting for its next try is due now."""
    statement = """UPDATE webhook_deliveries SET due_at = clock_timestamp()
                    WHERE webhook_id = :id AND due_at > clock_timestamp()"""
    tx.execute(sa.text(statement), {"id": webhook_id})


def next_due(tx: Connection, webhook_id: UUID) -> datetime | None:
    """When something is to be sent next; None: nothing waits."""
    query = "SELECT min(due_at) FROM webhook_deliveries WHERE webhook_id = :id AND due_at IS NOT NULL"
    found: datetime | None = tx.execute(sa.text(query), {"id": webhook_id}).scalar_one()
    return found


def prune(tx: Connection, webhook_id: UUID) -> None:
    """Forgets some of the deliveries that ended long ago; a replay makes them again, under the same id."""
    statement = f"""
        DELETE FROM webhook_deliveries WHERE webhook_id = :id AND seq = ANY (ARRAY(
            SELECT seq FROM webhook_deliveries
            WHERE webhook_id = :id AND created_at < clock_timestamp() - interval '{KEPT_FOR}' AND status <> 'pending'
            ORDER BY created_at LIMIT {PRUNED_AT_ONCE}))"""
    tx.execute(sa.text(statement), {"id": webhook_id})
