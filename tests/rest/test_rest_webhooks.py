"""Webhooks over REST: made with a secret told once, changed, tested, replayed, and nobody else's."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from openapi_schema_validator import OAS31Validator

from orders_backup.webhooks import deliver, replay

if TYPE_CHECKING:
    from tests.rest.conftest import World

URL = "https://example.com/hook"
LONG_AGO = "2026-01-01T00:00:00Z"


def make(world: "World", **body: object) -> dict[str, Any]:
    answer = world.ask.post("/webhooks", json={"url": URL, "user_id": str(world.user), **body})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def fail(world: "World", webhook: str) -> None:
    """One slice, in which no call leaves the machine: the operator of these tests vouches for nobody."""
    world.execute("UPDATE webhooks SET url = 'https://127.0.0.1/', due_at = clock_timestamp()")
    deliver.deliver(world.runtime, UUID(webhook))


def test_a_secret_is_told_when_it_is_made_and_never_again(world: "World") -> None:
    answer = world.ask.post("/webhooks", json={"url": f" {URL} "})
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (made["url"], made["status"], made["user_id"]) == (URL, "active", None)
    assert made["secret"].startswith("whsec_")
    rotated = world.ask.post(f"/webhooks/{made['id']}/rotate-secret", json={"overlap_seconds": 60}).json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]
    assert datetime.fromisoformat(rotated["old_secret_until"]) > datetime.now(UTC)
    for path in ("/webhooks", f"/webhooks/{made['id']}"):
        assert "whsec_" not in world.ask.get(path).text


@pytest.mark.parametrize(
    "body",
    [
        {"url": "http://example.com/"},
        {"url": "https://127.0.0.1/"},
        {"url": "https://localhost/"},
        {"url": "https://example.com:22/"},
        {"url": URL, "event_types": ["created"]},
        {"url": URL, "content": "fat"},
        {"url": URL, "secret": "mine"},
        {"url": URL, "account_ids": ["x"]},
        {},
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(world: "World", body: dict[str, Any]) -> None:
    answer = world.ask.post("/webhooks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert world.ask.get("/webhooks").json()["items"] == []
    if set(body) == {"url"}:
        made = make(world)
        assert world.ask.patch(f"/webhooks/{made['id']}", json=body).status_code == 422


def test_a_key_bound_to_a_user_makes_and_sees_that_users_endpoints_only(world: "World") -> None:
    of_all = world.ask.post("/webhooks", json={"url": URL}).json()
    bound = world.client(world.key("webhooks", user=uuid4()))
    assert bound.get("/webhooks").json()["items"] == []
    made = bound.post("/webhooks", json={"url": URL}).json()
    assert made["user_id"] is not None
    foreign = str(world.account())
    for body in ({"url": URL, "user_id": str(world.user)}, {"url": URL, "account_ids": [foreign]}):
        assert bound.post("/webhooks", json=body).status_code in {403, 404}
    assert bound.patch(f"/webhooks/{made['id']}", json={"account_ids": [foreign]}).status_code == 404
    assert world.ask.patch(f"/webhooks/{made['id']}", json={"account_ids": [foreign]}).status_code == 404
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries")):
        assert bound.request(method, f"/webhooks/{of_all['id']}{path}").status_code == 404
    assert len(world.ask.get("/webhooks").json()["items"]) == 2


def test_an_endpoint_is_changed_paused_resumed_and_deleted(world: "World") -> None:
    account = str(world.account())
    made = make(world)
    where = f"/webhooks/{made['id']}"
    given = {"event_types": ["order.created"], "account_ids": [account], "content": "full", "description": "till"}
    changed = world.ask.patch(where, json=given).json()
    assert {name: changed[name] for name in given} == given
    assert world.ask.patch(where, json={"status": "paused"}).json()["status"] == "paused"
    refused = world.ask.post(f"{where}/test")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert world.ask.patch(where, json={"status": "active"}).json()["status"] == "active"
    assert world.ask.delete(where).status_code == 204
    assert world.ask.get(where).status_code == 404


def test_a_test_is_sent_like_any_other_message_and_its_attempts_can_be_read(world: "World") -> None:
    made = make(world)
    sent = world.ask.post(f"/webhooks/{made['id']}/test")
    delivery = sent.json()
    assert (sent.status_code, delivery["type"], delivery["status"], delivery["seq"]) == (
        202,
        "webhook.test",
        "pending",
        None,
    )
    fail(world, made["id"])
    shown = world.ask.get(f"/webhooks/{made['id']}/deliveries/{delivery['id']}").json()
    assert shown["attempts"] == len(shown["attempt_list"]) == 1
    assert shown["attempt_list"][0]["status_code"] is None
    assert "public internet" in shown["attempt_list"][0]["error"]
    (listed,) = world.ask.get(f"/webhooks/{made['id']}/deliveries", params={"status": "pending"}).json()["items"]
    assert listed["id"] == delivery["id"]
    for name in (delivery["id"][:-1], "msg_x", f"msg_{uuid4().hex}_1", f"msg_{UUID(made['id']).hex}_{2**70}"):
        assert world.ask.get(f"/webhooks/{made['id']}/deliveries/{name}").status_code == 404


def test_a_replay_counts_first_and_then_sends_again_under_the_old_ids(world: "World") -> None:
    account = world.account()
    world.read(account, b'{"id":"a"}', b'{"id":"b"}')
    made = make(world)
    where = f"/webhooks/{made['id']}"
    world.execute("UPDATE webhooks SET cursor_xid = pg_snapshot_xmin(pg_current_snapshot())")
    counted = world.ask.post(f"{where}/replay", json={"from": LONG_AGO, "dry_run": True}).json()
    assert counted == {"dry_run": True, "matched": 2, "new": 2, "again": 0, "pending": 0}
    assert world.ask.get(f"{where}/deliveries").json()["items"] == []
    done = world.ask.post(f"{where}/replay", json={"from": LONG_AGO}).json()
    assert done == {"dry_run": False, "matched": 2, "new": 2, "again": 0, "pending": 0}
    ids = [one["id"] for one in world.ask.get(f"{where}/deliveries").json()["items"]]
    world.execute("UPDATE webhook_deliveries SET status = 'failed', due_at = NULL WHERE order_id = 'a'")
    only = {"from": LONG_AGO, "only_failed": True}
    assert world.ask.post(f"{where}/replay", json=only).json()["again"] == 1
    assert sorted(one["id"] for one in world.ask.get(f"{where}/deliveries").json()["items"]) == sorted(ids)
    one = {"from": LONG_AGO, "order_id": "b"}
    assert world.ask.post(f"{where}/replay", json=one).json()["pending"] == 1
    for body in ({"from": "2099-01-01T00:00:00Z"}, {"from": LONG_AGO, "to": LONG_AGO}, {}):
        assert world.ask.post(f"{where}/replay", json=body).status_code == 422


def test_a_replay_that_only_counts_waits_for_nobody_who_delivers(world: "World") -> None:
    account, made = world.account(), make(world)
    world.read(account, b'{"id":"a"}')
    world.execute("UPDATE webhooks SET cursor_xid = pg_snapshot_xmin(pg_current_snapshot())")
    with world.runtime.db.begin() as other:
        other.execute(sa.text("SELECT FROM webhooks FOR UPDATE"))
        counted = world.ask.post(f"/webhooks/{made['id']}/replay", json={"from": LONG_AGO, "dry_run": True}, timeout=10)
    assert (counted.status_code, counted.json()["matched"]) == (202, 1)


def test_a_replay_of_too_much_is_refused_and_counted(world: "World", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MOST_AT_ONCE", 2)
    account, made = world.account(), make(world)
    world.read(account, *(f'{{"id":"{number}"}}'.encode() for number in range(5)))
    world.execute("UPDATE webhooks SET cursor_xid = pg_snapshot_xmin(pg_current_snapshot())")
    refused = world.ask.post(f"/webhooks/{made['id']}/replay", json={"from": LONG_AGO})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    counted = world.ask.post(f"/webhooks/{made['id']}/replay", json={"from": LONG_AGO, "dry_run": True})
    assert counted.json()["matched"] == 5


def test_another_address_starts_anew_and_is_tried_at_once(world: "World") -> None:
    made = make(world)
    world.ask.post(f"/webhooks/{made['id']}/test")
    fail(world, made["id"])
    world.execute("UPDATE webhooks SET failures = 12, silent_until = clock_timestamp() + interval '1 h', due_at = NULL")
    where = f"/webhooks/{made['id']}"
    assert world.ask.patch(where, json={"description": "till"}).json()["failures"] == 12
    changed = world.ask.patch(where, json={"url": "https://example.com/elsewhere"}).json()
    assert (changed["failures"], changed["silent_until"]) == (0, None)
    with world.runtime.db.begin() as tx:
        waits = tx.execute(sa.text("SELECT w.due_at <= clock_timestamp(), d.due_at <= clock_timestamp()"
                                   " FROM webhooks w JOIN webhook_deliveries d USING (webhook_id)"))  # fmt: skip
        assert tuple(waits.one()) == (True, True)


def test_deliveries_are_paged_without_gap_or_repeat(world: "World") -> None:
    account = world.account()
    for number in range(5):
        world.read(account, f'{{"id":"{number}"}}'.encode())
    made = make(world)
    world.execute("UPDATE webhooks SET cursor_xid = pg_snapshot_xmin(pg_current_snapshot())")
    world.ask.post(f"/webhooks/{made['id']}/replay", json={"from": LONG_AGO})
    pages = list(world.pages(f"/webhooks/{made['id']}/deliveries", limit=2))
    found = [one["order_id"] for page in pages for one in page.json()["items"]]
    assert sorted(found) == ["0", "1", "2", "3", "4"]
    assert len(pages) == 3
    endpoints = [made["id"], *(make(world)["id"] for _ in range(2))]
    listed = [one["id"] for page in world.pages("/webhooks", limit=1) for one in page.json()["items"]]
    assert sorted(listed) == sorted(endpoints)


def test_the_openapi_document_describes_webhooks_truthfully(world: "World") -> None:
    webhook, delivery = world.webhook()
    document = httpx.get(f"{world.url}/openapi.json").json()
    for path in ("", "/{webhook_id}", "/{webhook_id}/deliveries", "/{webhook_id}/deliveries/{delivery_id}"):
        operation = document["paths"][f"/api/v1/webhooks{path}"]["get"]
        shape = operation["responses"]["200"]["content"]["application/json"]["schema"]
        answer = world.ask.get("/webhooks" + path.format(webhook_id=webhook, delivery_id=delivery))
        assert answer.status_code == 200
        OAS31Validator({**shape, "components": document["components"]}).validate(answer.json())
