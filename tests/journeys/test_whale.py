"""A seller with very many orders beside small ones, under a limit that Allegro enforces. `make whale` measures it."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests.journeys.test_whole_service import Service, running

from allegro_simulator.world import World
from orders_backup.sync import plan

LIMIT = 240


def test_small_sellers_are_served_while_the_history_of_a_large_one_is_listed(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    world = World(seed=3, device_interval=1, clock=lambda: datetime.now(UTC) - 2 * plan.SETTLED, client_limit=LIMIT)
    whale, *small = (world.add_seller(orders) for orders in (9_900, 10, 10, 10))
    with running(tmp_path, database_url, broker_url, world, rate_limit_client=LIMIT) as service:
        account = service.connect(whale.id)
        service.wait(lambda: service.get(f"/accounts/{account}")["orders"] >= 100, "the history is being listed")
        accounts = {seller.id: service.connect(seller.id) for seller in small}
        for seller_id, small_account in accounts.items():
            service.wait(partial(_is_complete, service, small_account), "a small history is proven")
            bought = world.buys(seller_id)
            service.wait(partial(_holds, service, small_account, bought), "what a small seller sold is here")
        assert service.get(f"/accounts/{account}")["backfill"]["state"] == "running"
    assert world.blocked_calls == 0
    assert world.worst_window() <= LIMIT
    assert not any(status == 429 for _, status in world.counts)


def _is_complete(service: Service, account_id: str) -> bool:
    return bool(service.get(f"/accounts/{account_id}/completeness")["complete"])


def _holds(service: Service, account_id: str, order_id: str) -> bool:
    return order_id in service.kept(account_id)
