"""The archive: every byte kept once, whatever comes hostile, late, twice, at the same time, or not to its end."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from tests.hostile.corpus import NO_ORDERS as SET_ASIDE
from tests.hostile.corpus import ODD_IDS
from tests.hostile.corpus import ORDERS as KEPT_AS_ORDERS
from tests.orders.conftest import Shop, moment, open_shop, order

from orders_backup import db as database
from orders_backup.allegro import wire
from orders_backup.codec import Codec
from orders_backup.orders import archive, changes, history
from orders_backup.orders.archive import Recorded
from orders_backup.tables import order_events, order_versions


@pytest.mark.parametrize("body", KEPT_AS_ORDERS.values(), ids=KEPT_AS_ORDERS)
def test_a_hostile_order_is_stored_byte_for_byte_and_so_is_its_neighbour(shop: Shop, body: bytes) -> None:
    good = order("good")
    assert shop.read((1, good), (1, body)) == Recorded(inserted=2)
    assert shop.bodies("hostile") == [body]
    assert shop.bodies("good") == [good]
    assert json.loads(shop.head("good").order_data) == json.loads(good)
    assert shop.set_aside() == []


@pytest.mark.parametrize(("order_id", "body"), ODD_IDS.values(), ids=ODD_IDS)
def test_an_order_of_an_odd_id_is_filed_under_just_that(shop: Shop, order_id: str, body: bytes) -> None:
    assert shop.read((1, body)) == Recorded(inserted=1)
    assert shop.bodies(order_id) == [body]


@pytest.mark.parametrize("body", SET_ASIDE.values(), ids=SET_ASIDE)
def test_bytes_without_a_usable_id_are_kept_and_their_neighbour_is_stored(shop: Shop, body: bytes) -> None:
    assert shop.read((1, body), (1, order("good"))) == Recorded(inserted=1, set_aside=1)
    assert shop.set_aside() == [body]
    assert shop.sizes() == (1, 1, 1)


def test_the_whole_hostile_corpus_lands_in_one_transaction_and_again_changes_nothing(shop: Shop) -> None:
    bodies = [body.replace(b"hostile", b"h%d" % n) for n, body in enumerate(KEPT_AS_ORDERS.values())]
    batch = [(1.0, body) for body in [*bodies, *SET_ASIDE.values(), order("good")]]
    count = len(bodies) + 1
    assert shop.read(*batch) == Recorded(inserted=count, set_aside=len(SET_ASIDE))
    assert shop.read(*batch) == Recorded(unchanged=count, set_aside=len(SET_ASIDE))
    assert shop.sizes() == (count, count, count)
    assert sorted(shop.set_aside()) == sorted(SET_ASIDE.values())
    assert [shop.bodies(f"h{n}") for n in range(len(bodies))] == [[body] for body in bodies]


def test_a_good_order_may_turn_hostile_and_back(shop: Shop) -> None:
    good, hostile = order("hostile"), KEPT_AS_ORDERS["100,000 deep"]
    for second, body in enumerate((good, hostile, good)):
        shop.read((second, body))
        assert (shop.head("hostile").order_data is None) is (body is hostile)
    assert shop.bodies("hostile") == [good, hostile, good]
    assert [kinds for _, kinds, _ in shop.changes("hostile")] == [
        ["order.created"],
        ["order.other_changed"],
        ["order.other_changed"],
    ]


A, B, C = (order(status=name) for name in "ABC")


def test_a_new_order_shows_what_its_bytes_say(shop: Shop) -> None:
    assert shop.read((1, A), cause="backfill") == Recorded(inserted=1)
    head = shop.head("order-1")
    assert (head.version, head.versions, head.read_at, head.status) == (1, 1, moment(1), "A")
    assert (head.buyer_login, head.total, head.currency) == ("kupujacy", "12.30", "PLN")
    assert (head.line_item_ids, json.loads(head.order_data)) == (["line-of-order-1"], json.loads(A))
    assert shop.changes("order-1") == [(1, ["order.created"], "backfill")]


def test_the_same_reading_twice_is_nothing_new(shop: Shop) -> None:
    shop.read((1, A))
    before = shop.head("order-1")
    assert shop.read((1, A)) == Recorded(unchanged=1)
    assert shop.read((1, A), (1, A)) == Recorded(unchanged=2)
    assert shop.head("order-1") == before
    assert shop.sizes() == (1, 1, 1)


def test_a_later_reading_of_the_same_bytes_only_moves_the_moment_it_was_seen(shop: Shop) -> None:
    shop.read((1, A))
    assert shop.read((5, A)) == Recorded(unchanged=1)
    assert shop.head("order-1").read_at == moment(5)
    assert shop.read((3, A)) == Recorded(unchanged=1)
    assert shop.head("order-1").read_at == moment(5)
    assert shop.sizes() == (1, 1, 1)


def test_there_and_back_again_keeps_three_versions(shop: Shop) -> None:
    for second, body in enumerate((A, B, A)):
        shop.read((second, body))
    assert shop.bodies("order-1") == [A, B, A]
    head = shop.head("order-1")
    assert (head.version, head.versions, head.status) == (3, 3, "A")
    assert [kinds for _, kinds, _ in shop.changes("order-1")] == [
        ["order.created"],
        ["order.status_changed"],
        ["order.status_changed"],
    ]


def test_a_reading_of_an_older_request_is_kept_and_overwrites_nothing(shop: Shop) -> None:
    shop.read((9, A))
    before = shop.head("order-1")
    assert shop.read((5, B)) == Recorded(updated=1)
    after = shop.head("order-1")
    for name in ("version", "sha256", "read_at", "order_data", "status"):
        assert getattr(after, name) == getattr(before, name)
    assert after.versions == 2
    assert shop.versions("order-1") == [(moment(5), B), (moment(9), A)]
    assert shop.read((5, B)) == Recorded(unchanged=1)
    assert shop.read((6, B)) == Recorded(unchanged=1)


def test_readings_of_one_order_in_one_page_are_taken_in_their_turn(shop: Shop) -> None:
    assert shop.read((1, A), (2, B), (3, A), (3, order("other"))) == Recorded(inserted=2, updated=2)
    assert shop.bodies("order-1") == [A, B, A]


def test_the_counts_add_up_to_what_was_read(shop: Shop) -> None:
    shop.read((5, order("same")), (5, order("changed")), (5, order("late")))
    recorded = shop.read(
        (6, order("same")),
        (6, order("changed", status="X")),
        (4, order("late", status="Y")),
        (6, order("new")),
        (6, b"{}"),
        (6, order("new")),
    )
    assert recorded == Recorded(inserted=1, updated=2, unchanged=2, set_aside=1)


def test_unchanged_orders_of_different_requests_are_each_stamped_with_their_own(shop: Shop) -> None:
    one, two = order("one"), order("two")
    shop.read((1, one), (1, two))
    shop.read((9, one), (5, two))
    assert (shop.head("one").read_at, shop.head("two").read_at) == (moment(9), moment(5))


def test_what_is_rolled_back_leaves_nothing(shop: Shop) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction(shop.db) as tx:  # noqa: PT012
        shop.read_in(tx, (1, A), (1, b"{}"), (1, KEPT_AS_ORDERS["2,000 deep"]))
        raise ZeroDivisionError
    assert (shop.sizes(), shop.set_aside()) == ((0, 0, 0), [])
    assert shop.read((1, A)) == Recorded(inserted=1)


def test_two_who_record_the_same_new_order_at_once_make_one_version(shop: Shop) -> None:
    at_once = threading.Barrier(2)

    def record(second: float) -> Recorded:
        at_once.wait()
        with database.transaction(shop.db) as tx:
            return shop.read_in(tx, (second, A))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(record, (1.0, 2.0)))
    assert sorted(one.inserted for one in found) == [0, 1]
    assert shop.sizes() == (1, 1, 1)
    assert shop.head("order-1").read_at in {moment(1), moment(2)}


def test_whoever_records_second_waits_and_sees_what_the_first_stored(shop: Shop) -> None:
    with ThreadPoolExecutor(1) as pool:
        with database.transaction(shop.db) as tx:
            shop.read_in(tx, (1, A))
            second = pool.submit(shop.read, (2, B))
            with pytest.raises(TimeoutError):
                second.result(timeout=0.2)
        assert second.result() == Recorded(updated=1)
    assert shop.bodies("order-1") == [A, B]


def test_many_who_record_the_same_changes_at_once_end_as_one_would(shop: Shop) -> None:
    pages = [[(float(second), order(f"o-{n}", status=f"S{second}")) for n in range(5)] for second in range(6)]

    def record(number: int) -> None:
        for turn in range(6):
            shop.read(*pages[(number + turn) % 6])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(record, range(4)))
    for n in range(5):
        assert shop.bodies(f"o-{n}") == [page[n][1] for page in pages]
        assert shop.head(f"o-{n}").status == "S5"


def test_another_sellers_order_of_the_same_id_is_another_order(shop: Shop, archive_db: Engine) -> None:
    other = open_shop(archive_db)
    shop.read((1, A))
    other.read((2, B))
    assert (shop.bodies("order-1"), other.bodies("order-1")) == ([A], [B])


readings = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([A, B, C])), min_size=1, max_size=6, unique_by=lambda r: r[0]
)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[tuple[int, bytes]], list[list[tuple[int, bytes]]]]:
    """Readings of one order, one a moment; and how they arrive: in any order, some again, split into transactions."""
    known = draw(readings)
    arriving = draw(st.permutations(known + draw(st.lists(st.sampled_from(known), max_size=4))))
    cuts = draw(st.lists(st.booleans(), min_size=len(arriving), max_size=len(arriving)))
    pages: list[list[tuple[int, bytes]]] = [[]]
    for reading, cut in zip(arriving, cuts, strict=True):
        if cut and pages[-1]:
            pages.append([])
        pages[-1].append(reading)
    return known, pages


@given(arrivals())
@profile(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_any_order_and_repetition_of_readings_ends_with_the_same_head_and_the_same_bytes(
    archive_db: Engine, arriving: tuple[list[tuple[int, bytes]], list[list[tuple[int, bytes]]]]
) -> None:
    known, pages = arriving
    shop = open_shop(archive_db)
    recorded = [shop.read(*page) for page in pages]
    newest_at, newest = max(known)
    head = shop.head("order-1")
    assert (head.sha256, head.read_at) == (changes.read(moment(0), newest).sha256, moment(newest_at))
    assert set(shop.bodies("order-1")) == {body for _, body in known}
    assert [one.inserted + one.updated + one.unchanged for one in recorded] == [len(page) for page in pages]
    assert sum(one.inserted for one in recorded) == 1
    assert head.versions == len(shop.versions("order-1")) == len(shop.changes("order-1"))
    assert {version for version, _, _ in shop.changes("order-1")} == set(range(1, head.versions + 1))
    assert all(known_at in {moment(second) for second, _ in known} for known_at, _ in shop.versions("order-1"))


@given(arrivals())
@example(([(1, A), (2, B), (3, A), (4, B)], [[(1, A)], [(3, A)], [(2, B)], [(4, B)]]))
@profile(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_no_version_stands_twice_in_a_row(
    archive_db: Engine, arriving: tuple[list[tuple[int, bytes]], list[list[tuple[int, bytes]]]]
) -> None:
    shop = open_shop(archive_db)
    for page in arriving[1]:
        shop.read(*page)
    assert all(before != after for before, after in pairwise(shop.bodies("order-1")))


def test_the_newest_moment_always_shows_the_head(shop: Shop) -> None:
    for second, body in ((1, A), (5, A), (3, B)):
        shop.read((second, body))
    assert shop.head("order-1").status == "A"
    with database.transaction(shop.db) as tx:
        shown = history.at(tx, Codec(), shop.account_id, "order-1", moment(9))
    assert shown.status == "A"


def test_there_and_back_again_keeps_three_versions_when_the_first_comes_late(shop: Shop) -> None:
    for second, body in ((2, B), (3, A), (1, A)):
        shop.read((second, body))
    assert shop.versions("order-1") == [(moment(1), A), (moment(2), B), (moment(3), A)]


@pytest.mark.parametrize("seconds", [(1, 6, 9, 2), (1, 6, 9, 7, 2), (1, 6, 9, 8, 7, 2)])
def test_a_state_confirmed_after_a_late_reading_is_shown_from_then_on(shop: Shop, seconds: tuple[int, ...]) -> None:
    shop.read((seconds[0], A))
    shop.read((seconds[1], A))
    for number, second in enumerate(seconds[2:]):
        shop.read((second, order("order-1", status=f"S{number}")))
    with database.transaction(shop.db) as tx:
        shown = {at: history.at(tx, Codec(), shop.account_id, "order-1", moment(at)).status for at in (1, 2, 6)}
    assert shown == {1: "A", 2: f"S{len(seconds) - 3}", 6: "A"}


# Merged orders: a new form takes over the line items of an old one, which answers 404 from then on


def merged(*line_items: str, order_id: str = "new") -> bytes:
    return order(order_id, lineItems=[{"id": one, "boughtAt": "2026-01-02T00:00:00Z"} for one in line_items])


@pytest.fixture
def old(shop: Shop) -> bytes:
    """An order that a later one will take over."""
    shop.read((1, order("old")))
    return shop.bodies("old")[0]


SUPERSEDED = (1, ["order.superseded"], "merge")


def test_an_order_that_is_gone_before_its_successor_is_known_is_linked_when_that_comes(shop: Shop, old: bytes) -> None:
    assert shop.gone("old", at=2) is None
    assert (shop.head("old").gone_at, shop.head("old").superseded_by) == (moment(2), None)
    assert shop.read((3, merged("line-of-old", "another"))) == Recorded(inserted=1)
    assert (shop.head("old").superseded_by, shop.bodies("old")) == ("new", [old])
    assert shop.changes("old")[1:] == [SUPERSEDED]


@pytest.mark.usefixtures("old")
def test_an_order_whose_successor_is_known_first_is_named_for_reading_and_linked_when_it_is_gone(shop: Shop) -> None:
    assert shop.read((2, merged("line-of-old"))) == Recorded(inserted=1, maybe_superseded=["old"])
    assert shop.head("old").superseded_by is None
    assert shop.gone("old", at=3) == "new"
    assert (shop.head("old").superseded_by, shop.head("old").gone_at) == ("new", moment(3))
    assert shop.changes("old")[1:] == [SUPERSEDED]


@pytest.mark.usefixtures("old")
def test_the_superseding_is_told_once_however_often_it_is_found(shop: Shop) -> None:
    shop.read((2, merged("line-of-old")))
    assert [shop.gone("old", at=second) for second in (3, 4, 5)] == ["new"] * 3
    shop.read((6, merged("line-of-old")))
    shop.read((7, merged("line-of-old", "more")))
    assert shop.changes("old")[1:] == [SUPERSEDED]
    assert shop.head("old").gone_at == moment(3)


def test_an_order_we_never_read_is_gone_without_a_trace_and_its_successor_is_named(shop: Shop) -> None:
    shop.read((2, merged("line-of-old")))
    assert shop.gone("old", at=3, line_items=["line-of-old"]) == "new"
    assert shop.gone("unknown", at=3) is None
    assert shop.sizes() == (1, 1, 1)


@pytest.mark.usefixtures("old")
def test_orders_without_a_line_item_in_common_are_never_linked(shop: Shop, archive_db: Engine) -> None:
    shop.gone("old", at=2)
    shop.read((3, merged("something else")), (3, order("empty", lineItems=[])))
    open_shop(archive_db).read((3, merged("line-of-old")))
    assert shop.gone("old", at=4) is None
    assert shop.head("old").superseded_by is None


@pytest.mark.usefixtures("old")
def test_an_order_that_answers_again_is_neither_gone_nor_superseded(shop: Shop) -> None:
    for second, body in ((4, order("old")), (7, order("old", status="X"))):
        shop.gone("old", at=second - 1)
        shop.read((second, body))
        assert (shop.head("old").gone_at, shop.head("old").superseded_by) == (None, None)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("status", ["READY_FOR_PROCESSING", "CHANGED"])
def test_a_reading_requested_before_the_404_does_not_bring_an_order_back(shop: Shop, status: str) -> None:
    shop.read((2, merged("line-of-old")))
    shop.gone("old", at=5)
    shop.read((4, order("old", status=status)))
    assert (shop.head("old").gone_at, shop.head("old").superseded_by) == (moment(5), "new")


@pytest.mark.usefixtures("old")
def test_a_late_version_of_a_gone_order_does_not_bring_it_back(shop: Shop) -> None:
    shop.gone("old", at=5)
    assert shop.read((0.5, order("old", status="EARLIER"))) == Recorded(updated=1)
    assert shop.head("old").gone_at == moment(5)


# Events

Events = Callable[[], dict[str, tuple[bytes, datetime | None]]]


def event(number: int, order_id: str = "order-1") -> bytes:
    return b'{ "id":"%d","type":"BOUGHT","order":{"checkoutForm":{"id":"%s"}}}' % (number, order_id.encode())


@pytest.fixture
def happened(shop: Shop) -> Callable[..., list[str]]:
    """Records a page of events in a transaction of its own and says which were new."""

    def record(*bodies: bytes) -> list[str]:
        page = wire.event_page(b'{"events":[' + b",".join(bodies) + b"]}")
        with database.transaction(shop.db) as tx:
            return [one.event_id for one in archive.record_events(tx, shop.codec, shop.account_id, page)]

    return record


@pytest.fixture
def events(shop: Shop) -> Events:
    """The stored events: id → bytes and when they were followed up."""

    def read() -> dict[str, tuple[bytes, datetime | None]]:
        query = sa.select(order_events).where(order_events.c.account_id == shop.account_id)
        with database.transaction(shop.db) as tx:
            return {
                row.event_id: (Codec().decompress(tx, row.dictionary_id, row.event_data), row.processed_at)
                for row in tx.execute(query)
            }

    return read


def test_each_event_is_stored_once_with_its_bytes(happened: Callable[..., list[str]], events: Events) -> None:
    assert happened(event(1), event(2), event(1)) == ["1", "2"]
    assert happened(event(2), event(3)) == ["3"]
    assert happened() == happened(event(1)) == []
    assert events() == {str(n): (event(n), None) for n in (1, 2, 3)}


def test_an_event_that_comes_again_with_other_bytes_stays_as_it_first_came(
    happened: Callable[..., list[str]], events: Events
) -> None:
    happened(event(1))
    assert happened(event(1, "another")) == []
    assert events()["1"][0] == event(1)


def test_pages_that_overlap_and_arrive_at_once_store_each_event_once(
    happened: Callable[..., list[str]], events: Events
) -> None:
    with ThreadPoolExecutor(4) as pool:
        pages = pool.map(lambda first: happened(*(event(n) for n in range(first, first + 30))), (0, 10, 20, 25))
    new = [event_id for page in pages for event_id in page]
    assert sorted(new) == sorted({*new}) == sorted(events())
    assert len(new) == 55


def test_only_the_events_of_the_orders_that_were_read_count_as_followed_up(
    shop: Shop, happened: Callable[..., list[str]], events: Events
) -> None:
    happened(event(1, "read"), event(2, "owed"))
    with database.transaction(shop.db) as tx:
        archive.events_processed(tx, shop.account_id, ["read"])
    first = events()["1"][1]
    assert first is not None
    with database.transaction(shop.db) as tx:
        archive.events_processed(tx, shop.account_id, ["read"])
    assert events() == {"1": (event(1, "read"), first), "2": (event(2, "owed"), None)}


def test_events_with_nul_in_every_text_are_stored(happened: Callable[..., list[str]], events: Events) -> None:
    hostile = b'{"id":"7","type":"\\u0000","order":{"checkoutForm":{"id":"a\\u0000b"}},"x":"\xff"}'
    assert happened(hostile) == ["7"]
    assert events()["7"][0] == hostile


def test_a_version_says_its_true_size_and_hash(shop: Shop) -> None:
    shop.read((1, A))
    query = sa.select(order_versions).where(order_versions.c.account_id == shop.account_id)
    with database.transaction(shop.db) as tx:
        row = tx.execute(query).one()
    assert (row.size, row.sha256) == (len(A), changes.read(moment(1), A).sha256)
