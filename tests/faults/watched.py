"""A simulated Allegro that tells the moment a certain call was processed and its answer has not left yet."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from allegro_simulator import faults
from allegro_simulator.faults import Planned
from allegro_simulator.http import Request, Response
from allegro_simulator.limits import Call
from allegro_simulator.world import World

TOKEN_PATH = "/auth/oauth/token"
LIST_PATH = "/order/checkout-forms"
_UUID_EPOCH = datetime(1582, 10, 15, tzinfo=UTC)

Wanted = Callable[[Request, Call], bool]


@dataclass(slots=True)
class Trap:
    """Springs at the `count`-th call that is `wanted`; `strike` runs before that call's answer leaves."""

    wanted: Wanted
    count: int
    strike: Callable[[], None] | None
    sprung: threading.Event = field(default_factory=threading.Event)
    seller_id: str | None = None
    is_armed: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def disarm(self) -> bool:
        """Nothing is killed from now on; False where it was too late."""
        with self.lock:
            self.is_armed = False
            return not self.sprung.is_set()

    def sees(self, request: Request, call: Call) -> None:
        with self.lock:
            if not self.is_armed or self.sprung.is_set() or not self.wanted(request, call):
                return
            self.count -= 1
            if self.count > 0:
                return
            self.seller_id = call.seller_id
            if self.strike:
                self.strike()
            self.sprung.set()


class WatchedWorld(World):
    """A world with at most one trap set. All requests come from the one thread that serves."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.trap: Trap | None = None

    def handle(self, request: Request) -> Response:
        response = super().handle(request)
        trap = self.trap
        if trap is not None and self._state.ledger.calls:
            trap.sees(request, self._state.ledger.calls[-1])
        return response

    @contextmanager
    def planned(
        self, kind: str, *, path: str = "", times: int = 1, after: bool = False, **params: Any
    ) -> Iterator[Planned]:
        """The next `times` requests under `path` go wrong, as long as the block lasts; `times` counts down."""
        planned = Planned(kind, times, path, after, params)
        with self._lock:
            faults.plan(self._state.board, planned)
        yield planned
        with self._lock:
            self._state.board.planned = [one for one in self._state.board.planned if one is not planned]

    def uses(self) -> Counter[tuple[str | None, int | None]]:
        """How often each refresh token, named by seller and generation, was accepted."""
        return Counter((use.seller_id, use.generation) for use in self._state.registry.log if use.outcome == "ok")

    def latest_reuse(self) -> float:
        """The most seconds between the first and the last use of a refresh token."""
        first: dict[tuple[str | None, int | None], float] = {}
        log = self._state.registry.log
        return max((use.at - first.setdefault((use.seller_id, use.generation), use.at) for use in log), default=0.0)

    def last_refresh_was_use(self, most: int) -> bool:
        """Whether the latest refresh was accepted and was at most the `most`-th use of its token."""
        log = self._state.registry.log
        if not log or log[-1].outcome != "ok":
            return False
        latest = log[-1]
        uses = sum((one.seller_id, one.generation) == (latest.seller_id, latest.generation) for one in log[-200:])
        return uses <= most


def is_refresh(request: Request) -> bool:
    return request.path == TOKEN_PATH and b"grant_type=refresh_token" in request.body


def is_listing(request: Request, call: Call) -> bool:
    """A page of a window of purchase times that was answered."""
    return request.path == LIST_PATH and call.status == 200 and ("sort", "lineItems.boughtAt") in request.query


def made_at(form_id: str) -> datetime:
    """When a form came into being: its id is a UUID of version 1."""
    low, middle, high, *_ = form_id.split("-")
    ticks = int(high[1:] + middle + low, 16)
    return _UUID_EPOCH + timedelta(microseconds=ticks // 10)
