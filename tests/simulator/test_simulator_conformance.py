"""Answers against Allegro's published specification, where a copy of it lies beside the project."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS30Validator
from tests import description

from allegro_simulator.clock import Clock
from allegro_simulator.transport import linked_client
from allegro_simulator.world import World

FORMS = "/order/checkout-forms"


def opened(node: Any, schemas: dict[str, Any]) -> Any:
    """The schema with every reference replaced by what it refers to; order schemas do not refer in circles."""
    if isinstance(node, dict):
        if "$ref" in node:
            return opened(schemas[node["$ref"].rsplit("/", 1)[-1]], schemas)
        return {name: opened(value, schemas) for name, value in node.items()}
    if isinstance(node, list):
        return [opened(value, schemas) for value in node]
    return node


@pytest.fixture(scope="module")
def schemas() -> dict[str, OAS30Validator]:
    found = description.schemas()
    names = (
        "MeResponse",
        "OrderEventsList",
        "OrderEventStats",
        "CheckoutForms",
        "CheckoutForm",
        "ErrorsHolder",
        "AuthError",
        "CheckoutFormOrderWaybillResponse",
        "CheckoutFormsOrderInvoices",
        "CustomerReturnResponse",
        "RefundDetails",
    )
    return {name: OAS30Validator(opened(found[name], found)) for name in names}


@pytest.fixture(scope="module")
def busy() -> Iterator[tuple[World, str, httpx.Client]]:
    clock = Clock()
    world = World(clock=clock)
    seller = world.add_seller(150)
    for _ in range(15):
        clock.forward(seconds=33)
        world.happens(seller.id, 10)
    with linked_client(world, seller.id) as client:
        yield world, seller.id, client


def conforms(validator: OAS30Validator, value: Any) -> None:
    wrong = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(value)]
    assert not wrong


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/me", "MeResponse"),
        ("/order/events?limit=1000", "OrderEventsList"),
        ("/order/event-stats", "OrderEventStats"),
        ("/order/checkout-forms", "CheckoutForms"),
        ("/order/checkout-forms?offset=100", "CheckoutForms"),
        ("/order/checkout-forms?status=NOTHING", "CheckoutForms"),
    ],
)
def test_an_answer_conforms(
    schemas: dict[str, OAS30Validator], busy: tuple[World, str, httpx.Client], path: str, schema: str
) -> None:
    conforms(schemas[schema], busy[2].get(path).raise_for_status().json())


def test_every_state_of_an_order_conforms(
    schemas: dict[str, OAS30Validator], busy: tuple[World, str, httpx.Client]
) -> None:
    world, seller_id, client = busy
    form = world.buys(seller_id)
    for change in (world.fills_in, world.pays, world.modifies_address, world.surcharges, world.ships, world.cancels):
        conforms(schemas["CheckoutForm"], client.get(f"/order/checkout-forms/{form}").json())
        change(form)
    merged = world.merges(world.buys(seller_id), world.buys(seller_id))
    for last in (form, merged):
        conforms(schemas["CheckoutForm"], client.get(f"/order/checkout-forms/{last}").json())


def test_what_belongs_to_an_order_conforms(
    schemas: dict[str, OAS30Validator], busy: tuple[World, str, httpx.Client]
) -> None:
    world, seller_id, client = busy
    form = world.buys(seller_id)
    beta = {"accept": "application/vnd.allegro.beta.v1+json"}
    world.pays(form)
    returned, refund = world.returns(form), world.refunds(form)
    for _ in range(2):
        conforms(schemas["CheckoutFormOrderWaybillResponse"], client.get(f"{FORMS}/{form}/shipments").json())
        conforms(schemas["CheckoutFormsOrderInvoices"], client.get(f"{FORMS}/{form}/invoices").json())
        conforms(schemas["CustomerReturnResponse"], client.get("/order/customer-returns", headers=beta).json())
        for one in client.get("/payments/refunds").json()["refunds"]:
            conforms(schemas["RefundDetails"], one)
        world.ships(form)
        world.adds_invoice(form)
        world.advances_return(returned)
        world.settles_refund(refund)
    assert list(schemas["RefundDetails"].iter_errors({"id": "x"}))


@pytest.mark.parametrize(
    ("path", "headers", "schema"),
    [
        ("/order/checkout-forms?limit=101", {}, "ErrorsHolder"),
        ("/order/checkout-forms?offset=10000", {}, "ErrorsHolder"),
        ("/order/checkout-forms?updatedAt.gte=2026-01-01", {}, "ErrorsHolder"),
        ("/order/checkout-forms/83d4eaf0-37b6-11f0-9f40-2d41a5c68ed0", {}, "ErrorsHolder"),
        ("/order/checkout-forms/83d4", {}, "ErrorsHolder"),
        ("/order/events?limit=0", {}, "ErrorsHolder"),
        ("/order/checkout-forms/83d4eaf0-37b6-11f0-9f40-2d41a5c68ed0/shipments", {}, "ErrorsHolder"),
        ("/order/customer-returns", {}, "ErrorsHolder"),
        ("/payments/refunds?limit=101", {}, "ErrorsHolder"),
        ("/me", {"accept": "text/html"}, "ErrorsHolder"),
        ("/me", {"user-agent": "x"}, "ErrorsHolder"),
        ("/me", {"authorization": "Bearer x"}, "AuthError"),
        ("/me", {"authorization": ""}, "AuthError"),
    ],
)
def test_an_error_conforms(
    schemas: dict[str, OAS30Validator],
    busy: tuple[World, str, httpx.Client],
    path: str,
    headers: dict[str, str],
    schema: str,
) -> None:
    answer = busy[2].get(path, headers=headers)
    assert answer.status_code >= 400
    conforms(schemas[schema], answer.json())


def test_the_validator_would_notice(schemas: dict[str, OAS30Validator]) -> None:
    assert list(schemas["CheckoutForm"].iter_errors({"id": "x"}))
    assert list(schemas["CheckoutForms"].iter_errors({"checkoutForms": [{}], "count": 1, "totalCount": 1}))
