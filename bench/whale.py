"""`python -m bench.whale`: one seller with very many orders beside many small ones, under a limit that is enforced.

The small sellers live twice through the same: alone, and while the history of the large one is listed. Both times
their journals are polled at one fixed interval, and what comes once or by the hour (their histories, their sweeps) is
over; extras are off. The simulator counts the calls and blocks a client id that makes too many; it is the witness. One
line of JSON, with the pages a minute that the large one got; exit code 1 where a bound is broken. WHALE_ORDERS,
WHALE_SELLERS and WHALE_LIMIT (requests a minute) make it smaller.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any
from uuid import UUID, uuid4

import httpx
import sqlalchemy as sa
from bench import scene as scenes
from bench.figures import Bound, Outcome
from pydantic import SecretStr

from orders_backup import db as database
from orders_backup import local, log, vault
from orders_backup import runtime as runtimes
from orders_backup.accounts import connect
from orders_backup.allegro.client import LIST_LIMIT
from orders_backup.errors import BudgetExhaustedError
from orders_backup.local import directory
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

ORDERS_OF_A_SMALL_SELLER = 20
UTILISATION = 0.92
"""Of RATE_LIMIT_CLIENT itself, while there is something to list; the budget grants 93.9 % of it for ever."""
SLOWER = 1.2
POLLED_EVERY = timedelta(seconds=45)
HAPPENS_EVERY = 0.5
"""Seconds between two things that happen to small sellers."""
WORKERS = 3
SETTLES = 60.0
"""Seconds until every journal was polled, before anything is measured."""
ALONE = 120.0
AT_MOST = 240.0
"""Seconds of the leg with the large seller, should his history not be listed before."""
SETUP_WITHIN = 240.0
LONGEST = 715
"""Seconds after which it gives up, and everything is stopped as usual."""


@dataclass(frozen=True, slots=True)
class Sea:
    """The sellers at the simulator, the accounts here, and what both are asked with."""

    runtime: Runtime
    control: httpx.Client
    limit: int
    small: list[str]
    whale: str

    def tell(self, verb: str, **arguments: object) -> bool:
        return self.control.post(f"/_simulator/{verb}", json=arguments).status_code == 200

    def calls_a_minute(self, since: datetime, until: datetime) -> float:
        """Requests that the simulator counted against the limit."""
        moments = {"since": since.timestamp(), "until": until.timestamp()}
        counted = self.control.post("/_simulator/counted", json=moments).raise_for_status().json()
        return float(counted) * 60 / (until - since).total_seconds()

    def rows(self, query: str, **parameters: object) -> Sequence[sa.Row[Any]]:
        with database.transaction(self.runtime.db) as tx:
            return tx.execute(sa.text(query), parameters).all()

    def now(self) -> datetime:
        with database.transaction(self.runtime.db) as tx:
            return database.clock(tx)


@dataclass(frozen=True, slots=True)
class Leg:
    """What was seen from `since` to `until`: calls a minute, and the seconds from each event to its order stored.
    `listed`: orders of the large seller."""

    since: datetime
    until: datetime
    calls_a_minute: float
    lags: list[float]
    listed: int

    @property
    def p95(self) -> float:
        return quantiles(self.lags, n=20)[18]

    def shown(self) -> dict[str, float]:
        seconds = (self.until - self.since).total_seconds()
        return {"seconds": seconds, "calls_a_minute": self.calls_a_minute, "events": len(self.lags), "p95_s": self.p95}

    @property
    def pages_a_minute(self) -> float:
        """Of the large seller's list."""
        return self.listed / LIST_LIMIT * 60 / (self.until - self.since).total_seconds()


def measure(orders: int, sellers: int, limit: int) -> Outcome:
    """Both legs on one and the same sea."""
    with _sea(orders, sellers, limit) as sea:
        _connect_small(sea)
        assert sea.tell("limits", per_minute=limit)
        with _service(sea.runtime.settings, WORKERS):
            _live(sea, SETTLES)
            alone = _leg(sea, ALONE, whale=None)
            whale = _connected(sea.runtime, sea, sea.whale)
            together = _leg(sea, AT_MOST, whale=whale)
        witness = sea.control.get("/_simulator/calls").raise_for_status().json()
        run = _backfill(sea, whale)
    refused = sum(row["count"] for row in witness["counts"] if row["status"] == 429)
    bounds = {
        "most_calls_in_60_s": Bound(witness["worst_window"], limit),
        "blocked_calls": Bound(witness["blocked_calls"] + refused, 0),
        "utilisation_of_the_limit": Bound(together.calls_a_minute / limit, UTILISATION, at_least=True),
        "p95_against_alone": Bound(together.p95 / alone.p95, SLOWER),
    }
    figures: dict[str, object] = {
        "sellers": sellers,
        "limit": limit,
        "alone": alone.shown(),
        "with_whale": together.shown(),
        "whale": {
            "pages_a_minute": together.pages_a_minute,
            "listed": run.listed,
            "finished": run.finished_at is not None,
        },
        "load_of_the_last_minute": os.getloadavg()[0],
    }
    return Outcome("whale", orders, bounds, figures)


def _leg(sea: Sea, seconds: float, *, whale: UUID | None) -> Leg:
    """Lets things happen; with a whale only while there is something of it to list."""
    since, began = sea.now(), time.monotonic()
    while time.monotonic() - began < seconds and not (whale and _backfill(sea, whale).finished_at):
        _live(sea, 2.0)
    until, listed = sea.now(), 0
    if whale:
        run = _backfill(sea, whale)
        since, until, listed = max(run.started_at, since), min(run.finished_at or until, until), run.listed
    return Leg(since, until, sea.calls_a_minute(since, until), _lags(sea, since, until, whale=whale), listed)


def _lags(sea: Sea, since: datetime, until: datetime, *, whale: UUID | None) -> list[float]:
    """Of every event of a small seller in that time, waited for until its order is stored."""
    query = """
        SELECT extract(epoch FROM processed_at - occurred_at)::float AS lag FROM order_events
         WHERE occurred_at BETWEEN :since AND :until AND account_id IS DISTINCT FROM :whale
    """
    deadline = time.monotonic() + 4 * POLLED_EVERY.total_seconds()
    while time.monotonic() < deadline:
        _live(sea, 5.0)
        found = [row.lag for row in sea.rows(query, since=since, until=until, whale=whale)]
        is_polled = not sea.rows(
            "SELECT FROM syncs WHERE kind = 'journal' AND account_id IS DISTINCT FROM :whale AND succeeded_at < :until",
            until=until,
            whale=whale,
        )
        if is_polled and found and None not in found:
            return [float(lag) for lag in found]
    raise AssertionError("the small sellers' events were not stored in time")


def _live(sea: Sea, seconds: float) -> None:
    """So many seconds in the lives of the small sellers."""
    draw, ends_at = random.Random(), time.monotonic() + seconds
    while time.monotonic() < ends_at:
        sea.tell("happens", seller_id=draw.choice(sea.small))
        time.sleep(HAPPENS_EVERY)


def _backfill(sea: Sea, whale: UUID) -> "sa.Row[Any]":
    """The run that lists the large seller's history; waited for until it has begun."""
    query = "SELECT * FROM sync_history WHERE account_id = :whale AND kind = 'backfill' AND started_at IS NOT NULL"
    deadline = time.monotonic() + 60
    while not (found := sea.rows(query, whale=whale)):
        assert time.monotonic() < deadline, "the large seller's history was not begun in time"
        time.sleep(0.2)
    return found[0]


def _connect_small(sea: Sea) -> None:
    """Connected, listed and swept before the limit begins; the budget is new afterwards."""
    plenty = sea.runtime.settings.model_copy(
        update=dict.fromkeys(
            ("rate_limit_client", "rate_limit_default", "rate_limit_orders", "rate_limit_events", "rate_limit_auth"),
            scenes.UNLIMITED,
        )
    )
    with ExitStack() as stack:
        runtime = runtimes.build(plenty)
        stack.callback(runtime.close)
        for seller in sea.small:
            _connected(runtime, sea, seller)
        stack.enter_context(_service(plenty, 2))
        deadline = time.monotonic() + SETUP_WITHIN
        waiting = """
            SELECT id FROM accounts
            EXCEPT SELECT account_id FROM sync_history WHERE kind = 'sweep' AND status = 'succeeded'
        """
        while sea.rows(waiting):
            assert time.monotonic() < deadline, "the small sellers were not listed and swept in time"
            with database.transaction(runtime.db) as tx:
                tx.execute(sa.text(_SWEEP_SOON))
            time.sleep(1)
    with database.transaction(sea.runtime.db) as tx:
        tx.execute(sa.text("TRUNCATE request_budget"))


_SWEEP_SOON = """
    UPDATE syncs s SET due_at = clock_timestamp()
     WHERE s.kind = 'sweep' AND s.succeeded_at IS NULL AND s.due_at > clock_timestamp() AND EXISTS (
               SELECT FROM sync_history h
                WHERE h.account_id = s.account_id AND h.kind = 'backfill' AND h.finished_at IS NOT NULL)
"""
"""The first sweep of who is listed; by itself it would come within five minutes, and the next one after an hour."""


def _connected(runtime: Runtime, sea: Sea, seller_id: str) -> UUID:
    account_id = _begun(runtime)
    code = sea.rows("SELECT user_code FROM device_flows WHERE account_id = :account", account=account_id)[0][0]
    assert sea.tell("approves", user_code=code, seller_id=seller_id)
    while sea.rows("SELECT FROM device_flows WHERE account_id = :account", account=account_id):
        with database.transaction(runtime.db) as tx:
            tx.execute(sa.text("UPDATE device_flows SET due_at = clock_timestamp()"))
        connect.poll(runtime, account_id)
    return account_id


def _begun(runtime: Runtime) -> UUID:
    while True:
        try:
            return connect.begin(runtime, user_id=uuid4(), name="bench", extras=())
        except BudgetExhaustedError:
            time.sleep(0.5)


@contextmanager
def _sea(orders: int, sellers: int, limit: int) -> Iterator[Sea]:
    """Everything in a temporary directory; stopped and removed at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orders-backup-bench-")))
        data_dir = directory.prepared(folder / "data")
        postgres = stack.enter_context(local.start_postgres(data_dir))
        broker = stack.enter_context(local.start_broker(data_dir))
        simulator = stack.enter_context(scenes.start_simulator(folder, orders))
        settings = Settings(
            data_dir=data_dir,
            database_url=postgres.url,
            broker_url=broker.url,
            allegro_api_url=simulator.url,
            allegro_auth_url=simulator.url,
            allegro_client_id="simulator",
            allegro_client_secret=SecretStr("simulator-secret"),
            encryption_keys=SecretStr(vault.new_key()),
            events_interval=POLLED_EVERY,
            events_interval_shortest=POLLED_EVERY,
            events_interval_longest=POLLED_EVERY,
            sync_interval=scenes.SELDOM,
            rate_limit_client=limit,
            rate_limit_orders=limit,
        )
        runtime = runtimes.build(settings)
        stack.callback(runtime.close)
        database.migrate(runtime.db)
        control = stack.enter_context(httpx.Client(base_url=simulator.url, timeout=120, trust_env=False))
        whale = control.get("/_simulator/sellers").json()[0]["id"]
        small = [
            control.post("/_simulator/sellers", json={"orders": ORDERS_OF_A_SMALL_SELLER}).json()["id"]
            for _ in range(sellers)
        ]
        yield Sea(runtime, control, limit, small, whale)


@contextmanager
def _service(settings: Settings, workers: int) -> Iterator[None]:
    """Workers and the scheduler, the very processes that `up` starts; stopped at the end."""
    _, *children = local.application_children(settings, "127.0.0.1", 0, workers)
    try:
        for child in children:
            child.start()
        yield
    finally:
        for child in reversed(children):
            child.stop(within=30)


def _give_up(*_: object) -> None:
    raise TimeoutError(f"not done within {LONGEST} s")


def main() -> int:
    """One line; 0 where every bound holds."""
    log.configure(log_format="console", level="WARNING")
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(LONGEST)
    orders, sellers = int(os.environ.get("WHALE_ORDERS", "100000")), int(os.environ.get("WHALE_SELLERS", "300"))
    outcome = measure(orders, sellers, int(os.environ.get("WHALE_LIMIT", "1000")))
    print(outcome.line(), flush=True)
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
