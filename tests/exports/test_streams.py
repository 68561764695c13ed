"""Exports at once: exact bytes, whole sets, nobody else's orders, and no harm by slow or hostile ones."""

import base64
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pyarrow as pa
import pytest
import sqlalchemy as sa
from pyarrow import parquet as pq
from tests.exports.conftest import example, order
from tests.rest.conftest import START, World

from orders_backup import db as database
from orders_backup.codec import Codec
from orders_backup.exports import formats, reading
from orders_backup.exports.kept import Place, Tally
from orders_backup.orders.queries import Filter

HOUR = timedelta(hours=1)
HOSTILE = [
    b'{"id":"bad","note":"\xff"}',
    b'{"id":"bad","note":"\\ud800"}',
    b'{"id":"bad","note":"\\q"}',
    b'{"id":"bad","deep":' + b"[" * 5000 + b"]" * 5000 + b"}",
]


def exported(world: World, name: str = "jsonl", **params: str) -> bytes:
    answer = world.ask.get("/orders/export", params={"format": name, **params})
    assert answer.status_code == 200, answer.text
    return answer.content


def ids(world: World, **params: str) -> list[str]:
    return [json.loads(line)["id"] for line in exported(world, **params).splitlines()]


def table(content: bytes) -> list[dict[str, str]]:
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


# JSON Lines


def test_a_line_carries_the_bytes_as_allegro_served_them(world: World) -> None:
    account = world.account()
    body = (
        b'{"id":"o-1",  "weight" : 12.300, "twice":1,"twice":2, "buyer":{"login":"Za\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87"}}'
    )
    world.read(account, body)
    head = f'{{"id":"o-1","account_id":"{account}","version":1,"read_at":"2026-01-01T12:00:00Z","order_data":'
    assert exported(world) == head.encode() + body + b"}\n"


def test_the_newest_version_is_the_one_that_is_exported(world: World) -> None:
    account = world.account()
    world.read(account, order("o", note={"text": "first"}))
    world.read(account, order("o", note={"text": "second"}), at=START + HOUR)
    line = json.loads(exported(world))
    assert (line["version"], line["read_at"]) == (2, "2026-01-01T13:00:00Z")
    assert line["order_data"]["note"]["text"] == "second"


def test_line_breaks_between_tokens_break_no_line(world: World) -> None:
    body = b'{\r\n "id": "o",\n "text": "a\\nb"\n}\n'
    world.read(world.account(), body, order("p"))
    lines = exported(world).split(b"\n")
    assert len(lines) == 3
    assert json.loads(lines[0])["order_data"] == json.loads(body)
    assert body.replace(b"\r", b" ").replace(b"\n", b" ") in lines[0]


@pytest.mark.parametrize("body", HOSTILE)
def test_bytes_that_are_no_json_come_as_base64_under_another_name(world: World, body: bytes) -> None:
    world.read(world.account(), body, order("fine"))
    bad, fine = (json.loads(line) for line in exported(world).splitlines())
    assert (bad["id"], bad["order_data"]) == ("bad", None)
    assert base64.b64decode(bad["order_data_base64"]) == body
    assert "order_data_base64" not in fine


# Which orders


def test_filters_are_those_of_the_list(world: World) -> None:
    one, other = world.account(), world.account()
    world.read(one, order("a", status="CANCELLED"), order("b", buyer={"login": "Jan"}), order("c"))
    world.read(other, order("d", marketplace={"id": "allegro-cz"}, bought="2026-07-01T00:00:00Z"))
    world.read(other, order("e", fulfillment={"status": "SENT"}, updatedAt="2026-08-01T00:00:00Z"))
    for params, expected in (
        ({"status": "CANCELLED"}, {"a"}),
        ({"buyer_login": "Jan"}, {"b"}),
        ({"marketplace": "allegro-cz"}, {"d"}),
        ({"fulfillment_status": "SENT"}, {"e"}),
        ({"account_id": str(one)}, {"a", "b", "c"}),
        ({"user_id": str(world.user)}, {"a", "b", "c", "d", "e"}),
        ({"user_id": str(uuid4())}, set()),
        ({"ordered_from": "2026-07-01T00:00:00Z"}, {"d"}),
        ({"ordered_to": "2026-07-01T00:00:00Z", "account_id": str(other)}, {"e"}),
        ({"updated_from": "2026-07-31T00:00:00Z", "updated_to": "2026-08-02T00:00:00Z"}, {"e"}),
    ):
        assert set(ids(world, **params)) == expected, params
        listed = world.ask.get("/orders", params=params).json()["items"]
        assert {item["id"] for item in listed} == expected


def test_a_month_begins_and_ends_by_the_clock_of_warsaw(world: World) -> None:
    account = world.account()
    edges = {
        "may": "2026-05-31T21:59:59.999Z",
        "first": "2026-05-31T22:00:00.000Z",
        "last": "2026-06-30T21:59:59.999Z",
        "july": "2026-06-30T22:00:00.000Z",
        "december": "2026-12-31T22:59:59.999Z",
        "january": "2026-12-31T23:00:00.000Z",
    }
    world.read(account, *(order(name, bought=moment) for name, moment in edges.items()))
    assert set(ids(world, month="2026-06")) == {"first", "last"}
    assert ids(world, month="2026-12") == ["december"]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"format": "xml"}, "format"),
        ({}, "format"),
        ({"format": "jsonl", "month": "2026-13"}, "2026-06"),
        ({"format": "jsonl", "month": "2026-06", "ordered_from": "2026-06-01T00:00:00Z"}, "either"),
        ({"format": "accountant"}, "month"),
        ({"format": "jsonl", "sort": "ordered_at"}, "sort"),
    ],
)
def test_what_cannot_be_understood_is_refused_before_the_first_byte(
    world: World, params: dict[str, str], says: str
) -> None:
    answer = world.ask.get("/orders/export", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert says in answer.json()["detail"]


def test_a_key_of_one_user_exports_that_users_orders_alone(world: World) -> None:
    stranger, mine, theirs = uuid4(), world.account(), uuid4()
    theirs = world.account(stranger)
    world.read(mine, order("mine"))
    world.read(theirs, order("theirs"))
    bound = world.client(world.key("exports", user=stranger))
    for params in ({}, {"user_id": str(world.user)}):
        lines = bound.get("/orders/export", params={"format": "jsonl", **params}).text.splitlines()
        assert [json.loads(line)["id"] for line in lines] == ([] if params else ["theirs"])
    assert bound.get("/orders/export", params={"format": "csv", "account_id": str(mine)}).status_code == 404


# Whole sets


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE_ORDERS", 3)


@pytest.mark.usefixtures("small_pages")
def test_many_pages_of_many_accounts_hold_every_order_once(world: World) -> None:
    accounts = [world.account() for _ in range(4)]
    expected = set()
    for count, account in zip((0, 3, 7, 1), accounts, strict=True):
        if count:
            world.read(account, *(order(f"o-{number}") for number in range(count)))
        expected |= {(str(account), f"o-{number}") for number in range(count)}
    lines = [json.loads(line) for line in exported(world).splitlines()]
    found = [(line["account_id"], line["id"]) for line in lines]
    assert set(found) == expected
    assert found == sorted(found)


@pytest.mark.usefixtures("small_pages")
def test_orders_that_change_meanwhile_come_once_and_hide_no_other(world: World) -> None:
    account = world.account()
    world.read(account, *(order(f"o-{number}") for number in range(9)))
    found = []
    for number, page in enumerate(reading.walk(world.runtime.db, world.runtime.codec, Filter())):
        found += [kept.order_id for kept in page.orders]
        moved = [order(f"o-{one}", bought=f"2026-0{number + 7}-01T00:00:00Z") for one in range(9)]
        world.read(account, *moved, at=START + (number + 1) * HOUR)
    assert found == [f"o-{number}" for number in range(9)]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 10])
def test_a_walk_goes_on_where_another_ended(world: World, limit: int) -> None:
    for _ in range(2):
        world.read(world.account(), *(order(f"o-{number}") for number in range(5)))
    after: Place | None = None
    found: list[tuple[object, str]] = []
    for _ in range(20):
        tally = Tally()
        for page in reading.walk(world.runtime.db, world.runtime.codec, Filter(), after=after, limit=limit):
            tally.passed(page)
            found += [(page.account_id, kept.order_id) for kept in page.orders]
        assert tally.orders <= limit
        if tally.orders < limit:
            break
        after = tally.place
    assert len(found) == len(set(found)) == 10


def test_orders_of_every_dictionary_are_opened(world: World) -> None:
    account, runtime = world.account(), world.runtime
    world.read(account, order("plain"))
    runtime.codec.prepare(runtime.db, [example("02", id=f"o-{number}") for number in range(80)])
    world.read(account, example("02", id="trained"))
    with database.transaction(runtime.db) as tx:
        used = tx.execute(sa.text("SELECT dictionary_id FROM order_versions ORDER BY order_id")).scalars().all()
    assert used == [None, 1]
    chunks = formats.chunks(runtime.db, Codec(), formats.asked("jsonl", {}, seen_by=None), Tally())
    lines = b"".join(chunks).splitlines()
    assert lines[0].endswith(b'"order_data":' + order("plain") + b"}")
    assert lines[1].endswith(b'"order_data":' + example("02", id="trained") + b"}")


def test_every_version_of_other_orders_stays_unread(world: World) -> None:
    """The plan of a page begins at its place in both tables: else a million orders would cost a million squared."""
    account = world.account()
    world.read(account, *(order(f"o-{number:04}") for number in range(3000)))
    world.execute("ANALYZE orders, order_versions")
    statement, values = reading._compiled(world.runtime.db, Filter(), account)
    with database.transaction(world.runtime.db) as tx, database.cursor(tx) as cursor:
        cursor.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_nestloop = off; SET LOCAL enable_sort = off")
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", {**values, "after": "o-2000", "most": 50})
        [[[plan]]] = [cursor.fetchall()[0]]
    scanned = [node["Actual Rows"] for node in nodes(plan["Plan"]) if "Index" in node["Node Type"]]
    assert len(scanned) == 2
    assert max(scanned) <= 60


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan] + [node for one in plan.get("Plans", []) for node in nodes(one)]


def test_a_slow_reader_keeps_no_transaction_open(world: World) -> None:
    world.read(world.account(), *(order(f"o-{number}") for number in range(20)))
    asked = formats.asked("csv", {}, seen_by=None)
    chunks = formats.chunks(world.runtime.db, world.runtime.codec, asked, Tally())
    next(chunks)
    with database.transaction(world.runtime.db) as tx:
        query = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND state LIKE 'idle in transaction%'"""
        assert tx.execute(sa.text(query)).scalar_one() == 0
    assert b"".join(chunks).count(b"\r\n") == 20


def test_an_export_that_fails_on_the_way_breaks_the_connection(world: World) -> None:
    world.read(world.account(), order("o"))
    world.execute("ALTER TABLE order_versions RENAME TO away")
    with pytest.raises(httpx.RemoteProtocolError):
        world.ask.get("/orders/export", params={"format": "jsonl"})


# CSV


def test_csv_has_a_row_for_each_line_item(world: World) -> None:
    account = world.account()
    world.read(account, example("04"), example("02"), b'{"id":"bare"}')
    content = exported(world, "csv")
    rows = table(content)
    assert content.count(b"\n") == content.count(b"\r\n") == 6
    several = [row for row in rows if row["lines"] == "3"]
    assert [row["line"] for row in several] == ["1", "2", "3"]
    assert [(row["quantity"], row["original_price"], row["price"]) for row in several] == [
        ("1", "159.00", "129.00"),
        ("3", "39.99", "26.66"),
        ("1", "24.90", "19.90"),
    ]
    assert [row["discounts"] for row in several] == ["BUNDLE", "UNIT_PERCENTAGE_DISCOUNT", "COUPON"]
    assert {row["total_to_pay"] for row in several} == {"228.88"}
    [invoice] = [row for row in rows if row["invoice_nip"]]
    assert (invoice["invoice_nip"], invoice["invoice_company"]) == ("111-11-11-111", "Przykładowa Firma sp. z o.o.")
    assert invoice["invoice_tax_ids"] == "PL_NIP:111-11-11-111"
    [bare] = [row for row in rows if row["order_id"] == "bare"]
    assert (bare["lines"], bare["line"], bare["price"], bare["unreadable"]) == ("0", "", "", "false")


def test_no_amount_goes_through_a_float(world: World) -> None:
    body = (
        b'{"id":"o","summary":{"totalToPay":{"amount":12345678901234567.10}},'
        b'"lineItems":[{"quantity":1,"price":{"amount":"0.10"}},{"quantity":2.50,"price":{"amount":1e2}}]}'
    )
    world.read(world.account(), body)
    first, second = table(exported(world, "csv"))
    assert first["total_to_pay"] == "12345678901234567.10"
    assert (first["price"], second["price"], second["quantity"]) == ("0.10", "1e2", "2.50")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+48 600 000 001", "'+48 600 000 001"),
        ("-cmd|x", "'-cmd|x"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\tTAB", "'\tTAB"),
        ("\r=1", "'\r'=1"),
        (" =1+1", " '=1+1"),
        ("＝1", "'＝1"),
        ("a;=1+1", "a;'=1+1"),
        ("a\n=1", "a\n'=1"),
        ("-12.50", "-12.50"),
        ("-12", "-12"),
        ("-12.50=", "'-12.50="),
        ("a=b-c", "a=b-c"),
        ('say "hi", you', 'say "hi", you'),
        ("nul\x00", "nul\ufffd"),
        ("Zażółć 🎁", "Zażółć 🎁"),
    ],
)
def test_no_cell_runs_as_a_formula_and_numbers_stay_numbers(world: World, written: str, shown: str) -> None:
    world.read(world.account(), order("o", messageToSeller=written))
    [row] = table(exported(world, "csv"))
    assert row["message_to_seller"] == shown


@pytest.mark.parametrize("body", HOSTILE)
def test_an_unreadable_order_is_a_row_that_says_so(world: World, body: bytes) -> None:
    world.read(world.account(), body, order("fine"))
    bad, fine = table(exported(world, "csv"))
    assert (bad["order_id"], bad["unreadable"], bad["status"]) == ("bad", "true", "")
    assert (fine["unreadable"], fine["price"]) == ("false", "12.30")


def test_fields_of_unexpected_types_cost_no_order(world: World) -> None:
    odd: dict[str, Any] = {
        "buyer": [],
        "payment": "x",
        "status": {"a": 1},
        "invoice": {"address": {"company": {"ids": {"a": 1}}}},
    }
    world.read(world.account(), order("a", **odd), order("b", lineItems={"x": 1}), order("c", lineItems=[1, None]))
    rows = table(exported(world, "csv"))
    assert [row["order_id"] for row in rows] == ["a", "b", "c", "c"]
    assert rows[0]["status"] == '{"a":1}'


# Parquet


def test_parquet_has_decimals_and_utc_times(world: World) -> None:
    world.read(world.account(), example("04"), example("15"), b'{"id":"bare"}')
    found = pq.read_table(io.BytesIO(exported(world, "parquet")))
    assert found.schema.field("price").type == pa.decimal128(18, 4)
    assert found.schema.field("bought_at").type == pa.timestamp("us", tz="UTC")
    rows = found.to_pylist()
    [czech] = [row for row in rows if row["currency"] == "CZK"]
    assert (czech["total_to_pay"], czech["quantity"], czech["delivery_smart"]) == (Decimal("357.0000"), 2, False)
    assert czech["bought_at"] == datetime(2026, 6, 5, 13, 20, 18, 222000, tzinfo=UTC)
    assert len(rows) == 5


def test_parquet_and_csv_tell_the_same(world: World) -> None:
    world.read(world.account(), example("04"), example("02"), example("13"), HOSTILE[0])
    flat = table(exported(world, "csv"))
    typed = pq.read_table(io.BytesIO(exported(world, "parquet"))).to_pylist()
    assert list(flat[0]) == list(typed[0])
    for row, other in zip(flat, typed, strict=True):
        for name in ("order_id", "line_item_id", "status", "invoice_nip", "delivery_city"):
            assert row[name] == (other[name] or "")
        for name in ("price", "paid_amount", "delivery_cost"):
            assert (Decimal(row[name]) if row[name] else None) == other[name]


def test_what_parquet_cannot_hold_exactly_is_empty_and_counted(world: World) -> None:
    odd: dict[str, Any] = {
        "summary": {"totalToPay": {"amount": "1.23456", "currency": "PLN"}},
        "updatedAt": "2026-06-01T08:00:00",
        "payment": {"finishedAt": "yesterday"},
    }
    world.read(world.account(), order("o", **odd))
    tally = Tally()
    asked = formats.asked("parquet", {}, seen_by=None)
    content = b"".join(formats.chunks(world.runtime.db, world.runtime.codec, asked, tally))
    [row] = pq.read_table(io.BytesIO(content)).to_pylist()
    assert (row["total_to_pay"], row["updated_at"], row["paid_at"], tally.left_out) == (None, None, None, 3)


def test_row_groups_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orders_backup.exports.parquet.GROUP_ROWS", 4)
    monkeypatch.setattr("orders_backup.exports.parquet.BATCH_ROWS", 2)
    world.read(world.account(), *(order(f"o-{number}") for number in range(11)))
    found = pq.ParquetFile(io.BytesIO(exported(world, "parquet")))
    sizes = [found.metadata.row_group(number).num_rows for number in range(found.num_row_groups)]
    assert sizes == [4, 4, 3]
