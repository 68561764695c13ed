"""Smoke."""
from collections.abc import Callable
from tests.backups.conftest import brought_back, everything, journaled, keep
from tests.shop import Shop
from orders_backup.runtime import Runtime


def test_everything_comes_back(level: Shop, make_installation: Callable[[], Runtime]) -> None:
    level.look()
    keep(level.runtime)
    journaled(level.runtime)
    other = make_installation()
    last = brought_back(other, level.account_id)
    assert last.status == "active"
    before, after = everything(level.runtime), everything(other)
    for name in before:
        assert after[name] == before[name], name
