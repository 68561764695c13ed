"""Every boundary of five small scenes, one after the other: a crash there, once before and, at a commit, once after."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Engine

from orders_backup.sync import state

from . import checks, story, wires
from .hand import HAND
from .story import Story

SEED = 11
CALM: dict[str, Any] = {
    "orders": 5,
    "limit": 9_000,
    "access_token": 400,
    "skews": (0.0,),
    "event_lag": 0.0,
    "small_pages": True,
    "extras": False,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """`before` sets the scene undisturbed; `scene` is what is crashed."""

    name: str
    before: Callable[[Story], None]
    scene: Callable[[Story], None]


@dataclass(frozen=True, slots=True)
class Point:
    """The `number`-th boundary of a scene's whole story, and what happens there."""

    scene: Scene
    number: int
    place: str
    action: str

    def __str__(self) -> str:
        return f"{self.scene.name}, boundary {self.number} ({self.place}), {self.action}"


def points(engine: Engine) -> Iterator[Point]:
    """The scenes played undisturbed once, and every boundary that was passed."""
    for scene in SCENES:
        with _begun(engine) as told:
            scene.before(told)
            first = told.stage.boundaries
            scene.scene(told)
            places = told.stage.places[first:]
            _ends(told)
            assert not told.stage.trouble, told.stage.trouble
        for number, place in enumerate(places, first + 1):
            yield Point(scene, number, place, "crash")
            if place == "commit":
                yield Point(scene, number, place, "crash_after")
                yield Point(scene, number, place, "lost")


def play(engine: Engine, point: Point) -> Story:
    """The scene with a crash at this point, and then everything that must hold when it is over."""
    with _begun(engine) as told:
        point.scene.before(told)
        told.stage.exactly = {point.number: point.action}
        point.scene.scene(told)
        _ends(told)
        assert told.stage.disrupted, f"nothing happened at {point}"
    return told


def _begun(engine: Engine) -> AbstractContextManager[Story]:
    return story.begun(engine, SEED, families=frozenset(), **CALM)


def _ends(told: Story) -> None:
    if told.account_id == story.NOBODY or told.status() != "active":
        told.connects()
    told.settles()
    checks.finally_(told, proven=told.silent)


def _job(told: Story, task: str, kind: str | None = None) -> None:
    """The next message of this kind, when it is due."""
    for _ in range(40):
        for place, (name, key) in enumerate(told.stage.queue):
            if name == task and key.get("kind") == kind:
                told.stage.deliver(place)
                told.looks()
                return
        told.stage.queue.clear()
        HAND.forward(max(told.until_due(), 20.0))
        told.stage.tick()
    raise AssertionError(f"{task} {kind or ''} was never due")


def _level(told: Story) -> None:
    told.connects()
    told.settles()


def _changed(told: Story) -> None:
    """A level shop to which three things happen."""
    _level(told)
    world, seller = told.stage.world, told.seller_id
    first, second = world.orders(seller)[-2:]
    for form in (first, second):
        world.ships(form, status="SENT")
    world.merges(world.buys(seller), world.buys(seller))


def _swept(told: Story) -> None:
    """A level shop with a purchase that no event told of, and a full sync that was asked for."""
    _level(told)
    told.stage.world.buys(told.seller_id, silently=True)
    told.silent = True
    HAND.forward(61)
    with wires.quietly(told.stage.engine) as tx:
        state.request(tx, told.account_id, "full")


SCENES = (
    Scene("connect", lambda _: None, Story.connects),
    Scene("refresh", Story.connects, lambda told: _job(told, "refresh_token")),
    Scene("backfill", Story.connects, lambda told: _job(told, "sync", "listing")),
    Scene("pull", _changed, lambda told: _job(told, "sync", "journal")),
    Scene("full sync", _swept, lambda told: _job(told, "sync", "listing")),
)
