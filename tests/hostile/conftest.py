"""The shop's fixtures, and one that is small enough to be made for each of many answers."""

from collections.abc import Callable

import pytest
from tests.shop import Shop, level, make_shop, online, shop, world

__all__ = ["few", "level", "make_shop", "online", "shop", "world"]


@pytest.fixture
def few(make_shop: Callable[[int], Shop]) -> Shop:
    """A connected seller with twelve orders, after the backfill."""
    made = make_shop(12)
    made.backfill()
    made.follow()
    return made
