"""What belongs to an order over the API: newest versions, every version, exact bytes, and who chooses what is kept."""

import base64
import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from tests.rest.conftest import START

from orders_backup import db as database
from orders_backup.orders import extras

if TYPE_CHECKING:
    from tests.rest.conftest import World

FIRST = b'{"shipments": [ {"waybill":"1","weight":12.30} ] }'
SECOND = '{"shipments":[{"waybill":"2"}],"name":"Żółć"}'.encode()


def read(
    world: "World", account: UUID, key: tuple[str, str], body: bytes, *, at: datetime = START, order: str = "o"
) -> None:
    """Archives a document beside an order as Allegro served it to a request sent at `at`."""
    found = extras.document(*key, order, at, body, found=True)
    with database.transaction(world.runtime.db) as tx:
        extras.record(tx, world.runtime.codec, account, [found])


def test_what_belongs_to_an_order_is_shown_in_its_newest_version(world: "World") -> None:
    account = world.account()
    world.read(account, b'{"id":"o"}')
    read(world, account, ("shipments", "o"), FIRST)
    read(world, account, ("shipments", "o"), SECOND, at=START + timedelta(hours=1))
    read(world, account, ("refunds", "r-1"), b'{"id":"r-1"}')
    read(world, account, ("returns", "x"), b'{"id":"x"}', order="another")
    answer = world.ask.get("/orders/o/extras")
    items = answer.json()["items"]
    assert [(one["kind"], one["id"], one["version"]) for one in items] == [("refunds", "r-1", 1), ("shipments", "o", 2)]
    assert SECOND in answer.content
    assert items[1]["read_at"] == "2026-01-01T13:00:00Z"
    assert items[1]["sha256"] == hashlib.sha256(SECOND).hexdigest()
    pages = list(world.pages("/orders/o/extras", limit=1))
    assert [one["id"] for page in pages for one in page.json()["items"]] == ["r-1", "o"]


def test_every_version_and_its_exact_bytes_can_be_had(world: "World") -> None:
    account = world.account()
    world.read(account, b'{"id":"o"}')
    read(world, account, ("shipments", "o"), FIRST)
    read(world, account, ("shipments", "o"), SECOND, at=START + timedelta(hours=1))
    path = "/orders/o/extras/shipments/o/versions"
    versions = [one for page in world.pages(path, limit=1) for one in page.json()["items"]]
    assert [(one["version"], one["size"]) for one in versions] == [(1, len(FIRST)), (2, len(SECOND))]
    exact = world.ask.get(f"{path}/1", headers={"Accept": "application/octet-stream"})
    assert exact.content == FIRST
    digest = base64.b64encode(hashlib.sha256(FIRST).digest()).decode()
    assert exact.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert world.ask.get(f"{path}/2").json()["data"]["name"] == "Żółć"
    assert FIRST in world.ask.get(f"{path}/1").content


def test_bytes_that_are_no_json_are_said_to_be_unreadable(world: "World") -> None:
    account = world.account()
    world.read(account, b'{"id":"o"}')
    read(world, account, ("returns", "r"), b'{"id":"r","note":"\xff"}')
    [item] = world.ask.get("/orders/o/extras").json()["items"]
    assert (item["data"], item["data_unreadable"]) == (None, True)
    path = "/orders/o/extras/returns/r/versions/1"
    assert world.ask.get(path, headers={"Accept": "application/octet-stream"}).content == b'{"id":"r","note":"\xff"}'


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/orders/none/extras", 404),
        ("/orders/o/extras/shipments/o/versions/3", 404),
        ("/orders/o/extras/invoices/o/versions", 404),
        ("/orders/o/extras/shipments/other/versions/1", 404),
        ("/orders/other/extras/shipments/o/versions/1", 404),
        ("/orders/o/extras/nothing/o/versions", 422),
        ("/orders/o/extras?limit=0", 422),
        ("/orders/o/extras?kind=shipments", 422),
    ],
)
def test_what_there_is_not_is_said_clearly(world: "World", path: str, status: int) -> None:
    account = world.account()
    world.read(account, b'{"id":"o"}', b'{"id":"other"}')
    read(world, account, ("shipments", "o"), FIRST)
    assert world.ask.get(path).status_code == status


def test_a_return_of_an_order_older_than_the_archive_can_be_read(world: "World") -> None:
    account, other = world.account(), world.account()
    read(world, account, ("returns", "r"), b'{"id":"r"}', order="ancient")
    assert len(world.ask.get("/orders/ancient/extras").json()["items"]) == 1
    read(world, other, ("returns", "q"), b'{"id":"q"}', order="ancient")
    assert world.ask.get("/orders/ancient/extras").json()["code"] == "ambiguous_order"
    chosen = world.ask.get("/orders/ancient/extras", params={"account_id": str(other)}).json()["items"]
    assert [one["id"] for one in chosen] == ["q"]


def test_what_waits_to_be_read_is_not_shown(world: "World") -> None:
    account = world.account()
    world.read(account, b'{"id":"o"}')
    with database.transaction(world.runtime.db) as tx:
        extras.schedule(tx, account, [extras.Look("shipments", "o", START)])
    assert world.ask.get("/orders/o/extras").json()["items"] == []
    assert world.ask.get("/orders/o/extras/shipments/o/versions").status_code == 404


def test_an_account_chooses_what_is_kept_beside_its_orders(world: "World") -> None:
    account = world.account()
    every = ["invoices", "refunds", "returns", "shipments"]
    assert sorted(world.ask.get(f"/accounts/{account}").json()["extras"]) == every
    changed = world.ask.patch(f"/accounts/{account}", json={"extras": ["shipments", "returns", "returns"]})
    assert changed.json()["extras"] == ["returns", "shipments"]
    assert world.ask.patch(f"/accounts/{account}", json={"name": "x"}).json()["extras"] == ["returns", "shipments"]
    assert world.ask.patch(f"/accounts/{account}", json={"extras": []}).json()["extras"] == []
    refused = world.ask.patch(f"/accounts/{account}", json={"extras": ["parcels"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    new = {"user_id": str(uuid4()), "name": "x", "extras": ["parcels"]}
    assert world.ask.post("/accounts", json=new).status_code == 422


def test_a_kind_that_allegro_refuses_shows_with_its_reason_while_it_is_wanted(world: "World") -> None:
    account = world.account()
    world.execute(
        "INSERT INTO extra_kinds (account_id, kind, off_until, reason) VALUES"
        " (:a, 'refunds', clock_timestamp() + interval '1 h', 'denied'),"
        " (:a, 'returns', clock_timestamp() - interval '1 h', 'was denied')",
        a=account,
    )
    assert world.ask.get(f"/accounts/{account}").json()["extras_off"] == {"refunds": "denied"}
    assert world.ask.patch(f"/accounts/{account}", json={"extras": ["returns"]}).json()["extras_off"] == {}
