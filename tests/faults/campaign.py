"""One campaign: sellers connected, life at Allegro, a nemesis that kills by a seed, and the quiet afterwards."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import sqlalchemy as sa

from allegro_simulator.http import Request
from allegro_simulator.limits import Call
from allegro_simulator.world import NotPossibleError
from orders_backup import db as database
from orders_backup.accounts import connect
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.sync import state

from . import scale
from .scale import Scale
from .service import Service
from .watched import LIST_PATH, TOKEN_PATH, Trap, WatchedWorld, is_listing, is_refresh


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


def run(campaign: Campaign) -> None:
    """Connects the sellers, kills in both phases while things happen, and waits until all is quiet and proven."""
    with _timed(campaign, "connect"):
        for _ in range(campaign.size.sellers):
            _connect(campaign)
        _wait_until_connected(campaign)
    with _living(campaign):
        for phase in scale.PHASES:
            with _timed(campaign, phase):
                _kill_in(campaign, phase)
    campaign.world.clear_faults()
    with _timed(campaign, "quiet"):
        _wake(campaign, campaign.sleeping)
        _reconcile(campaign)
        frozen_at = datetime.now(UTC)
        _wait(campaign, lambda: _unquiet(campaign, frozen_at), within=scale.QUIET_WITHIN)


# Sellers


def _connect(campaign: Campaign) -> str:
    """A new seller begins a device flow and agrees; his account is paused, so that its backfill waits."""
    world, runtime = campaign.world, campaign.service.runtime
    seller = world.add_seller(campaign.size.orders)
    account_id = connect.begin(runtime, user_id=uuid4(), name=seller.login)
    with database.transaction(runtime.db) as tx:
        connect.change(tx, account_id, paused=True)
        query = sa.text("SELECT user_code FROM device_flows WHERE account_id = :account")
        code: str = tx.execute(query, {"account": account_id}).scalar_one()
    world.approves(code, seller.id)
    campaign.accounts[seller.id] = account_id
    campaign.sleeping.append(seller.id)
    return seller.id


def _wait_until_connected(campaign: Campaign) -> None:
    query = "SELECT string_agg(name || ' is ' || status, ', ') FROM accounts WHERE status <> 'active'"
    _wait(campaign, lambda: _one(campaign, query) or "", within=scale.START_WITHIN)


def _wake(campaign: Campaign, sellers: list[str]) -> None:
    """These accounts are synced from now on."""
    if not sellers:
        return
    with database.transaction(campaign.service.runtime.db) as tx:
        for seller_id in sellers:
            connect.change(tx, campaign.accounts[seller_id], paused=False)
        state.wake(tx)
    campaign.sleeping = [one for one in campaign.sleeping if one not in sellers]


# Life at Allegro


@contextmanager
def _living(campaign: Campaign) -> Iterator[None]:
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


# Kills


def _kill_in(campaign: Campaign, phase: str) -> None:
    victims = list(scale.VICTIMS) * campaign.size.kills
    campaign.draw.shuffle(victims)
    if phase == "refresh":
        _wake(campaign, campaign.sleeping[: max(len(campaign.sleeping) - 1, 0)])
    for victim in victims:
        _plan_faults(campaign)
        _kill(campaign, phase, victim)
        time.sleep(campaign.draw.uniform(0, scale.DOWN_FOR))
        campaign.service.restart(victim)
        campaign.service.note_deaths()


def _plan_faults(campaign: Campaign) -> None:
    """Answers travel for a while; now and then one is lost on its way."""
    world, draw = campaign.world, campaign.draw
    world.clear_faults()
    if draw.random() < scale.FAULTS_AT_ALLEGRO:
        kind, path = draw.choice([("lost_token_answer", TOKEN_PATH), ("reset", LIST_PATH), ("truncated", LIST_PATH)])
        world.faults(kind, path=path)
    world.faults("slow", path=TOKEN_PATH, times=None, seconds=scale.TOKEN_ANSWER_TAKES)
    world.faults("slow", path=LIST_PATH, times=None, seconds=scale.LIST_ANSWER_TAKES)


def _kill(campaign: Campaign, phase: str, victim: str) -> None:
    """Waits for the call, then strikes: at once, before its answer leaves, or some moment later."""
    draw, service = campaign.draw, campaign.service
    delay = draw.choice([0.0, 1.0, 1.0]) * draw.uniform(0, scale.STRIKE_WITHIN[victim])
    whole = draw.random() < 0.5

    def strike() -> None:
        service.strike(victim, whole=whole)

    count = draw.randint(*scale.PAGES) if phase == "backfill" else 1
    trap = Trap(_wanted(campaign, phase), count, None if delay else strike)
    campaign.world.trap = trap
    began = time.monotonic()
    _wait_for(campaign, trap, phase)
    campaign.world.trap = None
    waited = time.monotonic() - began
    if delay:
        time.sleep(delay)
        strike()
    campaign.kills.append(Kill(datetime.now(UTC), phase, victim, trap.seller_id, delay, waited))


def _wanted(campaign: Campaign, phase: str) -> Callable[[Request, Call], bool]:
    if phase == "backfill":
        return is_listing
    return lambda request, _: is_refresh(request) and campaign.world.last_refresh_was_use(scale.USES_OF_A_TOKEN)


def _wait_for(campaign: Campaign, trap: Trap, phase: str) -> None:
    """What is to be hit is brought about: a backfill begun while nobody is killed, or an access token expired."""
    deadline = time.monotonic() + scale.CALL_WITHIN
    while not trap.sprung.wait(0.3):
        if time.monotonic() > deadline:
            raise AssertionError(f"No call of the kind to kill in for {scale.CALL_WITHIN} s: {_standing(campaign)}")
        if phase == "refresh":
            campaign.world.expires_access_tokens(campaign.draw.choice(list(campaign.accounts)))
        elif _backfills(campaign) == 0:
            campaign.world.trap = None
            _begin_another(campaign)
            campaign.world.trap = trap


def _backfills(campaign: Campaign) -> int:
    """How many backfills are under way and not waiting for their lease to run out; the database may be away."""
    query = """
        SELECT count(*) FROM accounts a JOIN syncs s ON s.account_id = a.id AND s.kind = 'listing'
         WHERE NOT a.paused AND (s.rung_at IS NULL OR s.leased_until > clock_timestamp())
           AND NOT EXISTS (SELECT FROM sync_history h WHERE h.account_id = a.id AND h.kind = 'backfill'
                                                        AND h.status = 'succeeded')
    """
    try:
        return int(_one(campaign, query))
    except DatabaseUnavailableError:
        return -1


def _begin_another(campaign: Campaign) -> None:
    try:
        if not campaign.sleeping:
            _connect(campaign)
            _wait_until_connected(campaign)
        _wake(campaign, campaign.sleeping[:1])
    except DatabaseUnavailableError:
        return


# Quiet


def _unquiet(campaign: Campaign, since: datetime) -> str:
    """What is still to be done; empty when every journal was read to its end after `since` and nothing is owed."""
    query = """
        SELECT concat_ws(', ',
            (SELECT count(*) || ' accounts not active' FROM accounts WHERE status <> 'active' HAVING count(*) > 0),
            (SELECT count(*) || ' orders owed' FROM owed_orders HAVING count(*) > 0),
            (SELECT count(*) || ' runs unfinished' FROM sync_history WHERE finished_at IS NULL HAVING count(*) > 0),
            (SELECT count(*) || ' leases run out' FROM syncs WHERE leased_until < clock_timestamp()
             HAVING count(*) > 0),
            (SELECT count(*) || ' journals unread' FROM accounts a LEFT JOIN syncs s
                 ON s.account_id = a.id AND s.kind = 'journal' WHERE s.succeeded_at > :since IS NOT TRUE
             HAVING count(*) > 0),
            (SELECT count(*) || ' not backfilled' FROM accounts a
              WHERE NOT EXISTS (SELECT FROM sync_history h WHERE h.account_id = a.id AND h.kind = 'backfill'
                                                             AND h.status = 'succeeded')
             HAVING count(*) > 0))
    """
    return str(_one(campaign, query, since=since))


def _reconcile(campaign: Campaign) -> None:
    with database.transaction(campaign.service.runtime.db) as tx:
        for account_id in campaign.accounts.values():
            state.request(tx, account_id, "reconcile")


def _wait(campaign: Campaign, left: Callable[[], str], *, within: float) -> None:
    deadline = time.monotonic() + within
    while still := left():
        if time.monotonic() > deadline:
            raise AssertionError(f"Not done within {within} s: {still}. {_standing(campaign)}")
        time.sleep(0.2)
    campaign.service.note_deaths()


def _standing(campaign: Campaign) -> str:
    """For a person who has to find out: what the jobs wait for."""
    query = """
        SELECT string_agg(concat_ws(' ', a.seller_id, a.status, s.kind, 'due', s.due_at, 'rung', s.rung_at,
                                    'leased', s.leased_until, 'failures', s.failures, s.last_error), E'\\n')
          FROM accounts a LEFT JOIN syncs s ON s.account_id = a.id WHERE NOT a.paused
    """
    return f"{datetime.now(UTC)}\n{_one(campaign, query)}"


def _one(campaign: Campaign, query: str, **values: object) -> Any:
    with database.transaction(campaign.service.runtime.db) as tx:
        return tx.execute(sa.text(query), values).scalar_one()


@contextmanager
def _timed(campaign: Campaign, name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    campaign.took[name] = time.monotonic() - began
