"""Faults: in process, and for real over a socket."""

from collections.abc import Iterator
from time import monotonic
from typing import Any

import httpx
import pytest

from allegro_simulator import server
from allegro_simulator.clock import Clock
from allegro_simulator.state import Seller
from allegro_simulator.transport import linked_client
from allegro_simulator.world import World

FORMS = "/order/checkout-forms"
SECRETS = ("simulator", "simulator-secret")


@pytest.fixture(params=["in process", "over a socket"])
def asking(request: pytest.FixtureRequest, world: World, client: httpx.Client) -> Iterator[httpx.Client]:
    """The same client, either way."""
    if request.param == "in process":
        yield client
        return
    with server.running(world) as url, httpx.Client(base_url=url, headers=client.headers) as real:
        yield real


def test_any_status_can_be_answered(world: World, asking: httpx.Client) -> None:
    for code in (500, 503, 504):
        world.faults("status", path="/order", code=code)
        world.faults("status", path="/order", code=code, body="html")
        plain, html = asking.get(FORMS), asking.get(FORMS)
        assert (plain.status_code, html.status_code) == (code, code)
        assert plain.json()["errors"][0]["code"] in {"INTERNAL_SERVER_ERROR", "ServiceTimeoutException"}
        assert html.headers["content-type"] == "text/html"
        assert str(code) in html.text
    assert asking.get(FORMS).status_code == 200


@pytest.mark.parametrize(
    ("params", "status", "text"),
    [
        ({"code": 403}, 403, "You have been blocked"),
        ({"code": 403, "body": "json"}, 403, "AccessDenied"),
        ({"code": 401}, 401, "invalid_token"),
        ({"code": 404}, 404, "CheckoutFormNotFoundException"),
        ({"code": 406}, 406, "NotAcceptableException"),
        ({"code": 429}, 429, "TooManyRequestsException"),
        ({"code": 429, "variant": "resource"}, 429, "RateLimitExceedException"),
        ({"code": 504, "body": "html"}, 504, "<h1>504 Gateway Time-out</h1>"),
    ],
)
def test_the_bodies_of_errors_are_the_known_ones(
    world: World, client: httpx.Client, params: dict[str, Any], status: int, text: str
) -> None:
    world.faults("status", **params)
    answer = client.get(FORMS)
    assert answer.status_code == status
    assert text in answer.text
    assert "retry-after" not in answer.headers


def test_a_block_can_say_how_long(world: World, client: httpx.Client) -> None:
    world.faults("status", code=429, retry_after=7)
    assert client.get(FORMS).headers["retry-after"] == "7"


def test_a_reset_tears_the_connection_down(world: World, asking: httpx.Client) -> None:
    world.faults("reset", path="/me")
    with pytest.raises(httpx.ReadError):
        asking.get("/me")
    assert asking.get("/me").status_code == 200


def test_a_truncated_body_is_noticed(world: World, asking: httpx.Client) -> None:
    world.faults("truncated", path=FORMS, keep=0.9)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        asking.get(FORMS)
    assert asking.get(FORMS).status_code == 200


def test_a_slow_answer_outlasts_an_impatient_client(world: World, asking: httpx.Client) -> None:
    world.faults("slow", path="/me", seconds=0.3, times=2)
    with pytest.raises(httpx.ReadTimeout):
        asking.get("/me", timeout=httpx.Timeout(5, read=0.1))
    start = monotonic()
    assert asking.get("/me", timeout=5).status_code == 200
    assert monotonic() - start >= 0.3


def test_a_page_of_html_can_come_with_200(world: World, asking: httpx.Client) -> None:
    world.faults("html", path="/order/events")
    answer = asking.get("/order/events")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
    assert answer.text.startswith("<!doctype html>")


def test_a_fault_hits_as_often_as_asked_and_only_its_path(world: World, client: httpx.Client) -> None:
    world.faults("status", times=2, path="/order/events", code=500)
    assert client.get(FORMS).status_code == 200
    assert [client.get("/order/events").status_code for _ in range(3)] == [500, 500, 200]
    world.faults("status", times=None, code=503)
    assert {client.get("/me").status_code for _ in range(5)} == {503}
    world.clear_faults()
    assert client.get("/me").status_code == 200
    with pytest.raises(ValueError, match="no such fault"):
        world.faults("flood")


def test_a_lost_token_answer_has_used_the_token_up(world: World, seller: Seller, clock: Clock) -> None:
    with server.running(world) as url, httpx.Client(base_url=url, auth=SECRETS) as web:
        device = web.post("/auth/oauth/device", data={"client_id": "simulator"}).json()
        world.approves(device["user_code"], seller.id)
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": device["device_code"]}
        tokens = web.post("/auth/oauth/token", data=form).json()
        world.faults("lost_token_answer")
        again = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        with pytest.raises(httpx.ReadError):
            web.post("/auth/oauth/token", data=again)
        clock.forward(seconds=30)
        assert web.post("/auth/oauth/token", data=again).status_code == 200
        clock.forward(seconds=31)
        assert web.post("/auth/oauth/token", data=again).json()["error"] == "invalid_grant"
    assert [use.outcome for use in world.tokens] == ["ok", "ok", "invalid_grant"]


def test_a_lost_answer_leaves_a_used_device_code(world: World, seller: Seller, clock: Clock) -> None:
    with server.running(world) as url, httpx.Client(base_url=url, auth=SECRETS) as web:
        device = web.post("/auth/oauth/device", data={"client_id": "simulator"}).json()
        world.approves(device["user_code"], seller.id)
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": device["device_code"]}
        world.faults("lost_token_answer")
        with pytest.raises(httpx.ReadError):
            web.post("/auth/oauth/token", data=form)
        clock.forward(seconds=6)
        assert web.post("/auth/oauth/token", data=form).json()["error"] == "invalid_request"


def test_lists_can_lie(world: World, client: httpx.Client) -> None:
    asked = {"status": "CANCELLED", "limit": "5", "sort": "lineItems.boughtAt"}
    true = client.get(FORMS, params=asked).json()
    world.faults("wrong_total", delta=-3)
    assert client.get(FORMS, params=asked).json() == {**true, "totalCount": true["totalCount"] - 3}
    world.faults("ignored_filter")
    assert client.get(FORMS, params=asked).json()["totalCount"] == 300
    world.faults("ignored_filter", names=["updatedAt.gte"])
    assert client.get(FORMS, params=asked).json() == true
    world.faults("shifted_page", by=2)
    shifted = client.get(FORMS, params=asked).json()
    assert shifted["checkoutForms"][:3] == true["checkoutForms"][2:]
    assert client.get(FORMS, params=asked).json() == true


def test_everything_can_be_down_for_a_while(world: World, clock: Clock, client: httpx.Client) -> None:
    world.goes_down(30)
    assert client.get("/me").status_code == 503
    assert client.post("/auth/oauth/token").status_code == 503
    clock.forward(seconds=30)
    assert client.get("/me").status_code == 200
    world.goes_down(status=502)
    clock.forward(days=1)
    assert client.get("/me").status_code == 502
    world.comes_back()
    assert client.get("/me").status_code == 200


def test_an_outage_may_refuse_connections(world: World, asking: httpx.Client) -> None:
    world.goes_down(status=0)
    with pytest.raises(httpx.ReadError):
        asking.get("/me")
    world.comes_back()
    assert asking.get("/me").status_code == 200


def test_a_fault_after_processing_still_counts_against_the_limit(clock: Clock) -> None:
    world = World(clock=clock, client_limit=2)
    with linked_client(world, world.add_seller(0).id) as client:
        world.faults("status", code=500)
        world.faults("status", code=500, after=True)
        assert [client.get("/me").status_code for _ in range(3)] == [500, 500, 429]
