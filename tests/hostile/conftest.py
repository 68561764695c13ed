"""The shop's fixtures."""

from tests.shop import level, make_shop, online, shop, world

__all__ = ["level", "make_shop", "online", "shop", "world"]
