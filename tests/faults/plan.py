"""What is to happen: the kinds of faults, and the rounds in which a seed deals them. No fault is done here."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from . import scale

if TYPE_CHECKING:
    from .chaos import Chaos

Hits = Callable[[], int]
"""How often a fault hit somebody so far."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `do` begins it, says how often it hit, and ends it. `seconds`: how long it lasts.

    `weight`: how often it is in a deck; `within`: seconds until everybody must have recovered; `alone`: no other fault
    at the same time; `loses`: what was read during it may have been lost on its way.
    """

    name: str
    group: str
    do: "Callable[[Chaos, Fault], AbstractContextManager[Hits]]"
    victims: Sequence[str] = ("",)
    seconds: tuple[float, float] = (0.5, 4.0)
    weight: int = 1
    within: float = scale.STEADY_WITHIN
    alone: bool = False
    loses: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan. `seed` decides what its kind leaves open."""

    number: int
    kind: Kind
    victim: str
    seconds: float
    seed: int

    @property
    def draw(self) -> random.Random:
        """Every call begins the same row of numbers."""
        return random.Random(self.seed)

    def __str__(self) -> str:
        return f"{self.number} {self.kind.name} {self.victim} for {self.seconds:.1f} s".replace("  ", " ")


def rounds(
    kinds: Sequence[Kind], seed: int, *, together: Sequence[int] = scale.TOGETHER
) -> Iterator[tuple[Fault, ...]]:
    """Without end, always the same for a seed: faults one by one, by two, by three of different groups.

    Every kind comes once before any comes twice its weight.
    """
    draw = random.Random(f"plan {seed}")
    dealt = _dealt(kinds, draw)
    waiting: list[Kind] = []
    number = 1
    while True:
        size = draw.choices((1, 2, 3), together)[0]
        chosen = [waiting.pop(0) if waiting else next(dealt)]
        while len(chosen) < size and (fitting := _another(chosen, waiting, dealt)):
            chosen.append(fitting)
        yield tuple(_fault(number + place, kind, draw) for place, kind in enumerate(chosen))
        number += len(chosen)


def _another(chosen: Sequence[Kind], waiting: list[Kind], dealt: Iterator[Kind]) -> Kind | None:
    """The first that fits among those that wait and a few more; those that do not fit wait for a later round."""
    waiting.extend(islice(dealt, max(scale.LOOK_AHEAD - len(waiting), 0)))
    found = next((kind for kind in waiting if _fits(kind, chosen)), None)
    if found:
        waiting.remove(found)
    return found


def _dealt(kinds: Sequence[Kind], draw: random.Random) -> Iterator[Kind]:
    while True:
        once, again = list(kinds), [kind for kind in kinds for _ in range(kind.weight - 1)]
        draw.shuffle(once)
        draw.shuffle(again)
        yield from once
        yield from again


def _fits(kind: Kind, chosen: Sequence[Kind]) -> bool:
    return not (kind.alone or any(one.alone or one.group == kind.group for one in chosen))


def _fault(number: int, kind: Kind, draw: random.Random) -> Fault:
    return Fault(number, kind, draw.choice(kind.victims), draw.uniform(*kind.seconds), draw.getrandbits(32))
