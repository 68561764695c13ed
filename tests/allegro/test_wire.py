"""What is picked out of Allegro's JSON: never an error because of a field, never a byte changed."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from orders_backup.allegro import wire
from orders_backup.errors import AllegroAnswerError

ORDER: dict[str, Any] = {
    "id": "29738e61-7f6a-11e8-ac45-09db60ede9d6",
    "status": "READY_FOR_PROCESSING",
    "fulfillment": {"status": "NEW", "shipmentSummary": {"lineItemsSent": "NONE"}},
    "buyer": {"id": "1", "login": "kupujacy", "email": "x@allegromail.pl"},
    "marketplace": {"id": "allegro-pl"},
    "summary": {"totalToPay": {"amount": "12.30", "currency": "PLN"}},
    "lineItems": [
        {"id": "line-1", "boughtAt": "2026-01-02T10:00:00.000Z"},
        {"id": "line-2", "boughtAt": "2026-01-03T12:00:00.500+02:00"},
    ],
    "updatedAt": "2026-01-04T00:00:00Z",
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ORDER, "status", "id"]), inner),
    max_leaves=8,
)


def body(**changed: object) -> bytes:
    return json.dumps({**ORDER, **changed}).encode()


def test_an_orders_facts_are_read_as_allegro_wrote_them() -> None:
    assert wire.order_facts(body()) == wire.OrderFacts(
        order_id="29738e61-7f6a-11e8-ac45-09db60ede9d6",
        status="READY_FOR_PROCESSING",
        fulfillment_status="NEW",
        buyer_login="kupujacy",
        marketplace="allegro-pl",
        ordered_at=datetime(2026, 1, 3, 10, 0, 0, 500_000, tzinfo=UTC),
        updated_at=datetime(2026, 1, 4, tzinfo=UTC),
        total="12.30",
        currency="PLN",
        line_item_ids=["line-1", "line-2"],
        names=["kupujacy"],
        emails=["x@allegromail.pl"],
    )


@pytest.mark.parametrize("name", [name for name in ORDER if name != "id"])
@pytest.mark.parametrize("value", [None, 5, "text", True, [], {}, [[]], [None], {"status": {"x": 1}, "login": []}])
def test_a_field_of_another_shape_never_costs_the_order_its_id(name: str, value: object) -> None:
    facts = wire.order_facts(body(**{name: value}))
    assert facts
    assert facts.order_id == ORDER["id"]


def test_an_order_of_its_id_alone_is_an_order() -> None:
    facts = wire.order_facts(b'{"id":"x"}')
    assert facts == wire.OrderFacts("x", None, None, None, None, None, None, None, None, [], [], [])


@pytest.mark.parametrize(
    ("order_id", "known_as"),
    [
        ("a", "a"),
        ("~!@", "~!@"),
        ("x" * 100, "x" * 100),
        (17, "17"),
        ("x" * 101, None),
        ("", None),
        ("a b", None),
        ("a\x00b", None),
        ("a\n", None),
        ("żółw", None),
        (None, None),
        (True, None),
        ([], None),
        ({"id": "x"}, None),
    ],
)
def test_an_id_is_printable_ascii_without_spaces_or_it_is_none(order_id: object, known_as: str | None) -> None:
    facts = wire.order_facts(body(id=order_id))
    assert (facts.order_id if facts else None) == known_as


@given(json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
@example(b'{"id":' + b"9" * 200_000 + b"}")
@example(b"[" * 100_000)
@example(b'{"id":"x","a":' + b'{"a":' * 50_000)
@example(b'{"id":1e400}')
@profile(deadline=None)
def test_no_bytes_at_all_make_reading_an_order_fail(raw: bytes) -> None:
    facts = wire.order_facts(raw)
    assert facts is None or facts.order_id.isascii()


@given(json_values)
def test_every_fact_fits_a_text_column(value: object) -> None:
    found = wire.text(value)
    assert found is None or (len(found) <= 500 and "\x00" not in found and found.encode().decode() == found)


def test_texts_with_nul_and_lone_surrogates_are_shown_tamed() -> None:
    assert wire.text("a\x00b") == "a\ufffdb"
    assert wire.text("a\ud800b") == "a?b"
    assert wire.text("x" * 1_000_000) == "x" * 500
    assert wire.text(12.5) == "12.5"
    assert wire.text(False) is None


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T01:00:00.123456+01:00", datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-01T00:00:00", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("2026-13-01T00:00:00Z", None),
        ("yesterday", None),
        ("", None),
        (1767225600, None),
        (None, None),
    ],
)
def test_a_moment_has_a_zone_or_is_none(written: object, moment: datetime | None) -> None:
    assert wire.instant(written) == moment


@given(
    st.lists(st.text(max_size=5).map(lambda text: json.dumps({"id": text}, ensure_ascii=False).encode()), max_size=5),
    st.sampled_from([b"", b" ", b"\n\t ", b"\r\n"]),
)
def test_a_list_page_is_cut_into_the_exact_bytes_of_its_orders(orders: list[bytes], space: bytes) -> None:
    joined = (space + b"," + space).join(orders)
    page = b'{"count":1, "checkoutForms" :' + space + b"[" + space + joined + space + b'], "totalCount": 7 }'
    assert wire.order_page(page) == (orders, 7)


EXACT = {
    "spaces": b'{ "id" :  "x" }',
    "duplicate keys": b'{"id":"a","id":"b","a":1,"a":2}',
    "numbers": b'{"id":"x","a":1e400,"b":-0.0,"c":12.30,"d":123456789012345678901234567890}',
    "200,000 digits": b'{"id":"x","a":' + b"7" * 200_000 + b"}",
    "nul": b'{"id":"x","\\u0000":"\\u0000"}',
    "escapes": b'{"id":"x","a":"\\/\\ud83d\\ude00\\u0105"}',
    "no object": b'[1,"x",null]',
    "null": b"null",
    "one megabyte": b'{"id":"x","a":"' + b"y" * 1_000_000 + b'"}',
    "depth 900": b'{"id":"x","a":' + b"[" * 900 + b"]" * 900 + b"}",
    "invalid utf-8": b'{"id":"x","a":"\xff\xfe"}',
}
REFUSED_WHOLE = {
    "lone surrogate": b'{"id":"x","a":"\\ud800"}',
    "depth 2,000": b'{"id":"x","a":' + b"[" * 2000 + b"]" * 2000 + b"}",
}


@pytest.mark.parametrize("raw", EXACT.values(), ids=EXACT)
def test_a_hostile_order_in_a_page_comes_out_as_it_came_and_so_do_its_neighbours(raw: bytes) -> None:
    page = b'{"checkoutForms":[{"id":"a"},' + raw + b',{"id":"b"}],"totalCount":3}'
    assert wire.order_page(page) == ([b'{"id":"a"}', raw, b'{"id":"b"}'], 3)


@pytest.mark.parametrize("raw", REFUSED_WHOLE.values(), ids=REFUSED_WHOLE)
def test_valid_json_that_our_parser_refuses_does_not_cost_its_neighbours(raw: bytes) -> None:
    page = b'{"checkoutForms":[{"id":"a"},' + raw + b',{"id":"b"}],"totalCount":3}'
    assert wire.order_page(page) == ([b'{"id":"a"}', raw, b'{"id":"b"}'], 3)


def test_an_order_with_a_lone_surrogate_keeps_its_id_wherever_that_stands() -> None:
    assert wire.order_facts(b'{"note":"\\ud83d","id":"x"}') is not None


def test_an_order_is_never_filed_under_the_escapes_of_its_id() -> None:
    facts = wire.order_facts(b'{"id":"a\\u0062","note":"\\ud83d"}')
    assert facts is None or facts.order_id == "ab"


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"id":null}', b'{"id":{}}', b'{"id":true}', b"<html>"])
def test_a_seller_without_an_id_is_refused(body: bytes) -> None:
    with pytest.raises(AllegroAnswerError):
        wire.seller(body)


def test_a_seller_is_known_by_a_text_or_a_number() -> None:
    assert wire.seller(b'{"id":"17","login":"shop"}') == ("17", "shop")
    assert wire.seller(b'{"id":17}') == ("17", "17")


@given(st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b'{"checkoutForms":null,"totalCount":0}')
@example(b'{"checkoutForms":[],"totalCount":"0"}')
@example(b"<!doctype html>")
@example(b"")
def test_what_is_no_page_is_refused_by_name_and_not_quoted(raw: bytes) -> None:
    for parse in (wire.order_page, wire.event_page):
        with pytest.raises(AllegroAnswerError) as refused:
            parse(raw)
        assert str(refused.value).startswith("Allegro's answer is not the JSON it should be: ")
        assert len(str(refused.value)) < 100


def test_a_truncated_page_is_refused_at_every_length() -> None:
    page = b'{"checkoutForms":[' + body() + b'],"totalCount":1}'
    for length in range(0, len(page), 7):
        with pytest.raises(AllegroAnswerError):
            wire.order_page(page[:length])


EVENT = (
    b'{"id":"1700000000000001" , "type":"BUYER_FILLED_IN","occurredAt":"2026-01-01T00:00:00Z","order":'
    b'{"checkoutForm":{"id":"o-1","revision":"r"},"buyer":{"login":"kupujacy"},"lineItems":[{"id":"l-1"}]}}'
)


def test_an_event_keeps_its_bytes_and_tells_what_it_is_about() -> None:
    [event] = wire.event_page(b'{"events":[' + EVENT + b"]}")
    assert event == wire.Event(
        event_id="1700000000000001",
        event_type="BUYER_FILLED_IN",
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        order_id="o-1",
        line_item_ids=["l-1"],
        body=EVENT,
    )


def test_an_event_of_an_unknown_type_without_an_order_is_kept() -> None:
    [event] = wire.event_page(b'{"events":[{"id":"7","type":"NEW_TYPE","order":null}]}')
    assert (event.event_type, event.order_id, event.line_item_ids) == ("NEW_TYPE", None, [])


@pytest.mark.parametrize("event", ["{}", '{"id":null}', '{"id":""}', '{"id":"a b"}', '{"id":[]}', "[]", "5"])
def test_an_event_without_an_id_is_known_by_its_bytes_and_costs_no_other(event: str) -> None:
    first, nameless = wire.event_page(b'{"events":[' + EVENT + b"," + event.encode() + b"]}")
    assert first.event_id == "1700000000000001"
    assert nameless.event_id == f"sha256:{hashlib.sha256(event.encode()).hexdigest()}"
    assert nameless.body == event.encode()


def test_an_empty_journal_page_holds_no_events() -> None:
    assert wire.event_page(b'{"events":[]}') == []


@pytest.mark.parametrize(
    ("answer", "event_id"),
    [('{"latestEvent":{"id":"9","occurredAt":"x"}}', "9"), ('{"latestEvent":null}', None), ("{}", None)],
)
def test_the_newest_event_is_named_or_there_is_none(answer: str, event_id: str | None) -> None:
    assert wire.latest_event_id(answer.encode()) == event_id


def test_me_is_an_id_and_a_login() -> None:
    assert wire.seller(b'{"id":"1","login":"sklep","email":"x"}') == ("1", "sklep")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"refunds":[{"id":"a"}, {"id": "b"}],"count":2}', [b'{"id":"a"}', b'{"id": "b"}']),
        (b'{"refunds":null}', []),
        (b'{"refunds":[]}', []),
        (b'{"count":1,"refunds":[{"id":"\\ud800"}]}', [b'{"id":"\\ud800"}']),
        (b'{"refunds":[{"id":"\xff"}]}', [b'{"id":"\xff"}']),
    ],
)
def test_the_elements_of_an_answer_keep_their_bytes(body: bytes, found: list[bytes]) -> None:
    assert wire.documents(body, "refunds") == found


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b'{"refunds":{}}', b'{"refunds":[{]}', b"<html>"])
def test_an_answer_without_its_array_is_refused(body: bytes) -> None:
    with pytest.raises(AllegroAnswerError):
        wire.documents(body, "refunds")


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (b'{"id":"r","orderId":"o"}', ("r", "o")),
        (b'{"id":"r","order":{"id":"o"}}', ("r", "o")),
        (b'{"id":"r","order":null}', ("r", None)),
        (b'{"id":"r","orderId":{"id":"o"},"order":7}', ("r", "o")),
        (b'{"id":"r","order":"\\u0000"}', ("r", None)),
        (b'{"id":"\\ud800","orderId":"o"}', (None, "o")),
        (b'{"id":"r","orderId":"o","note":"\\ud800"}', ("r", "o")),
        (b'{"id":"r","note":"\xff"}', ("r", None)),
        (b'{"id":"' + b"x" * 200 + b'"}', (None, None)),
        (b"[]", (None, None)),
        (b"\xff", (None, None)),
    ],
)
def test_a_document_names_itself_and_its_order_as_far_as_it_can(body: bytes, ids: tuple[str | None, ...]) -> None:
    assert wire.document_ids(body) == ids


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b'{"count":2,"totalCount":300}', 300),
        (b'{"count":7}', 7),
        (b'{"count":null}', 0),
        (b'{"count":"x"}', 0),
        (b"{}", 0),
        (b"[", 0),
    ],
)
def test_an_answer_says_how_many_rows_there_are(body: bytes, count: int) -> None:
    assert wire.counted(body) == count
