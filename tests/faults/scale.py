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


# The campaign of all faults

POLL_EVERY = 1
FULL_EVERY = 60
CLUSTER_LEASE = 4
CLIENT_LIMIT = 3000
"""Calls a minute, here and at the simulated Allegro: enough for peace, little enough to be met after an outage."""
CLUSTER_TOKEN = 60
CLUSTER_GRACE = 60
ANSWERS_TAKE = (0.04, 0.03)
"""Every answer of Allegro travels for so long, a little more or less."""
TOGETHER = (1, 3, 6)
"""So often one, two, three faults at the same time; in the slice always three."""
LOOK_AHEAD = 8
"""Among so many kinds one is looked for that fits to those of the round."""
EXPIRE_TOKENS = 0.4
"""Share of the rounds at whose beginning some access tokens expire, so that refreshes are under way."""
MOMENT_WITHIN = 3.0
"""So long a strike waits for the moment it wants to hit."""
CHECK_EVERY = 8
"""Rounds between two looks at what can be checked while all goes on."""
NEWCOMER_EVERY = 12
"""Rounds between two new sellers, whose history is listed while faults go on."""
BETWEEN = (0.1, 1.0)

SILENCE = 65
"""Seconds of silence after a 429 that does not say how long."""
STOP_WITHIN = 30

STEADY_WITHIN = 60.0
RESTARTED_WITHIN = 120.0
"""So soon after the end of a fault everybody's journal must have been followed to its end again."""
PATIENCE = 2.5
"""The campaign waits so many times longer before it gives up; the report tells of both."""
PERMITS_LAST = 5.0
"""So long after a 429 calls may still arrive: their permits were taken before it, or they were on their way."""
DEAF_WITHIN = 60.0
"""So soon after its broker came back a worker may find itself deaf: it waits for 30 s, and judges now and then."""
MAY_GROW_MB = 120
MAY_GROW_DESCRIPTORS = 40
MAY_GROW_THREADS = 12


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. `kills`: of each victim in each phase."""

    kills: int
    sellers: int
    orders: int


SLICE = Scale(kills=2, sellers=8, orders=400)
CAMPAIGN = Scale(kills=20, sellers=24, orders=1200)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much chaos. `is_slice`: few kinds; `minutes`: the longest that faults go on; `only`: what the names of the
    kinds or of their groups hold."""

    faults: int
    minutes: float
    seed: int
    broker: str
    only: str

    @property
    def is_slice(self) -> bool:
        return self.faults <= SLICE_FAULTS


SLICE_FAULTS = 4
IN_THE_SLICE = {
    "kill worker",
    "lose COMMIT's answer",
    "wipe broker",
    "truncate answers, link to Allegro",
    "lose answers, link to broker",
    "merges",
}
"""Of each group one or two that are soon over."""
SLICE_OF_CHAOS = Scale(kills=0, sellers=2, orders=150)
CHAOS = Scale(kills=0, sellers=6, orders=400)


def chaos() -> Extent:
    """The slice of every test run; the whole campaign with FAULTS=300."""
    chosen = os.environ.get
    return Extent(
        faults=int(chosen("FAULTS", SLICE_FAULTS)),
        minutes=float(chosen("CHAOS_MINUTES", "42")),
        seed=int(chosen("SEED", "1")),
        broker=chosen("CHAOS_BROKER", "valkey"),
        only=chosen("ONLY", ""),
    )


def chosen() -> Scale:
    """The slice of every test run; the whole campaign with KILLS=20."""
    kills = int(os.environ.get("KILLS", SLICE.kills))
    size = SLICE if kills <= SLICE.kills else CAMPAIGN
    return Scale(kills, size.sellers, size.orders)


def seeds() -> list[int]:
    """KILL_SEED, or the one seed that every test run uses."""
    return [int(os.environ.get("KILL_SEED", "1"))]
