"""Faults of the network: every toxic on every kind of link."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from . import scale
from .cluster import API, SCHEDULERS, WORKERS, until
from .plan import Fault, Hits, Kind
from .proxy import Toxic
from .toxics import Cut, Drip, HalfOpen, Latency, Partition, Refusal, Reset, Truncation

if TYPE_CHECKING:
    from .chaos import Chaos

LINKS = {
    "PostgreSQL": ("postgres", [*WORKERS, *SCHEDULERS, API, "everyone"]),
    "broker": ("broker", [*WORKERS, *SCHEDULERS, API, "everyone"]),
    "object storage": ("bucket", [*WORKERS, "everyone"]),
    "Allegro": ("allegro", [*WORKERS, "everyone"]),
    "Allegro's tokens": ("auth", ["everyone"]),
}


def _partition(fault: Fault) -> Toxic:
    return fault.draw.choice([Partition("up"), Partition("down"), Partition(), Partition()])


BY_REFRESHES = {"auth", "bucket"}
"""What is spoken to where a login is renewed: the authorization server, and the journal of tokens."""

TOXICS: dict[str, tuple[Callable[[Fault], Toxic], tuple[float, float]]] = {
    "slow": (lambda fault: Latency(fault.draw.uniform(0.1, 0.6), 0.1), (1, 4)),
    "drip": (lambda fault: Drip(fault.draw.randint(50, 400)), (1, 4)),
    "reset": (lambda _: Reset(), (0.3, 3)),
    "lose answers": (lambda fault: Cut(answered=True, times=fault.draw.randint(1, 6)), (0.5, 3)),
    "truncate answers": (
        lambda fault: Truncation(fault.draw.randint(0, 300), times=fault.draw.randint(1, 4)),
        (0.5, 3),
    ),
    "half-open": (lambda _: HalfOpen(), (0.5, 3)),
    "partition": (_partition, (2, 10)),
    "refuse": (lambda _: Refusal(), (0.5, 4)),
}


def _ill(target: str, toxic: Callable[[Fault], Toxic]) -> "Callable[[Chaos, Fault], AbstractContextManager[Hits]]":
    @contextmanager
    def ill(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
        with ExitStack() as stack:
            links = chaos.cluster.links_of(fault.victim, target)
            toxics = [stack.enter_context(link.under(toxic(fault))) for link in links]
            if target in BY_REFRESHES:
                chaos.expire_tokens(2)
            if fault.victim == API:
                chaos.cluster.api_answers()
            until(lambda: any(one.hits for one in toxics), scale.MOMENT_WITHIN * (2 if target in BY_REFRESHES else 1))
            yield lambda: sum(one.hits for one in toxics)

    return ill


KINDS = [
    Kind(
        f"{name}, link to {place}",
        f"link to {target}",
        _ill(target, toxic),
        victims,
        seconds,
        within=scale.RESTARTED_WITHIN if target in {"postgres", "broker"} else scale.STEADY_WITHIN,
        loses=target != "broker",
    )
    for place, (target, victims) in LINKS.items()
    for name, (toxic, seconds) in TOXICS.items()
]
