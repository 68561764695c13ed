"""A file of records gives back every byte it was given, or says that it is damaged."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile import corpus

from orders_backup.backups import records, shelf
from orders_backup.backups.records import Change, Event, Record, State, Version
from orders_backup.errors import BackupDamagedError

AT = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def version(body: bytes) -> Version:
    return Version("id", 1, AT, AT, ["order.created"], "event", "00", len(body))


def there_and_back(found: list[tuple[Record, bytes]], *, chunk: int = 7) -> list[tuple[Record, bytes]]:
    text = b"".join(records.lines(record, body) for record, body in found)
    return list(records.read(text[at : at + chunk] for at in range(0, len(text), chunk)))


@pytest.mark.parametrize("name", corpus.ORDERS)
def test_every_hostile_document_comes_back_byte_for_byte(name: str) -> None:
    body = corpus.ORDERS[name]
    found = there_and_back([(version(body), body), (version(b"{}"), b"{}")], chunk=100_000)
    assert [one for _, one in found] == [body, b"{}"]


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"", b"\n", b"{}\n", b"\r", b'{"record":"state"}'])))
def test_any_bytes_come_back(bodies: list[bytes]) -> None:
    given_: list[tuple[Record, bytes]] = [(version(body), body) for body in bodies]
    assert [body for _, body in there_and_back(given_)] == bodies


def test_a_document_of_one_line_of_json_stands_there_as_it_is_and_every_line_is_json() -> None:
    bodies = [b' {"a": 12.30,"\\u017c":"\xc5\xbc"} ', b'{"a":\n1}', b"<html>", b'{"a":"\\ud800"}']
    text = b"".join(records.lines(version(body), body) for body in bodies)
    assert text.split(b"\n")[1] == bodies[0]
    assert len([json.loads(line) for line in text.splitlines()]) == 5
    assert [body for _, body in records.read([text])] == bodies


def test_records_without_a_document_and_absent_values_come_back() -> None:
    found: list[tuple[Record, bytes]] = [
        (Change("id", 2, ["order.superseded"], "merge", AT), b""),
        (State("id", AT, None), b""),
        (Event("e", AT, 2, occurred_at=None), b"{}"),
    ]
    assert there_and_back(found) == found


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text[:-3],
        lambda text: text.replace(b'"size":9', b'"size":8'),
        lambda text: b"\n" + text,
        lambda text: text.replace(b'"version"', b'"varsion"', 1),
        lambda text: text[: text.index(b"\n") + 1],
    ],
)
def test_a_damaged_file_says_so(damage: "object") -> None:
    text = records.lines(version(b'{"a":"b"}'), b'{"a":"b"}')
    with pytest.raises(BackupDamagedError):
        list(records.read([damage(text)]))  # type: ignore[operator]


def test_fifty_orders_of_a_shop_take_less_than_450_bytes_each() -> None:
    """The bound of bench/backups.py, at a size where it is hardest to keep."""
    bodies = [
        json.dumps({"id": f"{n:032x}", "status": "BOUGHT", "n": n, "text": "x" * 2000}).encode() for n in range(50)
    ]
    packed = b"".join(shelf.compressed(records.lines(version(body), body) for body in bodies))
    assert len(packed) / 50 < 450
