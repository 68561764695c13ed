"""The routes of what could not be read, and of what is new at Allegro."""

import hashlib
import json
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from tests.rest.conftest import World

NAMELESS = b'{"status":"A","note":"\xff"}'
DIGEST = hashlib.sha256(NAMELESS).hexdigest()


def test_what_is_set_aside_is_listed_with_its_exact_bytes(world: "World") -> None:
    account = world.account()
    world.read(account, NAMELESS, b'{"id":"good"}')
    world.execute(
        "INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at, set_aside_at, failures, last_error)"
        " VALUES (:account, 'lost', 'event', now(), now(), now(), 5, 'why')",
        account=account,
    )
    [page] = world.pages(f"/accounts/{account}/set-aside")
    order, unreadable = page.json()["items"]
    assert (order["kind"], order["id"], order["failures"], order["last_error"]) == ("order", "lost", 5, "why")
    assert (unreadable["kind"], unreadable["id"], unreadable["size"]) == ("unreadable", DIGEST, len(NAMELESS))
    assert [item for page in world.pages(f"/accounts/{account}/set-aside", limit=1) for item in page.json()["items"]]
    answer = world.ask.get(f"/accounts/{account}/set-aside/{DIGEST}", headers={"Accept": "application/octet-stream"})
    assert (answer.content, answer.headers["content-type"]) == (NAMELESS, "application/octet-stream")
    assert world.ask.get(f"/accounts/{account}/set-aside/lost").status_code == 404


def test_it_is_tried_again_and_acknowledged_with_a_reason(world: "World") -> None:
    account = world.account()
    world.read(account, NAMELESS)
    where = f"/accounts/{account}/set-aside"
    tried = world.ask.post(f"{where}/retry", json={"ids": [DIGEST]})
    assert (tried.status_code, tried.json()) == (200, {"due": 0, "understood": 0, "unreadable": 1})
    noted = world.ask.post(f"{where}/acknowledge", json={"reason": "  Allegro knows  "})
    assert noted.json() == {"acknowledged": 1}
    [item] = world.ask.get(where).json()["items"]
    assert item["acknowledged_reason"] == "Allegro knows"
    assert world.ask.get(f"/accounts/{account}/completeness").json()["acknowledged"] == 1


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("retry", {"ids": ["nobody"]}, 404),
        ("retry", {"ids": []}, 422),
        ("retry", {"id": ["x"]}, 422),
        ("retry", {"ids": ["a\x00b"]}, 422),
        ("acknowledge", {}, 422),
        ("acknowledge", {"reason": "   "}, 422),
        ("acknowledge", {"reason": "a\x00"}, 422),
        ("acknowledge", {"reason": "x" * 501}, 422),
        ("acknowledge", {"reason": "x", "ids": ["nobody"]}, 404),
    ],
)
def test_what_cannot_be_meant_is_refused(world: "World", path: str, sent: dict[str, object], status: int) -> None:
    account = world.account()
    world.read(account, NAMELESS)
    assert world.ask.post(f"/accounts/{account}/set-aside/{path}", json=sent).status_code == status


def test_reading_needs_no_right_to_sync_and_deciding_does(world: "World") -> None:
    account = world.account()
    reader = world.client(world.key("orders:read"))
    where = f"/accounts/{account}/set-aside"
    assert reader.get(where).status_code == 200
    assert reader.post(f"{where}/retry", json={}).status_code == 403
    assert reader.post(f"{where}/acknowledge", json={"reason": "x"}).status_code == 403


def test_what_is_new_at_allegro_is_listed_without_what_it_holds(world: "World") -> None:
    body = json.dumps({"id": "o", "status": "TELEPORTED", "secret": "jan@example.com"}).encode()
    account = world.account()
    world.runtime.drift.see("order", account, [("o", body)])
    world.runtime.drift.write(world.runtime.db)
    answer = world.ask.get("/schema-drift")
    found = {(one["path"], one["kind"], one["value"]): one for one in answer.json()["items"]}
    assert found["order.status", "unknown_value", "TELEPORTED"]["example_order_id"] == "o"
    assert ("order.secret", "new_field", "string") in found
    assert "jan@example.com" not in answer.text
    bound = world.client(world.key("admin", user=uuid4()))
    assert {one["example_account_id"] for one in bound.get("/schema-drift").json()["items"]} == {None}
