"""The SQL of backups and drills; this module alone writes `backups`, but for the claimable columns."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup import due, safety
from orders_backup.errors import NotFoundError
from orders_backup.settings import Settings
from orders_backup.tables import backups

DUMP, SAMPLE, WHOLE = "dump", "drill_sample", "drill_whole"
OF_DUMP, OF_ACCOUNT = "drill_dump", "drill_account"
SCHEDULE = "schedule"
FOUND = "bucket"
"""Who asked for a dump that was found in the bucket: another database, which this one was restored from or behind."""

DUMP_AGAIN_AFTER = timedelta(hours=1)
"""After a dump failed the next one is due so soon; a drill, after a quarter of its interval."""
LEVEL_WITHIN = 600.0
"""Drills wait until the archives are no further behind than these seconds."""
KEPT_FOR = timedelta(days=400)
"""How long what was done is told, but for dumps that are there."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A row of the table. `failures`: tries that brought nothing, the one under way included."""

    backup_id: uuid.UUID
    kind: str
    of: uuid.UUID | None
    asked_by: str
    state: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    verified_at: datetime | None
    dump_id: str | None
    bytes: int | None
    failures: int
    error_code: str | None
    last_error: str | None
    report: dict[str, Any] | None

    @property
    def told(self) -> str:
        """In one line."""
        ended = f", {self.finished_at:%Y-%m-%d %H:%M}" if self.finished_at else ""
        name = self.dump_id or self.of or ""
        return f"{self.backup_id}  {self.kind} {name}  {self.state}{ended}" + (
            f": {self.last_error}" if self.last_error else ""
        )


@dataclass(frozen=True, slots=True)
class Position:
    """The row after which a list goes on."""

    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    backup_id: uuid.UUID


_COLUMNS = [backups.c[name] for name in Backup.__dataclass_fields__]
_NOW = sa.func.clock_timestamp()
_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtext('orders-backup backups'))")
_WANTED = sa.text("""
    SELECT NOT EXISTS (SELECT FROM backups WHERE kind = :kind AND (state IN ('queued', 'running')
        OR created_at > clock_timestamp() - CAST(:again AS interval)
        OR state IN ('succeeded', 'removed') AND created_at > clock_timestamp() - CAST(:every AS interval)))
""")


def wake(tx: Connection, settings: Settings) -> None:
    """Asks for what the schedule wants by now."""
    if _is_wanted(tx, DUMP, settings.backup_interval, min(DUMP_AGAIN_AFTER, settings.backup_interval)):
        _put(tx, DUMP, None, SCHEDULE)
    for kind, every in ((SAMPLE, settings.drill_interval), (WHOLE, settings.drill_whole_interval)):
        if _is_wanted(tx, kind, every, every / 4) and _can_be_rehearsed(tx):
            _put(tx, kind, None, SCHEDULE)


def _is_wanted(tx: Connection, kind: str, every: timedelta, again: timedelta) -> bool:
    if not every:
        return False
    return bool(tx.execute(_WANTED, {"kind": kind, "every": every, "again": again}).scalar_one())


def _can_be_rehearsed(tx: Connection) -> bool:
    """Whether the archives hold something, and all that is alive but for the last minutes."""
    holds = tx.execute(sa.text("SELECT EXISTS (SELECT FROM archives WHERE versions > 0)")).scalar_one()
    return bool(holds) and safety.archive_age(tx) < LEVEL_WITHIN


def ask(tx: Connection, kind: str, *, of: uuid.UUID | None = None, by: str) -> uuid.UUID:
    """What is due now; one that nobody has begun yet is that."""
    tx.execute(_LOCK)
    same = (backups.c.kind == kind) & backups.c.of.is_not_distinct_from(of) & (backups.c.state == "queued")
    waiting = tx.execute(sa.select(backups.c.backup_id).where(same).limit(1)).scalar_one_or_none()
    if waiting is not None:
        due.make_due(tx, backups, {"backup_id": waiting})
        return uuid.UUID(str(waiting))
    return _put(tx, kind, of, by)


def _put(tx: Connection, kind: str, of: uuid.UUID | None, by: str) -> uuid.UUID:
    """A row that is due; of those of the schedule, one of each kind is."""
    backup_id = uuid.uuid4()
    row = {"backup_id": backup_id, "kind": kind, "of": of, "asked_by": by, "due_at": _NOW}
    tx.execute(insert(backups).values(row).on_conflict_do_nothing())
    return backup_id


def ring(tx: Connection) -> list[due.Key]:
    """The one to do now; none while another is done."""
    busy = sa.or_(due.held(backups), due.told(backups))
    query = sa.select(sa.exists().where(backups.c.due_at.is_not(None), busy))
    return [] if tx.execute(query).scalar_one() else due.ring(tx, backups, limit=1)


def claim(tx: Connection, backup_id: uuid.UUID, *, lease: timedelta) -> tuple[due.Lease, Backup] | None:
    """Takes it, and a try begins; it counts as failed until it is over. None where another is under way: whoever
    works on this does so alone in the whole installation."""
    tx.execute(_LOCK)
    other = sa.select(sa.exists().where(backups.c.backup_id != backup_id, due.held(backups)))
    if tx.execute(other).scalar_one():
        return None
    claimed = due.claim(tx, backups, {"backup_id": backup_id}, lease=lease)
    if claimed is None:
        return None
    values = {"state": "running", "started_at": _NOW, "failures": backups.c.failures + 1}
    row = tx.execute(sa.update(backups).values(values).where(*_is(claimed)).returning(*_COLUMNS)).mappings().one()
    return claimed, Backup(**row)


def note(tx: Connection, lease: due.Lease, **values: Any) -> None:
    """In a transaction that was fenced."""
    tx.execute(sa.update(backups).values(values).where(*_is(lease)))


def get(tx: Connection, backup_id: uuid.UUID) -> Backup:
    """Raises NotFoundError."""
    row = tx.execute(sa.select(*_COLUMNS).where(backups.c.backup_id == backup_id)).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no backup and no drill {backup_id}.")
    return Backup(**row)


def page(
    tx: Connection,
    *,
    kinds: Collection[str] = (),
    of: uuid.UUID | None = None,
    after: Position | None = None,
    limit: int = 100,
) -> tuple[list[Backup], Position | None]:
    """Backups and drills, newest first, and the position to go on from."""
    query = sa.select(*_COLUMNS)
    if kinds:
        query = query.where(backups.c.kind.in_(kinds))
    if of is not None:
        query = query.where(backups.c.of == of)
    if after is not None:
        key = sa.tuple_(backups.c.created_at, backups.c.backup_id)
        query = query.where(key < sa.tuple_(sa.literal(after.created_at), sa.literal(after.backup_id)))
    query = query.order_by(backups.c.created_at.desc(), backups.c.backup_id.desc()).limit(limit + 1)
    found = [Backup(**row) for row in tx.execute(query).mappings()]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], Position(last.created_at, last.backup_id) if last else None


def of_dump(tx: Connection, dump_id: str) -> uuid.UUID:
    """The row of a dump in the bucket. Raises NotFoundError."""
    query = sa.select(backups.c.backup_id).where(backups.c.dump_id == dump_id, backups.c.due_at.is_(None))
    found = tx.execute(query).scalar_one_or_none()
    if found is None:
        raise NotFoundError(f"There is no backup {dump_id} in the bucket.")
    return uuid.UUID(str(found))


def newest_dump(tx: Connection) -> Backup | None:
    query = sa.select(*_COLUMNS).where(backups.c.kind == DUMP, backups.c.state == "succeeded")
    row = tx.execute(query.order_by(backups.c.started_at.desc()).limit(1)).mappings().one_or_none()
    return None if row is None else Backup(**row)


# What lies in the bucket


def dump_ids(tx: Connection) -> set[str]:
    """The dumps of which a row knows, whatever became of them."""
    query = sa.select(backups.c.dump_id).where(backups.c.dump_id.is_not(None))
    return set(tx.execute(query).scalars())


def found(tx: Connection, dump_id: str, *, made_at: datetime, size: int) -> None:
    """A dump in the bucket of which no row knew. Nobody has read it back yet."""
    moments = dict.fromkeys(("created_at", "started_at", "finished_at"), made_at)
    row = {"backup_id": uuid.uuid4(), "kind": DUMP, "asked_by": FOUND, "state": "succeeded", **moments}
    tx.execute(insert(backups).values(**row, dump_id=dump_id, bytes=size).on_conflict_do_nothing())


def gone(tx: Connection, there: Collection[str], *, before: datetime) -> None:
    """Of the dumps that were finished before this moment only these are in the bucket; and what was done long ago is
    forgotten. A dump that is there again (a bucket may keep versions) counts again."""
    done, is_there = backups.c.due_at.is_(None), backups.c.dump_id.in_(there)
    is_gone = backups.c.dump_id.is_not(None) & ~is_there & done & (backups.c.finished_at < before)
    tx.execute(sa.update(backups).values(state="removed").where(is_gone, backups.c.state == "succeeded"))
    tx.execute(sa.update(backups).values(state="succeeded").where(is_there, backups.c.state == "removed"))
    is_old = backups.c.created_at < _NOW - KEPT_FOR
    tx.execute(sa.delete(backups).where(is_old, done, ~sa.func.coalesce(is_there, sa.false())))


def rehearsed(tx: Connection, backup_id: uuid.UUID, *, error: tuple[str, str] | None) -> None:
    """A dump was filled into a scratch database: verified, or of no use."""
    values: dict[str, Any] = {"state": "succeeded", "verified_at": _NOW, "error_code": None, "last_error": None}
    if error is not None:
        values = {"state": "failed", "error_code": error[0], "last_error": error[1]}
    tx.execute(sa.update(backups).values(values).where(backups.c.backup_id == backup_id, backups.c.state != "removed"))


def _is(lease: due.Lease) -> list[sa.ColumnElement[bool]]:
    return [backups.c.backup_id == lease.key["backup_id"], backups.c.lease_generation == lease.generation]
