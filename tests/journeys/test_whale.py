"""A seller with very many orders beside small ones, under a limit that Allegro enforces. `make whale` measures it."""

from datetime import UTC, datetime
from pathlib import Path

from tests.journeys.test_whole_service import running

from allegro_simulator.world import World
from orders_backup.sync import plan

LIMIT = 240


def test_small_sellers_are_served_while_the_history_of_a_large_one_is_listed(
    tmp_path: Path, database_url: str, broker_url: str
) -> None:
    clock = lambda: datetime.now(UTC) - 2 * plan.SETTLED  # noqa: E731
    world = World(seed=3, device_interval=1, clock=clock, client_limit=LIMIT)
    whale, *small = (world.add_seller(orders) for orders in (9_900, 10, 10, 10))
    with running(tmp_path, database_url, broker_url, world, rate_limit_client=LIMIT) as service:
        account = service.connect(whale.id)
        service.wait(lambda: service.get(f"/accounts/{account}")["orders"] >= 100, "the history is being listed")
        accounts = {seller.id: service.connect(seller.id) for seller in small}
        for seller_id, small_account in accounts.items():
            whole = f"/accounts/{small_account}/completeness"
            service.wait(lambda whole=whole: service.get(whole)["complete"], "a small history is proven")
            bought = world.buys(seller_id)
            service.wait(
                lambda bought=bought, of=small_account: bought in service.kept(of), "what a small seller sold is here"
            )
        assert service.get(f"/accounts/{account}")["backfill"]["state"] == "running"
    assert world.blocked_calls == 0
    assert world.worst_window() <= LIMIT
    assert not any(status == 429 for _, status in world.counts)
