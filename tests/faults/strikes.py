"""Faults of our own processes and of the broker."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import kombu
import redis

from orders_backup.bell import QUEUE

from . import scale
from .cluster import SCHEDULERS, WORKERS, until
from .plan import Fault, Hits, Kind
from .toxics import Watch

if TYPE_CHECKING:
    from .chaos import Chaos

MOMENTS = {
    "any": ("", b""),
    "calling": ("allegro", b""),
    "refreshing": ("auth", b""),
    "committing": ("postgres", b"COMMIT"),
}
"""Moments of a worker worth hitting: by the link and the bytes that have just gone up on it."""


def once() -> int:
    return 1


def wait_for_moment(chaos: "Chaos", fault: Fault) -> None:
    """Until the victim does what the fault wants to interrupt; not for long."""
    moments = list(MOMENTS) if fault.victim in WORKERS else ["any", "committing"]
    moment = fault.draw.choice(moments)
    target, pattern = MOMENTS[moment]
    if not target:
        return
    if moment == "refreshing":
        chaos.expire_tokens()
    with chaos.cluster.links[f"{fault.victim}→{target}"].under(Watch(pattern)) as watch:
        watch.seen.wait(scale.MOMENT_WITHIN)
    if fault.seed % 2:
        time.sleep((fault.seed % 100) / 1000)


@contextmanager
def killed(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    if fault.victim in (*WORKERS, *SCHEDULERS):
        wait_for_moment(chaos, fault)
    chaos.cluster.strike(fault.victim, whole=fault.victim == "broker" or fault.seed % 2 == 0)
    yield once
    chaos.cluster.restart(fault.victim)
    if fault.victim == "api":
        assert until(chaos.cluster.api_answers, scale.START_WITHIN), "the API did not come back"


@contextmanager
def _frozen(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    """A process that stops for a while and wakes up with everything it was about to do."""
    wait_for_moment(chaos, fault)
    chaos.cluster.freeze(fault.victim)
    yield once
    chaos.cluster.thaw(fault.victim)


@contextmanager
def _frozen_for_long(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    """So long that the leases pass: the other worker has taken over everything before this one wakes up."""
    frozen_at = datetime.now(UTC)
    with _frozen(chaos, fault) as hits:
        chaos.taken_over.append(chaos.recover(frozen_at, within=scale.STEADY_WITHIN))
        yield hits


@contextmanager
def _deployed(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    """One after the other is asked to stop, and started again."""
    for name in WORKERS if fault.victim == "workers" else SCHEDULERS:
        child = chaos.cluster.children[name]
        if not child.stop(within=scale.STOP_WITHIN):
            chaos.found.append(f"deploy: {name} did not stop within {scale.STOP_WITHIN} s of SIGTERM")
        child.start()
    yield once


# The broker


@contextmanager
def _broker_wiped(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    """Every message is gone, also those that somebody works on."""
    url = chaos.cluster.settings.broker_url
    for _ in range(2 + fault.seed % 3):
        if url.startswith("amqp"):
            with kombu.Connection(url) as connection:  # type: ignore[attr-defined,no-untyped-call]
                connection.channel().queue_purge(QUEUE)
        else:
            with redis.Redis.from_url(url) as broker:
                broker.flushall()
        time.sleep(0.3)
    yield once


KINDS = [
    Kind("kill worker", "process", killed, WORKERS, (0.1, 2), weight=4, loses=True),
    Kind("kill scheduler", "process", killed, SCHEDULERS, (0.1, 2), weight=3),
    Kind("kill API", "process", killed, ["api"], (0.1, 1)),
    Kind("freeze worker", "process", _frozen, WORKERS, (3, 12), weight=4, loses=True),
    Kind("freeze worker for long", "process", _frozen_for_long, WORKERS, (15, 45), alone=True, loses=True),
    Kind("freeze scheduler", "process", _frozen, SCHEDULERS, (2, 8), weight=2),
    Kind("deploy", "process", _deployed, ["workers", "schedulers"], (0.1, 0.5), weight=2),
    Kind("kill broker", "broker", killed, ["broker"], (0.1, 4), 2, scale.RESTARTED_WITHIN),
    Kind("wipe broker", "broker", _broker_wiped, seconds=(0.1, 0.5), weight=4, within=scale.RESTARTED_WITHIN),
]
