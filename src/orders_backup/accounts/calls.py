"""A job's calls to Allegro in a seller's name: budget, then token, then call. No job calls any other way."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import TypeVar
from uuid import UUID

from orders_backup import budget
from orders_backup.accounts import tokens
from orders_backup.accounts.tokens import AccessToken
from orders_backup.budget import Bucket, Priority
from orders_backup.errors import (
    AllegroLimitError,
    AllegroUnauthorizedError,
    AllegroUnavailableError,
    BudgetExhaustedError,
)
from orders_backup.runtime import Runtime

T = TypeVar("T")

PERMITS_LAST = 3.0
"""Seconds; what was taken and not used by then is lost: a silence may have begun, and the minute is another."""
EXPIRES_SOON = timedelta(seconds=10)


class Route(Enum):
    """The classes of routes that have a budget of their own; that of EXTRAS is shared by all accounts."""

    DEFAULT = "default"
    ORDERS = "orders"
    EVENTS = "events"
    EXTRAS = "extras"


class Calls:
    """The calls of one job for one account. `made` counts every request sent. Safe among the job's threads."""

    def __init__(self, runtime: Runtime, account_id: UUID, *, priority: Priority) -> None:
        self.made = 0
        self._runtime = runtime
        self._account_id = account_id
        self._priority = priority
        self._permits = dict.fromkeys(Route, 0)
        self._taken_at = dict.fromkeys(Route, 0.0)
        self._token: AccessToken | None = None
        self._lock = threading.Lock()

    def permits(self, route: Route, wanted: int) -> int:
        """Makes sure of up to `wanted` requests, at least one, and says how many. Raises BudgetExhaustedError."""
        with self._lock:
            now = time.monotonic()
            held = self._permits[route] if now - self._taken_at[route] < PERMITS_LAST else 0
            if held < wanted:
                self._permits[route], self._taken_at[route] = held, now
                try:
                    held += budget.take(self._runtime.db, self._buckets(route), wanted - held, priority=self._priority)
                except BudgetExhaustedError:
                    if not held:
                        raise
                self._permits[route] = held
            return min(held, wanted)

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
        try:
            return question(token.value)
        except AllegroLimitError as error:
            budget.silence(self._runtime.db, self._buckets(route)[0].key, seconds=error.retry_after)
            raise

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
            if token.generation == newer_than or token.expires_at < now + EXPIRES_SOON:
                token = tokens.refresh(self._runtime, self._account_id, seen=token.generation)
            self._token = token
            return token

    def _buckets(self, route: Route) -> list[Bucket]:
        settings = self._runtime.settings
        limits = {
            Route.DEFAULT: settings.rate_limit_default,
            Route.ORDERS: settings.rate_limit_orders,
            Route.EVENTS: settings.rate_limit_events,
            Route.EXTRAS: settings.rate_limit_extras,
        }
        client = f"client:{settings.allegro_client_id}"
        owner = client if route is Route.EXTRAS else f"account:{self._account_id}"
        return [Bucket(client, settings.rate_limit_client), Bucket(f"{owner}:{route.value}", limits[route])]
