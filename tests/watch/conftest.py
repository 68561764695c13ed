"""The tests of what is seen work on a connected shop."""

from tests.shop import level, make_shop, online, shop, world

__all__ = ["level", "make_shop", "online", "shop", "world"]
