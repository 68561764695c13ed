"""Every number of the kill campaign, in one place. KILLS and KILL_SEED choose; durations are in seconds."""

import os
from dataclasses import dataclass

VICTIMS = ("worker", "scheduler", "postgres")
PHASES = ("backfill", "refresh")

EVENTS_INTERVAL = 1
LEASE = 3
ACCESS_TOKEN = 20
"""Life of an access token: a job renews one that has less than ten seconds left."""
GRACE = 60
LATEST_REUSE = 55
"""A used refresh token must not be used again later than this after its first use."""
USES_OF_A_TOKEN = 2
"""The nemesis spares a refresh token that was used so often: each crash costs a part of Allegro's 60 seconds."""

LIST_ANSWER_TAKES = 0.08
TOKEN_ANSWER_TAKES = 0.25
"""Answers travel for a while, so that a kill finds requests on their way."""
STRIKE_WITHIN = {"worker": 0.4, "postgres": 0.4, "scheduler": 1.0}
"""The kill comes at most so long after the call that was waited for; at once in one case of three."""
DOWN_FOR = 0.4
PAGES = (1, 4)
"""The kill waits for so many list pages of backfills."""
BACKFILLS = 2
"""So many are kept under way while backfills are to be hit."""
FAULTS_AT_ALLEGRO = 0.15
"""Share of the kills that coincide with a lost answer."""

ARMED_FOR = {"backfill": 2.5, "refresh": 0.3}
"""So long a trap stays set before more is brought about: a backfill that was woken is under way by then."""
CALL_WITHIN = 45
START_WITHIN = 60
QUIET_WITHIN = 150
THINGS_A_SECOND = 4.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. `kills`: of each victim in each phase."""

    kills: int
    sellers: int
    orders: int


SLICE = Scale(kills=2, sellers=8, orders=400)
CAMPAIGN = Scale(kills=20, sellers=24, orders=1200)


def chosen() -> Scale:
    """The slice of every test run; the whole campaign with KILLS=20."""
    kills = int(os.environ.get("KILLS", SLICE.kills))
    size = SLICE if kills <= SLICE.kills else CAMPAIGN
    return Scale(kills, size.sellers, size.orders)


def seeds() -> list[int]:
    """KILL_SEED, or the one seed that every test run uses."""
    return [int(os.environ.get("KILL_SEED", "1"))]
