"""The device flow: every answer of Allegro, every crash in between, and whose account it becomes."""

from uuid import UUID, uuid4

import pytest
from tests.shop import Shop

from allegro_simulator.world import World
from orders_backup import db as database
from orders_backup.accounts import connect
from orders_backup.errors import AllegroLimitError, BudgetExhaustedError, NotFoundError
from orders_backup.runtime import Runtime
from orders_backup.sync import state


def begin(runtime: Runtime, world: World, user_id: UUID | None = None) -> Shop:
    """An account that waits for its seller; the shop's seller id is not known yet."""
    account_id = connect.begin(runtime, user_id=user_id or uuid4(), name="shop")
    return Shop(world, runtime, "", account_id)


def poll(shop: Shop) -> None:
    shop.change("UPDATE device_flows SET due_at = clock_timestamp(), leased_until = NULL WHERE account_id = :account")
    connect.poll(shop.runtime, shop.account_id)


def code(shop: Shop) -> str:
    found: str = shop.value("SELECT user_code FROM device_flows WHERE account_id = :account")
    return found


def account(shop: Shop) -> tuple[str, str | None]:
    row = shop.rows("SELECT status, reason FROM accounts WHERE id = :account")[0]
    return row.status, row.reason


def waits(shop: Shop) -> bool:
    return bool(shop.value("SELECT count(*) FROM device_flows WHERE account_id = :account"))


def test_a_seller_who_agrees_becomes_active_and_is_synced(online: Runtime, world: World) -> None:
    seller = world.add_seller(10)
    shop = begin(online, world)
    world.approves(code(shop), seller.id)
    poll(shop)
    assert account(shop) == ("active", None)
    assert shop.value("SELECT seller_id FROM accounts WHERE id = :account") == seller.id
    with database.transaction(online.db) as tx:
        state.wake(tx)
    due = {row[0] for row in shop.rows("SELECT kind FROM syncs WHERE account_id = :account AND due_at IS NOT NULL")}
    assert due == {"journal", "listing", "sweep", "extras"}


def test_a_429_to_a_new_flow_silences_the_whole_application(online: Runtime, world: World) -> None:
    world.faults("status", code=429, path="/auth/oauth/device", times=1)
    with pytest.raises(AllegroLimitError):
        begin(online, world)
    asked = sum(world.counts.values())
    with pytest.raises(BudgetExhaustedError):
        begin(online, world)
    assert sum(world.counts.values()) == asked


def test_until_he_agrees_the_account_waits(online: Runtime, world: World) -> None:
    shop = begin(online, world)
    poll(shop)
    assert account(shop) == ("pending", None)
    assert waits(shop)


def test_slow_down_makes_the_interval_longer_for_good(online: Runtime, world: World) -> None:
    shop = begin(online, world)
    before = shop.value("SELECT interval_seconds FROM device_flows WHERE account_id = :account")
    poll(shop)
    poll(shop)
    assert shop.value("SELECT interval_seconds FROM device_flows WHERE account_id = :account") == before + 5


def test_a_seller_who_refuses_is_denied(online: Runtime, world: World) -> None:
    shop = begin(online, world)
    world.denies(code(shop))
    poll(shop)
    assert account(shop) == ("denied", "access_denied")
    assert not waits(shop)


def test_a_code_that_nobody_confirmed_expires(online: Runtime, world: World) -> None:
    shop = begin(online, world)
    shop.change("UPDATE device_flows SET expires_at = clock_timestamp() WHERE account_id = :account")
    poll(shop)
    assert account(shop) == ("expired", "not_confirmed_in_time")


def test_a_code_whose_answer_was_lost_has_to_be_begun_again(online: Runtime, world: World) -> None:
    seller = world.add_seller(10)
    shop = begin(online, world)
    world.approves(code(shop), seller.id)
    world.faults("lost_token_answer")
    poll(shop)
    assert account(shop)[0] == "pending"
    poll(shop)
    assert account(shop) == ("expired", "code_not_accepted")
    connect.begin_again(online, shop.account_id)
    world.approves(code(shop), seller.id)
    poll(shop)
    assert account(shop) == ("active", None)


def test_a_crash_between_the_pair_and_the_introduction_costs_nothing(online: Runtime, world: World) -> None:
    seller = world.add_seller(10)
    shop = begin(online, world)
    world.approves(code(shop), seller.id)
    world.faults("reset", path="/me")
    poll(shop)
    assert account(shop)[0] == "pending"
    assert shop.value("SELECT access_sealed IS NOT NULL FROM device_flows WHERE account_id = :account")
    poll(shop)
    assert account(shop) == ("active", None)


def test_a_new_token_that_is_refused_is_tried_again_and_given_up_in_the_end(online: Runtime, world: World) -> None:
    for refusals, expected in ((connect.TRIES, ("active", None)), (None, ("expired", "token_not_accepted"))):
        seller = world.add_seller(1)
        shop = begin(online, world)
        world.approves(code(shop), seller.id)
        world.faults("status", code=401, path="/me", times=refusals)
        for _ in range(connect.TRIES + 1):
            assert account(shop)[0] == "pending"
            poll(shop)
        assert account(shop) == expected


def test_the_same_seller_a_second_time_names_the_account_he_has(online: Runtime, world: World) -> None:
    user_id, seller = uuid4(), world.add_seller(10)
    first = begin(online, world, user_id)
    world.approves(code(first), seller.id)
    poll(first)
    second = begin(online, world, user_id)
    world.approves(code(second), seller.id)
    poll(second)
    assert account(second) == ("denied", "already_connected")
    assert second.value("SELECT existing_account_id FROM accounts WHERE id = :account") == first.account_id
    assert account(first) == ("active", None)


def test_another_user_may_connect_the_same_seller(online: Runtime, world: World) -> None:
    seller = world.add_seller(10)
    shops = [begin(online, world), begin(online, world)]
    for shop in shops:
        world.approves(code(shop), seller.id)
        poll(shop)
    assert [account(shop)[0] for shop in shops] == ["active", "active"]


def test_a_reconnect_by_another_seller_is_refused_and_the_tokens_in_force_stay(shop: Shop) -> None:
    other = shop.world.add_seller(10)
    before = shop.value("SELECT access_sealed FROM account_tokens WHERE account_id = :account")
    connect.begin_again(shop.runtime, shop.account_id)
    shop.world.approves(code(shop), other.id)
    poll(shop)
    assert account(shop) == ("active", "other_seller")
    assert shop.value("SELECT access_sealed FROM account_tokens WHERE account_id = :account") == before
    shop.backfill()


def test_a_reconnect_of_a_lost_seller_goes_on_where_it_was(level: Shop) -> None:
    level.world.rejects_tokens(level.seller_id)
    level.change("UPDATE accounts SET status = 'reauthorization_required' WHERE id = :account")
    form = level.world.buys(level.seller_id)
    connect.begin_again(level.runtime, level.account_id)
    level.world.approves(code(level), level.seller_id)
    poll(level)
    assert account(level) == ("active", None)
    level.follow()
    assert level.versions(form) == [level.world.body(form)]


def test_disconnecting_forgets_the_tokens_and_keeps_the_orders(level: Shop) -> None:
    with database.transaction(level.runtime.db) as tx:
        connect.disconnect(tx, level.account_id)
    assert account(level) == ("disconnected", None)
    assert level.value("SELECT count(*) FROM account_tokens WHERE account_id = :account") == 0
    assert level.value("SELECT count(*) FROM orders WHERE account_id = :account") == 250
    before = sum(level.world.counts.values())
    level.follow()
    assert sum(level.world.counts.values()) == before


def test_an_unknown_account_cannot_be_reconnected(online: Runtime) -> None:
    with pytest.raises(NotFoundError):
        connect.begin_again(online, uuid4())


def test_the_device_code_is_never_stored_in_the_clear(online: Runtime, world: World) -> None:
    shop = begin(online, world)
    sealed = shop.value("SELECT device_code_sealed FROM device_flows WHERE account_id = :account")
    opened = online.vault.open(sealed, shop.account_id, "device_code")
    assert opened.encode() not in sealed
