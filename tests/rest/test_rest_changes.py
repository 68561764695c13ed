"""The change feed gives every change once, whatever order transactions end in."""

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import rest
from orders_backup.orders import feed
from orders_backup.tables import order_changes

if TYPE_CHECKING:
    from tests.rest.conftest import World

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def change(tx: Connection, account_id: UUID, order_id: str) -> None:
    """One row of the journal, as the archive writes it."""
    row = {"account_id": account_id, "order_id": order_id, "version": 1, "kinds": ["order.new"], "cause": "event"}
    tx.execute(sa.insert(order_changes).values(row))


def follow(world: "World", cursor: str | None, **params: str | int) -> tuple[list[str], str]:
    """Everything there is to read now, as order ids, and the cursor to go on from."""
    found: list[str] = []
    while True:
        more = {"cursor": cursor} if cursor else {}
        answer = world.ask.get("/changes", params={"limit": 2, **params, **more}).json()
        found += [item["order_id"] for item in answer["items"]]
        cursor = str(answer["next_cursor"])
        if not answer["has_more"]:
            return found, cursor


def test_the_feed_names_what_changed_and_always_gives_a_cursor(world: "World") -> None:
    account = world.account()
    empty: dict[str, Any] = world.ask.get("/changes").json()
    assert (empty["items"], empty["has_more"]) == ([], False)
    world.read(account, b'{"id":"o"}', at=START)
    answer = world.ask.get("/changes", params={"cursor": empty["next_cursor"]}).json()
    item = answer["items"][0]
    assert (item["account_id"], item["user_id"], item["order_id"]) == (str(account), str(world.user), "o")
    assert (item["version"], item["cause"]) == (1, "test")
    assert item["kinds"]
    assert world.ask.get("/changes", params={"cursor": answer["next_cursor"]}).json()["items"] == []


def test_a_change_that_commits_late_is_not_passed_over(world: "World") -> None:
    """It took its number first and commits last: a cursor of numbers alone would never show it."""
    account = world.account()
    with world.runtime.db.begin() as slow:
        change(slow, account, "slow")
        with database.transaction(world.runtime.db) as quick:
            change(quick, account, "quick")
        before, cursor = follow(world, None)
    after, _ = follow(world, cursor)
    assert sorted(before + after) == ["quick", "slow"]


def test_an_older_transaction_with_a_higher_number_hides_no_younger_one(world: "World") -> None:
    """The older transaction writes last and commits first; the younger's lower number comes out after it."""
    account = world.account()
    with world.runtime.db.connect() as older, world.runtime.db.connect() as younger:
        older.execute(sa.text("SELECT pg_current_xact_id()"))
        change(younger, account, "younger")
        change(older, account, "older")
        older.commit()
        before, cursor = follow(world, None)
        assert before == ["older"]
        younger.commit()
    assert follow(world, cursor)[0] == ["younger"]


def cursor_at(world: "World", xid: int) -> str:
    """A cursor of this service for the whole feed at that transaction, whichever database it comes from."""
    content = rest._digest(("changes", None)) + msgspec.json.encode(feed.Position(xid, 0))
    return base64.urlsafe_b64encode(world.runtime.vault.sign(content, purpose="cursor")).rstrip(b"=").decode()


def position_of(cursor: str) -> feed.Position:
    return msgspec.json.decode(base64.urlsafe_b64decode(cursor + "==")[16 + rest._DIGEST_BYTES :], type=feed.Position)


def test_a_cursor_that_a_database_before_this_one_gave_is_refused_and_passes_over_nothing(world: "World") -> None:
    """The cluster before had counted further: this one's changes all lie below the cursor."""
    world.read(world.account(), b'{"id":"o"}')
    with database.transaction(world.runtime.db) as tx:
        horizon = tx.execute(feed._HORIZON).scalar_one()
    answer = world.ask.get("/changes", params={"cursor": cursor_at(world, horizon + 5_000_000), "wait": 5})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "another database" in answer.json()["detail"]
    assert world.ask.get("/changes", params={"cursor": cursor_at(world, horizon)}).status_code == 200


def test_a_cursor_never_holds_a_transaction_that_may_have_left_no_trace_on_the_disk(world: "World") -> None:
    """A server that crashes gives such numbers out again, and a cursor beyond would pass over whoever gets them."""
    with database.transaction(world.runtime.db) as tx:
        change(tx, world.account(uuid4()), "of another user")
        xid, seq = tx.execute(sa.text("SELECT xid::text::bigint, seq FROM order_changes")).one()
    for _ in range(3):
        with world.runtime.db.connect() as spent:
            spent.execute(sa.text("SELECT pg_current_xact_id()"))
    bound = world.client(world.key("orders:read", user=world.user))
    for ask in (world.ask, bound):
        first = ask.get("/changes").json()["next_cursor"]
        again = ask.get("/changes", params={"cursor": first}).json()["next_cursor"]
        assert position_of(first) == position_of(again) == feed.Position(xid, seq)


def test_the_feed_is_complete_under_many_writers(world: "World") -> None:
    """Four writers, some of whose transactions stay open while others pass them or end in a rollback; three readers."""
    account = world.account()
    kept: list[str] = []

    def write(writer: int) -> None:
        for number in range(25):
            names = [f"{writer}-{number}-{part}" for part in range(4)]
            with world.runtime.db.connect() as tx:
                for part, name in enumerate(names):
                    change(tx, account, name)
                    time.sleep((number % 5 == writer) * part * 0.02)
                if number % 7 == writer:
                    tx.rollback()
                else:
                    tx.commit()
                    kept.extend(names)

    def read(client: httpx.Client) -> list[str]:
        seen: list[str] = []
        params: dict[str, str | int] = {"limit": 10, "wait": 5}
        while "end" not in seen:
            answer = client.get("/changes", params=params).json()
            seen += [item["order_id"] for item in answer["items"]]
            params["cursor"] = answer["next_cursor"]
        return seen

    with ThreadPoolExecutor(7) as pool:
        reading = [pool.submit(read, world.client(world.key("orders:read"))) for _ in range(3)]
        list(pool.map(write, range(4)))
        with database.transaction(world.runtime.db) as tx:
            change(tx, account, "end")
        seen = [one.result() for one in reading]
    assert [sorted(one) for one in seen] == [sorted([*kept, "end"])] * 3


def test_a_feed_can_follow_one_account_and_its_cursor_moves_past_the_others(world: "World") -> None:
    mine, theirs = world.account(), world.account(uuid4())
    with database.transaction(world.runtime.db) as tx:
        for number in range(5):
            change(tx, theirs, f"t-{number}")
        change(tx, mine, "m-1")
    found, cursor = follow(world, None, account_id=str(mine))
    assert found == ["m-1"]
    with database.transaction(world.runtime.db) as tx:
        change(tx, mine, "m-2")
    assert follow(world, cursor, account_id=str(mine))[0] == ["m-2"]
    assert world.ask.get("/changes", params={"cursor": cursor}).status_code == 422
    bound = world.client(world.key("orders:read", user=world.user))
    assert [item["order_id"] for item in bound.get("/changes").json()["items"]] == ["m-1", "m-2"]


def test_a_change_may_come_with_the_document_of_its_version(world: "World") -> None:
    account = world.account()
    first, second = b'{"id":"o",  "n":1}', b'{"id":"o","n":2}'
    world.read(account, first)
    world.read(account, second, at=START + timedelta(seconds=1))
    world.read(account, b'{"id":"p","text":"\\ud800"}')
    answer = world.ask.get("/changes", params={"fields": "full"})
    assert answer.content.count(b'"order_data":' + first) == 1
    assert [(one["version"], one["order_data"]["n"]) for one in answer.json()["items"][:2]] == [(1, 1), (2, 2)]
    assert (answer.json()["items"][2]["order_data"], answer.json()["items"][2]["order_data_unreadable"]) == (None, True)
    assert "order_data" not in world.ask.get("/changes").json()["items"][0]


def test_a_reader_may_wait_for_the_next_change(world: "World") -> None:
    account = world.account()
    _, cursor = follow(world, None)
    late = threading.Timer(1.0, world.read, [account, b'{"id":"late"}'])
    late.start()
    answer = world.ask.get("/changes", params={"cursor": cursor, "wait": 20}).json()
    late.join()
    assert [one["order_id"] for one in answer["items"]] == ["late"]
    began = time.monotonic()
    nothing = world.ask.get("/changes", params={"cursor": answer["next_cursor"], "wait": 0.3}).json()
    assert (nothing["items"], nothing["has_more"]) == ([], False)
    assert time.monotonic() - began >= 0.3


def test_waiting_keeps_nobody_else_from_asking(world: "World") -> None:
    _, cursor = follow(world, None)
    clients = [world.client(world.key("orders:read")) for _ in range(60)]
    waiting = [threading.Thread(target=one.get, args=("/changes",), kwargs={"params": {"cursor": cursor, "wait": 5}})
               for one in clients]  # fmt: skip
    for thread in waiting:
        thread.start()
    assert world.ask.get("/orders").status_code == 200
    assert any(thread.is_alive() for thread in waiting)
    world.read(world.account(), b'{"id":"o"}')
    for thread in waiting:
        thread.join()


@pytest.mark.parametrize("wait", ["-1", "31", "x", "nan"])
def test_a_wait_that_makes_no_sense_is_refused(world: "World", wait: str) -> None:
    assert world.ask.get("/changes", params={"wait": wait}).status_code == 422
