"""The nemesis: kills by a seed, each at a call of the kind to be interrupted, and starts again what it killed."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from allegro_simulator.http import Request
from allegro_simulator.limits import Call

from . import scale, scene
from .scene import Campaign, Kill
from .watched import LIST_PATH, TOKEN_PATH, Trap, is_listing, is_refresh


def kill_in(campaign: Campaign, phase: str) -> None:
    victims = list(scale.VICTIMS) * campaign.size.kills
    campaign.draw.shuffle(victims)
    if phase == "refresh":
        scene.wake(campaign, campaign.sleeping[: max(len(campaign.sleeping) - 1, 0)])
    for victim in victims:
        _plan_faults(campaign)
        _kill(campaign, phase, victim)
        time.sleep(campaign.draw.uniform(0, scale.DOWN_FOR))
        campaign.service.restart(victim)


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
    if phase == "refresh":
        return lambda request, _: is_refresh(request) and campaign.world.last_refresh_was_use(scale.USES_OF_A_TOKEN)
    done = scene.one(campaign, _BACKFILLED) or []
    return lambda request, call: is_listing(request, call) and call.seller_id not in done


def _wait_for(campaign: Campaign, trap: Trap, phase: str) -> None:
    """What is to be hit is brought about: a backfill begun while nobody is killed, or an access token expired."""
    deadline = time.monotonic() + scale.CALL_WITHIN
    while not trap.sprung.wait(scale.ARMED_FOR[phase]):
        if time.monotonic() > deadline:
            raise AssertionError(f"Nothing to kill in for {scale.CALL_WITHIN} s: {scene.standing(campaign)}")
        if phase == "refresh":
            campaign.world.expires_access_tokens(campaign.draw.choice(list(campaign.accounts)))
            continue
        if trap.disarm():
            campaign.service.need_all()
            if scene.one(campaign, _BACKFILLS_UNDER_WAY) < scale.BACKFILLS:
                _begin_another(campaign)
            trap.is_armed = True


_BACKFILLED = """
    SELECT array_agg(a.seller_id) FROM accounts a JOIN sync_history h ON h.account_id = a.id
     WHERE h.kind = 'backfill' AND h.status = 'succeeded'
"""

_BACKFILLS_UNDER_WAY = """
    SELECT count(*) FROM accounts a JOIN syncs s ON s.account_id = a.id AND s.kind = 'listing'
     WHERE NOT a.paused AND (s.rung_at IS NULL OR s.leased_until > clock_timestamp())
       AND NOT EXISTS (SELECT FROM sync_history h WHERE h.account_id = a.id AND h.kind = 'backfill'
                                                    AND h.status = 'succeeded')
"""
"""Those that wait for the lease of a killed worker to run out are not."""


def _begin_another(campaign: Campaign) -> None:
    if not campaign.sleeping:
        scene.connect_one(campaign)
        scene.wait_until_connected(campaign)
    scene.wake(campaign, campaign.sleeping[: scale.BACKFILLS])
