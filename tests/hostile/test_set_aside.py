"""What is set aside can be seen, tried again by a newer program, and acknowledged; the certificate follows."""

import hashlib
from collections.abc import Callable

import pytest
from tests.shop import Shop

from orders_backup import db as database
from orders_backup.errors import NotFoundError
from orders_backup.sync import set_aside
from orders_backup.sync.set_aside import Item, Retried

NAMELESS = b'{"status":"BOUGHT"}'
ID_LATER = b'{"status":"BOUGHT","order":"x","id":"understood-later"}'


@pytest.fixture
def small(make_shop: Callable[[int], Shop]) -> Shop:
    shop = make_shop(20)
    shop.world.plants(shop.world.orders(shop.seller_id)[7], NAMELESS, silently=True)
    shop.backfill()
    shop.follow()
    return shop


def items(shop: Shop) -> list[Item]:
    with database.transaction(shop.runtime.db) as tx:
        return set_aside.page(tx, shop.account_id, after=None, limit=1000)[0]


def retried(shop: Shop, *ids: str) -> Retried:
    with database.transaction(shop.runtime.db) as tx:
        return set_aside.retry(tx, shop.runtime.codec, shop.account_id, ids or None, now=database.clock(tx))


def acknowledged(shop: Shop, *ids: str, reason: str = "Allegro sent nonsense") -> int:
    with database.transaction(shop.runtime.db) as tx:
        return set_aside.acknowledge(tx, shop.account_id, ids or None, reason=reason)


def arrived(shop: Shop, body: bytes) -> str:
    """Bytes that an older program did not understand."""
    digest = hashlib.sha256(body)
    shop.change(
        "INSERT INTO unreadable_orders (account_id, sha256, read_at, body) VALUES (:account, :sha, :at, :body)",
        sha=digest.digest(),
        at="2026-01-01T00:00:00Z",
        body=body,
    )
    return digest.hexdigest()


def test_bytes_that_came_again_are_one_item_that_says_so(small: Shop) -> None:
    [first] = items(small)
    assert (first.kind, first.failures, first.size) == ("unreadable", 1, len(NAMELESS))
    assert first.id == first.sha256 == hashlib.sha256(NAMELESS).hexdigest()
    assert first.last_error == "These bytes name no order id."
    small.sweep("full")
    [again] = items(small)
    assert (again.first_seen, again.failures) == (first.first_seen, 2)
    assert again.last_seen is not None
    assert again.last_seen > again.first_seen


def test_the_exact_bytes_can_be_had(small: Shop) -> None:
    with database.transaction(small.runtime.db) as tx:
        assert set_aside.body(tx, small.account_id, items(small)[0].id) == NAMELESS
        for unknown in ("0" * 64, "x", "", "\u017c"):
            with pytest.raises(NotFoundError):
                set_aside.body(tx, small.account_id, unknown)


def test_what_a_newer_program_understands_moves_into_the_archive_as_of_the_moment_it_came(small: Shop) -> None:
    digest = arrived(small, ID_LATER)
    assert retried(small) == Retried(due=0, understood=1, unreadable=1)
    assert small.versions("understood-later") == [ID_LATER]
    read_at = small.value("SELECT read_at FROM orders WHERE order_id = 'understood-later'")
    assert read_at.isoformat() == "2026-01-01T00:00:00+00:00"
    assert digest not in {item.id for item in items(small)}
    with pytest.raises(NotFoundError):
        retried(small, digest)


def test_a_late_understanding_never_replaces_what_was_read_since(small: Shop) -> None:
    form = small.world.orders(small.seller_id)[3]
    arrived(small, b'{"id":"%b","status":"OLD"}' % form.encode())
    assert retried(small).understood == 1
    bodies = small.versions(form)
    assert bodies[-1] == small.world.body(form)
    assert len(bodies) >= 2


def test_the_page_of_one_order_is_understood_as_that_order(small: Shop) -> None:
    arrived(small, b'{"checkoutForms":[{"id":"on-a-page"}],"count":1,"totalCount":20}')
    assert retried(small).understood == 1
    assert small.versions("on-a-page") == [b'{"id":"on-a-page"}']


def test_the_order_that_a_broken_page_names_is_read_by_itself(small: Shop) -> None:
    form = small.world.buys(small.seller_id, silently=True)
    digest = arrived(small, b'{"checkoutForms":[{"id":"%b","a":[}' % form.encode())
    assert retried(small, digest) == Retried(due=0, understood=0, unreadable=1)
    small.follow()
    assert small.versions(form) == [small.world.body(form)]


def test_an_order_set_aside_gets_five_more_tries_and_no_sixth(small: Shop) -> None:
    form = small.world.orders(small.seller_id)[2]
    path = f"/order/checkout-forms/{form}"
    small.world.faults("answer", path=path, times=None, body=b"{")
    small.change(
        "INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at)"
        " VALUES (:account, :form, 'unlisted', now(), now())",
        form=form,
    )
    before = tries(small)
    for _ in range(7):
        small.follow()
    assert tries(small) - before == 10  # five times, each once more at once
    came = [hashlib.sha256(one).hexdigest() for one in (NAMELESS, b"{")]
    assert [item.id for item in items(small)] == [form, *sorted(came)]
    with database.transaction(small.runtime.db) as tx:
        assert set_aside.body(tx, small.account_id, came[1]) == b"{"
    assert [item.kind for item in items(small) if item.acknowledged_at is None] == ["order", "unreadable"]
    assert retried(small, form) == Retried(due=1, understood=0, unreadable=0)
    assert small.value("SELECT due_at <= clock_timestamp() FROM syncs WHERE kind = 'journal'")
    for _ in range(7):
        small.follow()
    assert tries(small) - before == 20
    small.world.clear_faults()
    retried(small)
    small.follow()
    assert [item.id for item in items(small)] == sorted(came)


def tries(shop: Shop) -> int:
    return sum(count for (path, _), count in shop.world.counts.items() if path == "/order/checkout-forms/{id}")


def test_the_certificate_is_complete_again_once_a_person_took_note_and_goes_on_naming_it(small: Shop) -> None:
    before = small.certificate()
    assert (before.complete, before.unreadable, before.acknowledged) == (False, 1, 0)
    assert before.open_questions == ["1 orders could not be read and are set aside; nobody acknowledged them."]
    assert acknowledged(small) == 1
    assert acknowledged(small, reason="another reason") == 0
    after = small.certificate()
    assert (after.complete, after.unreadable, after.acknowledged) == (True, 1, 1)
    [item] = items(small)
    assert item.acknowledged_at is not None
    assert item.acknowledged_reason == "Allegro sent nonsense"


def test_an_acknowledged_order_is_a_question_again_when_it_fails_again(small: Shop) -> None:
    acknowledged(small)
    form = small.world.orders(small.seller_id)[2]
    small.world.faults("answer", path=f"/order/checkout-forms/{form}", times=None, body=b"{")
    for number in range(2):
        small.world.plants(form, b'{"id":"%b","a":%d}' % (form.encode(), number))
        for _ in range(6):
            small.follow()
        assert [item.id for item in items(small) if item.acknowledged_at is None] == [form]
        assert not small.certificate().complete
        assert acknowledged(small, form) == 1
        assert small.certificate().complete


def test_nothing_of_another_account_is_touched_or_seen(small: Shop, make_shop: Callable[[int], Shop]) -> None:
    other = make_shop(1)
    theirs = items(small)[0].id
    with pytest.raises(NotFoundError):
        retried(other, theirs)
    with pytest.raises(NotFoundError):
        acknowledged(other, theirs)
    assert acknowledged(other) == 0
    assert retried(other) == Retried(0, 0, 0)
    with database.transaction(other.runtime.db) as tx, pytest.raises(NotFoundError):
        set_aside.body(tx, other.account_id, theirs)
    assert items(other) == []


def test_the_list_is_paged_without_gap_or_repetition(small: Shop) -> None:
    for number in range(7):
        arrived(small, b"[%d]" % number)
    seen: list[str] = []
    after = None
    while True:
        with database.transaction(small.runtime.db) as tx:
            some, after = set_aside.page(tx, small.account_id, after=after, limit=3)
        seen += [item.id for item in some]
        if after is None:
            break
    assert sorted(seen) == sorted({item.id for item in items(small)})
    assert len(seen) == 8


def test_a_retry_that_dies_before_its_commit_has_moved_nothing(small: Shop) -> None:
    arrived(small, ID_LATER)
    connection = small.runtime.db.connect()
    transaction = connection.begin()
    set_aside.retry(connection, small.runtime.codec, small.account_id, None, now=small.runtime.clock.now())
    transaction.rollback()
    connection.close()
    assert small.versions("understood-later") == []
    assert len(items(small)) == 2
    assert small.rows("SELECT 1 FROM order_changes WHERE order_id = 'understood-later'") == []
    assert retried(small).understood == 1
