"""The scene of a campaign: sellers at the simulated Allegro, their accounts here, life going on, and waiting."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import sqlalchemy as sa

from allegro_simulator.world import NotPossibleError
from orders_backup import db as database
from orders_backup.accounts import connect
from orders_backup.sync import state

from . import scale
from .scale import Scale
from .service import Service
from .watched import WatchedWorld


class Kill(NamedTuple):
    """One SIGKILL. `waited`: seconds until the call it was to hit; `delay`: seconds from that call to the kill."""

    at: datetime
    phase: str
    victim: str
    seller_id: str | None
    delay: float
    waited: float


@dataclass(slots=True)
class Campaign:
    """What a campaign works with and what it remembers of itself."""

    world: WatchedWorld
    service: Service
    size: Scale
    draw: random.Random
    accounts: dict[str, UUID] = field(default_factory=dict)
    sleeping: list[str] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    took: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """What a reader wants to know of a campaign that went well."""
        uses = self.world.uses()
        counts = Counter(f"{kill.phase} {kill.victim}" for kill in self.kills)
        return {
            "kills": dict(sorted(counts.items())),
            "longest_wait_for_work": round(max((kill.waited for kill in self.kills), default=0.0), 1),
            "refreshes": len(uses),
            "refreshed_again_in_grace": sum(count - 1 for count in uses.values()),
            "most_uses_of_a_token": max(uses.values(), default=0),
            "latest_reuse_after": round(self.world.latest_reuse(), 1),
            "calls": sum(self.world.counts.values()),
            "seconds": {name: round(seconds, 1) for name, seconds in self.took.items()},
        }


# Sellers


def connect_one(campaign: Campaign) -> str:
    """A new seller begins a device flow and agrees; his account is paused, so that its backfill waits."""
    world, runtime = campaign.world, campaign.service.runtime
    seller = world.add_seller(campaign.size.orders)
    account_id = connect.begin(runtime, user_id=uuid4(), name=seller.login)
    with database.transaction(runtime.db) as tx:
        connect.change(tx, account_id, {"paused": True})
        query = sa.text("SELECT user_code FROM device_flows WHERE account_id = :account")
        code: str = tx.execute(query, {"account": account_id}).scalar_one()
    world.approves(code, seller.id)
    campaign.accounts[seller.id] = account_id
    campaign.sleeping.append(seller.id)
    return seller.id


def wait_until_connected(campaign: Campaign) -> None:
    query = "SELECT string_agg(name || ' is ' || status, ', ') FROM accounts WHERE status <> 'active'"
    wait(campaign, lambda: one(campaign, query) or "", within=scale.START_WITHIN)


def wake(campaign: Campaign, sellers: list[str]) -> None:
    """These accounts are synced from now on."""
    if not sellers:
        return
    with database.transaction(campaign.service.runtime.db) as tx:
        for seller_id in sellers:
            connect.change(tx, campaign.accounts[seller_id], {"paused": False})
        state.wake(tx)
    campaign.sleeping = [one for one in campaign.sleeping if one not in sellers]


# Life at Allegro


@contextmanager
def living(campaign: Campaign) -> Iterator[None]:
    """Things happen to random sellers until the block ends."""
    stopped, draw = threading.Event(), random.Random(campaign.draw.random())

    def live() -> None:
        while not stopped.wait(draw.expovariate(scale.THINGS_A_SECOND)):
            try:
                campaign.world.happens(draw.choice(list(campaign.accounts)))
            except NotPossibleError:
                continue

    thread = threading.Thread(target=live, name="life")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def merging(campaign: Campaign) -> Iterator[None]:
    """Two purchases that are stored during the block and become one afterwards, unless life was quicker."""
    seller_id = next(one for one in campaign.accounts if one not in campaign.sleeping)
    two = [campaign.world.buys(seller_id), campaign.world.buys(seller_id)]
    yield
    with suppress(NotPossibleError):
        campaign.world.merges(*two)


# Waiting


def wait(campaign: Campaign, left: Callable[[], str], *, within: float) -> None:
    deadline = time.monotonic() + within
    while still := left():
        campaign.service.need_all()
        if time.monotonic() > deadline:
            raise AssertionError(f"Not done within {within} s: {still}. {standing(campaign)}")
        time.sleep(0.2)


def standing(campaign: Campaign) -> str:
    """For a person who has to find out: what the jobs wait for."""
    query = """
        SELECT string_agg(concat_ws(' ', a.seller_id, a.status, s.kind, 'due', s.due_at, 'rung', s.rung_at,
                                    'leased', s.leased_until, 'failures', s.failures, s.last_error), E'\\n')
          FROM accounts a LEFT JOIN syncs s ON s.account_id = a.id WHERE NOT a.paused
    """
    return f"{datetime.now(UTC)}\n{one(campaign, query)}"


def one(campaign: Campaign, query: str, **values: object) -> Any:
    with database.transaction(campaign.service.runtime.db) as tx:
        return tx.execute(sa.text(query), values).scalar_one()


@contextmanager
def timed(campaign: Campaign, name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    campaign.took[name] = time.monotonic() - began
