"""Around every request that changes something: done once, written down, and not more often than a key may."""

import threading
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from orders_backup import access, audit, idempotency
from orders_backup import db as database
from orders_backup.errors import RequestInProgressError
from orders_backup.idempotency import Promise

if TYPE_CHECKING:
    from .conftest import World

NEW_KEY = {"name": "shop", "scopes": ["orders:read"]}


def make(world: "World", key: str | None = "k", body: dict[str, object] | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return world.ask.post("/api-keys", json=body or NEW_KEY, headers=headers)


def keys_made(world: "World") -> int:
    with database.transaction(world.runtime.db) as tx:
        return sum(one.name == "shop" for one in access.list_keys(tx))


def audited(world: "World") -> list[tuple[str, int | None]]:
    return [(act["act"], act["status"]) for act in world.ask.get("/audit-log").json()["items"]]


# Idempotency-Key


def test_a_repeated_post_is_done_once_and_told_the_same(world: "World") -> None:
    first, second = make(world), make(world)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert second.headers["Cache-Control"] == first.headers["Cache-Control"] == "no-store"
    assert second.headers["trace-id"] != first.headers["trace-id"]
    assert keys_made(world) == 1
    assert audited(world) == [("make_key", 201)]


def test_without_the_header_every_post_is_done(world: "World") -> None:
    assert make(world, None).json()["id"] != make(world, None).json()["id"]


def test_the_same_idempotency_key_of_another_api_key_is_another(world: "World") -> None:
    other = world.client(world.key())
    made = {client.post("/api-keys", json=NEW_KEY, headers={"Idempotency-Key": "k"}).json()["id"]
            for client in (world.ask, other)}  # fmt: skip
    assert len(made) == 2


def test_another_request_under_the_same_idempotency_key_is_refused(world: "World") -> None:
    old = make(world).json()["id"]
    other_body = make(world, body={**NEW_KEY, "name": "other"})
    other_path = world.ask.post(f"/api-keys/{old}/rotate", json=NEW_KEY, headers={"Idempotency-Key": "k"})
    for refused in (other_body, other_path):
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert keys_made(world) == 1


@pytest.mark.parametrize("key", [b"", b"a b", "ż".encode(), b"x" * 256])
def test_an_idempotency_key_that_is_none_is_refused(world: "World", key: bytes) -> None:
    refused = world.ask.post("/api-keys", json=NEW_KEY, headers=[(b"Idempotency-Key", key)])
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert keys_made(world) == 0


def test_a_refused_request_may_be_sent_again_under_its_key(world: "World") -> None:
    assert make(world, body={**NEW_KEY, "scopes": ["everything"]}).status_code == 422
    assert make(world).status_code == 201


def test_many_at_once_are_done_once(world: "World") -> None:
    answers: list[httpx.Response] = []
    clients = [world.client(world.ask.headers["X-API-Key"]) for _ in range(8)]

    def ask(client: httpx.Client) -> None:
        answers.append(client.post("/api-keys", json=NEW_KEY, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys_made(world) == 1
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert all(answer.headers["Retry-After"] == "1" for answer in answers if answer.status_code == 409)


def test_a_request_that_a_crash_left_open_is_done_again_once_its_lock_ends(world: "World") -> None:
    promise, vault = Promise("a", "k", b"f"), world.runtime.vault
    with database.transaction(world.runtime.db) as tx:
        assert idempotency.begin(tx, vault, promise) is None
    with database.transaction(world.runtime.db) as tx, pytest.raises(RequestInProgressError):
        idempotency.begin(tx, vault, promise)
    world.execute("UPDATE idempotent_answers SET locked_until = clock_timestamp()")
    with database.transaction(world.runtime.db) as tx:
        assert idempotency.begin(tx, vault, promise) is None
        idempotency.keep(tx, vault, promise, "done")
    world.execute("UPDATE idempotent_answers SET locked_until = clock_timestamp()")
    with database.transaction(world.runtime.db) as tx:
        assert idempotency.begin(tx, vault, promise) == "done"


def test_a_kept_answer_tells_its_secret_to_nobody_who_reads_the_database(world: "World") -> None:
    secret = make(world).json()["key"]
    with database.transaction(world.runtime.db) as tx:
        rows = tx.execute(sa.text("SELECT t::text, encode(answer_sealed, 'escape') FROM idempotent_answers t"))
        stored = "".join(str(row) for row in rows)
    assert len(stored) > 100
    assert secret.split("_")[3] not in stored


def test_answers_are_forgotten_after_a_day(world: "World") -> None:
    make(world)
    world.execute("UPDATE idempotent_answers SET created_at = clock_timestamp() - interval '25 h'")
    assert make(world, "another").status_code == 201
    assert "Idempotency-Replayed" not in make(world).headers
    assert keys_made(world) == 3


# The audit log


def test_every_act_is_written_down_with_who_did_it_and_how_it_ended(world: "World") -> None:
    account = world.account()
    renamed = world.ask.patch(f"/accounts/{account}", json={"name": "new"})
    world.ask.delete(f"/accounts/{uuid4()}")
    world.ask.post("/api-keys", json={})
    world.ask.get("/accounts")
    bad, gone, change = world.ask.get("/audit-log").json()["items"]
    assert [(one["act"], one["status"]) for one in (change, gone, bad)] == [
        ("change_account", 200), ("disconnect_account", 404), ("make_key", 422)
    ]  # fmt: skip
    assert change["target"] == {"account_id": str(account)}
    assert change["actor"] == access.id_of(world.ask.headers["X-API-Key"])
    assert change["trace_id"] == renamed.headers["trace-id"]


def test_who_may_not_do_a_thing_leaves_no_act(world: "World") -> None:
    assert world.client(world.key("orders:read")).post("/api-keys", json=NEW_KEY).status_code == 403
    assert audited(world) == []


def test_an_act_that_a_crash_cut_short_stands_without_an_end(world: "World") -> None:
    with database.transaction(world.runtime.db) as tx:
        audit.begin(tx, actor="someone", act="make_key", target={})
    assert audited(world) == [("make_key", None)]


def test_the_audit_log_is_paged_and_a_bound_key_sees_what_keys_of_its_user_did(world: "World") -> None:
    user = uuid4()
    bound = world.client(world.key(user=user))
    for client in (world.ask, bound, world.ask, bound):
        client.post("/api-keys", json=NEW_KEY)
    seen = [act["seq"] for page in world.pages("/audit-log", limit=1) for act in page.json()["items"]]
    assert len(seen) == 4
    assert seen == sorted(seen, reverse=True)
    own = bound.get("/audit-log").json()["items"]
    assert {act["user_id"] for act in own} == {str(user)}
    assert len(own) == 2


def test_a_database_that_goes_away_after_the_act_does_not_change_its_answer(world: "World") -> None:
    world.execute("CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS"
                  " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'")  # fmt: skip
    world.execute("CREATE TRIGGER leave BEFORE UPDATE ON audit_log FOR EACH ROW EXECUTE FUNCTION leave()")
    assert make(world).status_code == 201
    assert keys_made(world) == 1
    world.execute("DROP TRIGGER leave ON audit_log")
    assert audited(world) == [("make_key", None)]


def test_a_post_of_which_nobody_knows_whether_it_was_done_is_not_repeated_at_once(world: "World") -> None:
    world.execute("CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS"
                  " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'")  # fmt: skip
    world.execute("CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON api_keys DEFERRABLE INITIALLY DEFERRED"
                  " FOR EACH ROW WHEN (NEW.name = 'shop') EXECUTE FUNCTION leave()")  # fmt: skip
    assert (lost := make(world)).status_code == 503, lost.text
    world.execute("DROP TRIGGER leave ON api_keys")
    again = make(world)
    assert (again.status_code, again.json()["code"], "Retry-After" in again.headers) == (
        409,
        "request_in_progress",
        True,
    )
    world.execute("UPDATE idempotent_answers SET locked_until = clock_timestamp()")
    assert make(world).status_code == 201
    assert keys_made(world) == 1


# The allowance of a key


@pytest.fixture
def slow_key(world: "World") -> httpx.Client:
    """A key that may ask five times a minute, whatever this machine's clock does."""
    object.__setattr__(world.runtime, "settings", world.runtime.settings.model_copy(update={"rate_limit_api": 5}))
    return world.client(world.key())


def test_every_answer_tells_what_the_key_may_still_ask(slow_key: httpx.Client) -> None:
    answers = [slow_key.get(f"/orders/{number}") for number in range(3)]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"key";q=5;w=60'}
    assert [answer.headers["RateLimit"] for answer in answers] == [
        '"key";r=4;t=12', '"key";r=3;t=24', '"key";r=2;t=36'
    ]  # fmt: skip


def test_who_asks_too_often_is_told_when_to_ask_again_and_no_other_key_is(
    world: "World", slow_key: httpx.Client
) -> None:
    assert [slow_key.get("/orders").status_code for _ in range(6)] == [200] * 5 + [429]
    refused = slow_key.get("/orders")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["Retry-After"]) <= 12
    assert refused.headers["RateLimit"].startswith('"key";r=0;')
    assert world.ask.get("/orders").status_code == 200
    world.execute(
        "UPDATE api_keys SET spent_until = spent_until - make_interval(secs => :wait)",
        wait=int(refused.headers["Retry-After"]),
    )
    assert slow_key.get("/orders").status_code == 200
    assert slow_key.get("/orders").status_code == 429


def test_an_unknown_key_has_no_allowance_and_wrong_secrets_spend_nobody_s(slow_key: httpx.Client) -> None:
    right = slow_key.headers["X-API-Key"]
    body = f"aob_live_{access.id_of(right)}_{'0' * 43}"
    wrong = body + access._checksum(body)
    for _ in range(6):
        refused = slow_key.get("/orders", headers={"X-API-Key": wrong})
        assert refused.status_code == 401
        assert "RateLimit" not in refused.headers
    assert slow_key.get("/orders").headers["RateLimit"] == '"key";r=4;t=12'


def test_the_openapi_document_tells_of_the_header(world: "World") -> None:
    operations = httpx.get(f"{world.url}/openapi.json").json()["paths"].values()
    for path in operations:
        for method, operation in path.items():
            names = {one["name"] for one in operation.get("parameters", [])}
            assert ("Idempotency-Key" in names) is (method == "post"), operation["operationId"]
