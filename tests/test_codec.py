"""Archived bytes come back as they were, whatever dictionary there is or was; no dictionary knows a buyer."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
import zstandard
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from orders_backup import codec as codecs
from orders_backup import db as database
from orders_backup.codec import Codec
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.orders import archive, changes
from orders_backup.tables import codec_dictionaries, order_versions, orders

PERSONAL_AT = (
    ("buyer",),
    ("delivery", "address"),
    ("invoice",),
    ("note",),
    ("messageToSeller",),
)
MARK = "Canary"
"""In every personal value of `personal_orders`, and nowhere else in them."""

examples = [
    json.loads(one.read_bytes())
    for one in files("allegro_simulator").joinpath("examples").iterdir()
    if one.name.endswith(".json")
]


def some_orders(count: int, *, salt: str = "") -> list[bytes]:
    """Bodies as Allegro's are, no two alike."""
    return [json.dumps(examples[n % len(examples)] | {"id": f"order-{salt}{n}"}).encode() for n in range(count)]


def personal_orders(count: int) -> list[bytes]:
    """Orders in which every personal field holds a canary: the same one in each, and one of its own."""
    return [json.dumps(one | {"id": f"order-{n}"}).encode() for n in range(count) for one in [with_canaries(n)]]


def with_canaries(number: int) -> dict[str, Any]:
    order: dict[str, Any] = json.loads(json.dumps(examples[number % len(examples)]))
    person = {
        "email": f"{MARK}.mail@example.pl",
        "login": f"{MARK}Login{number}",
        "firstName": f"{MARK}First",
        "lastName": f"{MARK}Last{number}",
        "companyName": f"{MARK} sp. z o.o.",
        "phoneNumber": f"+48 {MARK} {number}",
        "personalIdentity": f"{MARK}Pesel",
        "unknownField": [{"deep": f"{MARK}Deep"}, f"{MARK}List"],
        "address": {"street": f"{MARK} street 1", "city": f"{MARK}City", "postCode": f"{MARK}{number}"},
    }
    order["buyer"] = person
    order["delivery"] = (order.get("delivery") or {}) | {"address": person}
    company = {"name": f"{MARK} SA", "ids": [{"type": "PL_NIP", "value": f"{MARK}Nip"}], "taxId": f"{MARK}Tax"}
    order["invoice"] = {"required": True, "address": person | {"company": company}}
    order["note"] = {"text": f"{MARK} note of the seller {number}"}
    order["messageToSeller"] = f"{MARK} message to the seller {number}"
    return order


@pytest.fixture
def db(shared_db: Engine) -> Engine:
    """That database, empty."""
    with database.transaction(shared_db) as tx:
        tx.execute(sa.text("TRUNCATE codec_dictionaries, orders, order_versions, order_changes"))
    return shared_db


@pytest.fixture
def trained(db: Engine) -> Codec:
    """A codec that has just trained the first dictionary."""
    codec = Codec()
    codec.prepare(db, some_orders(60))
    return codec


@pytest.fixture
def opened(db: Engine) -> Iterator[Callable[[tuple[int | None, bytes]], bytes]]:
    """Opens what was compressed, by a process that has just started."""
    with database.transaction(db) as tx:
        yield lambda packed: Codec().decompress(tx, *packed)


@given(st.binary(max_size=5000) | st.text(max_size=300).map(str.encode) | st.sampled_from(some_orders(23)))
@profile(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_any_bytes_come_back_with_and_without_a_dictionary(
    trained: Codec, opened: Callable[[tuple[int | None, bytes]], bytes], body: bytes
) -> None:
    plain, packed = Codec().compress(body), trained.compress(body)
    assert (plain[0], packed[0]) == (None, 1)
    assert opened(plain) == opened(packed) == body


def test_the_shortest_and_the_longest_bodies_come_back(
    trained: Codec, opened: Callable[[tuple[int | None, bytes]], bytes]
) -> None:
    for body in (b"", b"\x00", b"x" * 20_000_000, bytes(range(256)) * 5000):
        assert opened(Codec().compress(body)) == opened(trained.compress(body)) == body


def test_a_dictionary_makes_orders_smaller(trained: Codec) -> None:
    bodies = some_orders(23, salt="unseen-")
    small = sum(len(trained.compress(body)[1]) for body in bodies)
    plain = sum(len(Codec().compress(body)[1]) for body in bodies)
    assert small < 0.75 * plain


def test_a_dictionary_holds_no_personal_value() -> None:
    bodies = personal_orders(80)
    samples: list[bytes | bytearray | memoryview[int]] = [*bodies]
    assert MARK.encode() in zstandard.train_dictionary(codecs.DICTIONARY_BYTES, samples).as_bytes()
    assert MARK.encode() not in codecs.train(bodies)
    assert b"lineItems" in codecs.train(bodies)


def test_bodies_too_few_or_too_alike_to_train_on_give_no_personal_value_either() -> None:
    content = codecs.train(personal_orders(1) * 3)
    assert content
    assert MARK.encode() not in content


@pytest.mark.parametrize("field", PERSONAL_AT)
def test_every_personal_field_is_emptied_before_training(field: tuple[str, ...]) -> None:
    order: dict[str, Any] = with_canaries(2)
    for outer in PERSONAL_AT:
        if outer != field:
            place = order
            for name in outer[:-1]:
                place = place[name]
            del place[outer[-1]]
    body = json.dumps(order).encode()
    assert MARK.encode() in body
    assert MARK.encode() not in codecs.scrub(body)


def test_a_personal_value_that_is_a_number_is_taken_out_too() -> None:
    assert b"48600700800" not in codecs.scrub(b'{"buyer":{"phoneNumber":48600700800}}')


@pytest.mark.parametrize("body", [b"", b"\xff", b"{", b'{"buyer":"\\ud800"}', b"[" * 100_000], ids=repr)
def test_what_is_no_json_adds_nothing_to_a_dictionary(body: bytes) -> None:
    assert codecs.scrub(body) == b""


def test_bodies_that_are_no_json_do_not_stop_the_archive(
    db: Engine, opened: Callable[[tuple[int | None, bytes]], bytes]
) -> None:
    codec = Codec()
    codec.prepare(db, [b"\xff%d" % n for n in range(60)])
    assert opened(codec.compress(b"a body")) == b"a body"


def test_too_few_orders_train_no_dictionary_and_enough_do_once(db: Engine) -> None:
    codec = Codec()
    codec.prepare(db, some_orders(codecs.TRAINING_SAMPLES - 1))
    assert dictionaries(db) == []
    codec.prepare(db, some_orders(codecs.TRAINING_SAMPLES))
    first = dictionaries(db)
    codec.prepare(db, some_orders(80, salt="other"))
    Codec().prepare(db, some_orders(80, salt="other"))
    assert len(first) == 1
    assert dictionaries(db) == first


def test_processes_that_prepare_at_the_same_moment_end_with_the_same_dictionary(
    db: Engine, opened: Callable[[tuple[int | None, bytes]], bytes]
) -> None:
    mine = [Codec() for _ in range(4)]
    at_once = threading.Barrier(4)

    def prepare(number: int) -> tuple[int | None, bytes]:
        at_once.wait()
        mine[number].prepare(db, [b'{"only of %d":["%d","%d"]}' % (number, n, n * number) for n in range(60)])
        return mine[number].compress(b'{"id":"of all"}')

    with ThreadPoolExecutor(4) as pool:
        packed = list(pool.map(prepare, range(4)))
    assert len(dictionaries(db)) == 1
    assert packed == [packed[0]] * 4
    assert opened(packed[0]) == b'{"id":"of all"}'


def test_a_dictionary_is_never_replaced(db: Engine) -> None:
    for content in (b"the first", b"of a process that trained for longer"):
        with database.transaction(db) as tx:
            codecs._keep(tx, content)
    assert dictionaries(db) == [(1, b"the first")]


def test_what_was_stored_before_the_training_stays_readable(db: Engine) -> None:
    codec, body = Codec(), some_orders(1)[0]
    before = codec.compress(body)
    codec.prepare(db, some_orders(60))
    after = codec.compress(body)
    assert (before[0], after[0]) == (None, 1)
    with database.transaction(db) as tx:
        for reader in (codec, Codec()):
            assert reader.decompress(tx, *before) == reader.decompress(tx, *after) == body


def test_a_process_that_has_not_prepared_reads_what_others_packed(
    trained: Codec, opened: Callable[[tuple[int | None, bytes]], bytes]
) -> None:
    assert opened(trained.compress(b"by another process")) == b"by another process"


def test_a_page_that_is_rolled_back_leaves_a_dictionary_that_everyone_knows(db: Engine) -> None:
    codec, account, bodies = Codec(), uuid4(), some_orders(60)
    codec.prepare(db, bodies)
    with pytest.raises(ZeroDivisionError), database.transaction(db) as tx:  # noqa: PT012
        store(tx, codec, account, bodies)
        raise ZeroDivisionError
    with database.transaction(db) as tx:
        assert not tx.execute(sa.select(sa.func.count()).select_from(orders)).scalar_one()
        store(tx, codec, account, bodies)
    with database.transaction(db) as tx:
        rows = tx.execute(sa.select(order_versions.c.dictionary_id, order_versions.c.body)).all()
        known = set(tx.execute(sa.select(codec_dictionaries.c.id)).scalars())
        assert {row.dictionary_id for row in rows} == {1} == known
        assert {Codec().decompress(tx, *row) for row in rows} == set(bodies)


def test_while_the_database_is_away_no_dictionary_is_used() -> None:
    codec = Codec()
    away = database.connect("postgresql://nobody@127.0.0.1:9/nothing")
    with pytest.raises(DatabaseUnavailableError):
        codec.prepare(away, some_orders(60))
    assert codec.compress(b"body")[0] is None


def test_many_threads_share_one_codec_while_it_learns(db: Engine) -> None:
    codec, at_once = Codec(), threading.Barrier(8)

    def work(number: int) -> bool:
        at_once.wait()
        bodies = some_orders(60, salt=f"{number} ")
        if number % 2:
            codec.prepare(db, bodies)
        packed = [codec.compress(body) for body in bodies * 5]
        with database.transaction(db) as tx:
            return [codec.decompress(tx, *one) for one in packed] == bodies * 5

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(dictionaries(db)) == 1


def dictionaries(db: Engine) -> list[tuple[int, bytes]]:
    with database.transaction(db) as tx:
        query = sa.select(codec_dictionaries.c.id, codec_dictionaries.c.content)
        return [(row.id, row.content) for row in tx.execute(query)]


def store(tx: sa.Connection, codec: Codec, account: Any, bodies: list[bytes]) -> None:
    readings = [changes.read(datetime(2026, 1, 1, tzinfo=UTC), body) for body in bodies]
    archive.record(tx, codec, account, readings, cause="test")
