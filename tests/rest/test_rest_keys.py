"""API keys over REST: told once, rotated without a gap, and none beyond the caller's own user."""

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from tests.rest.conftest import World


def test_a_made_key_works_and_is_told_only_once(world: "World") -> None:
    answer = world.ask.post("/api-keys", json={"name": " shop ", "scopes": ["orders:read"], "user_id": str(world.user)})
    made = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert (made["name"], made["scopes"], made["user_id"]) == ("shop", ["orders:read"], str(world.user))
    assert world.client(made["key"]).get("/orders").status_code == 200
    listed = world.ask.get("/api-keys")
    assert made["id"] in listed.text
    assert made["key"] not in listed.text
    assert "key" not in listed.json()["items"][-1]


def test_a_rotated_key_and_its_successor_both_work_until_the_overlap_ends(world: "World") -> None:
    old = world.key("orders:read", user=world.user)
    key_id = old.split("_")[2]
    made = world.ask.post(f"/api-keys/{key_id}/rotate", json={"overlap_seconds": 60}).json()
    assert (made["scopes"], made["user_id"]) == (["orders:read"], str(world.user))
    assert [world.client(key).get("/orders").status_code for key in (old, made["key"])] == [200, 200]
    world.execute("UPDATE api_keys SET expires_at = expires_at - interval '61 s' WHERE id = :id", id=key_id)
    assert [world.client(key).get("/orders").status_code for key in (old, made["key"])] == [401, 200]
    again = world.ask.post(f"/api-keys/{key_id}/rotate")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


def test_a_rotation_never_lets_the_old_key_live_longer(world: "World") -> None:
    key_id = world.key("orders:read").split("_")[2]
    world.execute("UPDATE api_keys SET expires_at = clock_timestamp() + interval '5 s' WHERE id = :id", id=key_id)
    before = next(one for one in world.ask.get("/api-keys").json()["items"] if one["id"] == key_id)["expires_at"]
    assert world.ask.post(f"/api-keys/{key_id}/rotate", json={"overlap_seconds": 3600}).status_code == 201
    after = next(one for one in world.ask.get("/api-keys").json()["items"] if one["id"] == key_id)["expires_at"]
    assert after == before


def test_the_successor_of_a_key_that_ends_ends_with_it(world: "World") -> None:
    """As it was made to; also where it is rotated twice, because the first answer was lost."""
    for end in ("2099-01-01T00:00:00Z", None):
        wanted = {"name": "till", "scopes": ["orders:read"], "expires_at": end}
        key_id = world.ask.post("/api-keys", json=wanted).json()["id"]
        for _ in range(2):
            made = world.ask.post(f"/api-keys/{key_id}/rotate").json()
            listed = next(one for one in world.ask.get("/api-keys").json()["items"] if one["id"] == made["id"])
            assert listed["expires_at"] == end


def test_a_revoked_key_is_refused_at_once(world: "World") -> None:
    key = world.key("orders:read")
    assert world.ask.delete(f"/api-keys/{key.split('_')[2]}").status_code == 204
    assert world.client(key).get("/orders").status_code == 401
    assert world.ask.delete("/api-keys/000000000000").status_code == 404


def test_a_key_bound_to_a_user_rules_over_that_users_keys_only(world: "World") -> None:
    stranger = world.key("orders:read", user=uuid4())
    for_all = world.key("orders:read")
    bound = world.client(world.key("admin", user=world.user))
    assert [one["user_id"] for one in bound.get("/api-keys").json()["items"]] == [str(world.user)]
    made = bound.post("/api-keys", json={"name": "own", "scopes": ["admin"]}).json()
    assert made["user_id"] == str(world.user)
    refused = bound.post("/api-keys", json={"name": "x", "scopes": ["admin"], "user_id": str(uuid4())})
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    for other in (stranger, for_all):
        key_id = other.split("_")[2]
        assert bound.delete(f"/api-keys/{key_id}").status_code == 404
        assert bound.post(f"/api-keys/{key_id}/rotate").status_code == 404
        assert world.client(other).get("/orders").status_code == 200


def test_keys_are_paged_without_gap_or_repeat(world: "World") -> None:
    for _ in range(4):
        world.key("sync")
    pages = list(world.pages("/api-keys", limit=2))
    found = [one["id"] for page in pages for one in page.json()["items"]]
    assert len(found) == len(set(found)) == 5


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "", "scopes": ["sync"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["all"]},
        {"name": "x", "scopes": ["sync"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["sync"], "colour": "red"},
        {"name": "a\x00b", "scopes": ["sync"]},
    ],
)
def test_a_key_that_makes_no_sense_is_refused(world: "World", body: dict[str, object]) -> None:
    answer = world.ask.post("/api-keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_keys_need_the_scope_admin(world: "World") -> None:
    mortal = world.client(world.key("accounts:read", "accounts:write", "sync", "orders:read"))
    answers = [
        mortal.get("/api-keys"),
        mortal.post("/api-keys", json={"name": "x", "scopes": ["admin"]}),
        mortal.post("/api-keys/000000000000/rotate"),
        mortal.delete("/api-keys/000000000000"),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
