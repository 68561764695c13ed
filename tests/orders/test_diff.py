"""The difference of two documents: a patch that others' tools apply, and sentences that people read."""

import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders_backup.orders import diff

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab/~0", max_size=2), inner, max_size=4),
    max_leaves=12,
)


def told(before: Any, after: Any) -> list[str]:
    operations = diff.operations(json.dumps(before).encode(), json.dumps(after).encode())
    assert operations is not None
    return [operation["sentence"] for operation in operations]


@given(JSON, JSON)
def test_the_patch_turns_one_document_into_the_other(before: Any, after: Any) -> None:
    operations = diff.operations(json.dumps(before).encode(), json.dumps(after).encode())
    assert operations is not None
    assert jsonpatch.apply_patch(before, operations) == after


@pytest.mark.parametrize(
    ("before", "after", "sentences"),
    [
        ({"status": "BOUGHT"}, {"status": "FILLED_IN"}, ["status changed from BOUGHT to FILLED_IN."]),
        ({"payment": None}, {"payment": {"id": "p"}}, ['payment changed from null to {"id":"p"}.']),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ["a[0].b changed from 1 to 2."]),
        ({}, {"note": "n"}, ["note was added: n."]),
        ({"note": "n"}, {}, ["note was removed; it was n."]),
        ({"old": {"x": [1, 2]}}, {"new": {"x": [1, 2]}}, ["old moved to new."]),
        ({"t": "x"}, {"t": "y" * 100}, ["t changed from x to " + "y" * 79 + "…."]),
        (1, 2, ["the document changed from 1 to 2."]),
    ],
)
def test_each_step_is_told_in_a_sentence(before: Any, after: Any, sentences: list[str]) -> None:
    assert told(before, after) == sentences


def test_fields_whose_change_alone_tells_nothing_are_declared() -> None:
    before = {"updatedAt": "1", "revision": "a", "status": "x", "delivery": {"revision": 1}}
    after = {"updatedAt": "2", "revision": "b", "status": "y", "delivery": {"revision": 2}}
    operations = diff.operations(json.dumps(before).encode(), json.dumps(after).encode())
    assert operations is not None
    assert {operation["path"]: operation["volatile"] for operation in operations} == {
        "/updatedAt": True,
        "/revision": True,
        "/status": False,
        "/delivery/revision": False,
    }


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'"\\ud800"', b"[" * 5_000 + b"]" * 5_000])
def test_bytes_that_are_no_json_to_compare_have_no_patch(body: bytes) -> None:
    assert diff.operations(body, b"{}") is None
    assert diff.operations(b"{}", body) is None
