"""Which words an order is found by, and what a question for them means."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orders_backup import db as database
from orders_backup.allegro import wire
from orders_backup.errors import InvalidRequestError
from orders_backup.orders import words
from orders_backup.runtime import Runtime

ACCOUNT, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
EXAMPLES = Path(__file__).parents[1] / "examples" / "orders"


def facts(**fields: Any) -> wire.OrderFacts:
    found = wire.order_facts(json.dumps({"id": "29738e61-7f6a-11e8-ac45-09db60ede9d6", **fields}).encode())
    assert found is not None
    return found


def finds(runtime: Runtime, question: str, order: wire.OrderFacts, **accounts: Any) -> bool:
    with database.transaction(runtime.db) as tx:
        asked = {"words": words.of(ACCOUNT, order), "question": words.question(question, **accounts)}
        query = sa.text("SELECT CAST(:words AS tsvector) @@ CAST(:question AS tsquery)")
        return bool(tx.execute(query, asked).scalar_one())


BUYER = {
    "login": "Client:44300000",
    "email": "jan.nowak+8ff@allegromail.pl",
    "firstName": "Łukasz",
    "lastName": "Nowak-Żółciński",
    "companyName": "Ząb & Syn sp. z o.o.",
}
COMPANY = {"name": "Hurtownia Testowa", "taxId": "111-22-33-444", "ids": [{"type": "VAT_EU", "value": "CZ00000019"}]}
ORDER: dict[str, Any] = {
    "buyer": BUYER,
    "delivery": {"address": {"firstName": "Ewa", "lastName": "Odbiorczyni", "companyName": None}},
    "invoice": {"address": {"company": COMPANY, "naturalPerson": {"firstName": "Iza", "lastName": "Fakturowa"}}},
    "lineItems": [{"id": "1", "offer": {"id": "15400000015", "name": "Koc polarowy 150x200 (różowy)"}}],
}


@pytest.mark.parametrize(
    "question",
    [
        "29738e61-7f6a-11e8-ac45-09db60ede9d6",
        "29738E61-7f6a",
        "Client:44300000",
        "44300000",
        "jan.nowak+8ff@allegromail.pl",
        "jan.nowak",
        "łukasz NOWAK",
        "lukasz zolcinski",
        "Nowak-Żółciński",
        "nowakzol",
        "Ząb & Syn",
        "ewa odbior",
        "hurtownia",
        "1112233444",
        "111-22-33-444",
        "cz00000019",
        "fakturowa iza",
        "koc różowy",
        "150x200",
    ],
)
def test_an_order_is_found_by(runtime: Runtime, question: str) -> None:
    assert finds(runtime, question, facts(**ORDER))


@pytest.mark.parametrize(
    "question", ["lukasz kowalski", "allegromail", "7f6a", "ko", "owak", "2973-8e61-7f6a-12e8", "' | 'x", "!nowak2"]
)
def test_an_order_is_not_found_by(runtime: Runtime, question: str) -> None:
    assert not finds(runtime, question, facts(**ORDER))


def test_a_question_may_be_narrowed_to_accounts(runtime: Runtime) -> None:
    assert finds(runtime, "nowak", facts(**ORDER), account_ids=[OTHER, ACCOUNT])
    assert not finds(runtime, "nowak", facts(**ORDER), account_ids=[OTHER])
    assert not finds(runtime, f"@{ACCOUNT.hex}", facts(**ORDER))  # nobody asks for accounts by words


@pytest.mark.parametrize("question", ["", "  ", "!?-&|", "a " * 21])
def test_a_question_without_words_or_with_too_many_is_refused(question: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^q: "):
        words.question(question)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("[0-9]*.json")), ids=lambda path: path.stem)
def test_every_example_is_found_by_its_buyer(runtime: Runtime, example: Path) -> None:
    order = wire.order_facts(example.read_bytes())
    assert order is not None
    for text in (order.order_id, *order.emails, *order.names):
        assert finds(runtime, text[:100], order), text


HOSTILE = [
    {"buyer": "nobody"},
    {"buyer": {"email": {"a": 1}, "lastName": ["x"], "login": 12}},
    {"buyer": {"lastName": "nul\u0000nul ' \\ \" :* & | ! <-> ()"}},
    {"buyer": {"lastName": "\ud800half"}},
    {"lineItems": [{"offer": {"name": "słowo" * 5000}}]},
    {"lineItems": [{"offer": {"name": f"{one} {uuid.uuid4()}"}} for one in range(5000)]},
    {"invoice": {"address": {"company": {"ids": {"value": "x"}, "name": 1e400}}}},
    {"lineItems": [{"offer": "none"}, None]},
]


@pytest.mark.parametrize("fields", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_an_order_says_postgresql_takes_its_words(runtime: Runtime, fields: dict[str, Any]) -> None:
    assert finds(runtime, "29738e61", facts(**fields))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"shipments":[{"waybill":"6200 1"},{"waybill":null},{"waybill":77},{}]}', ["6200 1", "77"]),
        (b'{"shipments":null}', []),
        (b'{"shipments":"none"}', []),
        (b"no JSON", []),
    ],
)
def test_tracking_numbers_are_those_of_the_shipments(body: bytes, found: list[str]) -> None:
    assert wire.tracking_numbers(body) == found
