"""What a reading means to what is kept, and what kinds of change it brings."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders_backup.orders import changes
from orders_backup.orders.changes import Head, Kept, Reading, Unreadable, Verdict

START = datetime(2026, 1, 1, tzinfo=UTC)
ORDER: dict[str, Any] = {
    "id": "order-1",
    "status": "BOUGHT",
    "payment": {"type": "ONLINE"},
    "surcharges": [],
    "summary": {"totalToPay": {"amount": "1.00"}},
    "delivery": {"method": {"id": "m"}},
    "fulfillment": {"status": "NEW"},
    "buyer": {"login": "a"},
    "updatedAt": "2026-01-01T00:00:00Z",
    "revision": "r1",
}


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def reading(body: bytes, second: float = 0) -> Reading:
    found = changes.read(at(second), body)
    assert isinstance(found, Reading)
    return found


def head_of(body: bytes, second: float) -> Head:
    return Head(1, hashlib.sha256(body).digest(), at(second), 1)


def kept(*seen: tuple[float, bytes, str]) -> list[Kept]:
    """Moments at which an order was seen: as a `version`, or as one `confirmed`."""
    return [
        Kept(at(second), hashlib.sha256(body).digest(), number, confirms=how == "confirmed")
        for number, (second, body, how) in enumerate(seen)
    ]


def body(**changed: object) -> bytes:
    return json.dumps({**ORDER, **changed}).encode()


A, B, C = (body(status=name) for name in "ABC")


def test_bytes_with_an_id_are_a_reading_and_others_are_kept_as_unreadable() -> None:
    assert changes.read(START, b"{}") == Unreadable(START, b"{}", hashlib.sha256(b"{}").digest())
    found = reading(A)
    assert (found.body, found.sha256, found.facts.order_id) == (A, hashlib.sha256(A).digest(), "order-1")


@pytest.mark.parametrize(
    ("head", "second", "verdict"),
    [
        (None, 5, Verdict.NEW),
        (head_of(A, 1), 5, Verdict.SAME),
        (head_of(A, 5), 5, Verdict.SAME),
        (head_of(A, 9), 5, Verdict.LATE),
        (head_of(B, 1), 5, Verdict.CHANGED),
        (head_of(B, 5), 5, Verdict.CHANGED),
        (head_of(B, 9), 5, Verdict.LATE),
        (head_of(B, 5.000001), 5, Verdict.LATE),
    ],
)
def test_a_reading_is_judged_by_its_bytes_and_by_when_its_request_was_sent(
    head: Head | None, second: float, verdict: Verdict
) -> None:
    assert changes.judge(head, reading(A, second)) is verdict


def test_the_same_order_in_other_bytes_is_another_version() -> None:
    assert changes.judge(head_of(A, 1), reading(A + b" ", 2)) is Verdict.CHANGED


V, SEEN = "version", "confirmed"


@pytest.mark.parametrize(
    ("seen", "is_news", "returns"),
    [
        ([], True, None),
        ([(9, A, V)], True, None),
        ([(9, B, V)], False, None),
        ([(1, A, V), (9, C, V)], True, None),
        ([(1, B, V), (9, C, V)], False, None),
        ([(1, A, V), (9, B, V)], False, None),
        ([(1, B, V), (2, A, V), (9, C, V)], True, None),
        ([(1, A, V), (8, C, V), (9, B, V)], True, None),
        ([(5, B, V), (9, C, V)], False, None),
        ([(9, C, V), (1, B, V), (3, A, V)], True, None),
        ([(1, A, V), (7, A, SEEN)], True, 7),
        ([(1, B, V), (2, A, V), (7, A, SEEN)], True, 7),
        ([(1, B, V), (7, B, SEEN)], False, None),
        ([(1, A, V), (7, A, SEEN), (9, C, V)], True, 7),
        ([(1, A, V), (7, A, SEEN), (9, B, V)], True, 7),
        ([(1, A, V), (4, A, SEEN), (9, C, V)], True, None),
    ],
)
def test_a_late_reading_is_news_unless_its_neighbours_show_the_same_and_what_was_confirmed_later_returns(
    seen: list[tuple[float, bytes, str]], is_news: bool, returns: float | None
) -> None:
    found = changes.place(kept(*seen), reading(B, 5))
    assert (found.is_news, found.returns.read_at if found.returns else None) == (
        is_news,
        None if returns is None else at(returns),
    )


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({"status": "FILLED_IN"}, ["order.status_changed"]),
        ({"status": "A_STATUS_NOBODY_KNOWS"}, ["order.status_changed"]),
        ({"status": "CANCELLED"}, ["order.cancelled", "order.status_changed"]),
        ({"status": None}, ["order.status_changed"]),
        ({"payment": {"type": "CASH_ON_DELIVERY"}}, ["order.payment_changed"]),
        ({"surcharges": [{"id": "s"}]}, ["order.payment_changed"]),
        ({"summary": {"totalToPay": {"amount": "2.00"}}}, ["order.payment_changed"]),
        ({"delivery": None}, ["order.delivery_changed"]),
        ({"fulfillment": {"status": "SENT"}}, ["order.fulfillment_changed"]),
        ({"fulfillment": {"status": "RETURNED"}}, ["order.fulfillment_changed", "order.returned"]),
        ({"fulfillment": "RETURNED"}, ["order.fulfillment_changed"]),
        ({"buyer": {"login": "b"}}, ["order.other_changed"]),
        ({"aFieldOfTomorrow": 1}, ["order.other_changed"]),
        ({"updatedAt": "2026-01-02T00:00:00Z"}, ["order.other_changed"]),
        ({"revision": "r2", "updatedAt": None}, ["order.other_changed"]),
        ({"revision": "r2", "payment": None}, ["order.payment_changed"]),
        (
            {"status": "CANCELLED", "delivery": None, "payment": None, "note": "n", "fulfillment": {"status": "x"}},
            [
                "order.cancelled",
                "order.delivery_changed",
                "order.fulfillment_changed",
                "order.other_changed",
                "order.payment_changed",
                "order.status_changed",
            ],
        ),
    ],
)
def test_each_changed_field_is_told_by_its_kind(changed: dict[str, object], kinds: list[str]) -> None:
    assert changes.kinds(body(), body(**changed)) == kinds


def test_a_cancelled_order_that_changes_again_is_not_cancelled_again() -> None:
    before = body(status="CANCELLED")
    assert changes.kinds(before, body(status="CANCELLED", delivery=None)) == ["order.delivery_changed"]


def test_a_returned_order_that_changes_again_is_not_returned_again() -> None:
    before = body(fulfillment={"status": "RETURNED"})
    after = body(fulfillment={"status": "RETURNED", "shipmentSummary": {"lineItemsSent": "ALL"}})
    assert changes.kinds(before, after) == ["order.fulfillment_changed"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"id":"x"}', b'{ "id":"x"}'),
        (b'{"id":"x"}', b'{"id":"x","payment":null}'),
        (b'{"id":"x","a":1}', b'{"id":"x","a":1.0}'),
        (b'{"id":"x","a":"\\ud800"}', b'{"id":"x"}'),
        (b"\xff", b"[]"),
        (b"", b"[" * 100_000),
        (b"5", b"null"),
    ],
)
def test_bytes_that_differ_always_have_a_kind(before: bytes, after: bytes) -> None:
    assert changes.kinds(before, after) == changes.kinds(after, before) == ["order.other_changed"]


@given(
    st.dictionaries(st.sampled_from(sorted(ORDER)), st.none() | st.integers() | st.dictionaries(st.text(), st.text())),
    st.dictionaries(st.sampled_from(sorted(ORDER)), st.none() | st.integers() | st.dictionaries(st.text(), st.text())),
)
def test_kinds_are_sorted_known_and_never_none(before: dict[str, object], after: dict[str, object]) -> None:
    found = changes.kinds(json.dumps(before).encode(), json.dumps(after).encode())
    known = {*changes._KIND_BY_FIELD.values(), changes.OTHER, "order.cancelled", "order.returned"}
    assert found
    assert found == sorted(set(found) & known)
