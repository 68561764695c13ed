"""Reading orders: exact bytes, any moment of the past, complete pages, hostile bodies."""

import base64
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from tests.rest.conftest import World

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def order(order_id: str, *, bought: datetime | None = START, status: str = "READY_FOR_PROCESSING") -> bytes:
    """An order as Allegro might write it: odd spaces, a number no float keeps, a key twice, text beyond ASCII."""
    moment = f'"{bought.isoformat()}"' if bought else "null"
    return (
        f'{{"id":"{order_id}",  "status" : "{status}", "buyer":{{"login":"Zażółć"}}, "weight": 12.300,'
        f'"summary":{{"totalToPay":{{"amount":"12.30","currency":"PLN"}}}},\n "twice":1, "twice":2,'
        f'"lineItems":[{{"id":"line-{order_id}","boughtAt":{moment}}}], "updatedAt":{moment}, "price": 1.0e2}}'
    ).encode()


def test_a_page_holds_the_bytes_as_allegro_served_them(world: "World") -> None:
    account = world.account()
    body = order("o-1")
    world.read(account, body)
    answer = world.ask.get("/orders")
    assert answer.status_code == 200
    assert b'"order_data":' + body in answer.content
    item = answer.json()["items"][0]
    del item["order_data"]
    assert item == {
        "id": "o-1",
        "account_id": str(account),
        "user_id": str(world.user),
        "status": "READY_FOR_PROCESSING",
        "fulfillment_status": None,
        "ordered_at": "2026-01-01T12:00:00Z",
        "updated_at": "2026-01-01T12:00:00Z",
        "total": "12.30",
        "currency": "PLN",
        "buyer_login": "Zażółć",
        "version": 1,
        "superseded_by": None,
        "gone_at": None,
        "order_data_unreadable": False,
    }


def test_a_summary_leaves_the_document_out(world: "World") -> None:
    world.read(world.account(), order("o-1"))
    item = world.ask.get("/orders", params={"fields": "summary"}).json()["items"][0]
    assert item["id"] == "o-1"
    assert "order_data" not in item


def test_an_accounts_orders_are_listed_as_they_were_at_a_moment(world: "World") -> None:
    account = world.account()
    world.read(account, order("a"), order("b"), order("c"))
    world.read(account, order("b", status="SENT"), order("d"), at=START + 2 * HOUR)
    world.read(account, order("b", status="LATE"), at=START + HOUR)
    where = {"account_id": str(account)}

    def then(moment: datetime, **params: str | int) -> list[tuple[str, str, int]]:
        found = world.pages("/orders", at=moment.isoformat(), **where, **params)
        items = [one for page in found for one in page.json()["items"]]
        return [(one["id"], one["status"], one["version"]) for one in items]

    ready = "READY_FOR_PROCESSING"
    assert then(START - HOUR) == []
    assert then(START) == [("a", ready, 1), ("b", ready, 1), ("c", ready, 1)]
    assert then(START + HOUR, limit=1) == [("a", ready, 1), ("b", "LATE", 3), ("c", ready, 1)]
    assert then(START + 3 * HOUR, limit=3)[1::2] == [("b", "SENT", 2), ("d", ready, 1)]
    one = world.ask.get("/orders/b", params={**where, "at": (START + HOUR).isoformat()}).json()
    page = world.ask.get("/orders", params={**where, "at": (START + HOUR).isoformat()})
    assert page.json()["items"][1] == one
    assert b'"order_data":' + order("b", status="LATE") in page.content
    summary = world.ask.get("/orders", params={**where, "at": START.isoformat(), "fields": "summary"}).json()["items"][
        0
    ]
    assert set(one) - set(summary) == {"order_data", "order_data_unreadable"}
    at = START.isoformat()
    for params in ({"at": at}, {**where, "at": at, "status": "SENT"}, {**where, "at": at, "sort": "ordered_at"}):
        assert world.ask.get("/orders", params=params).status_code == 422
    assert world.ask.get("/orders", params={"at": at, "account_id": str(uuid4())}).status_code == 404


def test_filters_narrow_the_list(world: "World") -> None:
    account, other = world.account(), world.account(uuid4())
    world.read(account, order("a"), order("b", bought=START + HOUR), order("c", status="CANCELLED"))
    world.read(other, order("d", bought=START + 2 * HOUR))

    def ids(**params: str) -> list[str]:
        answer = world.ask.get("/orders", params=params)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert ids() == ["d", "b", "c", "a"] or ids() == ["d", "b", "a", "c"]
    assert ids(sort="ordered_at")[-2:] == ["b", "d"]
    assert ids(account_id=str(account), sort="updated_at") == ["a", "c", "b"]
    assert ids(user_id=str(world.user), status="CANCELLED") == ["c"]
    assert ids(buyer_login="Zażółć", ordered_from="2026-01-01T13:00:00Z", ordered_to="2026-01-01T14:00:00Z") == ["b"]
    assert ids(updated_from="2026-01-01T15:00:00+01:00") == ["d"]
    assert ids(fulfillment_status="SENT") == []
    assert ids(marketplace="allegro-pl") == []


@pytest.mark.parametrize("sort", ["ordered_at", "-ordered_at", "updated_at", "-updated_at"])
def test_pages_name_every_order_once_while_others_arrive(world: "World", sort: str) -> None:
    """Equal times, several accounts, and orders without a time are where a cursor loses or repeats."""
    made = set()
    for number in range(3):
        account = world.account()
        bodies = [order(f"{number}-{i}", bought=START + (i // 4) * HOUR if i % 5 else None) for i in range(20)]
        world.read(account, *bodies)
        made |= {f"{number}-{i}" for i in range(20)}
    seen: list[str] = []
    late = world.account()
    for count, page in enumerate(world.pages("/orders", sort=sort, limit=7, fields="summary")):
        seen += [item["id"] for item in page.json()["items"]]
        world.read(late, order(f"late-{count}", bought=START + count * HOUR))
    assert len(seen) == len(set(seen))
    assert made <= set(seen)
    assert [one for one in seen if one.endswith(("-0", "-5", "-10", "-15"))][-12:] == [
        one for one in seen if one in made
    ][-12:]


def test_pages_stay_complete_while_a_writer_runs(world: "World") -> None:
    account = world.account()
    world.read(account, *(order(f"o-{i:03}", bought=START + i * HOUR) for i in range(60)))
    is_over = threading.Event()

    def write() -> None:
        count = 0
        while not is_over.is_set():
            world.read(account, order(f"new-{count}", bought=START + (count % 60) * HOUR))
            count += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [item["id"] for page in world.pages("/orders", limit=5) for item in page.json()["items"]]
    finally:
        is_over.set()
        writer.join()
    assert len(seen) == len(set(seen))
    assert {f"o-{i:03}" for i in range(60)} <= set(seen)


def test_a_cursor_serves_only_its_own_query(world: "World") -> None:
    world.read(world.account(), order("a"), order("b"))
    cursor = world.ask.get("/orders", params={"limit": 1}).json()["next_cursor"]
    refused = world.ask.get("/orders", params={"limit": 1, "cursor": cursor, "status": "CANCELLED"})
    assert refused.status_code == 422
    assert "another query" in refused.json()["detail"]


def test_a_cursor_that_was_changed_anywhere_is_refused(world: "World") -> None:
    world.read(world.account(), order("a"), order("b"))
    cursor = world.ask.get("/orders", params={"limit": 1}).json()["next_cursor"]
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    changed = [raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :] for place in range(len(raw))]
    forged = [base64.urlsafe_b64encode(one).decode() for one in changed]
    for text in ("x", "%%%", cursor[:-4], *forged):
        refused = world.ask.get("/orders", params={"limit": 1, "cursor": text})
        assert (refused.status_code, "not a cursor" in refused.json()["detail"]) == (422, True)


def test_an_order_is_shown_as_it_was_known_at_any_moment(world: "World") -> None:
    account = world.account()
    first, second = order("o"), order("o", status="SENT")
    world.read(account, first, at=START)
    world.read(account, second, at=START + 2 * HOUR)

    def at(moment: str) -> tuple[int, bytes]:
        answer = world.ask.get("/orders/o", params={"at": moment})
        return answer.status_code, answer.content

    assert at("2026-01-01T11:59:59Z")[0] == 404
    status, content = at("2026-01-01T12:00:00Z")
    assert (status, json.loads(content)["version"]) == (200, 1)
    assert json.loads(content)["status"] == "READY_FOR_PROCESSING"
    assert first in content
    assert first in at("2026-01-01T13:59:59Z")[1]
    assert second in at("2026-01-01T14:00:00Z")[1]
    assert second in world.ask.get("/orders/o").content


def test_a_late_reading_does_not_hide_what_was_true_then(world: "World") -> None:
    """A version stored last but read earlier is what `at` shows of its own time, not of later."""
    account = world.account()
    world.read(account, order("o", status="SENT"), at=START + 2 * HOUR)
    world.read(account, order("o", status="BOUGHT"), at=START)
    assert world.ask.get("/orders/o", params={"at": "2026-01-01T12:30:00Z"}).json()["status"] == "BOUGHT"
    assert world.ask.get("/orders/o", params={"at": "2026-01-01T14:30:00Z"}).json()["status"] == "SENT"
    assert world.ask.get("/orders/o").json()["status"] == "SENT"


def test_versions_are_listed_and_give_their_exact_bytes(world: "World") -> None:
    account = world.account()
    bodies = [order("o", status=f"S{number}") for number in range(3)]
    for number, body in enumerate(bodies):
        world.read(account, body, at=START + number * HOUR)
    versions = [item for page in world.pages("/orders/o/versions", limit=2) for item in page.json()["items"]]
    assert [one["version"] for one in versions] == [1, 2, 3]
    assert [one["sha256"] for one in versions] == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert versions[1]["size"] == len(bodies[1])
    assert versions[1]["read_at"] == "2026-01-01T13:00:00Z"
    assert all(body in world.ask.get("/orders/o/versions?fields=full").content for body in bodies)
    assert bodies[1] in world.ask.get("/orders/o/versions/2").content

    exact = world.ask.get("/orders/o/versions/2", headers={"Accept": "application/octet-stream"})
    assert exact.content == bodies[1]
    assert exact.headers["content-type"] == "application/octet-stream"
    digest = base64.b64encode(hashlib.sha256(bodies[1]).digest()).decode()
    assert exact.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert world.ask.get("/orders/o/versions/4").status_code == 404


def test_events_come_with_their_exact_bytes(world: "World") -> None:
    account = world.account()
    world.read(account, order("o"))
    bodies = [
        f'{{"id":"{number}", "type":"BOUGHT",  "occurredAt":"2026-01-01T10:00:00Z",'
        f'"order":{{"checkoutForm":{{"id":"o"}}}}, "x": 1.50}}'.encode()
        for number in range(3)
    ]
    world.happened(account, *bodies)
    pages = list(world.pages("/orders/o/events", limit=2))
    assert [item["event_id"] for page in pages for item in page.json()["items"]] == ["0", "1", "2"]
    assert b'"event_data":' + bodies[0] in pages[0].content


def test_an_id_that_several_accounts_hold_asks_which(world: "World") -> None:
    mine, theirs = world.account(), world.account(uuid4())
    world.read(mine, order("o"))
    world.read(theirs, order("o", status="SENT"))
    for path in ("/orders/o", "/orders/o/versions", "/orders/o/versions/1", "/orders/o/events"):
        answer = world.ask.get(path)
        assert answer.status_code == 409
        assert answer.json()["code"] == "ambiguous_order"
        assert set(answer.json()["account_ids"]) == {str(mine), str(theirs)}
        assert world.ask.get(path, params={"account_id": str(theirs)}).status_code == 200
    assert world.ask.get("/orders/o", params={"account_id": str(theirs)}).json()["status"] == "SENT"
    bound = world.client(world.key("orders:read", user=world.user))
    assert bound.get("/orders/o").json()["account_id"] == str(mine)


@pytest.mark.parametrize(
    "hostile",
    [
        b'{"id":"bad","note":"\xff\xfe"}',
        b'{"id":"bad","note":"\\ud800"}',
        b'{"id":"bad","note":"\\q"}',
        b'{"id":"bad","deep":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_bytes_that_are_no_json_do_not_break_a_page(world: "World", hostile: bytes) -> None:
    account = world.account()
    fine, odd = order("fine"), b'{"id":"odd","nul":"\\u0000","smile":"\\ud83d\\ude00","huge":1e999}'
    world.read(account, fine, odd, hostile)
    answer = world.ask.get("/orders")
    items = {item["id"]: item for item in json.loads(answer.content)["items"]}
    assert items["bad"]["order_data"] is None
    assert items["bad"]["order_data_unreadable"] is True
    assert odd in answer.content
    assert fine in answer.content
    assert world.ask.get("/orders/bad").json()["order_data_unreadable"] is True
    assert world.ask.get("/orders/bad", params={"at": "2026-02-01T00:00:00Z"}).json()["order_data"] is None
    exact = world.ask.get("/orders/bad/versions/1", headers={"Accept": "application/octet-stream"})
    assert exact.content == hostile


def test_a_difference_is_of_the_newest_version_and_the_one_before_it_or_of_two_that_are_named(world: "World") -> None:
    account = world.account()
    for number, status in enumerate(["BOUGHT", "FILLED_IN", "CANCELLED"]):
        world.read(account, order("o-1", status=status), at=START + number * HOUR)
    newest = world.ask.get("/orders/o-1/diff").json()
    assert (newest["from"], newest["to"], newest["kinds"]) == (2, 3, ["order.cancelled", "order.status_changed"])
    assert newest["operations"] == [
        {
            "op": "replace",
            "path": "/status",
            "value": "CANCELLED",
            "volatile": False,
            "sentence": "status changed from FILLED_IN to CANCELLED.",
        }
    ]
    named = world.ask.get("/orders/o-1/diff", params={"from": 3, "to": 1}).json()
    assert [step["value"] for step in named["operations"]] == ["BOUGHT"]
    same = world.ask.get("/orders/o-1/diff", params={"from": 2, "to": 2}).json()
    assert (same["operations"], same["kinds"]) == ([], [])


def test_a_late_version_is_compared_with_the_moment_before_it(world: "World") -> None:
    account = world.account()
    for hours, status in ((0, "BOUGHT"), (2, "CANCELLED"), (1, "FILLED_IN")):
        world.read(account, order("o-1", status=status), at=START + hours * HOUR)
    found = {to: world.ask.get("/orders/o-1/diff", params={"to": to}).json()["from"] for to in (2, 3)}
    assert found == {2: 3, 3: 1}


def test_a_difference_that_cannot_be_told_says_why(world: "World") -> None:
    account = world.account()
    world.read(account, order("o-1"))
    assert "no version before 1" in world.ask.get("/orders/o-1/diff").json()["detail"]
    assert world.ask.get("/orders/o-1/diff", params={"from": 7}).status_code == 404
    world.read(account, b'{"id":"o-1","a":"\\ud800"}', at=START + HOUR)
    answer = world.ask.get("/orders/o-1/diff")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
