"""The socket, the control resources, the page for people and the console command."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from allegro_simulator import server
from allegro_simulator.state import Seller
from allegro_simulator.world import World


@pytest.fixture
def web(world: World, seller: Seller) -> Iterator[httpx.Client]:
    assert seller.id
    with server.running(world) as url, httpx.Client(base_url=url) as client:
        yield client


def test_the_world_learns_its_address(world: World, web: httpx.Client) -> None:
    assert str(web.base_url).rstrip("/") == world.base_url
    assert web.get("/me").status_code == 401


def test_a_connection_is_kept_and_requests_may_come_in_pieces_or_at_once(web: httpx.Client) -> None:
    address = urlsplit(str(web.base_url))
    asked = b"GET /me HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=5) as raw:
        for part in (asked[:10], asked[10:25], asked[25:] + asked + asked):
            raw.sendall(part)
        received = b""
        while received.count(b"is required to access this resource") < 3:
            received += raw.recv(65_536)
        raw.sendall(b"GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while part := raw.recv(65_536):
            received += part
    assert received.count(b"HTTP/1.1 401 Unauthorized\r\n") == 4


def test_nonsense_on_the_socket_ends_the_connection(web: httpx.Client) -> None:
    address = urlsplit(str(web.base_url))
    for nonsense in (b"GET /me HTTP/1.1\r\ncontent-length: many\r\n\r\n", b"\r\n\r\n", b"x" * 100_000):
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=5) as raw:
            raw.sendall(nonsense)
            with suppress(ConnectionResetError):
                assert raw.recv(1_000)[:12] == b"HTTP/1.1 400"
    assert web.get("/me").status_code == 401


def test_many_clients_at_once_are_served(world: World, seller: Seller, web: httpx.Client) -> None:
    def act(_: int) -> int:
        world.happens(seller.id, 5)
        with httpx.Client(base_url=web.base_url) as client:
            return client.get("/_simulator/sellers").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(act, range(24))) == {200}
    ids = [event.id for event in world.events(seller.id)]
    assert ids == sorted(set(ids))


def test_a_port_that_is_taken_is_an_error(web: httpx.Client) -> None:
    port = urlsplit(str(web.base_url)).port or 0
    with pytest.raises(OSError, match="in use"), server.running(World(), port):
        pass


def test_every_verb_is_reachable(web: httpx.Client, seller: Seller) -> None:
    def do(verb: str, **given: object) -> object:
        answer = web.post(f"/_simulator/{verb}", json=given)
        assert answer.status_code == 200, answer.text
        return answer.json()

    form = do("buys", seller_id=seller.id)
    for verb in ("fills_in", "pays", "modifies_address", "surcharges"):
        assert do(verb, form=form) is None
    do("ships", form_id=form, status="SENT")
    do("cancels", form=form, by="auto")
    other = do("merges", form_a=do("buys", seller_id=seller.id), form_b=do("buys", seller_id=seller.id))
    do("loses_event", seller_id=seller.id)
    do("pays", form=other)
    assert len(str(do("duplicates_event", seller_id=seller.id))) == 16
    found = do("restores_lost_events", seller_id=seller.id)
    assert isinstance(found, list)
    assert len(found) == 1
    assert do("replays_late", seller_id=seller.id) == []
    assert isinstance(do("reorders", seller_id=seller.id), str)
    happened = do("happens", seller_id=seller.id, n=3, silently=True)
    assert isinstance(happened, list)
    grown = do("grows", seller_id=seller.id, n=2)
    assert isinstance(grown, list)
    assert set(grown) <= set(web.get("/_simulator/orders", params={"seller_id": seller.id}).json())
    for verb in ("rejects_tokens", "removes_app", "expires_access_tokens"):
        assert do(verb, seller_id=seller.id) == 0
    rendered = do("renders", seller_id=seller.id)
    assert isinstance(rendered, int)
    assert rendered > 300
    do("faults", kind="status", code=500, path="/me", times=1)
    assert web.get("/me").status_code == 500
    do("clear_faults")
    do("goes_down", seconds=5, status=503)
    assert web.get("/me").status_code == 503
    do("comes_back")
    assert web.get("/me").status_code == 401


def test_control_tells_the_truth(world: World, web: httpx.Client, seller: Seller) -> None:
    form = world.orders(seller.id)[0]
    truth = web.get("/_simulator/truth", params={"seller_id": seller.id}).json()
    body = web.get("/_simulator/body", params={"form_id": form}).content
    assert body == world.body(form)
    digest = hashlib.sha256(body).hexdigest()
    assert truth[form] == {
        "current": digest,
        "gone": False,
        "superseded_by": None,
        "hidden": False,
        "served": [],
        "versions": [digest],
    }
    events = web.get("/_simulator/events", params={"seller_id": seller.id}).json()
    assert events[0]["id"] == world.events(seller.id)[0].id
    assert web.get("/_simulator/served_events", params={"seller_id": seller.id}).json() == []


def test_control_counts_calls_but_not_its_own(web: httpx.Client) -> None:
    web.get("/me")
    assert web.get("/_simulator/calls").json() == {
        "total": 1,
        "counts": [{"path": "/me", "status": 401, "count": 1}],
        "worst_window": 0,
        "blocked_calls": 0,
    }
    assert web.get("/_simulator/tokens").json() == []
    assert web.get("/_simulator/worst_window", params={"seconds": "30"}).json() == 0


def test_control_adds_sellers(web: httpx.Client, seller: Seller) -> None:
    added = web.post("/_simulator/sellers", json={"orders": 12, "seed": 3, "login": "Nowy_Sklep"}).json()
    assert added["login"] == "Nowy_Sklep"
    assert web.get("/_simulator/sellers").json() == [{"id": seller.id, "login": seller.login}, added]
    assert len(web.post("/_simulator/orders", json={"seller_id": added["id"]}).json()) == 12


@pytest.mark.parametrize(
    ("verb", "given", "status"),
    [
        ("pays", {"form": "nothing"}, 404),
        ("explodes", {}, 404),
        ("handle", {}, 404),
        ("pays", {"colour": "red"}, 400),
        ("faults", {"kind": "flood"}, 400),
        ("approves", {"user_code": "x", "seller_id": "99000001"}, 404),
    ],
)
def test_control_says_what_is_wrong(web: httpx.Client, verb: str, given: dict[str, str], status: int) -> None:
    answer = web.post(f"/_simulator/{verb}", json=given)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_a_person_allows_or_denies_on_the_page(world: World, web: httpx.Client, seller: Seller) -> None:
    secrets = (world.client_id, world.client_secret)
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    for decision, status in (("allow", 200), ("deny", 400)):
        device = web.post("/auth/oauth/device", data={"client_id": world.client_id}, auth=secrets).json()
        assert [waiting["user_code"] for waiting in web.get("/_simulator/devices").json()] == [device["user_code"]]
        page = web.get(device["verification_uri_complete"])
        assert page.headers["content-type"].startswith("text/html")
        assert f'value="{device["user_code"]}"' in page.text
        assert seller.login in page.text
        typed = f"{device['user_code'][:3]} {device['user_code'][3:6]} {device['user_code'][6:]}".upper()
        form = {"user_code": typed, "seller_id": seller.id, "decision": decision}
        assert web.post("/skojarz-aplikacje", data=form).status_code == 200
        assert web.post("/skojarz-aplikacje", data=form).status_code == 404
        body = {"grant_type": grant, "device_code": device["device_code"]}
        assert web.post("/auth/oauth/token", data=body, auth=secrets).status_code == status


def test_the_page_escapes_what_it_is_given(web: httpx.Client) -> None:
    assert "<script>" not in web.get("/skojarz-aplikacje", params={"code": '"><script>'}).text


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_ends_cleanly(ending: signal.Signals) -> None:
    command = [sys.executable, "-u", "-c", "from allegro_simulator.cli import main; main()"]
    options = ["--port", "0", "--orders", "20", "--sellers", "2", "--live", "600", "--auto-approve"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}
    )
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if "curl" in line:
            break
    found = re.search(r"listens on (http://127\.0\.0\.1:\d+)", told)
    assert found
    assert "simulator-secret" in told
    assert told.count("20 orders") == 2
    with httpx.Client(base_url=found[1]) as web:
        assert len(web.get("/_simulator/sellers").json()) == 2
    process.send_signal(ending)
    assert process.wait(10) == 0
    process.stdout.close()


def test_the_help_has_an_example() -> None:
    command = [sys.executable, "-c", "from allegro_simulator.cli import main; main()", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--auto-approve" in told
    assert "Example" in told
