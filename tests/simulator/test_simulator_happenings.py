"""What happens to orders, and how each thing shows in the document, in the list and in the journal."""

from typing import Any

import httpx
import pytest

from allegro_simulator import templates, times
from allegro_simulator.clock import Clock
from allegro_simulator.state import NotPossibleError, Seller, UnknownInSimulatorError
from allegro_simulator.world import World

FORMS = "/order/checkout-forms"
Form = dict[str, Any]


def show(client: httpx.Client, form: str) -> Form:
    found: Form = client.get(f"{FORMS}/{form}").raise_for_status().json()
    return found


def news(client: httpx.Client, world: World, seller: Seller) -> list[tuple[str, str]]:
    """Type and form of the events since this was last asked."""
    known = world.served_events(seller.id)
    found = client.get("/order/events", params={"limit": 1000, "from": max(known, default="0")}).json()["events"]
    return [(event["type"], event["order"]["checkoutForm"]["id"]) for event in found]


def paid(world: World, seller: Seller) -> str:
    form = world.buys(seller.id)
    world.fills_in(form)
    world.pays(form)
    return form


def shape(value: Any) -> Any:
    """Names all the way down, with the type at the end; lists by their first item."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


@pytest.fixture(autouse=True)
def _up_to_date(client: httpx.Client, world: World, seller: Seller) -> None:
    while news(client, world, seller):
        pass


def test_a_purchase_goes_through_its_stages(world: World, seller: Seller, client: httpx.Client, clock: Clock) -> None:
    form = world.buys(seller.id)
    new = show(client, form)
    assert (new["status"], new["payment"], new["delivery"]) == ("BOUGHT", None, None)
    assert new["invoice"] == {"required": False, "address": None, "dueDate": None}
    assert new["updatedAt"] == new["lineItems"][0]["boughtAt"] == times.text(times.milliseconds(clock.now))
    clock.forward(seconds=30)
    world.fills_in(form)
    filled = show(client, form)
    assert filled["status"] == "FILLED_IN"
    assert filled["delivery"]["address"] is filled["delivery"]["pickupPoint"] is None
    assert filled["delivery"]["method"]["id"]
    assert filled["invoice"]["address"] is None
    assert (filled["payment"]["finishedAt"], filled["payment"]["paidAmount"]["amount"]) == (None, "0.00")
    clock.forward(seconds=45)
    world.pays(form)
    done = show(client, form)
    assert done["status"] == "READY_FOR_PROCESSING"
    assert done["delivery"]["address"]["street"]
    assert done["payment"]["finishedAt"] == done["updatedAt"] == times.text(times.milliseconds(clock.now))
    assert done["payment"]["paidAmount"] == done["summary"]["totalToPay"]
    assert len({version["revision"] for version in (new, filled, done)}) == 3
    assert len({version["updatedAt"] for version in (new, filled, done)}) == 3
    assert [line["id"] for line in new["lineItems"]] == [line["id"] for line in done["lineItems"]]
    assert news(client, world, seller) == [("BOUGHT", form), ("FILLED_IN", form), ("READY_FOR_PROCESSING", form)]


def test_the_stages_look_like_the_examples(world: World, seller: Seller, client: httpx.Client) -> None:
    examples = {name[:2]: document for name, document in templates.examples().items()}
    form = world.buys(seller.id)
    assert without_offers(show(client, form)) == without_offers(examples["10"])
    world.fills_in(form)
    filled = show(client, form)
    for part in ("payment", "delivery", "invoice"):
        assert set(filled[part]) - {"features"} == set(examples["11"][part]) - {"features"}
    assert set(filled) == set(examples["11"])
    early = world.buys(seller.id)
    world.cancels(early)
    assert without_offers(show(client, early)) == without_offers(examples["12"])


def without_offers(form: Form) -> Any:
    return {**shape(form), "lineItems": set(form["lineItems"][0])}


@pytest.mark.parametrize("by", ["buyer", "auto"])
def test_a_cancellation_forgets_the_addresses(world: World, seller: Seller, client: httpx.Client, by: str) -> None:
    form = paid(world, seller)
    before = show(client, form)
    news(client, world, seller)
    world.cancels(form, by=by)
    after = show(client, form)
    assert after["status"] == "CANCELLED"
    assert after["delivery"]["address"] is after["delivery"]["pickupPoint"] is after["invoice"]["address"] is None
    assert after["delivery"]["method"] == before["delivery"]["method"]
    assert after["delivery"]["cost"] == before["delivery"]["cost"]
    assert after["payment"] == before["payment"]
    assert after["fulfillment"] == before["fulfillment"]
    assert news(client, world, seller) == [(f"{by.upper()}_CANCELLED", form)]


def test_shipping_freezes_the_moment_and_the_revision(
    world: World, seller: Seller, client: httpx.Client, clock: Clock
) -> None:
    form = paid(world, seller)
    before = show(client, form)
    news(client, world, seller)
    clock.forward(hours=3)
    for status, sent in (("PROCESSING", "NONE"), ("SENT", "ALL"), ("RETURNED", "ALL")):
        world.ships(form, status)
        after = show(client, form)
        assert after["fulfillment"]["status"] == status
        assert after["fulfillment"]["shipmentSummary"]["lineItemsSent"] == sent
        assert {**after, "fulfillment": before["fulfillment"]} == before
    assert news(client, world, seller) == [("FULFILLMENT_STATUS_CHANGED", form)] * 3
    since = {"updatedAt.gte": times.text(times.milliseconds(clock.now) - times.HOUR)}
    assert client.get(FORMS, params=since).json()["totalCount"] == 0
    assert client.get(FORMS, params={"fulfillment.status": "RETURNED"}).json()["checkoutForms"][0]["id"] == form


def test_a_corrected_address_is_a_modification_by_the_buyer(
    world: World, seller: Seller, client: httpx.Client, clock: Clock
) -> None:
    form = paid(world, seller)
    before = show(client, form)
    news(client, world, seller)
    clock.forward(hours=1)
    world.modifies_address(form)
    after = show(client, form)
    now = times.text(times.milliseconds(clock.now))
    assert after["delivery"]["address"]["modifiedAt"] == after["updatedAt"] == now
    assert after["delivery"]["address"]["street"] != before["delivery"]["address"]["street"]
    assert after["revision"] != before["revision"]
    assert news(client, world, seller) == [("BUYER_MODIFIED", form)]


def test_a_surcharge_is_paid_beside_the_order(world: World, seller: Seller, client: httpx.Client) -> None:
    form = paid(world, seller)
    before = show(client, form)
    news(client, world, seller)
    world.surcharges(form)
    after = show(client, form)
    (surcharge,) = after["surcharges"]
    assert surcharge["finishedAt"] == after["updatedAt"]
    assert after["payment"] == before["payment"]
    assert after["revision"] != before["revision"]
    found = client.get(FORMS, params={"surcharges.id": surcharge["id"]}).json()["checkoutForms"]
    assert [row["id"] for row in found] == [form]
    assert news(client, world, seller) == [("READY_FOR_PROCESSING", form)]


def test_merged_forms_make_way_for_a_new_one(world: World, seller: Seller, client: httpx.Client, clock: Clock) -> None:
    one = world.buys(seller.id)
    clock.forward(hours=2)
    two = world.buys(seller.id)
    lines = [line for form in (one, two) for line in show(client, form)["lineItems"]]
    news(client, world, seller)
    clock.forward(hours=1)
    new = world.merges(one, two)
    for old in (one, two):
        assert client.get(f"{FORMS}/{old}").status_code == 404
        told = world.truth(seller.id)[old]
        assert (told.gone, told.superseded_by) == (True, new)
    merged = show(client, new)
    assert merged["lineItems"] == lines
    assert merged["updatedAt"] == times.text(times.milliseconds(clock.now))
    listed = client.get(FORMS, params={"sort": "-lineItems.boughtAt", "limit": 5}).json()
    rows = [row["id"] for row in listed["checkoutForms"]]
    assert listed["totalCount"] == 301
    assert new in rows
    assert not {one, two} & set(rows)
    assert news(client, world, seller) == [("BOUGHT", new)]
    world.fills_in(new)
    world.pays(new)
    cents = templates.cents
    whole = show(client, new)
    total = sum(cents(line["price"]["amount"]) * line["quantity"] for line in whole["lineItems"])
    assert cents(whole["summary"]["totalToPay"]["amount"]) == total + cents(whole["delivery"]["cost"]["amount"])
    assert whole["payment"]["paidAmount"] == whole["summary"]["totalToPay"]


def test_a_form_merged_after_payment_keeps_what_it_had(world: World, seller: Seller, client: httpx.Client) -> None:
    form = paid(world, seller)
    world.surcharges(form)
    before = show(client, form)
    new = world.merges(world.buys(seller.id), form)
    after = show(client, new)
    assert after["status"] == "READY_FOR_PROCESSING"
    assert after["surcharges"] == before["surcharges"]
    assert after["buyer"] == before["buyer"]
    assert after["payment"]["paidAmount"] == after["summary"]["totalToPay"]
    assert after["payment"]["id"] != before["payment"]["id"]
    assert len({line["price"]["currency"] for line in after["lineItems"]}) == 1
    assert all(line["tax"] for line in after["lineItems"])
    found = client.get(FORMS, params={"surcharges.id": before["surcharges"][0]["id"]}).json()["checkoutForms"]
    assert [row["id"] for row in found] == [new]
    assert client.get(FORMS, params={"payment.id": after["payment"]["id"]}).json()["totalCount"] == 1
    assert client.get(FORMS, params={"buyer.login": after["buyer"]["login"]}).json()["totalCount"] >= 1


def test_a_merged_form_stands_where_its_latest_purchase_stands(
    world: World, seller: Seller, client: httpx.Client, clock: Clock
) -> None:
    one = world.buys(seller.id)
    clock.forward(days=1)
    two = world.buys(seller.id)
    later = times.text(times.milliseconds(clock.now))
    clock.forward(days=1)
    new = world.merges(one, two)
    found = client.get(FORMS, params={"lineItems.boughtAt.gte": later, "lineItems.boughtAt.lte": later}).json()
    assert [row["id"] for row in found["checkoutForms"]] == [new]


def test_what_cannot_happen_is_refused(world: World, seller: Seller) -> None:
    form = paid(world, seller)
    other = world.buys(seller.id)
    world.merges(form, other)
    fresh = world.buys(seller.id)
    for impossible in (
        lambda: world.pays(form),
        lambda: world.modifies_address(fresh),
        lambda: world.cancels(fresh, by="nobody"),
        lambda: world.merges(fresh, fresh),
    ):
        with pytest.raises(NotPossibleError):
            impossible()
    with pytest.raises(UnknownInSimulatorError):
        world.pays("nothing")
    with pytest.raises(UnknownInSimulatorError):
        world.happens("nobody")


def test_random_things_keep_the_world_consistent(
    world: World, seller: Seller, client: httpx.Client, clock: Clock
) -> None:
    kinds: set[str] = set()
    for _ in range(40):
        clock.forward(seconds=20)
        concerned = world.happens(seller.id, 10)
        assert len(concerned) == 10
        told = news(client, world, seller)
        assert [form for _, form in told] == concerned
        kinds |= {kind for kind, _ in told}
    assert kinds == {
        "BOUGHT",
        "FILLED_IN",
        "READY_FOR_PROCESSING",
        "BUYER_CANCELLED",
        "FULFILLMENT_STATUS_CHANGED",
        "BUYER_MODIFIED",
    }
    truth = world.truth(seller.id)
    assert any(told.gone for told in truth.values())
    assert set(world.orders(seller.id)) == {form for form, told in truth.items() if not told.gone}


def test_a_shop_that_grows_gets_paid_orders(world: World, seller: Seller, client: httpx.Client) -> None:
    made = world.grows(seller.id, 5)
    assert {show(client, form)["status"] for form in made} == {"READY_FOR_PROCESSING"}
    assert client.get(FORMS).json()["totalCount"] == 305
    assert len(news(client, world, seller)) == 15
