"""The list of orders: filters, sorting, paging and their limits; the single order."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allegro_simulator import times
from allegro_simulator.clock import Clock
from allegro_simulator.state import Seller
from allegro_simulator.transport import linked_client
from allegro_simulator.world import World

FORMS = "/order/checkout-forms"
Form = dict[str, Any]


def page(client: httpx.Client, *pairs: tuple[str, str], **query: Any) -> dict[str, Any]:
    asked = [*pairs, *((name, str(value)) for name, value in query.items())]
    found: dict[str, Any] = client.get(FORMS, params=tuple(asked)).raise_for_status().json()
    return found


def all_rows(client: httpx.Client, *pairs: tuple[str, str], limit: int = 100) -> list[Form]:
    rows: list[Form] = []
    while True:
        found = page(client, *pairs, limit=limit, offset=len(rows))
        rows += found["checkoutForms"]
        if not found["count"]:
            assert len(rows) == found["totalCount"]
            return rows


def bought(form: Form) -> str:
    return max(str(line["boughtAt"]) for line in form["lineItems"])


def ids(forms: list[Form]) -> list[str]:
    return [form["id"] for form in forms]


def test_the_newest_purchases_come_first(client: httpx.Client) -> None:
    rows = all_rows(client)
    assert [bought(row) for row in rows] == sorted(map(bought, rows), reverse=True)
    first = page(client)
    assert (first["count"], first["totalCount"], len(first["checkoutForms"])) == (100, 300, 100)
    assert page(client, sort="-lineItems.boughtAt") == first


@pytest.mark.parametrize(
    ("sort", "key"), [("lineItems.boughtAt", bought), ("updatedAt", lambda form: form["updatedAt"])]
)
def test_lists_are_sorted_either_way(client: httpx.Client, sort: str, key: Callable[[Form], str]) -> None:
    rising = all_rows(client, ("sort", sort))
    assert [key(row) for row in rising] == sorted(key(row) for row in rising)
    assert ids(all_rows(client, ("sort", f"-{sort}"))) == ids(rising)[::-1]
    assert client.get(FORMS, params={"sort": "price"}).status_code == 422


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("status", lambda form: form["status"]),
        ("fulfillment.status", lambda form: form["fulfillment"]["status"]),
        ("fulfillment.provider.id", lambda form: form["fulfillment"]["provider"]["id"]),
        (
            "fulfillment.shipmentSummary.lineItemsSent",
            lambda form: form["fulfillment"]["shipmentSummary"]["lineItemsSent"],
        ),
        ("payment.id", lambda form: (form["payment"] or {}).get("id")),
        ("delivery.method.id", lambda form: form["delivery"] and form["delivery"]["method"]["id"]),
        ("buyer.login", lambda form: form["buyer"]["login"]),
        ("marketplace.id", lambda form: form["marketplace"]["id"]),
        ("surcharges.id", lambda form: form["surcharges"] and form["surcharges"][0]["id"]),
    ],
)
def test_every_documented_filter_filters(
    world: World, seller: Seller, client: httpx.Client, name: str, read: Callable[[Form], Any]
) -> None:
    world.surcharges(next(form["id"] for form in all_rows(client) if form["status"] == "READY_FOR_PROCESSING"))
    world.happens(seller.id, 60)
    rows = all_rows(client)
    values = sorted({read(row) for row in rows if read(row)})
    assert values
    for wanted in ([values[0]], values[-2:], [*values[:1], "NOBODY"]):
        found = all_rows(client, *((name, value) for value in wanted))
        assert ids(found) == [row["id"] for row in rows if read(row) in wanted]


def test_filters_narrow_each_other(client: httpx.Client) -> None:
    rows = all_rows(client)
    middle = bought(rows[150])
    found = all_rows(
        client,
        ("status", "CANCELLED"),
        ("status", "FILLED_IN"),
        ("lineItems.boughtAt.lte", middle),
        ("marketplace.id", "allegro-pl"),
    )
    assert ids(found) == [
        row["id"]
        for row in rows
        if row["status"] in {"CANCELLED", "FILLED_IN"}
        and bought(row) <= middle
        and row["marketplace"]["id"] == "allegro-pl"
    ]


def test_bounds_of_dates_are_inclusive(client: httpx.Client) -> None:
    rows = all_rows(client)
    for name, read in (("lineItems.boughtAt", bought), ("updatedAt", lambda form: str(form["updatedAt"]))):
        low, high = sorted((read(rows[50]), read(rows[200])))
        found = all_rows(client, (f"{name}.gte", low), (f"{name}.lte", high))
        assert ids(found) == [row["id"] for row in rows if low <= read(row) <= high]


def test_an_offset_in_a_date_counts(client: httpx.Client) -> None:
    rows = all_rows(client)
    moment = times.parsed(bought(rows[10])) or 0
    local = times.text(moment + 2 * times.HOUR).replace("Z", "+02:00")
    found = all_rows(client, ("lineItems.boughtAt.gte", local))
    assert len(found) == page(client, ("lineItems.boughtAt.gte", times.text(moment)))["totalCount"]


@pytest.mark.parametrize(
    "date", ["2026-06-01T00:00:00.000", "2026-06-01", "yesterday", "2026-06-01T00:00:00 00:00", "2026-13-01T00:00:00Z"]
)
@pytest.mark.parametrize("name", ["lineItems.boughtAt.lte", "lineItems.boughtAt.gte", "updatedAt.gte", "updatedAt.lte"])
def test_a_date_without_a_zone_is_refused(client: httpx.Client, name: str, date: str) -> None:
    answer = client.get(FORMS, params={name: date})
    assert answer.status_code == 400
    assert answer.json() == {
        "errors": [
            {"code": "ERROR", "message": "An error has occurred", "details": None, "path": FORMS, "userMessage": None}
        ]
    }


def test_what_is_not_documented_is_ignored(client: httpx.Client) -> None:
    assert page(client, ("createdAt.gte", "2030-01-01T00:00:00Z"), ("boughtAt.gte", "nonsense"))["totalCount"] == 300


@pytest.mark.parametrize("query", [{"limit": "101"}, {"limit": "0"}, {"limit": "ten"}, {"offset": "-1"}])
def test_a_page_out_of_range_is_refused(client: httpx.Client, query: dict[str, str]) -> None:
    answer = client.get(FORMS, params=query)
    ((name, value),) = query.items()
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["code"], error["path"]) == (422, "VALIDATION_ERROR", name)
    assert error["details"] == f"Invalid value: {value}"


def test_ten_thousand_is_as_deep_as_it_goes(client: httpx.Client) -> None:
    answer = client.get(FORMS, params={"offset": "9901", "limit": "100"})
    assert answer.status_code == 422
    assert answer.json() == {
        "errors": [
            {
                "code": "VALIDATION_ERROR",
                "message": "Offset and limit parameters exceed maximal result size of 10000 items",
                "details": None,
                "path": FORMS,
                "userMessage": None,
            }
        ]
    }
    assert page(client, offset=9900, limit=100) == {"checkoutForms": [], "count": 0, "totalCount": 300}


def test_the_total_does_not_depend_on_the_page(client: httpx.Client) -> None:
    assert {
        page(client, limit=limit, offset=offset)["totalCount"] for limit in (1, 100) for offset in (0, 299, 5000)
    } == {300}
    assert page(client, limit=100, offset=250)["count"] == 50


def test_twelve_months_are_served(clock: Clock) -> None:
    world = World(clock=clock, access_token_seconds=500 * 86_400)
    seller = world.add_seller(400, months=18)
    with linked_client(world, seller.id) as client:
        rows = all_rows(client)
        truth = world.truth(seller.id)
        hidden = [form for form, told in truth.items() if told.hidden]
        assert len(rows) + len(hidden) == 400
        assert 80 < len(hidden) < 200
        oldest = times.text(times.milliseconds(clock.now - timedelta(days=365)))
        assert min(map(bought, rows)) >= oldest
        assert client.get(f"{FORMS}/{hidden[0]}").status_code == 404
        assert set(ids(all_rows(client, ("sort", "updatedAt")))) == set(ids(rows)) == set(world.orders(seller.id))
        clock.forward(days=365)
        assert page(client)["totalCount"] == 0


def test_a_single_order_is_the_very_bytes_of_the_list(world: World, client: httpx.Client) -> None:
    whole = client.get(FORMS, params={"limit": "20"})
    for form in whole.json()["checkoutForms"]:
        single = client.get(f"{FORMS}/{form['id']}")
        assert single.json() == form
        assert single.content in whole.content
        assert single.content == world.body(form["id"])


def test_bodies_are_minified_and_not_escaped(client: httpx.Client) -> None:
    content = client.get(FORMS).content
    assert b'": ' not in content
    assert b"\\u" not in content
    assert "ź".encode() in content


def test_an_unknown_or_foreign_order_is_not_found(world: World, client: httpx.Client) -> None:
    stranger = world.add_seller(1)
    for form in ("83d4eaf0-37b6-11f0-9f40-2d41a5c68ed0", world.orders(stranger.id)[0]):
        answer = client.get(f"{FORMS}/{form}")
        assert answer.status_code == 404
        assert answer.json()["errors"] == [
            {
                "code": "CheckoutFormNotFoundException",
                "message": f"Checkout form {form} not found.",
                "details": None,
                "path": f"{FORMS}/{form}",
                "userMessage": f"Checkout form {form} not found.",
                "metadata": {},
            }
        ]


@pytest.mark.parametrize("form", ["abc", "83d4eaf0-37b6-11f0-9f40-2d41a5c68ed", "83d4eaf037b611f09f402d41a5c68ed0"])
def test_a_malformed_identifier_is_refused(client: httpx.Client, form: str) -> None:
    answer = client.get(f"{FORMS}/{form}")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "VALIDATION_ERROR")


@pytest.fixture(scope="module")
def crowd() -> Iterator[tuple[httpx.Client, list[Form]]]:
    world = World(clock=Clock())
    seller = world.add_seller(250)
    world.happens(seller.id, 150)
    with linked_client(world, seller.id) as client:
        yield client, all_rows(client, ("sort", "lineItems.boughtAt"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_paged_in_any_size_give_exactly_what_the_filter_means(
    crowd: tuple[httpx.Client, list[Form]], data: st.DataObject
) -> None:
    client, rows = crowd
    name = data.draw(st.sampled_from(["lineItems.boughtAt", "updatedAt"]))
    read = bought if name == "lineItems.boughtAt" else lambda form: str(form["updatedAt"])
    moments = sorted(map(read, rows))
    cuts = data.draw(st.lists(st.sampled_from(moments), max_size=5, unique=True).map(sorted))
    statuses = data.draw(st.sets(st.sampled_from(["BOUGHT", "FILLED_IN", "READY_FOR_PROCESSING", "CANCELLED"])))
    limit = data.draw(st.integers(1, 100))
    sort = data.draw(st.sampled_from([name, f"-{name}"]))
    found: list[str] = []
    edges = [moments[0], *cuts, moments[-1]]
    for start, end in pairwise(edges):
        window = [(f"{name}.gte", start), (f"{name}.lte", end), ("sort", sort)]
        page_rows = all_rows(client, *window, *(("status", status) for status in statuses), limit=limit)
        assert len(set(ids(page_rows))) == len(page_rows)
        found += ids(page_rows)
    wanted = {row["id"] for row in rows if not statuses or row["status"] in statuses}
    assert set(found) == wanted
