"""Whose turn it is: which of the due syncs are rung for, so that no seller and no kind of work keeps others waiting.

The broker never holds more than twice as many messages as the workers have slots. Within that, work is rung for in
lanes, each by turns: who was served waits behind everybody who became due before. A lane of work that may last holds
no more than its part of the slots, so that the journals always find workers free.
"""

import functools
import random
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import budget, due
from orders_backup.budget import Bucket, Priority
from orders_backup.due import Key
from orders_backup.sync.state import RUN_KINDS
from orders_backup.tables import accounts, sync_history, syncs

LASTING = ("listing", "sweep", "extras")
"""All kinds of work but the journals, for which nothing may keep orders waiting."""

POLLS_SHARE = 0.5
"""Of the client id's limit, for polls of journals; the rest is for what they find, and for the lists."""


def polls(client_id: str, per_minute: int) -> Bucket:
    """What all journals of an application together may be polled: their intervals grow where it is not enough."""
    return Bucket(f"polls:{client_id}", max(int(per_minute * POLLS_SHARE), 1))


@dataclass(frozen=True, slots=True)
class Lane:
    """Some of the due syncs. At most `most` of them are told of, and, where `lasting`, in work at the same time.

    `within`: the lane whose places these are, too; `first`: what goes before the longest due.
    """

    name: str
    only: sa.ColumnElement[bool]
    most: int
    within: str | None = None
    lasting: bool = True
    first: tuple[sa.ColumnElement[bool], ...] = ()


@functools.cache
def lanes(slots: int) -> list[Lane]:
    """The lanes, for so many pieces of work at once.

    Who failed the last time is tried in a quarter of the slots, because his calls may hang until they time out. What
    lasts gets half of them, and none of the four kinds of it all of these.
    """
    is_well, lasts, kind = syncs.c.failures == 0, syncs.c.kind.in_(LASTING), syncs.c.kind
    is_new, half = syncs.c.succeeded_at.is_(None), max(slots // 2, 1)
    part = max(half - 1, 1)
    return [
        Lane("live", is_well & ~lasts, slots + half, lasting=False, first=(_nobody_waits("journal"),)),
        Lane("failing", ~is_well, max(slots // 4, 1)),
        Lane("lasting", is_well & lasts, half),
        Lane("full", is_well & (kind == "listing") & ~is_new, part, "lasting", first=(_nobody_waits("listing"),)),
        Lane("backfill", is_well & (kind == "listing") & is_new, part, "lasting"),
        Lane("sweep", is_well & (kind == "sweep"), part, "lasting"),
        Lane("extras", is_well & (kind == "extras"), part, "lasting"),
    ]


def _nobody_waits(kind: str) -> sa.ColumnElement[bool]:
    """False, which sorts first, where somebody asked for a run of those that this kind of job works on."""
    table = sync_history.c
    return ~sa.exists().where(
        table.account_id == syncs.c.account_id,
        table.kind.in_(RUN_KINDS[kind]),
        table.finished_at.is_(None),
        table.status == "queued",
    )


def ring(tx: Connection, *, slots: int, polls: Bucket) -> list[Key]:
    """The syncs to tell of now; they count as told. Several schedulers at once tell of each only once.

    `polls`: what may be spent on journals. Where that is not enough for all, every journal waits a little longer.
    """
    found = lanes(slots)
    taken = _taken(tx, slots)
    free = {lane.name: lane.most - taken[lane.name] for lane in found}
    shared = {lane.within for lane in found}
    rung = []
    for lane in sorted(found, key=lambda one: (taken[one.name], random.random())):  # noqa: S311 – fairness, not secrecy
        limit = min(free[lane.name], free[lane.within or lane.name])
        if lane.name in shared or limit < 1:
            continue
        if lane.name == "live":
            limit = min(limit, budget.room_in(tx, polls, priority=Priority.TOKEN))
        told = due.ring(tx, syncs, limit=limit, only=[lane.only], first=lane.first)
        if told and lane.name == "live":
            budget.spend(tx, polls, len(told), priority=Priority.TOKEN)
        free[lane.within or lane.name] -= len(told)
        rung += told
    return rung


def _taken(tx: Connection, slots: int) -> dict[str, int]:
    """How many of each lane are told of or in work."""
    row = tx.execute(_counting(slots)).one()
    return {lane.name: count for lane, count in zip(lanes(slots), row, strict=True)}


@functools.cache
def _counting(slots: int) -> sa.Executable:
    told, held = due.told(syncs), due.held(syncs)
    counts = [sa.func.count().filter(lane.only, told | held if lane.lasting else told) for lane in lanes(slots)]
    return sa.select(*counts).where(syncs.c.due_at.is_not(None), told | held)


def somebody_waits(tx: Connection, kind: str) -> bool:
    """Whether work that lasts, or work that does not, as this kind is, is due and nobody does it."""
    lasts = syncs.c.kind.in_(LASTING)
    query = sa.select(syncs.c.account_id).where(
        lasts if kind in LASTING else ~lasts, syncs.c.due_at <= sa.func.clock_timestamp(), ~due.held(syncs)
    )
    return tx.execute(query.limit(1)).one_or_none() is not None


def is_wanted(tx: Connection, account_id: UUID) -> bool:
    """Whether the account may be synced: connected and not paused."""
    return bool(tx.execute(_WANTED, {"account": account_id}).scalar_one())


_WANTED = sa.select((accounts.c.status == "active") & ~accounts.c.paused).where(
    accounts.c.id == sa.bindparam("account")
)
