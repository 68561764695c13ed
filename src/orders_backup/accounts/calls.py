"""A job's calls to Allegro in a seller's name: budget, then token, then call. No job calls any other way."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from typing import TypeVar
from uuid import UUID

import structlog

from orders_backup import budget, metrics
from orders_backup.accounts import tokens
from orders_backup.accounts.pairs import AccessToken
from orders_backup.budget import Bucket, Priority
from orders_backup.errors import (
    AllegroLimitError,
    AllegroUnauthorizedError,
    AllegroUnavailableError,
    BudgetExhaustedError,
)
from orders_backup.runtime import Runtime

T = TypeVar("T")

PERMITS_LAST = 1.0
"""Seconds; what was taken and not used by then is lost: a silence may have begun, and the minute is another."""
PATIENCE = 2.0
"""Seconds that a job waits for the budget where it is. Who has to wait longer writes down when to go on, and ends."""
RECENT = 8
"""Answers of a job that tell whether its account is answered slowly."""
EXPIRES_SOON = timedelta(seconds=10)

log = structlog.get_logger()


class Route(Enum):
    """The classes of routes that have a budget of their own; that of EXTRAS is shared by all accounts."""

    DEFAULT = "default"
    ORDERS = "orders"
    EVENTS = "events"
    EXTRAS = "extras"


class Calls:
    """The calls of one job for one account. `made` counts every request sent; `in_force` is the share of the rate that
    was in force at the last grant. Safe among the job's threads."""

    def __init__(self, runtime: Runtime, account_id: UUID, *, priority: Priority) -> None:
        self.made = 0
        self._runtime = runtime
        self._account_id = account_id
        self._priority = priority
        self._permits = dict.fromkeys(Route, 0)
        self._taken_at = dict.fromkeys(Route, 0.0)
        self._recent: dict[Route, deque[float]] = {route: deque(maxlen=RECENT) for route in Route}
        self._pace = 1.0
        self.in_force = 1.0
        self._token: AccessToken | None = None
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """How many of the job's calls may be on the way at once: fewer while answers are slow."""
        return max(1, int(self._runtime.settings.calls_in_flight * self._pace))

    def permits(self, route: Route, wanted: int) -> int:
        """Makes sure of up to `wanted` requests, at least one, and says how many; waits a moment where there is none.

        Raises BudgetExhaustedError.
        """
        with self._lock:
            now = time.monotonic()
            held = self._permits[route] if now - self._taken_at[route] < PERMITS_LAST else 0
            if not held:
                self._permits[route] = 0
                held = self._taken(route, wanted, until=now + PATIENCE)
            elif held < wanted:
                with suppress(BudgetExhaustedError):
                    held += self._take(route, wanted - held)
            self._permits[route] = held
            return min(held, wanted)

    def _taken(self, route: Route, wanted: int, *, until: float) -> int:
        while True:
            self._taken_at[route] = time.monotonic()
            try:
                return self._take(route, wanted)
            except BudgetExhaustedError as error:
                wait = max((error.retry_at - self._runtime.clock.now()).total_seconds(), 0.005)
                if time.monotonic() + wait > until:
                    metrics.POSTPONED.labels(route.value).inc()
                    metrics.BLOCKED.labels(route.value).inc(wait)
                    raise
                metrics.WAITED.labels(route.value).inc(wait)
                time.sleep(wait)

    def _take(self, route: Route, wanted: int) -> int:
        grant = budget.take(self._runtime.db, self._buckets(route), wanted, priority=self._priority)
        self._pace, self.in_force = grant.pace, grant.in_force
        return grant.count

    def ask(self, route: Route, question: Callable[[str], T]) -> T:
        """One answer. 401: refresh once and ask once more; a broken connection: ask once more at once.

        Raises AllegroError, BudgetExhaustedError, TokenBusyError, ReauthorizationRequiredError. After a 429 nobody
        calls under this client id for a while.
        """
        token = self._access()
        try:
            return self._send(route, question, token)
        except AllegroUnauthorizedError:
            return self._send(route, question, self._access(newer_than=token.generation))
        except AllegroUnavailableError as error:
            if error.http_status is not None:
                raise
            return self._send(route, question, token)

    def _send(self, route: Route, question: Callable[[str], T], token: AccessToken) -> T:
        self._spend(route)
        began = time.monotonic()
        try:
            answer = question(token.value)
        except AllegroLimitError as error:
            budget.silence(self._runtime.db, self._buckets(route)[0].key, seconds=error.retry_after)
            raise
        self._note(route, time.monotonic() - began)
        return answer

    def _note(self, route: Route, seconds: float) -> None:
        """An account that is answered slowly goes at half its pace, and so do all where most accounts are."""
        latencies = self._runtime.latencies
        is_account, is_route = latencies.note(route.value, self._account_id, self._recent[route], seconds)
        _, of_route, of_account = self._buckets(route)
        slow = [bucket for bucket, is_it in ((of_account, is_account), (of_route, is_route)) if is_it]
        for bucket in slow:
            self._pace = max(self._pace * budget.PACE_WHEN_SLOW, budget.LEAST_PACE)
            if budget.slow_down(self._runtime.db, bucket.key):
                scope = "account" if bucket is of_account else "client"
                ids = {"account_id": str(self._account_id), "scope": scope, "route_class": route.value}
                log.warning("calls_slowed", **ids, seconds=round(seconds, 3))

    def _spend(self, route: Route) -> None:
        self.permits(route, 1)
        with self._lock:
            self._permits[route] -= 1
            self.made += 1

    def _access(self, *, newer_than: int | None = None) -> AccessToken:
        """The token in force, renewed where it is about to expire or was refused; one thread asks, the others wait."""
        with self._lock:
            token = self._token or tokens.current(self._runtime, self._account_id)
            now = self._runtime.clock.now()
            is_refused = token.generation == newer_than
            if is_refused or token.expires_at < now + EXPIRES_SOON:
                token = tokens.refresh(self._runtime, self._account_id, seen=token.generation, refused=is_refused)
            self._token = token
            return token

    def _buckets(self, route: Route) -> list[Bucket]:
        """The client id's, its class's, the account's. Allegro publishes no limit of a class under a client id: its
        bucket is as large as the client id's, and is there for the pace that slow answers teach."""
        settings = self._runtime.settings
        limits = {
            Route.DEFAULT: settings.rate_limit_default,
            Route.ORDERS: settings.rate_limit_orders,
            Route.EVENTS: settings.rate_limit_events,
            Route.EXTRAS: settings.rate_limit_extras,
        }
        client = f"client:{settings.allegro_client_id}"
        shared = settings.rate_limit_extras if route is Route.EXTRAS else settings.rate_limit_client
        return [
            Bucket(client, settings.rate_limit_client),
            Bucket(f"{client}:{route.value}", shared),
            Bucket(f"account:{self._account_id}:{route.value}", limits[route]),
        ]
