"""A world with a clock of its own, one seller and a client linked to it."""

from collections.abc import Iterator

import httpx
import pytest

from allegro_simulator.clock import Clock
from allegro_simulator.state import Seller
from allegro_simulator.transport import linked_client
from allegro_simulator.world import World


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(clock: Clock) -> World:
    return World(clock=clock, access_token_seconds=500 * 86_400)


@pytest.fixture
def seller(world: World) -> Seller:
    return world.add_seller(300)


@pytest.fixture
def client(world: World, seller: Seller) -> Iterator[httpx.Client]:
    with linked_client(world, seller.id) as linked:
        yield linked
