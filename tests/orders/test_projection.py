"""The JSONB projection: what JSONB takes goes in as it came; what it refuses is tamed, or left out, and marked."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from tests.orders.conftest import Shop, open_shop

from orders_backup.orders import projection

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800\x00"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def projected(shop: Shop, body: bytes) -> tuple[str | None, bool]:
    """The projection that an order of these bytes gets, as text with every digit, and whether it is marked."""
    shop.read((1, body))
    head = shop.head("x")
    return head.order_data, head.projection_lossy


def exactly(text: str | bytes) -> Any:
    """JSON with every digit of its numbers."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def order_with(rest: bytes) -> bytes:
    return b'{"id":"x",' + rest + b"}"


HARMLESS = {
    "numbers": order_with(b'"a":[1,2.50,-3e5,123456789012345678901234567890.1234567890]'),
    "whitespace": b' {"id" : "x" ,\r\n\t"a":{}}\r\n',
    "letters": order_with('"a":"żółw \U0001f600"'.encode()),
    "a uuid with e and three digits": order_with(b'"a":"29738e61-7f6a-11e8-ac45-09db6e123456","weight":1.5'),
    "an escaped backslash": order_with(b'"a":"legal \\\\u0000 text"'),
    "a pair of surrogates": order_with(b'"a":"\\ud83d\\ude00"'),
    "300 line items": json.dumps({"id": "x", "lineItems": [{"a": {}, "b": {}, "c": {}}] * 300}).encode(),
    "a megabyte of text": order_with(b'"a":"' + b"y" * 1_000_001 + b'"'),
    "300 digits": order_with(b'"a":' + b"7" * 300),
    "1e400": order_with(b'"a":1e400'),
    "800 deep": order_with(b'"a":' + b"[" * 800 + b"]" * 800),
}


@pytest.mark.parametrize("body", HARMLESS.values(), ids=HARMLESS)
def test_an_order_of_which_nothing_is_lost_is_not_marked(shop: Shop, body: bytes) -> None:
    text, lossy = projected(shop, body)
    assert text is not None
    assert exactly(text) == exactly(body)
    assert not lossy


@pytest.mark.parametrize(
    ("body", "tamed"),
    [
        (order_with(b'"a":"x\\u0000y","\\u0000":1'), {"id": "x", "a": "x\ufffdy", "\ufffd": 1}),
        (
            order_with(b'"a":"\\ud800","b":"\\udc00x","c":"\\ud83d\\ude00"'),
            {"id": "x", "a": "\ufffd", "b": "\ufffdx", "c": "\U0001f600"},
        ),
        (order_with(b'"a":1e200000,"b":-1E+999999,"d":7'), {"id": "x", "a": "1e200000", "b": "-1E+999999", "d": 7}),
        (order_with(b'"a":' + b"7" * 200_000), {"id": "x", "a": "7" * 1000}),
        (order_with(b'"a":NaN,"b":-Infinity'), {"id": "x", "a": "NaN", "b": "-Infinity"}),
    ],
    ids=["nul", "surrogates", "exponents", "200,000 digits", "no numbers"],
)
def test_what_jsonb_refuses_is_tamed_and_marked(shop: Shop, body: bytes, tamed: object) -> None:
    text, lossy = projected(shop, body)
    assert lossy
    assert text is not None
    assert json.loads(text) == tamed


def test_invalid_utf8_is_tamed_and_marked(shop: Shop) -> None:
    assert projected(shop, order_with(b'"a":"\xff"')) == ('{"a": "\ufffd", "id": "x"}', True)


def test_a_byte_order_mark_is_left_out_and_marked(shop: Shop) -> None:
    assert projected(shop, b"\xef\xbb\xbf" + order_with(b'"a":1')) == ('{"a": 1, "id": "x"}', True)


@pytest.mark.parametrize(
    "body",
    [
        order_with(b'"a":' + b"[" * 100_000 + b"]" * 100_000),
        order_with(b'"a":"\\u0000","b":"\\q"'),
        order_with(b'"a":"\\u0000","b":007'),
        order_with(b'"a":"\x00"'),
    ],
    ids=["100,000 deep", "an escape that is none", "a leading nought", "a raw nul"],
)
def test_what_cannot_be_tamed_has_no_projection_and_is_marked(shop: Shop, body: bytes) -> None:
    assert projected(shop, body) == (None, True)


@given(json_values, st.booleans())
@example(1e308, False)
@example("\\u0000", True)
@example({"e100": "1e100"}, True)
@profile(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_any_json_has_a_projection_that_lost_nothing_or_is_marked(
    archive_db: Engine, value: object, ascii_only: bool
) -> None:
    body = json.dumps({"id": "x", "a": value}, ensure_ascii=ascii_only).encode("utf-8", "replace")
    text, lossy = projected(open_shop(archive_db), body)
    assert text is not None
    assert lossy or exactly(text) == exactly(body)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_make_taming_fail(body: bytes) -> None:
    text = projection.tame(body)
    assert text is None or json.loads(text) is not Ellipsis
