"""Shipments, invoices, returns and refunds: what changes them, who may read them, how often, and their truth."""

import hashlib
from typing import Any

import httpx
import pytest

from allegro_simulator import oauth
from allegro_simulator.clock import Clock
from allegro_simulator.state import Seller
from allegro_simulator.transport import linked_client
from allegro_simulator.world import World

FORMS = "/order/checkout-forms"
RETURNS = "/order/customer-returns"
REFUNDS = "/payments/refunds"
BETA = {"accept": "application/vnd.allegro.beta.v1+json"}


def paid(world: World, seller: Seller) -> str:
    form = world.buys(seller.id)
    world.fills_in(form)
    world.pays(form)
    return form


def waybills(client: httpx.Client, form: str) -> list[str]:
    found: list[dict[str, Any]] = client.get(f"{FORMS}/{form}/shipments").raise_for_status().json()["shipments"]
    return [one["waybill"] for one in found]


def test_a_parcel_gets_its_number_when_it_leaves_and_no_event_tells_of_another(
    world: World, seller: Seller, client: httpx.Client
) -> None:
    form = paid(world, seller)
    assert waybills(client, form) == []
    world.ships(form, "PROCESSING")
    assert waybills(client, form) == []
    world.ships(form, "SENT")
    [first] = waybills(client, form)
    events = len(world.events(seller.id))
    world.changes_tracking(form)
    [second] = waybills(client, form)
    assert first != second
    assert len(world.events(seller.id)) == events


def test_an_invoice_is_there_once_it_was_added(world: World, seller: Seller, client: httpx.Client) -> None:
    form = paid(world, seller)
    path = f"{FORMS}/{form}/invoices"
    assert client.get(path).json()["invoices"] == []
    world.adds_invoice(form)
    assert len(client.get(path).json()["invoices"]) == 1


def test_returns_and_refunds_are_listed_by_time_newest_first(
    world: World, seller: Seller, client: httpx.Client, clock: Clock
) -> None:
    before = clock.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    clock.forward(seconds=2)
    form = paid(world, seller)
    ids = []
    for _ in range(3):
        ids.append((world.returns(form), world.refunds(form)))
        clock.forward(seconds=2)
    wanted = {"createdAt.gte": before, "occurredAt.gte": before, "limit": "2"}
    returns = client.get(RETURNS, params=wanted, headers=BETA).json()
    assert ([one["id"] for one in returns["customerReturns"]], returns["count"]) == ([ids[2][0], ids[1][0]], 3)
    refunds = client.get(REFUNDS, params={**wanted, "offset": "2"}).json()
    assert ([one["id"] for one in refunds["refunds"]], refunds["totalCount"]) == ([ids[0][1]], 3)
    assert refunds["refunds"][0]["order"]["id"] == form
    world.advances_return(ids[2][0])
    world.settles_refund(ids[0][1])
    again = client.get(RETURNS, params=wanted, headers=BETA).json()["customerReturns"]
    assert [one["status"] for one in again] == ["DISPATCHED", "CREATED"]
    assert client.get(REFUNDS, params={**wanted, "offset": "2"}).json()["refunds"][0]["status"] == "SUCCESS"


def test_an_order_that_came_back_left_a_return(client: httpx.Client) -> None:
    listed = client.get(FORMS, params={"fulfillment.status": "RETURNED"}).json()["checkoutForms"]
    returned = {one["orderId"] for one in client.get(RETURNS, headers=BETA).json()["customerReturns"]}
    assert returned
    assert {form["id"] for form in listed} <= returned


def test_returns_want_the_beta_media_type_and_the_others_do_not_take_it(client: httpx.Client) -> None:
    assert client.get(RETURNS).status_code == 406
    assert client.get(RETURNS, headers=BETA).headers["content-type"] == BETA["accept"]
    assert client.get(REFUNDS, headers=BETA).status_code == 406


@pytest.mark.parametrize(("missing", "path"), [("payments", REFUNDS), ("orders", RETURNS)])
def test_without_the_scope_access_is_denied(world: World, seller: Seller, missing: str, path: str) -> None:
    scopes = [scope for scope in oauth.SCOPES if f":{missing}:" not in scope]
    with linked_client(world, seller.id, scope=" ".join(scopes)) as client:
        for each in (RETURNS, REFUNDS):
            answer = client.get(each, headers=BETA if each == RETURNS else {})
            assert answer.status_code == (403 if each == path else 200)
            if each == path:
                assert answer.json()["errors"][0]["code"] == "AccessDenied"


def test_a_resource_that_is_asked_too_often_in_a_second_answers_429(
    world: World, seller: Seller, client: httpx.Client, clock: Clock
) -> None:
    form = paid(world, seller)
    answers = [client.get(f"{FORMS}/{form}/shipments").status_code for _ in range(51)]
    assert answers == [200] * 50 + [429]
    assert [client.get(RETURNS, headers=BETA).status_code for _ in range(26)] == [200] * 25 + [429]
    clock.forward(seconds=2)
    assert client.get(f"{FORMS}/{form}/shipments").status_code == 200
    assert client.get(f"{FORMS}/{form}").status_code == 200


@pytest.mark.parametrize("kind", ["shipments", "invoices"])
def test_what_is_no_order_of_the_seller_has_none(world: World, seller: Seller, client: httpx.Client, kind: str) -> None:
    other = world.orders(world.add_seller(1).id)[0]
    one, two = world.buys(seller.id), world.buys(seller.id)
    world.merges(one, two)
    assert client.get(f"{FORMS}/{other}/{kind}").status_code == 404
    assert client.get(f"{FORMS}/{one}/{kind}").status_code == 404
    assert client.get(f"{FORMS}/nonsense/{kind}").status_code == 422
    assert client.post(f"{FORMS}/{two}/{kind}").status_code == 405


@pytest.mark.parametrize(
    "path", [f"{RETURNS}?limit=1001", f"{RETURNS}?offset=x", f"{RETURNS}?createdAt.gte=2026-01-01"]
)
def test_parameters_that_make_no_sense_are_refused(client: httpx.Client, path: str) -> None:
    assert client.get(path, headers=BETA).status_code in {400, 422}


def test_the_truth_tells_what_was_served(world: World, seller: Seller, client: httpx.Client) -> None:
    form = paid(world, seller)
    served = [client.get(f"{FORMS}/{form}/shipments").content]
    world.changes_tracking(form)
    world.changes_tracking(form)
    served.append(client.get(f"{FORMS}/{form}/shipments").content)
    world.writes_extra(seller.id, "shipments", form, b"\x00")
    told = world.extras_truth(seller.id)["shipments", form]
    assert told.served == [hashlib.sha256(body).hexdigest() for body in served]
    assert len(told.versions) == 4
    assert (told.current, told.order_id) == (b"\x00", form)
    world.faults("reset", path=f"{FORMS}/{form}/invoices", after=True)
    with pytest.raises(httpx.TransportError):
        client.get(f"{FORMS}/{form}/invoices")
    assert world.extras_truth(seller.id)["invoices", form].served == []
