"""Searching orders by words over REST: filters combine, pages are whole, users stay apart."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import pytest
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup.orders import archive, pages
from orders_backup.orders.queries import Filter, Position, Sort

from .test_rest_orders import HOUR, START

if TYPE_CHECKING:
    from tests.rest.conftest import World


def order(order_id: str, name: str, *, hours: int | None = 0, **fields: Any) -> bytes:
    bought = None if hours is None else (START + hours * HOUR).isoformat()
    document = {"id": order_id, "buyer": {"lastName": name}, "lineItems": [{"id": order_id, "boughtAt": bought}]}
    return json.dumps({**document, "updatedAt": bought, **fields}).encode()


def found(world: "World", q: str, **params: str) -> list[str]:
    answer = world.ask.get("/orders", params={"q": q, **params})
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["items"]]


def test_words_and_filters_combine(world: "World") -> None:
    account, second, foreign = world.account(), world.account(), world.account(uuid4())
    world.read(account, order("a", "Nowak"), order("b", "Nowak", hours=1, status="CANCELLED"), order("c", "Kowal"))
    world.read(second, order("d", "Nowacka", hours=2))
    world.read(foreign, order("e", "Nowak", hours=3))
    assert found(world, "nowak") == ["e", "b", "a"]
    assert found(world, "nowa", sort="ordered_at") == ["a", "b", "d", "e"]
    assert found(world, "nowa", user_id=str(world.user)) == ["d", "b", "a"]
    assert found(world, "nowak", account_id=str(account), status="CANCELLED") == ["b"]
    assert found(world, "nowak kowal") == []
    assert found(world, "nowak", user_id=str(uuid4())) == []
    item = world.ask.get("/orders", params={"q": "kowal"}).json()["items"][0]
    assert (item["order_data"]["buyer"]["lastName"], item["user_id"]) == ("Kowal", str(world.user))
    summary = world.ask.get("/orders", params={"q": "kowal", "fields": "summary"}).json()["items"][0]
    assert "order_data" not in summary


@pytest.mark.parametrize("sort", ["-ordered_at", "ordered_at", "-updated_at", "updated_at"])
def test_pages_of_a_search_have_neither_gap_nor_repeat(world: "World", sort: str) -> None:
    accounts = [world.account() for _ in range(3)]
    for number in range(30):
        hours = None if number % 5 == 0 else number % 4
        world.read(accounts[number % 3], order(f"o{number:02}", "Nowak", hours=hours), order(f"x{number}", "Inny"))
    pages = list(world.pages("/orders", q="nowak", sort=sort, limit=4))
    ids = [one["id"] for page in pages for one in page.json()["items"]]
    assert sorted(ids) == [f"o{number:02}" for number in range(30)]
    whole = found(world, "nowak", sort=sort, limit="1000")
    assert ids == whole
    times = [one["ordered_at"] for page in pages for one in page.json()["items"]]
    dated = [one for one in times if one]
    assert times == [*sorted(dated, reverse=sort.startswith("-")), *[None] * 6]


def test_what_allegro_forgot_is_still_found_and_tracking_numbers_are(world: "World") -> None:
    account = world.account()
    world.read(account, order("o", "Zapomniana"))
    world.read(account, b'{"id":"o","status":"CANCELLED"}', at=START + HOUR)
    assert found(world, "zapomniana") == ["o"]
    with database.transaction(world.runtime.db) as tx:
        archive.found_by(tx, account, {"o": ["620 000-1"], "unknown": ["1"]})
    assert found(world, "620") == found(world, "0001 zapomniana") == ["o"]
    world.read(account, b'{"id":"o","status":"SENT"}', at=START + 2 * HOUR)
    assert found(world, "0001") == ["o"]
    world.read(account, order("o", "Spóźniona"), at=START + timedelta(minutes=30))
    assert found(world, "spozniona") == ["o"]
    assert world.ask.get("/orders/o").json()["status"] == "SENT"


def test_words_of_ever_new_versions_never_stop_an_order(world: "World") -> None:
    account = world.account()
    for version in range(5):
        items = [{"id": "1", "offer": {"name": " ".join(str(uuid4()) for _ in range(12))}} for _ in range(90)]
        world.read(account, order("o", "later" if version else "first", lineItems=items, v=version),
                   at=START + version * HOUR)  # fmt: skip
    assert world.ask.get("/orders/o").json()["version"] == 5
    with database.transaction(world.runtime.db) as tx:
        archive.found_by(tx, account, {"o": ["6200"]})
    assert found(world, "first", account_id=str(account)) == ["o"]  # nothing that was said is forgotten for it


def test_a_bound_key_finds_its_own_orders_alone(world: "World") -> None:
    me = uuid4()
    world.read(world.account(), order("theirs", "Nowak"))
    world.read(world.account(me), order("mine", "Nowak"))
    bound = world.client(world.key("orders:read", user=me))
    assert [one["id"] for one in bound.get("/orders", params={"q": "nowak"}).json()["items"]] == ["mine"]


def test_row_level_security_stands_behind_a_search(world: "World") -> None:
    me, foreign = uuid4(), world.account()
    world.read(foreign, order("theirs", "Nowak"))
    everything = Filter(q="nowak")
    with database.snapshot(world.runtime.db) as tx:
        places, _ = pages.search(tx, everything, after=None, limit=10)
    assert [one.order_id for one in places] == ["theirs"]
    with database.snapshot(world.runtime.db) as tx:
        database.confine(tx, me)
        assert pages.those(tx, world.runtime.codec, places, everything, full=True) == ([], None)


def test_a_question_that_is_none_is_refused(world: "World") -> None:
    nobody = world.client(world.key("orders:read", user=uuid4()))
    assert nobody.get("/orders", params={"q": "?!"}).status_code == 422
    for path in ("/orders", "/orders/export?format=jsonl"):
        refused = world.ask.get(path, params={"q": "?!"} | ({"format": "jsonl"} if "export" in path else {}))
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    refused = world.ask.post("/exports", json={"format": "jsonl", "filter": {"q": "--"}})
    assert refused.status_code == 422


def test_exports_take_words_too(world: "World") -> None:
    account = world.account()
    world.read(account, order("a", "Nowak"), order("b", "Kowal"))
    me = world.client(world.key("exports", user=world.user))
    lines = me.get("/orders/export", params={"format": "jsonl", "q": "nowak"}).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a"]
    assert UUID(json.loads(lines[0])["account_id"]) == account


def test_the_index_of_words_serves_the_search(world: "World") -> None:
    account = world.account()
    world.execute("""
        INSERT INTO orders (account_id, order_id, version, versions, sha256, read_at, line_item_ids, words)
        SELECT :account, n::text, 1, 1, '', now(), '{}', CAST(format('''word%s''', n % 5000) AS tsvector)
          FROM generate_series(1, 50000) n""", account=account)  # fmt: skip
    world.execute("ANALYZE orders")
    with database.snapshot(world.runtime.db) as tx:
        before = looked_at(tx)
        places, _ = pages.search(tx, Filter(q="word4711"), after=None, limit=100)
        after = looked_at(tx)
    assert len(places) == 10
    assert (after[0] - before[0], after[1] - before[1]) == (0, 10)


def looked_at(tx: Connection) -> tuple[int, int]:
    """How many orders this connection read so far: one after the other, and by an index."""
    query = "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'orders'"
    return cast("tuple[int, int]", tuple(tx.exec_driver_sql(query).one()))


@pytest.mark.parametrize("sort", ["-ordered_at", "ordered_at", "-updated_at", "updated_at"])
def test_a_page_at_any_depth_looks_at_no_orders_but_its_own(world: "World", sort: Sort) -> None:
    """Of each account as many as the page could need; 20,000 lie around them."""
    for _ in range(3):
        account = world.account()
    world.execute("""
        INSERT INTO orders (account_id, order_id, version, versions, sha256, read_at, line_item_ids,
                            ordered_at, updated_at)
        SELECT a.id, n::text, 1, 1, '', now(), '{}', moment, moment
          FROM accounts a, generate_series(1, 20000) n,
               LATERAL (SELECT timestamptz '2026-01-01' + n * interval '1 minute' AS moment) AS at""")
    world.execute("ANALYZE orders")
    for wanted, walks in ((Filter(account_id=account), 1), (Filter(seen_by=world.user), 3), (Filter(), 3)):
        middle = Position(datetime(2026, 1, 8, tzinfo=UTC), "10080", account)
        for after in (None, middle):
            with database.snapshot(world.runtime.db) as tx:
                asked = replace(wanted, sort=sort)
                before = looked_at(tx)
                found, _ = pages.page(tx, world.runtime.codec, asked, after=after, limit=20, full=True)
                now = looked_at(tx)
            assert len(found) == 20
            assert now[0] == before[0]
            assert now[1] - before[1] <= (walks + 1) * 21
