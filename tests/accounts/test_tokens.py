"""Tokens: refreshed once, never lost, whatever is lost, killed or asked twice."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from tests.shop import Shop

from orders_backup import budget
from orders_backup import db as database
from orders_backup.accounts import connect, journal, pairs, tokens
from orders_backup.allegro import oauth
from orders_backup.errors import (
    AllegroLimitError,
    AllegroUnavailableError,
    BudgetExhaustedError,
    DatabaseUnavailableError,
    OrdersBackupError,
    ReauthorizationRequiredError,
    SealedValueError,
    TokenBusyError,
)

TOKEN = "/auth/oauth/token"


def generation(shop: Shop) -> int:
    found: int = shop.value("SELECT generation FROM account_tokens WHERE account_id = :account")
    return found


def status(shop: Shop) -> str:
    found: str = shop.value("SELECT status FROM accounts WHERE id = :account")
    return found


def refreshes(shop: Shop) -> int:
    """How often the token endpoint was asked for a refresh, whatever it answered."""
    return len(shop.world.tokens)


def forget_intent(shop: Shop, seconds: int = 16) -> None:
    """So long ago was the refresh begun that its worker is surely gone."""
    shop.change(
        f"""UPDATE account_tokens SET intent_at = intent_at - interval '{seconds} s',
                   intent_first_at = intent_first_at - interval '{seconds} s', due_at = clock_timestamp()"""
    )


def test_a_refresh_gives_a_new_pair_and_the_next_one_is_due_before_it_expires(shop: Shop) -> None:
    token = tokens.refresh(shop.runtime, shop.account_id, seen=1)
    assert token.generation == 2
    row = shop.rows("SELECT due_at, access_expires_at, obtained_at, intent_at FROM account_tokens")[0]
    share = (row.due_at - row.obtained_at) / (row.access_expires_at - row.obtained_at)
    assert 0.7 < share < 0.9
    assert row.intent_at is None
    shop.backfill()


def test_whoever_saw_an_old_generation_gets_the_new_one_without_a_call(shop: Shop) -> None:
    tokens.refresh(shop.runtime, shop.account_id, seen=1)
    before = refreshes(shop)
    assert tokens.refresh(shop.runtime, shop.account_id, seen=1).generation == 2
    assert refreshes(shop) == before


def test_fifty_workers_make_one_refresh(shop: Shop) -> None:
    barrier = threading.Barrier(10)

    def ask(_: int) -> str:
        barrier.wait()
        try:
            tokens.refresh(shop.runtime, shop.account_id, seen=1)
        except (TokenBusyError, DatabaseUnavailableError) as error:
            return type(error).__name__
        return "refreshed"

    with ThreadPoolExecutor(10) as pool:
        for _ in range(5):
            list(pool.map(ask, range(10)))
    assert refreshes(shop) == 1
    assert generation(shop) == 2


def test_a_dead_access_token_is_renewed_once_and_the_call_repeated(shop: Shop) -> None:
    shop.world.expires_access_tokens(shop.seller_id)
    shop.backfill()
    assert shop.differences() == []
    assert generation(shop) == 2


def test_a_lost_answer_is_asked_for_again_with_the_old_token_inside_the_grace(shop: Shop) -> None:
    shop.world.faults("lost_token_answer", times=1)
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(shop.runtime, shop.account_id, seen=1)
    with pytest.raises(TokenBusyError):
        tokens.refresh(shop.runtime, shop.account_id, seen=1)
    forget_intent(shop)
    tokens.refresh_due(shop.runtime, shop.account_id)
    assert generation(shop) == 2
    assert status(shop) == "active"
    shop.backfill()


def test_a_worker_that_died_after_the_answer_leaves_the_pair_in_the_spool(shop: Shop) -> None:
    refresh_token = shop.runtime.vault.open(
        shop.value("SELECT refresh_sealed FROM account_tokens"), shop.account_id, 1, "refresh"
    )
    pair = oauth.refresh(shop.runtime.oauth, refresh_token)
    now = shop.runtime.clock.now()
    sealed = pairs.seal(shop.runtime, shop.account_id, 2, pair, now=now)
    journal.spooled(shop.runtime, shop.account_id, 2, sealed)
    before = len(shop.world.tokens)
    token = tokens.refresh(shop.runtime, shop.account_id, seen=1)
    assert token.value == pair.access_token
    assert len(shop.world.tokens) == before


def test_a_refused_token_is_dead_only_after_the_grace(shop: Shop) -> None:
    shop.world.rejects_tokens(shop.seller_id)
    with pytest.raises(OrdersBackupError):
        tokens.refresh(shop.runtime, shop.account_id, seen=1)
    assert status(shop) == "active"
    forget_intent(shop, 61)
    with pytest.raises(ReauthorizationRequiredError):
        tokens.refresh(shop.runtime, shop.account_id, seen=1)
    assert status(shop) == "reauthorization_required"
    assert shop.value("SELECT due_at FROM account_tokens") is None


def test_a_lost_seller_stops_being_asked_for_and_keeps_cursor_and_orders(level: Shop) -> None:
    cursor = level.value("SELECT cursor FROM syncs WHERE kind = 'journal'")
    level.world.rejects_tokens(level.seller_id)
    level.follow()
    forget_intent(level, 61)
    level.follow()
    assert status(level) == "reauthorization_required"
    before = sum(level.world.counts.values())
    level.follow()
    assert sum(level.world.counts.values()) == before
    assert level.value("SELECT cursor FROM syncs WHERE kind = 'journal'") == cursor
    assert level.value("SELECT count(*) FROM orders") == 250


def test_an_outage_of_the_token_endpoint_costs_no_login(shop: Shop) -> None:
    shop.world.faults("status", code=503, path=TOKEN, times=4)
    for _ in range(4):
        with pytest.raises(AllegroUnavailableError):
            tokens.refresh(shop.runtime, shop.account_id, seen=1)
        forget_intent(shop, 40)
    tokens.refresh(shop.runtime, shop.account_id, seen=1)
    assert status(shop) == "active"


def test_a_removed_application_is_told_from_wrong_credentials_by_the_other_accounts(shop: Shop) -> None:
    shop.world.removes_app(shop.seller_id)
    for _ in range(6):
        with pytest.raises(OrdersBackupError):
            tokens.refresh(shop.runtime, shop.account_id, seen=1)
        forget_intent(shop, 120)
    assert status(shop) == "active"


def test_a_sealed_token_of_another_account_cannot_be_opened(shop: Shop) -> None:
    sealed = shop.value("SELECT access_sealed FROM account_tokens")
    for moved in ((shop.seller_id, 1, "access"), (shop.account_id, 2, "access"), (shop.account_id, 1, "refresh")):
        with pytest.raises(SealedValueError):
            shop.runtime.vault.open(sealed, *moved)


def test_no_token_stands_in_the_database_or_on_the_disk_in_the_clear(shop: Shop) -> None:
    token = tokens.refresh(shop.runtime, shop.account_id, seen=1)
    stored = shop.value("SELECT access_sealed || refresh_sealed FROM account_tokens")
    assert token.value.encode() not in stored
    assert token.value not in repr(token)
    for file in (shop.runtime.settings.data_dir / "spool").glob("*"):
        assert token.value not in file.read_text()


def test_a_refresh_that_is_not_due_is_not_made(shop: Shop) -> None:
    tokens.refresh_due(shop.runtime, shop.account_id)
    assert generation(shop) == 1
    assert timedelta(0) < tokens.INTENT_HOLDS < tokens.GRACE


def test_a_generation_never_comes_twice_so_that_nothing_of_an_old_login_fits_the_new_one(shop: Shop) -> None:
    tokens.refresh(shop.runtime, shop.account_id, seen=1)
    with database.transaction(shop.runtime.db) as tx:
        connect.disconnect(tx, shop.account_id)
    connect.begin_again(shop.runtime, shop.account_id)
    shop.world.approves(shop.world.devices()[-1]["user_code"], shop.seller_id)
    shop.change("UPDATE device_flows SET due_at = clock_timestamp()")
    connect.poll(shop.runtime, shop.account_id)
    assert status(shop) == "active"
    assert generation(shop) == 4


def test_a_429_while_the_outcome_is_open_is_retried_inside_the_grace(shop: Shop) -> None:
    shop.world.faults("lost_token_answer", times=1)
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(shop.runtime, shop.account_id, seen=1)
    forget_intent(shop)
    shop.world.faults("status", code=429, path=TOKEN, times=1)
    with pytest.raises(AllegroLimitError):
        tokens.refresh(shop.runtime, shop.account_id, seen=1)
    assert shop.value("SELECT due_at < clock_timestamp() + interval '30 s' FROM account_tokens")
    assert shop.value("SELECT intent_first_at FROM account_tokens") is not None


def test_a_silence_does_not_keep_an_open_refresh_from_its_grace(shop: Shop) -> None:
    shop.world.faults("lost_token_answer", times=1)
    with pytest.raises(AllegroUnavailableError):
        tokens.refresh(shop.runtime, shop.account_id, seen=1)
    budget.silence(shop.runtime.db, f"client:{shop.runtime.oauth.client_id}", seconds=None)
    forget_intent(shop)
    assert tokens.refresh(shop.runtime, shop.account_id, seen=1).generation == 2
    with pytest.raises(BudgetExhaustedError):
        tokens.refresh(shop.runtime, shop.account_id, seen=2)
