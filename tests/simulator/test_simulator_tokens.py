"""The device flow and the life of tokens."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from allegro_simulator.clock import Clock
from allegro_simulator.state import Seller
from allegro_simulator.transport import WorldTransport
from allegro_simulator.world import World

SECRETS = ("simulator", "simulator-secret")
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture
def world(clock: Clock) -> World:
    return World(clock=clock)


@pytest.fixture
def web(world: World) -> Iterator[httpx.Client]:
    with httpx.Client(transport=WorldTransport(world), base_url=world.base_url, auth=SECRETS) as client:
        yield client


def start(web: httpx.Client, **more: str) -> dict[str, Any]:
    answer = web.post("/auth/oauth/device", data={"client_id": "simulator", **more})
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def poll(web: httpx.Client, device: dict[str, Any]) -> httpx.Response:
    return web.post("/auth/oauth/token", data={"grant_type": DEVICE_GRANT, "device_code": device["device_code"]})


def refresh(web: httpx.Client, token: str) -> httpx.Response:
    return web.post("/auth/oauth/token", data={"grant_type": "refresh_token", "refresh_token": token})


def link(web: httpx.Client, world: World, seller: Seller) -> dict[str, Any]:
    device = start(web)
    world.approves(device["user_code"], seller.id)
    found: dict[str, Any] = poll(web, device).raise_for_status().json()
    return found


def me(web: httpx.Client, token: str) -> httpx.Response:
    headers = {
        "authorization": f"Bearer {token}",
        "accept": "application/vnd.allegro.public.v1+json",
        "user-agent": "tests/1.0 (+https://shop.example)",
    }
    with httpx.Client(transport=web._transport, base_url=web.base_url) as plain:
        return plain.get("/me", headers=headers)


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_a_device_gets_its_codes(web: httpx.Client, world: World) -> None:
    device = start(web)
    assert len(device["device_code"]) == 32
    assert len(device["user_code"]) == 9
    assert (device["expires_in"], device["interval"]) == (3600, 5)
    assert device["verification_uri"] == f"{world.base_url}/skojarz-aplikacje"
    assert device["verification_uri_complete"] == f"{world.base_url}/skojarz-aplikacje?code={device['user_code']}"


@pytest.mark.parametrize("secrets", [("simulator", "wrong"), ("wrong", "simulator-secret")])
def test_wrong_credentials_are_unauthorized(web: httpx.Client, secrets: tuple[str, str]) -> None:
    for path in ("/auth/oauth/device", "/auth/oauth/token"):
        answer = web.post(path, data={"client_id": "simulator"}, auth=secrets)
        assert answer.status_code == 401
        assert answer.json() == {"error": "Unauthorized", "error_description": "Unauthorized"}


def test_nobody_allowed_yet_is_pending(web: httpx.Client) -> None:
    answer = poll(web, start(web))
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "authorization_pending",
        "error_description": "User has not authorized the device code yet.",
    }


def test_polling_faster_than_the_interval_is_told_to_slow_down(web: httpx.Client, clock: Clock) -> None:
    device = start(web)
    poll(web, device)
    clock.forward(seconds=4.9)
    assert (poll(web, device).status_code, poll(web, device).json()) == (400, {"error": "slow_down"})
    clock.forward(seconds=5)
    assert poll(web, device).json()["error"] == "authorization_pending"


def test_a_denied_device_stays_denied(web: httpx.Client, world: World, clock: Clock) -> None:
    device = start(web)
    world.denies(device["user_code"])
    for _ in range(2):
        answer = poll(web, device)
        assert (answer.status_code, answer.json()) == (400, {"error": "access_denied"})
        clock.forward(seconds=6)


def test_a_device_code_gives_tokens_once(web: httpx.Client, world: World, seller: Seller, clock: Clock) -> None:
    device = start(web)
    world.approves(device["user_code"], seller.id)
    assert poll(web, device).status_code == 200
    clock.forward(seconds=6)
    again = poll(web, device)
    assert (again.status_code, again.json()) == (
        400,
        {"error": "invalid_request", "error_description": "Invalid device code"},
    )


def test_an_expired_or_unknown_device_code_is_invalid(web: httpx.Client, clock: Clock) -> None:
    device = start(web)
    clock.forward(seconds=3600)
    for one in (device, {"device_code": "nobody"}):
        assert poll(web, one).json() == {"error": "invalid_request", "error_description": "Invalid device code"}


def test_tokens_carry_the_claims_of_the_seller(web: httpx.Client, world: World, seller: Seller, clock: Clock) -> None:
    tokens = link(web, world, seller)
    found = claims(tokens["access_token"])
    assert found["user_name"] == seller.id
    assert found["client_id"] == "simulator"
    assert found["exp"] == int(clock.now.timestamp()) + 43_199
    assert found["allegro_api"] is True
    assert (found["jti"], found["iss"]) == (tokens["jti"], world.base_url)
    assert " ".join(found["scope"]) == tokens["scope"]
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 43_199)


def test_scopes_are_those_asked_for_of_those_declared(web: httpx.Client, world: World, seller: Seller) -> None:
    device = start(web, scope="allegro:api:orders:read allegro:api:sale:offers:write")
    world.approves(device["user_code"], seller.id)
    tokens = poll(web, device).json()
    assert tokens["scope"] == "allegro:api:orders:read"
    denied = me(web, tokens["access_token"])
    assert (denied.status_code, denied.json()["errors"][0]["code"]) == (403, "AccessDenied")


def test_parameters_in_the_query_are_refused(web: httpx.Client) -> None:
    device = start(web)
    answer = web.post("/auth/oauth/token", params={"grant_type": DEVICE_GRANT, "device_code": device["device_code"]})
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "invalid_request", "error_description": "OAuth 2.0 Parameter: grant_type"},
    )
    assert web.get("/auth/oauth/token", params={"grant_type": DEVICE_GRANT}).status_code == 405


def test_a_body_of_another_type_is_refused(web: httpx.Client) -> None:
    answer = web.post("/auth/oauth/token", json={"grant_type": DEVICE_GRANT, "device_code": "x"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_an_encoded_twice_grant_is_unsupported(web: httpx.Client) -> None:
    answer = web.post("/auth/oauth/token", data={"grant_type": "urn%3Aietf%3Aparams%3Aoauth", "device_code": "x"})
    assert answer.json() == {"error": "unsupported_grant_type", "error_description": "Unsupported grant type"}


def test_the_authorization_server_sends_no_trace_id(web: httpx.Client, world: World, seller: Seller) -> None:
    tokens = link(web, world, seller)
    assert "trace-id" not in refresh(web, "x").headers
    trace = me(web, tokens["access_token"]).headers["trace-id"]
    assert len(trace) == 16
    assert int(trace, 16) >= 0


def test_a_refresh_kills_the_access_token_before_it(web: httpx.Client, world: World, seller: Seller) -> None:
    old = link(web, world, seller)
    new = refresh(web, old["refresh_token"]).json()
    dead = me(web, old["access_token"])
    assert (dead.status_code, dead.json()["error"]) == (401, "invalid_token")
    assert me(web, new["access_token"]).json()["id"] == seller.id


def test_a_retry_within_the_grace_gives_another_pair(
    web: httpx.Client, world: World, seller: Seller, clock: Clock
) -> None:
    old = link(web, world, seller)
    lost = refresh(web, old["refresh_token"]).json()
    clock.forward(seconds=60)
    again = refresh(web, old["refresh_token"])
    assert again.status_code == 200
    assert again.json()["refresh_token"] != lost["refresh_token"]
    assert me(web, lost["access_token"]).status_code == 401
    assert me(web, again.json()["access_token"]).status_code == 200
    assert [(use.generation, use.in_grace, use.outcome) for use in world.tokens] == [
        (1, False, "ok"),
        (1, True, "ok"),
    ]


def test_the_grace_counts_from_the_first_use(web: httpx.Client, world: World, seller: Seller, clock: Clock) -> None:
    token = link(web, world, seller)["refresh_token"]
    refresh(web, token)
    clock.forward(seconds=40)
    assert refresh(web, token).status_code == 200
    clock.forward(seconds=21)
    late = refresh(web, token)
    assert (late.status_code, late.json()) == (
        400,
        {"error": "invalid_grant", "error_description": f"Invalid refresh token: {token}"},
    )


def test_an_unknown_refresh_token_is_echoed(web: httpx.Client) -> None:
    assert refresh(web, "nothing").json() == {
        "error": "invalid_grant",
        "error_description": "Invalid refresh token: nothing",
    }


def test_an_access_token_does_not_refresh(web: httpx.Client, world: World, seller: Seller) -> None:
    tokens = link(web, world, seller)
    answer = refresh(web, tokens["access_token"])
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "invalid_token", "error_description": "Encoded token is not a refresh token"},
    )


def test_a_refresh_token_lives_three_months(web: httpx.Client, world: World, seller: Seller, clock: Clock) -> None:
    token = link(web, world, seller)["refresh_token"]
    clock.forward(days=90)
    assert refresh(web, token).json()["error"] == "invalid_grant"


def test_an_access_token_expires(web: httpx.Client, world: World, seller: Seller, clock: Clock) -> None:
    token = link(web, world, seller)["access_token"]
    clock.forward(seconds=43_198)
    assert me(web, token).status_code == 200
    clock.forward(seconds=1)
    expired = me(web, token)
    assert expired.status_code == 401
    assert expired.json() == {"error": "invalid_token", "error_description": f"Access token expired: {token}"}


def test_access_tokens_can_be_made_to_expire_early(web: httpx.Client, world: World, seller: Seller) -> None:
    tokens = link(web, world, seller)
    assert world.expires_access_tokens(seller.id) == 1
    assert me(web, tokens["access_token"]).status_code == 401
    assert refresh(web, tokens["refresh_token"]).status_code == 200


def test_a_change_of_password_kills_both_tokens(web: httpx.Client, world: World, seller: Seller) -> None:
    tokens = link(web, world, seller)
    world.rejects_tokens(seller.id)
    assert me(web, tokens["access_token"]).status_code == 401
    assert refresh(web, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert me(web, link(web, world, seller)["access_token"]).status_code == 200


def test_a_removed_application_is_unauthorized(web: httpx.Client, world: World, seller: Seller) -> None:
    tokens = link(web, world, seller)
    world.removes_app(seller.id)
    answer = refresh(web, tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (401, "Unauthorized")
    assert me(web, tokens["access_token"]).status_code == 401


def test_two_consents_of_one_seller_live_side_by_side(web: httpx.Client, world: World, seller: Seller) -> None:
    first, second = link(web, world, seller), link(web, world, seller)
    refresh(web, second["refresh_token"])
    assert me(web, first["access_token"]).status_code == 200


def test_flows_approve_themselves_when_told_to(clock: Clock) -> None:
    world = World(clock=clock, device_auto_approve=True)
    ids = {world.add_seller(0).id, world.add_seller(0).id}
    with httpx.Client(transport=WorldTransport(world), base_url=world.base_url, auth=SECRETS) as web:
        linked = {claims(poll(web, start(web)).json()["access_token"])["user_name"] for _ in range(2)}
    assert linked == ids


@pytest.mark.parametrize(
    ("form", "missing"),
    [
        ({}, "grant_type"),
        ({"grant_type": DEVICE_GRANT}, "device_code"),
        ({"grant_type": "refresh_token"}, "refresh_token"),
        ({"grant_type": ["refresh_token", "refresh_token"], "refresh_token": "x"}, "grant_type"),
    ],
)
def test_what_is_missing_is_named(web: httpx.Client, form: dict[str, Any], missing: str) -> None:
    answer = web.post("/auth/oauth/token", data=form)
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "invalid_request", "error_description": f"OAuth 2.0 Parameter: {missing}"},
    )


def test_a_device_flow_needs_the_client_id_of_the_credentials(web: httpx.Client) -> None:
    assert web.post("/auth/oauth/device").json()["error_description"] == "OAuth 2.0 Parameter: client_id"
    assert web.post("/auth/oauth/device", data={"client_id": "other"}).status_code == 401
    assert web.post("/auth/oauth/device", params={"client_id": "simulator"}).status_code == 200
    assert web.post("/auth/oauth/nothing").status_code == 404


@pytest.mark.parametrize("header", ["", "Bearer x", "Basic %%%", "Basic /////w=="])
def test_credentials_that_cannot_be_read_are_unauthorized(world: World, header: str) -> None:
    with httpx.Client(transport=WorldTransport(world), base_url=world.base_url) as plain:
        answer = plain.post("/auth/oauth/device", data={"client_id": "simulator"}, headers={"authorization": header})
    assert (answer.status_code, answer.json()["error"]) == (401, "Unauthorized")


def test_the_same_seed_gives_the_same_tokens(clock: Clock) -> None:
    def first_pair() -> dict[str, Any]:
        world = World(seed=5, clock=clock)
        with httpx.Client(transport=WorldTransport(world), base_url=world.base_url, auth=SECRETS) as web:
            return link(web, world, world.add_seller(0))

    assert first_pair() == first_pair()
