"""The way to Allegro and back: every call takes time, and the seed decides what becomes of its answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import httpx

from allegro_simulator.transport import WorldTransport

from .hand import HAND
from .stage import Crash, Stage, Worker

TOKEN = "/auth/oauth/token"
LIST = "/order/checkout-forms"
EVENTS = "/order/events"
ME = "/me"
"""Who is refused here with a token that is a moment old has to agree once more."""
REUSE = 15.0
"""Two processes may use one refresh token where the first one is this much older: it counts as dead."""


@dataclass(slots=True)
class Fault:
    """What becomes of one call. `kind` is the simulator's, or one of those below."""

    kind: str
    after: bool = False
    seconds: float = 0.0
    params: dict[str, object] = field(default_factory=dict)


class Call(NamedTuple):
    """A request as it was sent."""

    at: datetime
    path: str
    worker: str
    status: int


class Silence(NamedTuple):
    """A 429 that reached a process: nobody calls before `until`, if the process lived to tell."""

    at: datetime
    until: datetime
    worker: Worker
    disruptions: int


@dataclass(slots=True)
class Traffic:
    """What went over the road. `delivered`: who got the answer to the newest refresh, if anybody did.

    `aims` is asked when a new pair of tokens is here and nowhere else.
    """

    choose: Callable[[str], Fault | None]
    calls: list[Call] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    token_calls: list[tuple[datetime, Worker]] = field(default_factory=list)
    delivered: Worker | None = None
    aims: Callable[[], None] = lambda: None


class Road(httpx.BaseTransport):
    """One process's way to Allegro."""

    def __init__(self, stage: Stage, worker: Worker, traffic: Traffic) -> None:
        self._stage, self._worker, self._traffic = stage, worker, traffic
        self._inner = WorldTransport(stage.world)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        stage, path = self._stage, request.url.path
        if self._worker.dead:
            raise Crash
        if stage.engine.pool.checkedout() > stage.held:  # type: ignore[attr-defined]
            stage.trouble.append(f"transaction: one was open during a call of {path}")
        HAND.forward(HAND.draw.uniform(0.002, 0.05))
        if (struck := stage.boundary("send", path)) and struck.action in {"crash", "crash_after"}:
            stage.dies()
        fault = self._traffic.choose(path)
        is_refresh = path == TOKEN and b"grant_type=refresh_token" in request.read()
        if is_refresh:
            self._note_refresh()
        sent_at = HAND.now
        try:
            answer = self._answer(request, fault)
        except httpx.HTTPError as error:
            self._traffic.calls.append(Call(sent_at, path, self._worker.name, 0))
            stage.say(f"call {path} {_told(request)} -> {type(error).__name__}")
            stage.disrupted.append(HAND.now)
            raise
        finally:
            if is_refresh:
                self._traffic.token_calls.pop()
        self._traffic.calls.append(Call(sent_at, path, self._worker.name, answer.status_code))
        stage.say(f"call {path} {_told(request)} -> {answer.status_code}{f' ({fault.kind})' if fault else ''}")
        if is_refresh and answer.status_code == 200:
            self._traffic.delivered = self._worker
            self._traffic.aims()
        if answer.status_code == 429 and not path.startswith("/auth/"):
            self._silence(answer)
        return answer

    def _answer(self, request: httpx.Request, fault: Fault | None) -> httpx.Response:
        stage, path = self._stage, request.url.path
        if fault is not None and fault.kind == "refused":
            HAND.forward(0.1)
            return httpx.Response(400, json={"error": "invalid_grant"}, request=request)
        if fault is not None and ((path == ME and fault.params.get("code") == 401) or (path == TOKEN and fault.after)):
            stage.disrupted.append(HAND.now)
        if fault is not None and fault.kind not in {"freeze", "late"}:
            stage.world.faults(fault.kind, times=1, path=request.url.path, after=fault.after, **fault.params)
        try:
            answer = self._inner.handle_request(request)
        finally:
            stage.world.clear_faults()
            HAND.forward(HAND.draw.uniform(0.01, 0.4))
        if fault is not None and fault.kind == "late":
            self._late(request, fault.seconds)
        if fault is not None and fault.kind == "freeze":
            stage.freeze(fault.seconds)
        if (struck := stage.boundary("answer", request.url.path)) and struck.action in {"crash", "crash_after"}:
            stage.dies()
        return answer

    def _late(self, request: httpx.Request, seconds: float) -> None:
        patience = request.extensions.get("timeout", {}).get("read") or 5.0
        HAND.forward(min(seconds, patience))
        if seconds > patience:
            raise httpx.ReadTimeout("The read operation timed out", request=request)

    def _note_refresh(self) -> None:
        """Two at once: the second sends while the first one still waits for its answer and is not given up yet."""
        for at, worker in self._traffic.token_calls:
            if worker is not self._worker and (HAND.now - at).total_seconds() < REUSE:
                self._stage.trouble.append("tokens: two processes used one refresh token at once")
        self._traffic.token_calls.append((HAND.now, self._worker))
        self._traffic.delivered = None  # what came for an earlier one says nothing of this one

    def _silence(self, answer: httpx.Response) -> None:
        seconds = float(answer.headers.get("retry-after", 65))
        known = len(self._stage.disrupted)
        self._traffic.silences.append(Silence(HAND.now, HAND.now + timedelta(seconds=seconds), self._worker, known))


def _told(request: httpx.Request) -> str:
    wanted = {"from", "offset", "lineItems.boughtAt.gte", "updatedAt.gte"}
    return " ".join(
        f"{name.rpartition('.')[2]}={value}" for name, value in request.url.params.items() if name in wanted
    )
