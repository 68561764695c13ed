"""Whatever stands in an order: every byte is kept, and no other order, no worker and no reader suffers from it."""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.hostile import corpus
from tests.hostile.corpus import BROKEN, MEGABYTE, NO_ORDERS, ORDERS
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.orders import history
from orders_backup.orders import pages as lists
from orders_backup.orders.queries import Filter
from orders_backup.rest import answer
from orders_backup.sync import set_aside

HUGE = {"ten megabytes", "a huge buyer's text"}
LISTED = {name: body for name, body in ORDERS.items() if name != "whitespace everywhere"}
"""Space around an element of a list belongs to the list."""


def test_the_corpus_is_as_large_as_it_claims() -> None:
    assert corpus.named() >= 140


def planted(shop: Shop, bodies: dict[str, bytes], *, silently: bool = True) -> dict[str, tuple[str, bytes]]:
    """Each of these bodies as an order of the shop, under its own id; by name."""
    forms = shop.world.orders(shop.seller_id)
    found = {}
    for (name, body), form in zip(bodies.items(), forms, strict=False):
        found[name] = (form, corpus.renamed(body, form))
        shop.world.plants(form, found[name][1], silently=silently)
    return found


def kept(shop: Shop, hostile: dict[str, tuple[str, bytes]]) -> list[str]:
    """The names of those that are not in the archive byte for byte."""
    return [name for name, (form, body) in hostile.items() if shop.versions(form)[-1:] != [body]]


def test_a_history_full_of_hostile_orders_is_kept_byte_for_byte(shop: Shop) -> None:
    hostile = planted(shop, LISTED)
    shop.backfill()
    assert kept(shop, hostile) == []
    assert shop.differences() == []
    assert shop.value("SELECT count(*) FROM orders WHERE account_id = :account") == 250
    assert shop.certificate().open_questions == []


def test_hostile_orders_that_events_name_are_kept_byte_for_byte(level: Shop) -> None:
    hostile = planted(level, LISTED, silently=False)
    for _ in range(3):
        level.follow()
    assert kept(level, hostile) == []
    assert level.differences() == []
    assert level.value("SELECT count(*) FROM owed_orders WHERE account_id = :account") == 0


def test_a_hostile_order_that_stands_alone_is_read_alone(level: Shop) -> None:
    form = level.world.orders(level.seller_id)[3]
    for name in ("a lone high surrogate", "100,000 deep before its id", "invalid utf-8 in a value", "ten megabytes"):
        body = corpus.renamed(ORDERS[name], form)
        level.world.plants(form, body)
        level.follow()
        assert level.versions(form)[-1] == body, name


def test_what_names_no_order_is_set_aside_and_its_page_goes_on(shop: Shop) -> None:
    whole = {name: body for name, body in NO_ORDERS.items() if is_one_value(body)}
    hostile = planted(shop, whole)
    shop.backfill()
    with database.transaction(shop.runtime.db) as tx:
        items, _ = set_aside.page(tx, shop.account_id, after=None, limit=1000)
    assert {item.id for item in items} == {hashlib.sha256(body).hexdigest() for _, body in hostile.values()}
    assert shop.value("SELECT count(*) FROM orders WHERE account_id = :account") == 250 - len(whole)
    assert not shop.certificate().complete


def is_one_value(body: bytes) -> bool:
    """Whether the bytes stand in a list as one element."""
    try:
        return len(json.loads(b"[" + body + b"]")) == 1
    except (ValueError, RecursionError):
        return False


@pytest.mark.parametrize("name", BROKEN)
def test_an_order_that_spoils_its_page_costs_no_other(make_shop: Callable[[int], Shop], name: str) -> None:
    shop = make_shop(120)
    forms = shop.world.orders(shop.seller_id)
    shop.world.plants(forms[60], BROKEN[name], silently=True)
    shop.backfill()
    stored = {str(row[0]) for row in shop.rows("SELECT order_id FROM orders WHERE account_id = :account")}
    assert set(forms) - stored == {forms[60]}
    certificate = shop.certificate()
    assert (certificate.complete, certificate.unreadable, certificate.missing) == (False, 1, 0)
    [item] = items_of(shop)
    assert item.kind == "unreadable"
    assert item.last_error is not None
    assert (item.size or 0) <= MEGABYTE


def test_several_orders_that_spoil_their_pages_cost_no_other(shop: Shop) -> None:
    forms = shop.world.orders(shop.seller_id)
    spoiled = {0: "a bracket too many", 99: "cut off in a text", 100: "closed by another", 249: "more than is taken"}
    for number, name in spoiled.items():
        shop.world.plants(forms[number], BROKEN[name].replace(b"broken", forms[number].encode()), silently=True)
    shop.backfill()
    stored = {str(row[0]) for row in shop.rows("SELECT order_id FROM orders WHERE account_id = :account")}
    assert set(forms) - stored == {forms[number] for number in spoiled}
    assert shop.certificate().unreadable == len(spoiled)


def test_two_orders_that_fit_alone_and_not_together_are_both_kept(shop: Shop) -> None:
    forms = shop.world.orders(shop.seller_id)[40:42]
    for form in forms:
        shop.world.plants(form, corpus.renamed(ORDERS["ten megabytes"], form), silently=True)
    shop.backfill()
    assert shop.differences() == []
    assert shop.certificate().complete


def test_an_order_that_is_too_large_is_set_aside_after_five_tries_and_comes_back_when_it_shrinks(level: Shop) -> None:
    form, other = level.world.orders(level.seller_id)[5:7]
    fitting = level.world.body(form)
    level.world.plants(form, BROKEN["more than is taken"].replace(b"broken", form.encode()))
    for _ in range(6):
        level.follow()
    [item] = items_of(level)
    assert (item.kind, item.id, item.failures) == ("order", form, 5)
    assert item.last_error == "Allegro's answer is larger than 16 MiB."
    asked = sum(level.world.counts.values())
    level.world.plants(other, corpus.renamed(ORDERS["nan"], other))
    level.follow()
    assert sum(level.world.counts.values()) == asked + 2  # the journal, and the other order
    level.world.plants(form, fitting)
    level.follow()
    assert items_of(level) == []
    assert level.certificate().complete


def test_an_answer_that_is_cut_off_is_never_taken_for_an_order(level: Shop) -> None:
    form = level.world.orders(level.seller_id)[5]
    before = level.versions(form)
    body = level.world.body(form)
    for length in range(1, len(body), 97):
        path = f"/order/checkout-forms/{form}"
        level.world.faults("answer", path=path, times=2, body=body[:length])
        owe(level, form)
        level.follow()
        assert level.versions(form) == before
    owe(level, form)
    level.follow()
    assert level.value("SELECT count(*) FROM owed_orders WHERE account_id = :account") == 0
    assert level.certificate().complete


def owe(shop: Shop, form: str) -> None:
    shop.change("DELETE FROM owed_orders WHERE account_id = :account")
    shop.change(
        "INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at)"
        " VALUES (:account, :form, 'unlisted', now(), now())",
        form=form,
    )


def items_of(shop: Shop) -> list[set_aside.Item]:
    with database.transaction(shop.runtime.db) as tx:
        return set_aside.page(tx, shop.account_id, after=None, limit=1000)[0]


# What readers of the API get


def pages(shop: Shop) -> Iterator[bytes]:
    after = None
    while True:
        with database.snapshot(shop.runtime.db) as tx:
            wanted = Filter(account_id=shop.account_id)
            items, after = lists.page(tx, shop.runtime.codec, wanted, after=after, limit=40, full=True)
        yield answer({"items": items}).body  # type: ignore[misc]
        if after is None:
            return


def strictly(body: bytes) -> Any:
    """As a strict reader takes it: UTF-8, no NaN, no half characters, no deep end. Numbers may be of any size."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    msgspec.json.decode(body, type=msgspec.Raw)
    found = json.loads(body.decode(), parse_constant=refuse, parse_int=str, parse_float=str)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def test_a_page_of_hostile_orders_is_json_for_every_reader(shop: Shop) -> None:
    hostile = planted(shop, {name: body for name, body in LISTED.items() if name not in HUGE})
    shop.backfill()
    found = {item["id"]: item for page in pages(shop) for item in strictly(page)["items"]}
    assert len(found) == 250
    for name, (form, body) in hostile.items():
        item = found[form]
        assert item["order_data_unreadable"] is (item["order_data"] is None), name
        assert item["order_data_unreadable"] is not is_strict(body), name
        with database.snapshot(shop.runtime.db) as tx:
            assert history.version(tx, shop.runtime.codec, shop.account_id, form, 1)[1] == body, name


def is_strict(body: bytes) -> bool:
    try:
        strictly(body)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return True
