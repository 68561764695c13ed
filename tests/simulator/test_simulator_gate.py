"""What every request must bring, and the limit of the client id."""

from typing import Any

import httpx
import pytest

from allegro_simulator.clock import Clock
from allegro_simulator.state import Seller
from allegro_simulator.transport import WorldTransport, linked_client
from allegro_simulator.world import World

PATHS = ("/me", "/order/events", "/order/event-stats", "/order/checkout-forms")


def only_error(answer: httpx.Response) -> dict[str, Any]:
    (found,) = answer.json()["errors"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", PATHS)
def test_no_token_is_unauthorized(world: World, seller: Seller, path: str) -> None:
    assert seller.id
    with httpx.Client(transport=WorldTransport(world), base_url=world.base_url) as stranger:
        answer = stranger.get(path)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "error": "unauthorized",
        "error_description": "Full authentication is required to access this resource",
    }


def test_a_token_from_elsewhere_is_unreadable(client: httpx.Client) -> None:
    answer = client.get("/me", headers={"authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.e30.x"})
    assert answer.status_code == 401
    assert answer.json() == {
        "error": "invalid_token",
        "error_description": "Cannot convert access token to JSON",
    }


@pytest.mark.parametrize(
    "user_agent", ["python-httpx/0.28", "", "Name/1.0", "Name/1.0 (+http://a.example)", "Name (+https://a.example)"]
)
def test_a_nameless_client_is_denied(client: httpx.Client, user_agent: str) -> None:
    answer = client.get("/me", headers={"user-agent": user_agent})
    assert answer.status_code == 403
    assert only_error(answer) == {
        "code": "AccessDenied",
        "message": "Access is denied",
        "details": None,
        "path": None,
        "userMessage": "No access to the specified resource.",
        "metadata": {},
    }


@pytest.mark.parametrize("user_agent", ["Name/1.0 (+https://a.example)", "My-App/1.2.3-rc1 (+https://a.example/x?y=1)"])
def test_a_named_client_may_pass(client: httpx.Client, user_agent: str) -> None:
    assert client.get("/me", headers={"user-agent": user_agent}).status_code == 200


def test_the_check_of_the_name_can_be_switched_off(clock: Clock) -> None:
    world = World(clock=clock, check_user_agent=False)
    with linked_client(world, world.add_seller(0).id, user_agent="curl/8") as client:
        assert client.get("/me").status_code == 200


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/vnd.allegro.beta.v1+json"])
def test_another_media_type_is_not_acceptable(client: httpx.Client, accept: str) -> None:
    answer = client.get("/order/events", headers={"accept": accept})
    assert answer.status_code == 406
    assert only_error(answer) == {
        "code": "NotAcceptableException",
        "message": "Not acceptable representation requested. Please check 'Accept' request header",
        "details": None,
        "path": None,
        "userMessage": "The request contains incorrect data. Contact the author of the application.",
        "metadata": {},
    }


def test_answers_carry_a_trace_and_no_rate_headers(client: httpx.Client) -> None:
    traces = set()
    for path in PATHS:
        answer = client.get(path)
        assert answer.headers["content-type"] == "application/vnd.allegro.public.v1+json"
        assert not [name for name in answer.headers if "rate" in name or name == "retry-after"]
        traces.add(answer.headers["trace-id"])
    assert {len(trace) for trace in traces} == {16}
    assert len(traces) == len(PATHS)


def test_an_unknown_resource_is_not_found(client: httpx.Client) -> None:
    assert client.get("/sale/offers").status_code == 404
    assert client.post("/me").status_code == 405


def test_me_tells_who_the_seller_is(client: httpx.Client, seller: Seller) -> None:
    about = client.get("/me").json()
    assert (about["id"], about["login"]) == (seller.id, seller.login)
    assert about["baseMarketplace"] == {"id": "allegro-pl"}
    assert about["company"]["name"]
    assert isinstance(about["features"], list)


def test_more_requests_than_the_limit_block_the_client_for_a_minute(clock: Clock) -> None:
    world = World(clock=clock, client_limit=5)
    with linked_client(world, world.add_seller(0).id) as client:
        assert [client.get("/me").status_code for _ in range(6)] == [200] * 5 + [429]
        clock.forward(seconds=59.9)
        blocked = client.get("/me")
        assert blocked.status_code == 429
        assert blocked.headers["content-type"] == "application/json"
        assert "retry-after" not in blocked.headers
        assert only_error(blocked) == {
            "code": "TooManyRequestsException",
            "message": "Too many requests",
            "details": None,
            "path": None,
            "userMessage": "Too many requests.",
        }
        clock.forward(seconds=59.9)
        assert client.get("/me").status_code == 429, "a request during the block prolongs it"
        clock.forward(seconds=60)
        assert client.get("/me").status_code == 200
    assert world.blocked_calls == 2
    assert world.worst_window() == 7
    assert world.worst_window(seconds=59) == 6


def test_the_limit_is_shared_by_the_sellers_of_a_client_and_slides(clock: Clock) -> None:
    world = World(clock=clock, client_limit=4)
    one, two = world.add_seller(0), world.add_seller(0)
    with linked_client(world, one.id) as first, linked_client(world, two.id) as second:
        for _ in range(5):
            assert first.get("/me").status_code == 200
            clock.forward(seconds=15)
            assert second.get("/me").status_code == 200
            clock.forward(seconds=15)
        assert [asking.get("/me").status_code for asking in (first, second)] == [200, 429]


def test_every_call_is_in_the_log(world: World, client: httpx.Client, seller: Seller) -> None:
    form = world.orders(seller.id)[-1]
    client.get(f"/order/checkout-forms/{form}")
    client.get("/order/events", headers={"accept": "text/html"})
    last = list(world.calls)[-2:]
    assert [(call.method, call.path, call.status, call.seller_id, call.client_id) for call in last] == [
        ("GET", "/order/checkout-forms/{id}", 200, seller.id, "simulator"),
        ("GET", "/order/events", 406, seller.id, "simulator"),
    ]
    assert world.counts["/order/events", 406] == 1
    assert world.counts["/auth/oauth/token", 200] == 1
