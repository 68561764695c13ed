"""The accountant's pack: money to the last digit, each state and currency apart, months by the clock of Warsaw."""

import csv
import io
import zipfile
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.exports.conftest import EXAMPLES, example, order
from tests.rest.conftest import World

from orders_backup import db as database
from orders_backup.exports import accounting, entries
from orders_backup.exports.kept import Kept, Page
from orders_backup.orders import extras

Tables = dict[str, list[dict[str, str]]]
OF_ANOTHER_MONTH = [name for name, body in EXAMPLES.items() if b'"boughtAt": "2026-06' not in body]
BOUGHT = datetime(2026, 6, 1, tzinfo=UTC)


def tables(content: bytes) -> Tables:
    """Every CSV of the pack; the ZIP's own checksums are compared."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            if name.endswith(".csv"):
                text = archive.read(name).decode("utf-8-sig")
                found[name.removesuffix(".csv")] = list(csv.DictReader(io.StringIO(text, newline="")))
            else:
                assert name == "README.txt"
                assert b"2026-06" in archive.read(name)
    return found


def pack(world: World, month: str = "2026-06", **params: str) -> Tables:
    params = {"format": "accountant", "month": month, **params}
    return tables(world.ask.get("/orders/export", params=params).raise_for_status().content)


def booked(*bodies: bytes, superseded_by: str | None = None) -> Tables:
    """The rows of some orders, without a database."""
    ledger, found = accounting.Ledger("2026-06"), defaultdict(list)
    page = Page(UUID(int=1), "seller", [], lambda _, body: body)
    for number, body in enumerate(bodies):
        kept = Kept(f"o-{number}", 1, False, BOUGHT, superseded_by, None, BOUGHT, None, body)
        for name, row in ledger.order(page, kept, body):
            assert len(row) == len(entries.TABLES[name]), name
            found[name].append(dict(zip(entries.TABLES[name], map(str, row), strict=True)))
    header = ("state", "currency", *accounting.MEASURES)
    found["totals"] = [dict(zip(header, map(str, row), strict=True)) for row in ledger.totals.rows()]
    return dict(found)


def total(found: Tables, state: str, currency: str) -> dict[str, str]:
    [row] = [row for row in found["totals"] if (row["state"], row["currency"]) == (state, currency)]
    return row


# One order


def test_discounts_of_lines_and_coupons_are_told_with_what_they_took_off() -> None:
    found = booked(example("04"))
    assert [(row["kind"], row["type"], row["amount"]) for row in found["discounts"]] == [
        ("price", "BUNDLE", "30.00"),
        ("price", "UNIT_PERCENTAGE_DISCOUNT", "39.99"),
        ("price", "COUPON", "5.00"),
    ]
    assert [row["line_total"] for row in found["lines"]] == ["129.00", "79.98", "19.90"]
    sale = total(found, "sale", "PLN")
    assert (sale["lines_total"], sale["discount_total"], sale["total_to_pay"]) == ("228.88", "74.99", "228.88")
    assert Decimal(sale["difference"]) == 0


def test_what_allegro_pays_of_a_price_is_told() -> None:
    found = booked(example("25"))
    told = [(row["kind"], row["type"], row["amount"]) for row in found["discounts"]]
    assert ("reconciliation", "BILLING", "50.00") in told
    assert ("reconciliation", "WALLET", "10.00") in told
    assert ("price", "None", "10.00") in told
    assert total(found, "sale", "PLN")["reconciliation"] == "10.00"


def test_smart_delivery_costs_the_buyer_nothing_and_is_marked() -> None:
    found = booked(example("01"), example("02"))
    assert [(row["smart"], row["cost"]) for row in found["delivery"]] == [("True", "0.00"), ("False", "15.99")]
    assert total(found, "sale", "PLN")["delivery_cost"] == "15.99"


def test_a_surcharge_is_a_payment_of_its_own_and_raises_nothing_else() -> None:
    surcharge = {
        "id": "s-1",
        "type": "ONLINE",
        "provider": "PAYU",
        "finishedAt": "2026-06-03T22:30:00Z",
        "paidAmount": {"amount": "7.01", "currency": "PLN"},
    }
    found = booked(example("02", surcharges=[surcharge, surcharge]))
    [row] = found["orders"]
    assert (row["paid_amount"], row["surcharges_paid"], row["total_to_pay"]) == ("764.99", "14.02", "764.99")
    assert [row["kind"] for row in found["payments"]] == ["payment", "surcharge", "surcharge"]
    assert found["payments"][1]["finished_at"] == "2026-06-04 00:30:00"
    sale = total(found, "sale", "PLN")
    assert (sale["paid_amount"], sale["surcharges_paid"]) == ("764.99", "14.02")


def test_deposits_and_services_count_apart() -> None:
    line = {
        "id": "l",
        "quantity": 2,
        "originalPrice": {"amount": "10.00", "currency": "PLN"},
        "price": {"amount": "10.00", "currency": "PLN"},
        "deposit": {"price": {"amount": "0.50", "currency": "PLN"}},
        "selectedAdditionalServices": [{"price": {"amount": "3.33", "currency": "PLN"}, "quantity": 3}],
    }
    paid = {"totalToPay": {"amount": "29.99", "currency": "PLN"}}
    found = booked(order("o", lineItems=[line], summary=paid))
    sale = total(found, "sale", "PLN")
    assert (sale["lines_total"], sale["services_total"], sale["deposits_total"]) == ("20.00", "9.99", "1.00")
    assert Decimal(sale["difference"]) == 0
    assert "discounts" not in found


def test_the_buyers_tax_numbers_and_country_stand_in_the_order() -> None:
    polish, czech, old, person = booked(
        example("02"),
        example("19"),
        order("o", invoice={"required": True, "address": {"company": {"name": "A", "taxId": "5250000000"}}}),
        order("p", invoice={"address": {"naturalPerson": {"firstName": "Jan", "lastName": "Testowy"}}}),
    )["orders"]
    assert (polish["invoice_nip"], polish["invoice_country"], polish["buyer_country"]) == ("111-11-11-111", "PL", "PL")
    assert (czech["invoice_nip"], czech["invoice_country"]) == ("None", "CZ")
    assert czech["invoice_tax_ids"] == "CZ_ICO:00000019 CZ_DIC:CZ00000019 VAT_EU:CZ00000019"
    assert old["invoice_nip"] == "5250000000"
    assert person["invoice_name"] == "Jan Testowy"


# Many orders


def test_each_state_and_currency_has_totals_of_its_own() -> None:
    huf = {"amount": "12990.00", "currency": "HUF"}
    line = {"id": "l", "quantity": 1, "originalPrice": huf, "price": huf}
    hungarian = order("h", lineItems=[line], summary={"totalToPay": huf})
    found = booked(*(example(number) for number in ("01", "10", "13", "14", "15", "17", "19")), hungarian)
    assert {(row["state"], row["currency"]): row["total_to_pay"] for row in found["totals"]} == {
        ("sale", "PLN"): "24.99",
        ("sale", "CZK"): "9807.00",
        ("sale", "EUR"): "46.87",
        ("sale", "HUF"): "12990.00",
        ("unpaid", "PLN"): total(found, "unpaid", "PLN")["total_to_pay"],
        ("cancelled", "PLN"): total(found, "cancelled", "PLN")["total_to_pay"],
    }
    assert total(found, "cancelled", "PLN")["orders"] == "2"
    assert total(found, "cancelled", "PLN")["paid_amount"] == "91.99"
    assert total(found, "sale", "EUR")["lines"] == "2"


def test_a_merged_order_is_no_second_sale() -> None:
    found = booked(example("01"), superseded_by="another")
    assert [row["state"] for row in found["totals"]] == ["superseded"]


def test_sums_keep_every_digit() -> None:
    many = [
        order(str(number), lineItems=[], summary={"totalToPay": {"amount": amount, "currency": "PLN"}})
        for number, amount in enumerate(["0.10", "0.20", "999999999999999.99", "-0.01", "0.000001"])
    ]
    assert total(booked(*many), "sale", "PLN")["total_to_pay"] == "1000000000000000.280001"


@pytest.mark.parametrize("amount", ["abc", "1e9", "NaN", "1,50", "9" * 16, 1.5, True, {"a": 1}, ""])
def test_what_is_no_amount_counts_nowhere_and_is_counted(amount: Any) -> None:
    found = booked(order("o", lineItems=[], summary={"totalToPay": {"amount": amount, "currency": "PLN"}}))
    row = total(found, "sale", "PLN")
    if amount == 1.5:  # a number in the document is taken by its digits
        assert (row["total_to_pay"], row["unreadable_amounts"]) == ("1.5", "0")
    else:
        assert (row["total_to_pay"], row["unreadable_amounts"]) == ("0", "1")


def test_bytes_that_are_no_json_are_a_row_and_no_money() -> None:
    found = booked(b"\xff", b"[]")
    assert [row["state"] for row in found["orders"]] == ["unreadable", "unreadable"]
    assert total(found, "unreadable", "")["orders"] == "2"


# The whole file


def test_the_control_totals_are_the_sums_of_the_tables(world: World) -> None:
    one, other = world.account(), world.account()
    world.read(one, *(example(name[:2]) for name in EXAMPLES))
    world.read(other, *(order(f"o-{number}") for number in range(30)))
    found = pack(world)
    assert set(found) == {*entries.TABLES, "totals"}
    orders_of = {row["order_id"]: row for row in found["orders"]}
    assert len(found["orders"]) == len(EXAMPLES) - len(OF_ANOTHER_MONTH) + 30
    for table, column, measure in (
        ("orders", "total_to_pay", "total_to_pay"),
        ("orders", "difference", "difference"),
        ("orders", "delivery_cost", "delivery_cost"),
        ("lines", "line_total", "lines_total"),
        ("lines", "discount_total", "discount_total"),
    ):
        sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for row in found[table]:
            sums[row["state"], row["currency"]] += Decimal(row[column] or 0)
        for (state, currency), expected in sums.items():
            assert Decimal(total(found, state, currency)[measure]) == expected, (measure, state, currency)
    for kind, measure in (("payment", "paid_amount"), ("surcharge", "surcharges_paid")):
        paid = [row for row in found["payments"] if row["kind"] == kind]
        for row in found["totals"]:
            own = [one for one in paid if (one["state"], one["currency"]) == (row["state"], row["currency"])]
            assert Decimal(row[measure]) == sum(Decimal(one["amount"] or 0) for one in own)
    assert {row["order_id"] for row in found["lines"]} <= set(orders_of)


def test_a_pack_holds_its_month_and_no_other(world: World) -> None:
    account = world.account()
    edges = {"may": "2026-05-31T21:59:59Z", "june": "2026-05-31T22:00:00Z", "july": "2026-06-30T22:00:00Z"}
    world.read(account, *(order(name, bought=moment) for name, moment in edges.items()))
    [row] = pack(world)["orders"]
    assert (row["order_id"], row["ordered_at"], row["ordered_at_utc"]) == (
        "june",
        "2026-06-01 00:00:00",
        "2026-05-31T22:00:00Z",
    )


def test_refunds_made_in_the_month_are_there_whatever_month_their_order_is_of(world: World) -> None:
    account, stranger = world.account(), world.account(uuid4())
    made = {
        "before": ("2026-05-31T21:59:00Z", "SUCCESS", "1.00"),
        "paid": ("2026-06-15T12:00:00+02:00", "SUCCESS", "10.10"),
        "part": ("2026-06-16T12:00:00Z", "PARTIAL", "20.20"),
        "open": ("2026-06-17T12:00:00Z", "IN_PROGRESS", "3.00"),
        "void": ("2026-06-18T12:00:00Z", "CANCELED", "4.00"),
    }
    refunds = [
        f'{{"id":"{name}","order":{{"id":"old"}},"createdAt":"{at}","status":"{status}","reason":"REFUND",'
        f'"totalValue":{{"amount":"{amount}","currency":"PLN"}}}}'.encode()
        for name, (at, status, amount) in made.items()
    ]
    documents = [
        extras.document("refunds", name, "old", BOUGHT, body, found=True)
        for name, body in zip(made, refunds, strict=True)
    ]
    with database.transaction(world.runtime.db) as tx:
        extras.record(tx, world.runtime.codec, account, documents)
        extras.record(tx, world.runtime.codec, stranger, documents)
    found = pack(world, account_id=str(account))
    assert {row["refund_id"] for row in found["refunds"]} == {"paid", "part", "open", "void"}
    assert total(found, "refund", "PLN")["refunds_total"] == "30.30"
    assert total(found, "refund_open", "PLN")["refunds"] == "1"
    assert total(found, "refund_void", "PLN")["refunds_total"] == "4.00"


def test_the_same_month_gives_the_same_bytes(world: World) -> None:
    world.read(world.account(), order("a"), order("b"))
    params = {"format": "accountant", "month": "2026-06"}
    first, second = (world.ask.get("/orders/export", params=params).content for _ in range(2))
    assert first == second
