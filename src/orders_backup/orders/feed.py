"""The SQL that reads the change feed. Nothing is written here.

Why the cursor holds a transaction id: sequence numbers are taken before the commit, and transactions commit in
any order. A transaction that took the numbers 1 to 10 may commit after another one's 11 to 20 were read, so a
cursor of sequence numbers alone would pass over them, with or without a look at the snapshot. Rows are read in
the order of (transaction id, number), and only from transactions below the horizon of the snapshot: all of
those have ended, so nothing can appear before the cursor any more.
"""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup.codec import Codec
from orders_backup.errors import InvalidRequestError
from orders_backup.orders.shapes import Change, ChangeWithOrder, document

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to this transaction and number was read."""

    xid: Count
    seq: Count


START = Position(0, 0)

_HORIZON = sa.text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")

_CHANGES = """
SELECT c.seq, c.account_id, a.user_id, c.order_id, c.version, c.kinds, c.cause, c.stored_at,
       CAST(CAST(c.xid AS text) AS bigint)
FROM order_changes c JOIN accounts a ON a.id = c.account_id
WHERE (c.xid, c.seq) > (CAST(%(xid)s::text AS xid8), %(seq)s::bigint) AND c.xid < CAST(%(horizon)s::text AS xid8)
  AND (%(seen_by)s::uuid IS NULL OR a.user_id = %(seen_by)s::uuid)
  AND (%(account_id)s::uuid IS NULL OR c.account_id = %(account_id)s::uuid)
ORDER BY c.xid, c.seq LIMIT %(limit)s::int
"""


_NEWEST = sa.text("""
SELECT CAST(CAST(xid AS text) AS bigint), seq FROM order_changes
 WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY order_changes.xid DESC, seq DESC LIMIT 1
""")


def newest(tx: Connection) -> Position:
    """The last change of all that nothing can appear before any more. It is on disk, as its transaction is: a horizon
    is not, for a server that crashes gives numbers out again that left no trace there."""
    row = tx.execute(_NEWEST).one_or_none()
    return Position(*row) if row is not None else START


def page(
    tx: Connection,
    *,
    seen_by: uuid.UUID | None,
    account_id: uuid.UUID | None,
    after: Position,
    limit: int,
    newest: Position | None = None,
) -> tuple[list[Change], Position, bool]:
    """Changes after the position, the position to go on from, and whether more are waiting there.

    `tx` must be a snapshot (`db.snapshot`), so that the horizon is that of the rows. Once everything is read the
    position moves past what other callers' orders did, and so stays cheap to read from: up to `newest` as it was
    before, or to the horizon, for whoever keeps the position in this database. Raises InvalidRequestError for a
    position that this database cannot have given: in one cluster the horizon never falls.
    """
    horizon = tx.execute(_HORIZON).scalar_one()
    if after.xid > horizon:
        raise InvalidRequestError("cursor: of another database; start without a cursor.")
    values = {
        "xid": str(after.xid),
        "seq": after.seq,
        "horizon": str(horizon),
        "seen_by": seen_by,
        "account_id": account_id,
        "limit": limit + 1,
    }
    rows = database.rows(tx, _CHANGES, values)
    changes = [Change(*row[:-1]) for row in rows[:limit]]
    reached = Position(rows[:limit][-1][-1], changes[-1].seq) if changes else after
    if len(rows) > limit:
        return changes, reached, True
    end = newest or Position(horizon, 0)
    return changes, max(reached, end, key=lambda place: (place.xid, place.seq)), False


_DOCUMENTS = sa.text(
    """
SELECT asked.place, v.dictionary_id, v.body
FROM unnest(CAST(:accounts AS uuid[]), CAST(:orders AS text[]), CAST(:versions AS int[]))
     WITH ORDINALITY AS asked (account_id, order_id, version, place)
JOIN order_versions v USING (account_id, order_id, version)
"""
)


def with_documents(tx: Connection, codec: Codec, changes: Sequence[Change]) -> list[ChangeWithOrder]:
    """The same changes, each with the document of its version."""
    asked = {
        "accounts": [one.account_id for one in changes],
        "orders": [one.order_id for one in changes],
        "versions": [one.version for one in changes],
    }
    found = {row.place: codec.decompress(tx, row.dictionary_id, row.body) for row in tx.execute(_DOCUMENTS, asked)}
    data = [document(found.get(place)) for place in range(1, len(changes) + 1)]
    return [
        ChangeWithOrder(**asdict(one), order_data=own, order_data_unreadable=own is None)
        for one, own in zip(changes, data, strict=True)
    ]
