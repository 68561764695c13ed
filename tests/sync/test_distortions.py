"""A list that lies: each distortion ends in a verified window or an honest failure, never in a false proof."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from tests.shop import PLENTY, Shop

from allegro_simulator import shelf
from allegro_simulator.transport import WorldTransport
from orders_backup import db as database
from orders_backup import runtime as runtimes
from orders_backup.sync import owed, plan
from orders_backup.sync.plan import Debt

LIST = "/order/checkout-forms"
EARLY = datetime(2024, 1, 1, tzinfo=UTC)


def state_of(shop: Shop) -> str:
    """What the newest run says of itself."""
    return str(shop.value("SELECT status FROM sync_history ORDER BY requested_at DESC, started_at DESC LIMIT 1"))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sync_windows SET status = 'unstable', missing = 0, stored = total_count - 1 WHERE total_count > 0",
        "UPDATE sync_windows SET missing = 1 WHERE status = 'verified'",
        "UPDATE sync_windows SET stored = total_count - 1 WHERE status = 'verified' AND total_count > 0",
        "UPDATE sync_history SET listed = listed + 1",
        "UPDATE sync_history SET inserted = inserted - 1 WHERE inserted > 0",
    ],
)
def test_the_database_refuses_counts_that_do_not_add_up(level: Shop, damage: str) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        level.change(damage)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("shifted_page", {"by": -1}),
        ("shifted_page", {"by": 40}),
        ("shifted_page", {"by": 1_000_000}),
        ("shifted_page", {"by": 1_000_000, "delta": -1_000_000}),
        ("wrong_total", {"delta": -150}),
        ("wrong_total", {"delta": -250}),
        ("wrong_total", {"delta": 100}),
        ("ignored_filter", {"names": ("lineItems.boughtAt.gte",)}),
        ("ignored_filter", {"names": ("lineItems.boughtAt.lte",)}),
    ],
)
def test_a_distorted_list_never_passes_for_the_truth(
    level: Shop, kind: str, options: dict[str, Any], times: int
) -> None:
    missing = level.world.orders(level.seller_id)[120]
    for table in ("orders", "order_versions"):
        level.change(f"DELETE FROM {table} WHERE order_id = :order", order=missing)
    level.world.faults(kind, path=LIST, times=times, **options)
    level.sweep("reconcile")
    is_here = level.versions(missing) == [level.world.body(missing)]
    assert is_here or not level.certificate().complete
    level.world.clear_faults()
    level.sweep("reconcile")
    assert level.versions(missing) == [level.world.body(missing)]
    assert level.certificate().open_questions == []


class Meddled(httpx.BaseTransport):
    """The simulator, and something that happens just before or after some of its answers."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self.inner = inner
        self.before: Callable[[httpx.Request], None] = lambda _: None
        self.after: Callable[[httpx.Request, httpx.Response], httpx.Response] = lambda _, answer: answer

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.before(request)
        return self.after(request, self.inner.handle_request(request))


@pytest.fixture
def meddle() -> Iterator[Callable[[Shop], Meddled]]:
    """Puts itself between a shop and the simulator."""
    built = []

    def between(shop: Shop) -> Meddled:
        urls = {"allegro_api_url": shop.world.base_url, "allegro_auth_url": shop.world.base_url}
        settings = shop.runtime.settings.model_copy(update={**urls, **PLENTY})
        transport = Meddled(WorldTransport(shop.world))
        shop.runtime = runtimes.build(settings, transport=transport)
        built.append(shop.runtime)
        return transport

    yield between
    for runtime in built:
        runtime.close()


def without_and_twice(answer: httpx.Response, missing: str) -> httpx.Response:
    """The list page with one order left out and its neighbour twice, under the right counts."""
    document = answer.json()
    forms = document.get("checkoutForms", [])
    places = [place for place, form in enumerate(forms) if form["id"] == missing]
    if not places or len(forms) < 3:
        return answer
    forms[places[0]] = forms[places[0] - 1 if places[0] else 1]
    return httpx.Response(200, headers={"content-type": answer.headers["content-type"]}, json=document)


def test_what_a_list_counts_and_never_shows_is_told_as_missing(level: Shop, meddle: Callable[[Shop], Meddled]) -> None:
    missing = level.world.orders(level.seller_id)[100]
    for table in ("orders", "order_versions"):
        level.change(f"DELETE FROM {table} WHERE order_id = :order", order=missing)

    def after(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        return without_and_twice(answer, missing) if request.url.path == LIST else answer

    meddle(level).after = after
    level.sweep("reconcile")
    found = level.certificate()
    assert found.missing == 1
    assert [one.missing for one in found.windows if one.status == "unstable"] == [1]
    assert found.complete is False


def test_an_order_read_another_way_does_not_hide_one_that_was_left_out(
    level: Shop, meddle: Callable[[Shop], Meddled]
) -> None:
    """The page names one order twice and another not at all; meanwhile an order was read that the list does not name.
    All numbers are right, and the window is not."""
    missing, other = level.world.orders(level.seller_id)[100:102]
    for table in ("orders", "order_versions"):
        level.change(f"DELETE FROM {table} WHERE order_id = :order", order=missing)

    def after(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path != LIST:
            return answer
        level.change(
            """INSERT INTO orders (account_id, order_id, version, versions, sha256, read_at, ordered_at, line_item_ids)
               SELECT account_id, 'read-another-way', 1, 1, sha256, clock_timestamp() + interval '1 min',
                      ordered_at + interval '1 ms', '{}' FROM orders WHERE order_id = :other ON CONFLICT DO NOTHING""",
            other=other,
        )
        return without_and_twice(answer, missing)

    meddle(level).after = after
    level.sweep("reconcile")
    assert not level.certificate().complete
    assert state_of(level) != "succeeded" or level.versions(missing)


def test_rows_that_move_between_pages_are_noticed_although_all_counts_are_right(
    shop: Shop, meddle: Callable[[Shop], Meddled]
) -> None:
    """Between two pages one order leaves the list before the boundary and another enters it behind: the order at the
    boundary would be on neither page, and every count is right."""
    missing, leaving = shop.world.orders(shop.seller_id)[100], shop.world.orders(shop.seller_id)[50]
    moved: list[str] = []

    def before(request: httpx.Request) -> None:
        if request.url.path == LIST and request.url.params.get("offset", "0") != "0" and not moved:
            moved.append(leaving)
            gone = shop.world._state.forms[leaving]
            gone.gone = True
            shelf.remove(shop.world._state.sellers[shop.seller_id].shelf, gone)
            shop.world.buys(shop.seller_id)

    meddle(shop).before = before
    shop.backfill()
    assert moved
    assert shop.versions(missing) == [shop.world.body(missing)]
    assert shop.value("SELECT max(attempts) FROM sync_windows") == 1


@pytest.mark.parametrize(("status", "body", "times"), [(503, b"{}", 1), (200, b'{"checkoutForms": [{', 2)])
def test_of_pages_on_the_way_together_one_that_failed_costs_none_of_the_others(
    make_shop: Callable[[int], Shop], meddle: Callable[[Shop], Meddled], status: int, body: bytes, times: int
) -> None:
    """Four are asked for at once, and the third of them fails: it is asked for again, as a whole page, and the fourth
    is stored meanwhile. What is broken inside was asked for twice before, and is no failure of the job."""
    shop, stored, pages = make_shop(1_200), [], []

    def after(request: httpx.Request, sound: httpx.Response) -> httpx.Response:
        offset = request.url.params.get("offset")
        if request.url.path == LIST:
            pages.append((offset, request.url.params["limit"]))
        if offset != "297" or pages.count(("297", "100")) > times:
            return sound
        return httpx.Response(status, headers={"Content-Type": "application/json"}, stream=httpx.ByteStream(body))

    def before(request: httpx.Request) -> None:
        if pages.count(("297", "100")) == times and request.url.path == LIST:
            stored.append(shop.value("SELECT count(*) FROM orders"))

    meddled = meddle(shop)
    meddled.before, meddled.after = before, after
    shop.work_on_listing()
    assert shop.value("SELECT failures FROM syncs WHERE account_id = :account AND kind = 'listing'") == (status == 503)
    shop.backfill()
    assert 398 in stored
    assert [size for offset, size in pages if offset == "297"] == ["100"] * (times + 1)
    assert shop.value("SELECT max(attempts) FROM sync_windows") == 0
    assert shop.differences() == []


def versions(shop: Shop) -> int:
    return int(shop.value("SELECT count(*) FROM order_versions"))


def test_what_was_served_beside_a_page_that_failed_is_stored(
    make_shop: Callable[[int], Shop], meddle: Callable[[Shop], Meddled]
) -> None:
    """Allegro may have merged it away before anybody asks again."""
    shop = make_shop(600)
    shop.backfill()
    shop.follow()
    paid = shop.rows("SELECT order_id FROM orders WHERE status = 'READY_FOR_PROCESSING' LIMIT 350")
    for row in paid:
        shop.world.surcharges(str(row[0]))
    known = versions(shop)

    def after(request: httpx.Request, sound: httpx.Response) -> httpx.Response:
        is_second = request.url.path == LIST and request.url.params["offset"] == "100"
        return httpx.Response(503, stream=httpx.ByteStream(b"{}")) if is_second else sound

    meddle(shop).after = after
    shop.follow()
    assert shop.value("SELECT failures FROM syncs WHERE kind = 'journal'") == 1
    assert versions(shop) == known + len(paid) - 100


def test_what_was_served_beside_an_order_that_was_refused_is_stored(
    level: Shop, meddle: Callable[[Shop], Meddled]
) -> None:
    forms = [level.world.buys(level.seller_id) for _ in range(2)]
    with database.transaction(level.runtime.db) as tx:
        owed.owe(tx, level.account_id, [Debt(form, None, False, []) for form in forms], cause="unlisted", now=EARLY)
    first = level.rows("SELECT order_id FROM owed_orders ORDER BY due_at, order_id LIMIT 1")[0][0]

    def after(request: httpx.Request, sound: httpx.Response) -> httpx.Response:
        is_refused = request.url.path == f"{LIST}/{first}"
        return httpx.Response(429, stream=httpx.ByteStream(b"{}")) if is_refused else sound

    known = versions(level)
    meddle(level).after = after
    level.follow()
    assert versions(level) == known + 1


def test_an_empty_list_is_believed_only_the_second_time_and_never_where_the_orders_are_still_there(level: Shop) -> None:
    level.world.faults("shifted_page", path=LIST, times=None, by=1_000_000, delta=-1_000_000)
    level.sweep("reconcile")
    certificate = level.certificate()
    assert not certificate.complete
    assert certificate.contradicted > 200
    assert level.value("SELECT max(attempts) FROM sync_windows") >= 1
    level.world.clear_faults()
    level.sweep("reconcile")
    assert level.certificate().open_questions == []


def test_one_empty_answer_costs_one_more_reading_and_no_debts(make_shop: Callable[[int], Shop]) -> None:
    shop = make_shop(600)
    shop.backfill()
    shop.follow()
    shop.world.faults("shifted_page", path=LIST, times=1, by=1_000_000, delta=-1_000_000)
    before = shop.world.counts.get((f"{LIST}/{{id}}", 200), 0)
    shop.sweep("reconcile")
    assert shop.world.counts.get((f"{LIST}/{{id}}", 200), 0) == before
    assert shop.certificate().complete


def test_a_full_sync_compares_recent_orders_by_their_ids(level: Shop) -> None:
    """One missing and one too many in the last month: the counts agree, the ids do not."""
    missing = level.world.orders(level.seller_id)[-1]
    for table in ("orders", "order_versions"):
        level.change(f"DELETE FROM {table} WHERE order_id = :order", order=missing)
    level.change(
        """INSERT INTO orders (account_id, order_id, version, versions, sha256, read_at, ordered_at, line_item_ids)
           SELECT account_id, '00000000-0000-1000-8000-000000000000', 1, 1, sha256, read_at,
                  clock_timestamp() - interval '2 days', '{}' FROM orders LIMIT 1"""
    )
    level.sweep("full")
    assert level.versions(missing) == [level.world.body(missing)]
    assert level.value("SELECT count(*) FROM orders WHERE gone_at IS NOT NULL") == 1
    assert level.certificate().complete


def test_few_lost_orders_are_believed_at_once_and_many_are_seen_twice() -> None:
    assert not plan.is_doubtful(present=20, unlisted=20)
    assert not plan.is_doubtful(present=100, unlisted=50)
    assert plan.is_doubtful(present=100, unlisted=51)
