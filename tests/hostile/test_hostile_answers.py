"""Whatever Allegro answers in place of a page, a journal or a token: no worker dies, and it all goes on after."""

from collections.abc import Callable

import pytest
from tests.hostile.corpus import EVENTS, WHOLE, Whole
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.accounts import tokens
from orders_backup.allegro import client, wire
from orders_backup.errors import AllegroError, OrdersBackupError
from orders_backup.sync import backfill, pull

LIST, EVENT_PAGES, STATS = "/order/checkout-forms", "/order/events", "/order/event-stats"


def answers(shop: Shop, whole: Whole, path: str) -> None:
    """Everything under this path is answered so until the faults are cleared."""
    kind, headers = whole.content_type, whole.headers
    shop.world.faults("answer", path=path, times=None, body=whole.body, content_type=kind, headers=headers)


def refused(ask: Callable[[], object]) -> str:
    """The words of the error that comes of asking; nothing where there is none."""
    try:
        ask()
    except OrdersBackupError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_but_an_error_known_by_name_comes_of_any_answer(few: Shop, name: str) -> None:
    answers(few, WHOLE[name], "/")
    token = tokens.current(few.runtime, few.account_id).value
    now = few.runtime.clock.now()
    allegro = few.runtime.allegro
    for ask in (
        lambda: client.me(allegro, token),
        lambda: client.latest_event_id(allegro, token),
        lambda: client.events(allegro, token, after="0"),
        lambda: client.order(allegro, token, "x"),
        lambda: client.orders_updated(allegro, token, since=now, offset=0),
        lambda: tokens.refresh(few.runtime, few.account_id, seen=1),
    ):
        told = refused(ask)
        assert len(told) < 300
        assert token not in told


@pytest.mark.parametrize("name", WHOLE)
def test_a_sync_that_meets_it_goes_on_as_soon_as_allegro_is_well(few: Shop, name: str) -> None:
    form = few.world.buys(few.seller_id)
    for path in (LIST, EVENT_PAGES):
        answers(few, WHOLE[name], path)
    pulled, listed = pull.pull, backfill.work_on_listing
    for work in (pulled, listed):
        few._due_now()
        work(few.runtime, few.account_id)
    few.world.clear_faults()
    few.sweep("full")
    assert few.versions(form)[-1:] == [few.world.body(form)]
    assert few.differences() == []


@pytest.mark.parametrize("name", [name for name in WHOLE if "newest event" in name or name in {"null", "a number"}])
def test_an_odd_newest_event_never_pins_the_cursor_beyond_what_comes(
    make_shop: Callable[[int], Shop], name: str
) -> None:
    shop = make_shop(12)
    answers(shop, WHOLE[name], STATS)
    shop.work_on_listing()
    shop.world.clear_faults()
    shop.backfill()
    form = shop.world.buys(shop.seller_id)
    shop.follow()
    assert shop.versions(form) == [shop.world.body(form)]


def test_a_journal_full_of_odd_events_is_stored_and_followed_to_its_end(level: Shop) -> None:
    for body in EVENTS.values():
        level.world.plants_event(level.seller_id, body)
    form = level.world.buys(level.seller_id)
    for _ in range(7):
        level.follow()
    assert level.versions(form) == [level.world.body(form)]
    with database.transaction(level.runtime.db) as tx:
        rows = level.rows("SELECT dictionary_id, event_data FROM order_events WHERE account_id = :account")
        stored = {level.runtime.codec.decompress(tx, row[0], row[1]) for row in rows}
    unchanged = {body for body in EVENTS.values() if not body.startswith(b'{"id":"0"')}
    assert unchanged - stored == set()
    assert not any(row[0] for row in level.rows("SELECT last_error FROM syncs WHERE account_id = :account"))
    assert level.value("SELECT length(cursor) FROM syncs WHERE account_id = :account AND kind = 'journal'") == 16
    later = level.world.buys(level.seller_id)
    level.follow()
    assert level.versions(later) == [level.world.body(later)]


def test_an_event_without_an_id_still_has_its_order_read(level: Shop) -> None:
    level.world.loses_event(level.seller_id)
    form = level.world.buys(level.seller_id)
    level.world.plants_event(level.seller_id, b'{"id":{},"order":{"checkoutForm":{"id":"%b"}}}' % form.encode())
    level.follow()
    assert level.versions(form) == [level.world.body(form)]


HARD = {
    "quotes escaped without end": b'{"checkoutForms":["' + b'\\"' * 4_000_000,
    "quotes without end": b'{"checkoutForms":[' + b'"' * 4_000_001,
    "backslashes": b'{"checkoutForms":["' + b"\\" * 8_000_001,
    "brackets": b'{"checkoutForms":' + b"[" * 4_000_000,
    "open and closed": b'{"checkoutForms":[' + b"[]" * 2_000_000 + b'"\\ud800"],"totalCount":1}',
    "one long text": b'{"checkoutForms":["' + b"x" * 15_000_000 + b'\\ud800"],"totalCount":1}',
}


@pytest.mark.parametrize("body", HARD.values(), ids=HARD)
def test_taking_a_page_apart_ends_however_it_is_made(body: bytes) -> None:
    try:
        orders, total = wire.order_page(body)
    except AllegroError:
        return
    assert (len(orders), total) == (1, 1)
