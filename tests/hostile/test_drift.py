"""Changes of Allegro's schema: each found once, told without what it holds, at a cost that does not grow with it."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa
from msgspec import inspect
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs
from tests import description
from tests.hostile.corpus import EVENTS, NO_ORDERS, ORDERS
from tests.shop import Shop

from allegro_simulator.world import World
from orders_backup import db as database
from orders_backup import drift
from orders_backup.allegro import differences, shape
from orders_backup.allegro.differences import Difference
from orders_backup.drift import Drift

EXAMPLES = Path(__file__).parents[1] / "examples"
"""Orders and events as Allegro serves them, of no real person."""

OURS = {
    "order.payment", "order.fulfillment", "order.fulfillment.status", "order.delivery", "order.invoice",
    "order.marketplace", "order.updatedAt", "order.lineItems[].boughtAt", "event.order.checkoutForm",
}  # fmt: skip
"""Required here although Allegro does not say so: what we act on, and what every order seen so far had."""


def minified(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.fixture(scope="module")
def order() -> dict[str, Any]:
    world = World(seed=3)
    seller = world.add_seller(40)
    paid = [json.loads(world.body(form)) for form in world.orders(seller.id)]
    return next(one for one in paid if one["status"] == "READY_FOR_PROCESSING")


def found(**changed: object) -> set[tuple[str, str, str]]:
    return {(one.path, one.kind, one.value) for one in differences.differences("order", minified(changed))}


def test_what_the_simulator_serves_is_of_the_known_shape(world: World) -> None:
    seller = world.add_seller(300)
    world.happens(seller.id, 100)
    for form in world.orders(seller.id):
        assert differences.stumble("order", world.body(form)) is None
        assert differences.differences("order", world.body(form)) == []


def test_each_kind_of_difference_is_told_by_its_place(order: dict[str, Any]) -> None:
    buyer = {**order["buyer"], "guest": "no"}
    items = [{**order["lineItems"][0], "warranty": {"months": 24}}]
    changed = {**order, "status": "TELEPORTED", "buyer": buyer, "lineItems": items, "tags": ["a", None]}
    del changed["updatedAt"]
    assert differences.stumble("order", minified(changed)) is not None
    assert found(**changed) == {
        ("order.status", "unknown_value", "TELEPORTED"),
        ("order.buyer.guest", "other_type", "string"),
        ("order.lineItems[].warranty", "new_field", "object"),
        ("order.tags", "new_field", "array of null or string"),
        ("order.updatedAt", "vanished_field", ""),
    }


def test_a_field_that_stands_twice_is_found(order: dict[str, Any]) -> None:
    body = minified(order).replace(b'"status":"READY', b'"status":"BOUGHT","status":"READY', 1)
    assert differences.stumble("order", body) == "written otherwise"
    assert differences.differences("order", body) == [Difference("order.**.status", "repeated_field", "")]


def test_white_space_and_escapes_are_no_difference(order: dict[str, Any]) -> None:
    assert differences.differences("order", json.dumps(order, indent=2, ensure_ascii=True).encode()) == []


PERSONAL = ("Jan Kowalski", "jan@example.com", "85010112345", "+48 600 100 200", "ul. Polna 1", "PL1234567890")


@pytest.mark.parametrize("secret", PERSONAL)
def test_nothing_that_a_field_holds_is_ever_told(order: dict[str, Any], secret: str) -> None:
    changed = {
        **order,
        "secret": secret,
        "secrets": {"who": [secret]},
        secret: 1,
        "status": secret,
        "payment": secret,
        "buyer": {**order["buyer"], secret: {"a": secret}, "guest": secret, "alias": [secret]},
    }
    body = minified(changed)
    log = Drift()
    log.see("order", uuid4(), [("o", body)])
    told = repr(differences.differences("order", body)) + repr(log._noted)
    assert secret not in told
    assert "(odd name)" in told or secret.isidentifier()


@pytest.mark.parametrize("body", [*ORDERS.values(), *NO_ORDERS.values(), *EVENTS.values()])
def test_no_document_at_all_makes_noticing_fail_or_grow(body: bytes) -> None:
    for document in ("order", "event"):
        differences.stumble(document, body)
        assert len(differences.differences(document, body)) <= differences.MOST + 1
    log = Drift()
    log.see("order", uuid4(), [("o", body)])


def seen(db: Engine) -> dict[tuple[str, str, str], drift.Finding]:
    with database.transaction(db) as tx:
        return {(one.path, one.kind, one.value): one for one in drift.findings(tx)}


TAGS = ("order.tags", "new_field", "array of string")


def test_a_finding_is_written_and_logged_once_and_counted_always(db: Engine, order: dict[str, Any]) -> None:
    account, body = uuid4(), minified({**order, "tags": ["jan@example.com"]})
    first, second = Drift(), Drift()
    with capture_logs() as logs:
        for process in (first, second, first):
            process.see("order", account, [("order-1", body)])
            process.write(db)
            process.write(db)
    [event] = [log for log in logs if log["event"] == "schema_drift_found"]
    assert (event["path"], event["kind"]) == TAGS[:2]
    finding = seen(db)[TAGS]
    assert (finding.seen, finding.example_account_id, finding.example_order_id) == (3, account, "order-1")
    assert finding.last_seen > finding.first_seen


def test_a_field_that_every_order_has_is_looked_at_only_now_and_then(
    monkeypatch: pytest.MonkeyPatch, order: dict[str, Any]
) -> None:
    walked: list[bytes] = []
    real = differences.differences

    def counted(document: str, body: bytes) -> list[Difference]:
        walked.append(body)
        return real(document, body)

    monkeypatch.setattr(differences, "differences", counted)
    log, body = Drift(), minified({**order, "tags": ["a"]})
    log.see("order", uuid4(), [("o", body)] * 1000)
    assert len(walked) <= drift.WALKS + 1000 / drift.EVERY
    assert log._noted[Difference(*TAGS)].seen == 1000


def test_of_a_history_only_a_sample_is_looked_at(order: dict[str, Any]) -> None:
    log, body = Drift(), minified({**order, "tags": ["a"]})
    log.see("order", uuid4(), [("o", body)] * 160, sampled=True)
    assert log._noted[Difference(*TAGS)].seen == 10


def test_any_number_of_made_up_names_fills_neither_memory_nor_the_table(
    monkeypatch: pytest.MonkeyPatch, db: Engine, order: dict[str, Any]
) -> None:
    monkeypatch.setattr(drift, "ROWS", 30)
    log = Drift()
    for turn in range(3):
        bodies = [minified({**order, f"made_up_{turn}_{n}": 1}) for n in range(drift.DEVIATIONS + 50)]
        log.see("order", uuid4(), [("o", body) for body in bodies])
        assert max(len(log._deviations), len(log._noted)) <= drift.DEVIATIONS
        log.write(db)
        assert len(seen(db)) == 30


def test_a_database_that_is_away_loses_no_finding(db: Engine, order: dict[str, Any]) -> None:
    log, body = Drift(), minified({**order, "tags": ["a"]})
    log.see("order", uuid4(), [("o", body)])
    away = database.connect("postgresql://nobody@127.0.0.1:9/none")
    log.write(away)
    log.write(db)
    assert seen(db)[TAGS].seen == 1


def test_a_table_that_somebody_holds_neither_stops_nor_fails_a_sync(level: Shop) -> None:
    form = level.world.orders(level.seller_id)[1]
    body = minified({**json.loads(level.world.body(form)), "tags": ["a"]})
    level.world.plants(form, body)
    with level.runtime.db.begin() as holder:
        holder.execute(sa.text("LOCK TABLE schema_drift IN ACCESS EXCLUSIVE MODE"))
        level.follow()
    assert level.versions(form)[-1] == body
    assert TAGS not in seen(level.runtime.db)
    level.follow()
    assert seen(level.runtime.db)[TAGS].example_order_id == form


def test_a_sync_notices_what_is_new_in_orders_and_events(level: Shop) -> None:
    before = seen(level.runtime.db)
    assert before == {}
    level.world.plants_event(level.seller_id, b'{"id":"0","type":"ORDER_TELEPORTED"}')
    form = level.world.orders(level.seller_id)[1]
    level.world.plants(form, minified({**json.loads(level.world.body(form)), "status": "TELEPORTED"}))
    level.follow()
    now = seen(level.runtime.db)
    assert ("event.type", "unknown_value", "ORDER_TELEPORTED") in now
    status = now["order.status", "unknown_value", "TELEPORTED"]
    assert (status.example_account_id, status.example_order_id) == (level.account_id, form)


def test_a_key_of_one_user_is_shown_no_examples(db: Engine, order: dict[str, Any]) -> None:
    log = Drift()
    log.see("order", uuid4(), [("order-1", minified({**order, "tags": ["a"]}))])
    log.write(db)
    with database.transaction(db) as tx:
        [finding] = drift.findings(tx, seen_by=UUID(int=1))
    assert (finding.example_account_id, finding.example_order_id) == (None, None)


# Against Allegro's own description


def described(node: dict[str, Any], path: str, schemas: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """Each path with whether it is required and its known values, as the description has it."""
    while {"$ref", "anyOf", "allOf"} & node.keys():
        inner = node.get("anyOf", node.get("allOf", [node]))[0]
        node = schemas[inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
    known = {path: (required, frozenset(node.get("x-known-values", ())))}
    for name, inner in node.get("properties", {}).items():
        known |= described(inner, f"{path}.{name}", schemas, required=name in node.get("required", ()))
    if "items" in node:
        known |= described(node["items"], f"{path}[]", schemas)
    return known


def written(known: inspect.Type, path: str, *, required: bool = True) -> dict[str, Any]:
    """The same of what this program knows."""
    if isinstance(known, inspect.UnionType):
        return written(differences._meant(known), path, required=required)
    found = {path: (required, frozenset(known.values) if isinstance(known, inspect.LiteralType) else frozenset())}
    if isinstance(known, inspect.StructType):
        for one in known.fields:
            found |= written(one.type, f"{path}.{one.encode_name}", required=one.required)
    if isinstance(known, inspect.ListType):
        found |= written(known.item_type, f"{path}[]")
    return found


@pytest.mark.parametrize(("document", "schema"), [("order", "CheckoutForm"), ("event", "OrderEvent")])
def test_the_known_shape_is_what_allegro_describes(document: str, schema: str) -> None:
    schemas = description.schemas()
    theirs = described(schemas[schema], document, schemas)
    ours = written(inspect.type_info(shape.KNOWN[document]), document)
    assert ours.keys() == theirs.keys()
    assert {path for path in ours if ours[path][1] != theirs[path][1]} == set()
    required = {path for path in ours if ours[path][0] != theirs[path][0]}
    assert required == {path for path in OURS if path.startswith(document)}
    assert all(ours[path][0] for path in required)


def test_every_example_order_and_event_is_of_the_known_shape() -> None:
    examples = 0
    for file in sorted(EXAMPLES.glob("orders/*.json")) + sorted(EXAMPLES.glob("events/*.json")):
        value = msgspec.json.decode(file.read_bytes())
        document = "event" if file.parent.name == "events" else "order"
        for one in value.get("checkoutForms", value.get("events", [value])):
            if "latestEvent" not in one:
                assert differences.differences(document, minified(one)) == [], file.name
                examples += 1
    assert examples > 40
