"""The story of one seed: a seller connects, life goes on, faults happen, calm returns, and everything is checked."""

import contextlib
import random
import shutil
import tempfile
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy.engine import Engine

from allegro_simulator.world import NotPossibleError, World
from orders_backup.accounts import connect
from orders_backup.due import RING_AGAIN_AFTER
from orders_backup.errors import (
    AllegroError,
    BudgetExhaustedError,
    ConflictError,
    DatabaseUnavailableError,
    NotFoundError,
)
from orders_backup.settings import Settings
from orders_backup.sync import state

from . import checks, knobs, openings, weather, wires
from .hand import HAND
from .openings import Opening
from .reader import Reader
from .road import Road, Traffic
from .stage import Crash, Stage, WatchedFolder, playing
from .weather import Weather

KEY = SecretStr("key1:" + "A" * 43)
USER = UUID(int=7)
NOBODY = UUID(int=0)
ACTS = (1, 2, 2, 3)
SKEWS = ((0.0,), (0.0,), (0.0, 3_600.0), (-3_600.0, 0.0, 7.0))
LATE = (0.0, 0.0, 20.0, 40.0)
"""Seconds that the scheduler or the workers may be behind."""
RUSH: dict[str, Any] = {"limit": 60, "orders": 260, "small_pages": True, "acts": 1, "extras": False}
"""A shop that is not listed within a minute, as far as the limit goes."""
FROM_NOTHING = 0.35
"""The share of stories that begin with nothing; the others find a shop that is connected and listed."""
_by_id = attrgetter("id")


@dataclass(slots=True)
class Scale:
    """What a seed draws for itself."""

    orders: int
    acts: int
    limit: int
    access_token: int
    skews: tuple[float, ...]
    event_lag: float
    small_pages: bool
    extras: bool


@dataclass(slots=True)
class Story:
    """A seed that is being played. `silent`: something happened of which no event tells."""

    seed: int
    stage: Stage
    traffic: Traffic
    scale: Scale
    seller_id: str
    weather: Weather
    reader: Reader
    account_id: UUID = NOBODY
    silent: bool = False
    refused_by_allegro: bool = False
    hidden: list[tuple[datetime, Any]] = field(default_factory=list)
    told_tokens: tuple[int, str] = (0, "")
    pinned: str | None = None

    # Steps

    def connects(self) -> None:
        """The seller's browser: begins until it works, agrees, and begins again where the flow was lost on its way."""
        extras = None if self.scale.extras else ()
        self.account_id = self._as_user(
            lambda runtime: connect.begin(runtime, user_id=USER, name="shop", extras=extras)
        )
        self.stage.names[str(self.account_id)] = "shop"
        for _ in range(200):
            status = self.status()
            if status == "active":
                return
            if status in {"expired", "denied"}:
                self._reconnects()
            self._agrees()
            self.turn()
        self.stage.trouble.append("connect: the account never became active")

    def status(self) -> str:
        return str(self.stage.one("SELECT status FROM accounts WHERE id = :account", account=self.account_id))

    def _reconnects(self) -> None:
        if not (self.stage.disrupted or self.refused_by_allegro):
            self.stage.trouble.append("I6 a login was lost though nothing had happened")
        self._as_user(lambda runtime: connect.begin_again(runtime, self.account_id))

    def _agrees(self) -> None:
        """He may take a moment to type the code."""
        code = self.stage.one("SELECT user_code FROM device_flows")
        if code is not None and HAND.draw.random() < 0.9:
            with contextlib.suppress(LookupError):
                self.stage.world.approves(code, self.seller_id)

    def _as_user(self, ask: Any) -> Any:
        """A request through the API: who gets no answer asks again."""
        for _ in range(100):
            worker = self.stage.idle()
            answer = None
            failed = True
            with contextlib.suppress(Crash), self.stage.as_process(worker):
                try:
                    answer, failed = ask(worker.runtime), False
                except (DatabaseUnavailableError, AllegroError, BudgetExhaustedError, OSError) as error:
                    self.stage.say(f"the API fails: {type(error).__name__}")
            if not failed:
                return answer
            HAND.forward(10)
            known = self.stage.one("SELECT id FROM accounts WHERE user_id = :user", user=USER)
            if known is not None and self.account_id == NOBODY:
                return known
        raise AssertionError("the API never answered")

    def turn(self) -> None:
        """Where no message waits, time passes until something is due and the scheduler rings; one is delivered."""
        queue = self.stage.queue
        if not queue:
            HAND.forward(self.until_due() + 0.001)
            self.stage.tick()
        self._reveals()
        self._broker()
        if queue:
            self.stage.deliver(self._next())
            self.looks()
        else:
            HAND.forward(HAND.draw.choice((1.0, 5.0)))

    def _next(self) -> int:
        """Which message a free process takes first; a refresh never waits long, for there is more than one process."""
        tasks = [task for task, _ in self.stage.queue]
        if "refresh_token" in tasks:
            return tasks.index("refresh_token")
        return HAND.draw.randrange(len(tasks)) if "broker" in self.weather.families else 0

    def _broker(self) -> None:
        queue = self.stage.queue
        if "broker" not in self.weather.families or self.weather.is_over or not queue:
            return
        chance = HAND.draw.random()
        if chance < 0.2:
            self.stage.say(f"the broker loses {queue.pop()[0]}")
        elif chance < 0.4:
            queue.append(HAND.draw.choice(queue))
        elif chance < 0.43:
            queue.clear()

    def until_due(self) -> float:
        """Seconds until something is due, and often a little more, so that several jobs are; negative where it is late.

        Logins wait for nothing: of a grace each second counts.
        """
        row = self.stage.rows(_WAITING)[0]
        late = 0.0 if self.weather.is_over else HAND.draw.choice(LATE)
        moments = [row.work + timedelta(seconds=late)] if row.work is not None else []
        moments += [row.login] if row.login is not None else []
        found = min(moments, default=HAND.now + timedelta(seconds=5))
        return min(float((found - HAND.now).total_seconds()), 150.0)

    def interlude(self) -> None:
        """What another process does while one stands still: the scheduler rings, and some of it is worked on."""
        if HAND.draw.random() < 0.6:
            self.happens()
            self.is_asked_for("incremental")
        self.stage.tick()
        for _ in range(HAND.draw.randint(1, 2)):
            if self.stage.queue:
                self.stage.deliver(HAND.draw.randrange(len(self.stage.queue)))

    def is_asked_for(self, kind: str) -> None:
        """Somebody presses the button: the journal or a list is due, whatever else is on its way."""
        with wires.quietly(self.stage.engine) as tx, contextlib.suppress(ConflictError, NotFoundError):
            state.request(tx, self.account_id, kind)

    # Life at Allegro

    def happens(self) -> None:
        """One or a few things, each with its events or, in some seeds, without."""
        world, seller, draw = self.stage.world, self.seller_id, HAND.draw
        lossy = "journal" in self.weather.families and not self.weather.is_over
        with contextlib.suppress(NotPossibleError):
            if lossy and draw.random() < 0.5:
                self._journal_goes_wrong()
            elif draw.random() < 0.12:
                first = world.buys(seller)
                pause = draw.choice((0.01, 40.0))
                HAND.forward(pause if self.weather.may_stand_still() else 0.01)
                second = world.buys(seller, buyer_of=first)
                if draw.random() < 0.5 and not self.stage.stack:
                    self.turn()
                world.merges(first, second)
            else:
                world.happens(seller, draw.randint(1, 3))
        self.stage.say("things happen")

    def _journal_goes_wrong(self) -> None:
        world, seller, draw = self.stage.world, self.seller_id, HAND.draw
        match draw.choice(("loses", "duplicates", "restores", "reorders", "hides", "hides")):
            case "loses":
                world.loses_event(seller)
                self.silent = True
                world.happens(seller)
            case "duplicates":
                world.duplicates_event(seller)
            case "restores":
                world.restores_lost_events(seller)
            case "reorders":
                world.reorders(seller)
            case "hides":
                world.happens(seller)
                self._hides()

    def _hides(self) -> None:
        """The newest event has its id already and will be seen minutes later, after younger ones."""
        events = self.stage.world._state.sellers[self.seller_id].journal.events
        if events and not self.scale.small_pages:
            self.hidden.append((HAND.now + timedelta(seconds=HAND.draw.uniform(1, 400)), events.pop()))

    def _reveals(self, *, everything: bool = False) -> None:
        events = self.stage.world._state.sellers[self.seller_id].journal.events
        for one in list(self.hidden):
            if everything or one[0] <= HAND.now:
                self.hidden.remove(one)
                insort(events, one[1], key=_by_id)

    def allegro_refuses(self) -> None:
        """The seller changed his password: he has to connect again, and that is nobody's fault."""
        self.refused_by_allegro = True
        self.stage.world.rejects_tokens(self.seller_id)
        self.stage.say("Allegro rejects the tokens")
        for wanted in ("reauthorization_required", "active"):
            for _ in range(150):
                if self.stage.trouble or self.status() == wanted:
                    break
                self.turn()

    # Looks

    def looks(self) -> None:
        """What must hold after every step."""
        if HAND.draw.random() < 0.3:
            self.reader.reads()
        status = checks.always(self)
        if status == "reauthorization_required" and not self.refused_by_allegro:
            self.stage.trouble.append("I6 a login was lost that Allegro had not refused")
        if status == "reauthorization_required" and not self.stage.one("SELECT count(*) FROM device_flows"):
            self._reconnects()
        if status != "active":
            self._agrees()

    def settles(self) -> None:
        """No more faults: all must be quiet within a minute after the waits that were decided on before."""
        stage = self.stage
        self.weather.clears_up()
        self._reveals(everything=True)
        HAND.forward(self.scale.event_lag + 1)
        calm_since = HAND.now
        stage.say("calm")
        waits = checks.waits_until(self) or HAND.now
        allowed = timedelta(seconds=60) + stage.settings.lease + RING_AGAIN_AFTER
        deadline = max(waits, HAND.now) + allowed
        for _ in range(400):
            if not stage.queue and not (left := checks.unquiet(self, calm_since)):
                return
            if HAND.now > deadline or stage.trouble:
                break
            self.turn()
        left = checks.unquiet(self, calm_since)
        if left and not stage.trouble:
            stage.trouble.append(f"I10 not quiet within {(HAND.now - calm_since).total_seconds():.0f} s: {left}")

    def reconciles(self) -> None:
        """A sweep: over everything where something may be known from nowhere else."""
        kind = "reconcile" if self.silent else HAND.draw.choice(("full", "full", "full", "reconcile"))
        HAND.forward(61)
        with wires.quietly(self.stage.engine) as tx:
            state.request(tx, self.account_id, kind)
        self.settles()


_WAITING = """
    SELECT (SELECT min(GREATEST(due_at, leased_until)) FROM syncs) AS work,
           (SELECT min(moment)
              FROM (SELECT GREATEST(due_at, leased_until) AS moment FROM device_flows
                     UNION ALL SELECT GREATEST(due_at, leased_until) FROM account_tokens
                     UNION ALL
                    SELECT clock_timestamp() + interval '5 s' FROM accounts a
                     WHERE a.status = 'active'
                       AND NOT EXISTS (SELECT FROM syncs s WHERE s.account_id = a.id AND s.due_at IS NOT NULL)) AS each
           ) AS login
"""
"""The scheduler wakes what sleeps, here every five seconds."""


def _scale() -> Scale:
    draw = HAND.draw
    return Scale(
        orders=draw.choice((0, 2, 4, 6, 9, 12)),
        acts=draw.choice(ACTS),
        limit=draw.choice((9_000, 9_000, 9_000, 9_000, 9_000, 200)),
        access_token=draw.choice((43_199, 3_600, 400)),
        skews=draw.choice(SKEWS),
        event_lag=draw.choice((0.0, 0.0, 2.0)),
        small_pages=draw.random() < 0.5,
        extras=draw.random() < 0.3,
    )


@contextlib.contextmanager
def begun(
    engine: Engine, seed: int, *, families: frozenset[str] | None = None, shop: Opening | None = None, **fixed: Any
) -> Iterator[Story]:
    """The beginning of a story; `families` and `fixed` take the place of what the seed would have drawn."""
    HAND.begin(seed)
    wires.empty(engine)
    scale = (
        _scale() if shop is None else replace(shop.scale, acts=HAND.draw.choice(ACTS), skews=HAND.draw.choice(SKEWS))
    )
    for name, value in fixed.items():
        setattr(scale, name, value)
    folder = tempfile.mkdtemp(prefix="spool", dir=wires.MEMORY)
    world = World(
        seed=seed,
        clock=HAND,
        access_token_seconds=scale.access_token,
        device_interval=5,
        client_limit=scale.limit,
        event_lag=scale.event_lag,
    )
    seller = world.add_seller(scale.orders)
    settings = _settings(world, WatchedFolder(folder), scale)
    traffic = Traffic(choose=lambda _: None)
    stage = Stage(engine, world, settings, lambda on, worker: Road(on, worker, traffic), skews=scale.skews)
    drawn = weather.drawn(stage, traffic)
    if families is not None:
        drawn.families = families
    traffic.choose, traffic.aims = drawn.choose, drawn.aims
    story = Story(seed, stage, traffic, scale, seller.id, drawn, Reader(stage))
    stage.may_strike, stage.interlude = drawn.may_strike, story.interlude
    try:
        with knobs.turned(small=scale.small_pages), knobs.unplayed(), knobs.long_months(), playing(stage):
            for _ in range(2):
                stage.start()
            stage.say(f"seed {seed}: {scale} {sorted(drawn.families)} {drawn.rate}")
            if shop is not None:
                openings.set_out(story, shop)
            yield story
    finally:
        story.reader.ends()
        if engine.pool.checkedout():  # type: ignore[attr-defined]
            engine.dispose()
        shutil.rmtree(folder, ignore_errors=True)


def play(
    engine: Engine,
    seed: int,
    holder: list[Story] | None = None,
    *,
    families: frozenset[str] | None = None,
    **fixed: Any,
) -> Story:
    """A whole seed; what was found broken stands in its stage's `trouble`. `holder` has it even if this raises."""
    chance = random.Random(f"opening {seed}")
    is_new = chance.random() < FROM_NOTHING or "orders" in fixed
    shop = None if is_new else openings.opening(engine, chance.randrange(openings.HOW_MANY))
    with begun(engine, seed, families=families, shop=shop, **fixed) as story:
        if holder is not None:
            holder.append(story)
        _lives(story)
        if not story.stage.trouble:
            story.settles()
            checks.finally_(story, proven=False)
        if not story.stage.trouble and (story.silent or HAND.draw.random() < 0.1):
            story.reconciles()
            checks.finally_(story, proven=True)
        return story


def _lives(story: Story) -> None:
    """The seller connects, and then things happen, jobs run and faults strike in the order that the seed chooses."""
    draw = HAND.draw
    story.weather.arms()
    if story.account_id == NOBODY:
        story.connects()
    for _ in range(story.scale.acts):
        if story.stage.trouble:
            break
        chance = draw.random()
        if chance < 0.6:
            story.happens()
        if chance < 0.7:
            story.weather.arms()
        if "lists" in story.weather.families and draw.random() < 0.4:
            story.is_asked_for(draw.choice(("full", "reconcile")))
        if chance > 0.88:
            story.reader.overtakes()
        if chance > 0.985:
            story.allegro_refuses()
        for _ in range(draw.randint(1, 2)):
            story.turn()


def _settings(world: World, folder: Path, scale: Scale) -> Settings:
    built = Settings(
        database_url="postgresql://campaign",
        broker_url="redis://nobody",
        allegro_api_url=world.base_url,
        allegro_auth_url=world.base_url,
        allegro_client_id="simulator",
        allegro_client_secret=SecretStr("simulator-secret"),
        encryption_keys=KEY,
        rate_limit_client=scale.limit,
        rate_limit_orders=min(scale.limit, 100) if scale.limit < 9_000 else 3_000,
        sync_interval=timedelta(hours=1),
    )
    return built.model_copy(update={"data_dir": folder})
