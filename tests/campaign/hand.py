"""Time in the campaign's hand: one clock that all simulated processes and the database read, moved only here."""

import contextlib
import inspect
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from types import ModuleType
from typing import Any, Self, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

START = datetime(2026, 7, 18, 12, 0, 0, 123_000, tzinfo=UTC)


class Hand:
    """The moment it is, the chance that decides, and by how much the running process's own clock is wrong."""

    def __init__(self) -> None:
        self.now = START
        self.skew = 0.0
        self.draw = random.Random(0)
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Everything that is drawn from here on follows from the seed."""
        self.now, self.skew, self.draw = START, 0.0, random.Random(f"chance {seed}")
        random.seed(f"product {seed}")

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=max(seconds, 0.0))

    def seconds(self) -> float:
        return (self.now - START).total_seconds()


HAND = Hand()


class _Instances(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class HandDatetime(datetime, metaclass=_Instances):
    """What the product imports as `datetime`: the wall clock of its process, which may be wrong by an hour."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return (HAND.now + timedelta(seconds=HAND.skew)).astimezone(tz)


class HandTime(ModuleType):
    """What the product imports as `time`."""

    @staticmethod
    def monotonic() -> float:
        return 5_000.0 + HAND.skew + HAND.seconds()

    @staticmethod
    def time() -> float:
        return HAND.now.timestamp() + HAND.skew

    @staticmethod
    def sleep(seconds: float) -> None:
        HAND.forward(seconds)


class SeededPool:
    """In place of a pool of threads: every call is made, in an order that the seed chooses."""

    def __init__(self, *_: object, **__: object) -> None:
        """It needs no threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left running."""

    def map(self, ask: Callable[[Q], A], questions: Iterable[Q]) -> Sequence[A]:
        asked = list(questions)
        order = list(range(len(asked)))
        HAND.draw.shuffle(order)
        answers = {place: ask(asked[place]) for place in order}
        return [answers[place] for place in range(len(asked))]


def _uuid4() -> uuid.UUID:
    return uuid.UUID(int=HAND.draw.getrandbits(128), version=4)


@contextlib.contextmanager
def in_hand() -> Iterator[None]:
    """Every module of the product that reads a clock, makes an id or starts a pool does it by the hand."""
    changed: list[tuple[ModuleType, str, Any]] = []

    def put(module: ModuleType, name: str, value: object) -> None:
        changed.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    for full, module in sorted(sys.modules.items()):
        if not full.startswith("orders_backup."):
            continue
        if getattr(module, "time", None) is time:
            put(module, "time", HandTime("time"))
        if getattr(module, "uuid4", None) is uuid.uuid4:
            put(module, "uuid4", _uuid4)
        if hasattr(module, "ThreadPoolExecutor"):
            put(module, "ThreadPoolExecutor", SeededPool)
        if getattr(module, "datetime", None) is datetime and "datetime.now(" in inspect.getsource(module):
            put(module, "datetime", HandDatetime)
    try:
        yield
    finally:
        for module, name, value in reversed(changed):
            setattr(module, name, value)
