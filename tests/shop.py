"""A connected shop: the simulator in process, a real database, and verbs that work on what is due."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from allegro_simulator.transport import WorldTransport
from allegro_simulator.world import World
from orders_backup import db as database
from orders_backup import runtime as runtimes
from orders_backup.accounts import connect
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.sync import backfill, extras, plan, pull, reconcile, state, sweeps
from orders_backup.sync.reconcile import Certificate

PLENTY = dict.fromkeys(
    ("rate_limit_client", "rate_limit_default", "rate_limit_orders", "rate_limit_events", "rate_limit_extras"),
    1_000_000,
)


@dataclass
class Shop:
    """One seller at a simulated Allegro and his account here."""

    world: World
    runtime: Runtime
    seller_id: str
    account_id: UUID

    def follow(self) -> None:
        """One incremental sync, whatever the clock says."""
        self._due_now()
        pull.pull(self.runtime, self.account_id)

    def work_on_listing(self) -> None:
        """One slice of the listing job, whatever the clock says."""
        self._due_now()
        backfill.work_on_listing(self.runtime, self.account_id)

    def backfill(self) -> None:
        """The first sync from beginning to end."""
        for _ in range(50):
            self.work_on_listing()
            if self.value("SELECT count(*) FROM sync_history WHERE kind = 'backfill' AND status = 'succeeded'"):
                return
        raise AssertionError("the backfill did not end")

    def sweep(self, kind: str = "full") -> None:
        """A sync over the list, then the debts it found."""
        with database.transaction(self.runtime.db) as tx:
            state.request(tx, self.account_id, kind)
        self.work_on_listing()
        self.follow()
        self.follow()

    def sweep_hourly(self) -> None:
        """The hourly sweep from beginning to end, then the debts it found."""
        before = self.value("SELECT count(*) FROM sync_history WHERE kind = 'sweep' AND finished_at IS NOT NULL")
        for _ in range(20):
            self._due_now()
            sweeps.sweep(self.runtime, self.account_id)
            ended = self.value("SELECT count(*) FROM sync_history WHERE kind = 'sweep' AND finished_at IS NOT NULL")
            if ended > before:
                break
        else:
            raise AssertionError("the sweep did not end")
        self.follow()

    def discoveries(self) -> dict[tuple[str, str], int]:
        """What each net caught so far, by net and kind."""
        rows = self.rows("SELECT net, what, sum(orders) FROM discoveries WHERE account_id = :account GROUP BY 1, 2")
        return {(str(net), str(what)): int(orders) for net, what, orders in rows}

    def look(self) -> None:
        """One slice of the extras job, whatever the clock says."""
        self._due_now()
        extras.work_on_extras(self.runtime, self.account_id)

    def certificate(self) -> Certificate:
        with database.transaction(self.runtime.db) as tx:
            return reconcile.certificate(tx, self.account_id)

    def rows(self, query: str, **values: object) -> Sequence[Any]:
        with database.transaction(self.runtime.db) as tx:
            return tx.execute(sa.text(query), {"account": self.account_id, **values}).all()

    def value(self, query: str, **values: object) -> Any:
        return self.rows(query, **values)[0][0]

    def change(self, statement: str, **values: object) -> None:
        with database.transaction(self.runtime.db) as tx:
            tx.execute(sa.text(statement), {"account": self.account_id, **values})

    def versions(self, order_id: str) -> list[bytes]:
        """The stored bytes of an order, in the order of the moments they show."""
        query = """SELECT dictionary_id, body FROM order_versions
                    WHERE account_id = :account AND order_id = :order ORDER BY read_at, version"""
        with database.transaction(self.runtime.db) as tx:
            rows = tx.execute(sa.text(query), {"account": self.account_id, "order": order_id}).all()
            return [self.runtime.codec.decompress(tx, row[0], row[1]) for row in rows]

    def differences(self) -> list[str]:
        """What the archive has otherwise than Allegro served it; empty when it is level."""
        kept: dict[str, list[str]] = {}
        query = """SELECT order_id, encode(sha256, 'hex') FROM order_versions
                    WHERE account_id = :account ORDER BY read_at, version"""
        for order_id, sha256 in self.rows(query):
            kept.setdefault(str(order_id), []).append(str(sha256))
        found = []
        for form_id, truth in self.world.truth(self.seller_id).items():
            if kept.get(form_id, []) != list(truth.served):
                found.append(f"{form_id}: stored {kept.get(form_id)}, served {truth.served}")
            if not truth.gone and truth.current is not None and self.versions(form_id)[-1:] != [truth.current]:
                found.append(f"{form_id}: the newest version is not what Allegro has now")
        return found

    def _due_now(self) -> None:
        with database.transaction(self.runtime.db) as tx:
            state.wake(tx)
        self.change("UPDATE syncs SET due_at = clock_timestamp(), leased_until = NULL WHERE account_id = :account")
        self.change("UPDATE owed_orders SET due_at = clock_timestamp() - interval '1 s' WHERE account_id = :account")


@pytest.fixture
def world() -> World:
    """Its clock runs behind ours, so that what happens in it is old enough for a sweep at once."""
    return World(seed=7, device_interval=1, clock=lambda: datetime.now(UTC) - 2 * plan.SETTLED, resource_limits=False)


@pytest.fixture
def online(settings: Settings, world: World) -> Iterator[Runtime]:
    """A runtime whose calls to Allegro reach the simulator, with a budget that never waits."""
    urls = {"allegro_api_url": world.base_url, "allegro_auth_url": world.base_url}
    built = runtimes.build(
        settings.model_copy(update={**urls, **PLENTY, "rate_limit_auth": 100_000}), transport=WorldTransport(world)
    )
    yield built
    built.close()


@pytest.fixture
def make_shop(online: Runtime, world: World) -> Callable[[int], Shop]:
    """Connects one more seller with so many orders."""

    def connected(orders: int) -> Shop:
        seller = world.add_seller(orders)
        account_id = connect.begin(online, user_id=uuid4(), name=seller.login)
        world.approves(world.devices()[-1]["user_code"], seller.id)
        shop = Shop(world, online, seller.id, account_id)
        shop.change("UPDATE device_flows SET due_at = clock_timestamp() WHERE account_id = :account")
        connect.poll(online, account_id)
        assert shop.value("SELECT status FROM accounts WHERE id = :account") == "active"
        return shop

    return connected


@pytest.fixture
def shop(make_shop: Callable[[int], Shop]) -> Shop:
    """A connected seller with 250 orders, not yet backed up."""
    return make_shop(250)


@pytest.fixture
def level(shop: Shop) -> Shop:
    """The same shop after its backfill."""
    shop.backfill()
    shop.follow()
    return shop
