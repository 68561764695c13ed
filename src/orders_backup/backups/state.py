"""The SQL of the archives; this module alone writes `archives`, but for the claimable columns."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import due
from orders_backup.accounts.returning import RESTORING
from orders_backup.backups.manifests import Account
from orders_backup.backups.reading import STREAMS, Position
from orders_backup.tables import accounts, archives

EVERY_SECONDS = 150
"""The least time from step to step: with a look every 15 s and a lease of a dead worker, what is new is safe within 5
minutes."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A row of the table; its columns are told in tables.py."""

    account_id: UUID
    number: int
    head: str | None
    position: dict[str, Position]
    account_mark: str | None
    made_at: datetime | None
    versions: int
    days_to: int
    days_head: str | None
    pending_key: str | None
    pending: bytes | None
    pending_values: dict[str, Any] | None


_NOTHING_PENDING: dict[str, Any] = {"pending_key": None, "pending": None, "pending_values": sa.null()}
_COLUMNS = [archives.c[name] for name in Archive.__dataclass_fields__]
_MARK = """md5(ROW(a.user_id, a.name, a.status, a.seller_id, a.seller_login, a.sync_interval_seconds, a.paused,
                   a.extras, a.forgotten_generation, a.connected_at)::text)"""

_BEGIN = sa.text("""
    INSERT INTO archives (account_id, due_at)
    SELECT a.id, clock_timestamp() FROM accounts a LEFT JOIN archives k ON k.account_id = a.id
     WHERE a.seller_id IS NOT NULL AND k.account_id IS NULL AND a.reason IS DISTINCT FROM :restoring
        ON CONFLICT DO NOTHING
""")

_WAKE = sa.text(f"""
    WITH news AS (
        SELECT k.account_id FROM archives k JOIN accounts a ON a.id = k.account_id
         WHERE (k.due_at IS NULL OR k.due_at > clock_timestamp() + interval '5 minutes')
           AND a.reason IS DISTINCT FROM :restoring AND (
               k.account_mark IS DISTINCT FROM {_MARK}
            OR (k.due_at IS NULL AND k.number > k.days_to AND k.made_at < date_trunc('day', clock_timestamp(), 'UTC'))
            OR EXISTS (SELECT FROM order_changes t WHERE t.account_id = a.id AND t.xid >= k.cursor_xid)
            OR EXISTS (SELECT FROM order_events t WHERE t.account_id = a.id AND t.xid >= k.cursor_xid)
            OR EXISTS (SELECT FROM order_extra_versions t WHERE t.account_id = a.id AND t.xid >= k.cursor_xid)
            OR EXISTS (SELECT FROM unreadable_orders t WHERE t.account_id = a.id AND t.xid >= k.cursor_xid)
            OR EXISTS (SELECT FROM orders t WHERE t.account_id = a.id AND t.state_xid >= k.cursor_xid))
           FOR UPDATE OF k SKIP LOCKED)
    UPDATE archives k
       SET due_at = least(greatest(clock_timestamp(), k.made_at + make_interval(secs => :every)),
                          clock_timestamp() + make_interval(secs => :every)),  -- whatever clock told made_at
           rung_at = NULL
      FROM news WHERE k.account_id = news.account_id
""")


def wake(tx: Connection) -> None:
    """Makes due the archives of accounts of which something is new, also those that wait long because a day cannot be
    put together, or a day is over; a look into an index for each where nothing is."""
    tx.execute(_BEGIN, {"restoring": RESTORING})
    tx.execute(_WAKE, {"restoring": RESTORING, "every": EVERY_SECONDS})


def ring(tx: Connection, *, slots: int) -> list[due.Key]:
    """Archives to write now: in a quarter of the slots, so that they never keep the syncs waiting."""
    busy = sa.or_(due.told(archives), due.held(archives))
    query = sa.select(sa.func.count()).select_from(archives).where(archives.c.due_at.is_not(None), busy)
    free = max(slots // 4, 1) - int(tx.execute(query).scalar_one())
    return due.ring(tx, archives, limit=free) if free > 0 else []


def get(tx: Connection, account_id: UUID) -> Archive | None:
    """How far an account's archive is; None: there is none yet."""
    row = tx.execute(sa.select(*_COLUMNS).where(archives.c.account_id == account_id)).mappings().one_or_none()
    return None if row is None else Archive(**row)


def known(tx: Connection) -> list[UUID]:
    """The accounts of which an archive was begun."""
    return list(tx.execute(sa.select(archives.c.account_id).where(archives.c.number > 0)).scalars())


def account(tx: Connection, account_id: UUID) -> tuple[Account, str]:
    """The account as a manifest tells of it, and the mark by which a change of it shows."""
    columns = [accounts.c[name] for name in Account.__struct_fields__]
    mark = sa.text(f"SELECT {_MARK} FROM accounts a WHERE a.id = :account")
    found = str(tx.execute(mark, {"account": account_id}).scalar_one())  # first: what changes between shows later
    row = tx.execute(sa.select(*columns).where(accounts.c.id == account_id)).mappings().one()
    return Account(**row), found


def intend(tx: Connection, lease: due.Lease, *, key: str, content: bytes, values: dict[str, Any]) -> None:
    """A manifest is about to be put, and whoever comes next puts it again: what it names is stored."""
    pending = {"pending_key": key, "pending": content, "pending_values": msgspec.to_builtins(values)}
    tx.execute(sa.update(archives).values(pending).where(*_is(lease)))


def advance(tx: Connection, lease: due.Lease, values: dict[str, Any]) -> None:
    """The manifest that was pending is there: the row is as far as it."""
    told = dict(values)
    if (cursor := told.pop("cursor_xid", None)) is not None:
        told["cursor_xid"] = sa.cast(sa.cast(sa.literal(str(cursor)), sa.Text), archives.c.cursor_xid.type)
    if (made_at := told.get("made_at")) is not None:
        told["made_at"] = datetime.fromisoformat(made_at) if isinstance(made_at, str) else made_at
    tx.execute(sa.update(archives).values(**told, **_NOTHING_PENDING).where(*_is(lease)))


def renumber(tx: Connection) -> None:
    """After all rows were moved before transaction 3: those that the archives hold are of 1, the others of 2. What was
    pending would bring the old cluster's position back; a manifest that was put is found in the bucket."""
    begun = archives.c.cursor_xid > sa.text("'0'::xid8")
    values = {"position": _after_restored(), "cursor_xid": sa.text("'2'::xid8")}
    tx.execute(sa.update(archives).values(position={}).where(~begun))
    tx.execute(sa.update(archives).values(values).where(begun))
    tx.execute(sa.update(archives).values(_NOTHING_PENDING))


def again(tx: Connection, account_id: UUID) -> None:
    """All of an account goes into its archive once more. Who is writing it now has lost it, and what he was about to
    put counts only where it is in the bucket."""
    values = {"position": {}, "cursor_xid": sa.text("'0'::xid8")}
    mine = archives.c.account_id == account_id
    begins_anew = sa.func.coalesce(archives.c.pending_key, "").contains("/chains/")  # then all of it goes there anyway
    tx.execute(sa.update(archives).values(**values, **_taken_away(), **_NOTHING_PENDING).where(mine, ~begins_anew))


def begin_anew(tx: Connection, account_id: UUID, *, seen: int, key: Callable[[int], str]) -> int | None:
    """A chain of its own begins, whoever is writing now; which step is its first. None: there is no archive. `seen`:
    the highest number in the bucket; `key`: of the object that says where a chain begins."""
    mine = archives.c.account_id == account_id
    number = tx.execute(sa.select(archives.c.number).where(mine).with_for_update()).scalar_one_or_none()
    if number is None:
        return None
    first = int(max(number, seen)) + 2  # the next one may be on its way
    values = {"number": first - 1, "days_to": first - 1, "position": {}, "cursor_xid": 0, "versions": 0}
    values |= dict.fromkeys(("head", "days_head", "made_at", "account_mark"))
    pending = {"pending_key": key(first), "pending": b'{"first": %d}\n' % first, "pending_values": values}
    tx.execute(sa.update(archives).values(**pending, **_taken_away()).where(mine))
    return first


def _taken_away() -> dict[str, Any]:
    """From whoever writes an archive now; it is due for the next."""
    lost = {"lease_generation": archives.c.lease_generation + 1, "leased_until": None, "rung_at": None}
    return {**lost, "due_at": sa.func.clock_timestamp()}


def everything_again(tx: Connection) -> None:
    """All that is here goes into the archives once more, since nobody knows what of it they hold."""
    tx.execute(sa.update(archives).values(position={}, cursor_xid=sa.text("'0'::xid8")))


def _after_restored() -> dict[str, Position]:
    return {stream.name: [2, *stream.start] for stream in STREAMS}


def put_back(tx: Connection, account_id: UUID, values: dict[str, Any]) -> None:
    """The row of an account that was just brought back: everything here is in the archive. Rows of a restore are of
    transaction 1, so whatever comes is above."""
    mark = account(tx, account_id)[1]
    row = {"account_id": account_id, "position": _after_restored(), "account_mark": mark, **values}
    tx.execute(sa.delete(archives).where(archives.c.account_id == account_id))
    tx.execute(sa.insert(archives).values(**row, cursor_xid=sa.text("'2'::xid8")))


def _is(lease: due.Lease) -> list[sa.ColumnElement[bool]]:
    return [archives.c.account_id == lease.key["account_id"], archives.c.lease_generation == lease.generation]
