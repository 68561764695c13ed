"""Faults of Allegro itself: its answers, its limits, its journal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from allegro_simulator.world import NotPossibleError, World

from . import scale
from .cluster import until
from .plan import Fault, Hits, Kind
from .watched import LIST_PATH, TOKEN_PATH

if TYPE_CHECKING:
    from .chaos import Chaos


def _answers(kind: str, *, path: str = "", most: int = 6, listing: bool = False, **params: Any) -> Any:
    """The next few requests get this in place of their answer."""

    @contextmanager
    def whim(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
        times = fault.draw.randint(1, most)
        drawn: dict[str, Any] = {
            name: fault.draw.uniform(*value) if isinstance(value, tuple) else value for name, value in params.items()
        }
        with chaos.world.planned(kind, path=path, times=times, **drawn) as planned:
            if path == TOKEN_PATH:
                chaos.expire_tokens(2)
            if listing:
                chaos.ask_for("full")
            until(lambda: planned.times != times, scale.MOMENT_WITHIN)
            yield lambda: times - (planned.times or 0)

    return whim


@contextmanager
def _outage(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    before = sum(chaos.world.counts.values())
    chaos.world.goes_down(status=fault.draw.choice([0, 502, 503]))
    yield lambda: sum(chaos.world.counts.values()) - before
    chaos.world.comes_back()


@contextmanager
def _limited(chaos: "Chaos", **params: Any) -> Iterator[Hits]:
    """429: until the silence is over nobody may call; the fault ends with the silence."""
    with chaos.world.planned("status", code=429, path="/order", times=1, **params) as planned:
        assert until(lambda: not planned.times, 30), "nobody called"
        at, seconds = time.time(), params.get("retry_after", scale.SILENCE)
        chaos.silences.append((at, seconds))
        yield once
        time.sleep(max(at + seconds - time.time(), 0))


@contextmanager
def _limited_for_a_while(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    with _limited(chaos, retry_after=fault.draw.randint(8, 12)) as hits:
        yield hits


@contextmanager
def _limited_without_a_word(chaos: "Chaos", _: Fault) -> Iterator[Hits]:
    with _limited(chaos) as hits:
        yield hits


def once() -> int:
    return 1


# The journal


def _happening(happen: Callable[[World, str], object]) -> Any:
    @contextmanager
    def whim(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
        for seller_id in fault.draw.sample(sorted(chaos.awake), min(len(chaos.awake), 3)):
            with suppress(NotPossibleError):
                happen(chaos.world, seller_id)
        yield once

    return whim


def _lose(world: World, seller_id: str) -> None:
    world.loses_event(seller_id)
    world.happens(seller_id)


def _late(world: World, seller_id: str) -> None:
    world.loses_event(seller_id)
    world.happens(seller_id)
    world.happens(seller_id, silently=True)
    world.replays_late(seller_id)


@contextmanager
def _merged(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    """Two purchases become one while others read them."""
    sellers = fault.draw.sample(sorted(chaos.awake), min(len(chaos.awake), 2))
    pairs = [(chaos.world.buys(one), chaos.world.buys(one)) for one in sellers]
    yield lambda: len(pairs)
    for pair in pairs:
        with suppress(NotPossibleError):
            chaos.world.merges(*pair)


KINDS = [
    Kind("5xx", "Allegro", _answers("status", code=500), weight=2),
    Kind("504 as HTML", "Allegro", _answers("status", code=504, body="html"), weight=2),
    Kind("captcha", "Allegro", _answers("status", code=403, path="/order"), weight=2),
    Kind("200 as HTML", "Allegro", _answers("html", path="/order")),
    Kind("401 storm", "Allegro", _answers("status", code=401, path="/order", most=12), weight=3),
    Kind("429 with Retry-After", "Allegro", _limited_for_a_while, seconds=(0, 0.1), weight=2, alone=True),
    Kind("429 without a word", "Allegro", _limited_without_a_word, seconds=(0, 0.1), alone=True),
    Kind("resets before", "Allegro", _answers("reset"), weight=2),
    Kind("resets after", "Allegro", _answers("reset", after=True), weight=2),
    Kind("truncated", "Allegro", _answers("truncated", keep=(0.0, 0.99)), weight=2),
    Kind("slow", "Allegro", _answers("slow", most=4, seconds=(1.0, 24.0)), weight=2),
    Kind("lost token answers", "Allegro", _answers("lost_token_answer", path=TOKEN_PATH, most=3), weight=4),
    Kind("tokens 5xx", "Allegro", _answers("status", code=503, path=TOKEN_PATH, most=3), weight=2),
    Kind("outage", "Allegro", _outage, seconds=(1, 8), weight=2),
    Kind("wrong totals", "Allegro", _answers("wrong_total", path=LIST_PATH, most=2, listing=True, delta=(1, 3))),
    Kind("shifted pages", "Allegro", _answers("shifted_page", path=LIST_PATH, most=2, listing=True), weight=2),
    Kind("lost events", "journal", _happening(_lose), seconds=(0.1, 1), weight=2),
    Kind(
        "doubled events",
        "journal",
        _happening(lambda world, one: world.duplicates_event(one)),
        seconds=(0.1, 1),
        weight=2,
    ),
    Kind("late events", "journal", _happening(_late), seconds=(0.1, 1), weight=2),
    Kind(
        "disordered events", "journal", _happening(lambda world, one: world.reorders(one)), seconds=(0.1, 1), weight=2
    ),
    Kind("merges", "journal", _merged, seconds=(0.1, 4), weight=3),
]
