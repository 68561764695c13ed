"""The truth a proof is measured against, and that the same seed makes the same world."""

import hashlib
import json
import uuid
from contextlib import suppress

import httpx
import pytest

from allegro_simulator import templates
from allegro_simulator.clock import Clock
from allegro_simulator.state import Seller
from allegro_simulator.world import World

FORMS = "/order/checkout-forms"


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_served_versions_are_those_a_client_got(world: World, seller: Seller, client: httpx.Client) -> None:
    form = world.buys(seller.id)
    first = client.get(f"{FORMS}/{form}").content
    client.get(FORMS, params={"limit": "1"})
    world.fills_in(form)
    world.pays(form)
    paid = client.get(f"{FORMS}/{form}").content
    world.ships(form)
    told = world.truth(seller.id)[form]
    assert told.served == [sha(first), sha(paid)]
    assert told.current is not None
    assert len(told.versions) == 4
    assert (told.versions[0], told.versions[2], told.versions[3]) == (sha(first), sha(paid), sha(told.current))
    assert client.get(f"{FORMS}/{form}").content == told.current
    assert (told.gone, told.superseded_by, told.hidden) == (False, None, False)


@pytest.mark.parametrize("fault", ["reset", "truncated", "status", "html"])
def test_an_answer_that_never_arrived_was_not_served(
    world: World, seller: Seller, client: httpx.Client, fault: str
) -> None:
    world.faults(fault, path=FORMS, after=True)
    with suppress(httpx.TransportError):
        client.get(FORMS)
    assert not any(told.served for told in world.truth(seller.id).values())


def test_orders_nobody_asked_for_are_unserved(world: World, seller: Seller, client: httpx.Client) -> None:
    rows = client.get(FORMS).json()["checkoutForms"]
    truth = world.truth(seller.id)
    assert {form for form, told in truth.items() if told.served} == {row["id"] for row in rows}
    assert len(truth) == 300
    assert all(len(told.versions) == 1 for told in truth.values())


def played(seed: int) -> tuple[list[tuple[str, list[str]]], list[str]]:
    clock = Clock()
    world = World(seed=seed, clock=clock)
    seller = world.add_seller(200)
    for _ in range(20):
        clock.forward(seconds=61)
        world.happens(seller.id, 5)
    truth = world.truth(seller.id)
    return [(form, told.versions) for form, told in truth.items()], [event.id for event in world.events(seller.id)]


def test_the_same_seed_makes_the_same_world() -> None:
    assert played(7) == played(7)
    assert played(7) != played(8)


def test_sellers_of_one_world_share_no_identifier(world: World, seller: Seller) -> None:
    other = world.add_seller(200)
    documents = [json.loads(world.body(form)) for owner in (seller, other) for form in world.orders(owner.id)]
    found = [document["id"] for document in documents]
    found += [document["payment"]["id"] for document in documents if document["payment"]]
    found += [line["id"] for document in documents for line in document["lineItems"]]
    assert len(set(found)) == len(found)
    assert {uuid.UUID(each).version for each in found} == {1}


def test_generated_orders_vary_and_add_up(world: World, seller: Seller) -> None:
    documents = [json.loads(world.body(form)) for form in world.orders(seller.id)]
    cents = templates.cents
    for document in documents:
        delivery = cents(document["delivery"]["cost"]["amount"]) if document["delivery"] else 0
        lines = sum(cents(line["price"]["amount"]) * line["quantity"] for line in document["lineItems"])
        assert cents(document["summary"]["totalToPay"]["amount"]) == lines + delivery
        assert document["updatedAt"] >= document["lineItems"][0]["boughtAt"]
    young = [json.loads(world.body(form)) for form in world.orders(world.add_seller(200, months=1).id)]
    stages = {"BOUGHT", "FILLED_IN", "READY_FOR_PROCESSING", "CANCELLED"}
    assert {document["status"] for document in young} == stages
    assert len({document["fulfillment"]["status"] for document in documents}) >= 5
    assert len({document["marketplace"]["id"] for document in documents}) == 5
    assert len({document["buyer"]["login"] for document in documents}) > 150
    assert len({document["lineItems"][0]["price"]["amount"] for document in documents}) > 200


@pytest.mark.parametrize("count", [0, 1, 10])
def test_small_shops_work(world: World, count: int) -> None:
    assert len(world.orders(world.add_seller(count).id)) == count
