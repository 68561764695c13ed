"""Backups and drills over the API: asked for once, told truthfully, for unbound keys alone."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from tests.rest.conftest import World
from tests.storage import Bucket, bucket

from orders_backup import db as database
from orders_backup.backups import ledger, making
from orders_backup.settings import Settings

__all__ = ["bucket"]


@pytest.fixture
def settings(settings: Settings, bucket: Bucket) -> Settings:
    """The same with a bucket."""
    return bucket.settings(settings)


@pytest.fixture
def keeper(world: World) -> World:
    """A world with an account and two orders, asked with a key for backups."""
    world.read(world.account(), b'{"id":"a"}', b'{"id":"b"}')
    world.ask = world.client(world.key("backups"))
    return world


def work(world: World, backup_id: str) -> dict[str, object]:
    making.work(world.runtime, UUID(backup_id))
    shown: dict[str, object] = world.ask.get(f"/backups/{backup_id}").json()
    return shown


def test_a_backup_is_asked_for_made_shown_and_rehearsed(keeper: World) -> None:
    asked = keeper.ask.post("/backups")
    assert (asked.status_code, asked.json()["state"], asked.json()["kind"]) == (202, "queued", "dump")
    backup_id = asked.json()["id"]
    assert asked.headers["location"] == f"/api/v1/backups/{backup_id}"
    shown = work(keeper, backup_id)
    assert (shown["state"], shown["error"], shown["report"]) == ("succeeded", None, None)
    assert shown["verified_at"] is not None
    drill = keeper.ask.post(f"/backups/{backup_id}/drill")
    assert (drill.status_code, drill.json()["of"]) == (202, backup_id)
    told = work(keeper, drill.json()["id"])
    assert told["state"] == "succeeded", told
    assert [one["id"] for one in keeper.ask.get("/backups", params={"of": backup_id}).json()["items"]] == [told["id"]]


def test_a_drill_of_the_archive_is_of_a_sample_or_of_everything(keeper: World) -> None:
    sample = keeper.ask.post("/backups/archive/drill").json()
    whole = keeper.ask.post("/backups/archive/drill", params={"scope": "whole"}).json()
    assert (sample["kind"], whole["kind"]) == ("drill_sample", "drill_whole")
    told = work(keeper, sample["id"])
    assert (told["state"], told["error_code"]) == ("failed", "drill_failed")
    assert "no archive" in str(told["report"])


def test_asking_twice_is_asking_once(keeper: World) -> None:
    first, second = keeper.ask.post("/backups"), keeper.ask.post("/backups")
    assert first.json()["id"] == second.json()["id"]
    key = {"Idempotency-Key": "once"}
    third = keeper.ask.post("/backups", headers=key)
    work(keeper, third.json()["id"])
    again = keeper.ask.post("/backups", headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == third.content
    assert len(keeper.ask.get("/backups").json()["items"]) == 1


def test_the_list_is_walked_by_pages_newest_first(keeper: World) -> None:
    with database.transaction(keeper.runtime.db) as tx:
        ids = [str(ledger.ask(tx, ledger.OF_ACCOUNT, of=uuid4(), by="test")) for _ in range(5)]
    keeper.ask.post("/backups")
    walked = [one["id"] for page in keeper.pages("/backups", limit=2, kind="drill") for one in page.json()["items"]]
    assert walked == ids[::-1]
    assert [one["kind"] for one in keeper.ask.get("/backups", params={"kind": "dump"}).json()["items"]] == ["dump"]
    cursor = keeper.ask.get("/backups", params={"limit": 1}).json()["next_cursor"]
    assert keeper.ask.get("/backups", params={"cursor": cursor, "kind": "dump"}).status_code == 422


def test_what_cannot_be_rehearsed_is_refused(keeper: World) -> None:
    waiting = keeper.ask.post("/backups").json()["id"]
    answer = keeper.ask.post(f"/backups/{waiting}/drill")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    drill = keeper.ask.post("/backups/archive/drill").json()["id"]
    assert keeper.ask.post(f"/backups/{drill}/drill").status_code == 409
    assert keeper.ask.post(f"/backups/{uuid4()}/drill").status_code == 404
    assert keeper.ask.get(f"/backups/{uuid4()}").status_code == 404
    assert keeper.ask.post("/backups/nonsense/drill").status_code == 422


@pytest.mark.parametrize("method", ["GET /backups", "POST /backups", "GET /backups/{id}", "POST /backups/{id}/drill"])
def test_a_key_bound_to_a_user_is_refused_whatever_its_scopes(keeper: World, method: str) -> None:
    backup_id = keeper.ask.post("/backups").json()["id"]
    work(keeper, backup_id)
    bound = keeper.client(keeper.key(user=keeper.user))
    verb, path = method.split()
    answer = bound.request(verb, path.format(id=backup_id))
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
    assert "unbound" in answer.json()["detail"]
    assert bound.post("/backups/archive/drill").status_code == 403
    assert len(keeper.ask.get("/backups").json()["items"]) == 1


def test_a_backup_that_waits_is_due_now_when_it_is_asked_for_again(keeper: World) -> None:
    backup_id = keeper.ask.post("/backups").json()["id"]
    keeper.execute("UPDATE backups SET due_at = clock_timestamp() + :wait", wait=timedelta(hours=1))
    keeper.ask.post("/backups")
    assert work(keeper, backup_id)["state"] == "succeeded"


def test_without_a_bucket_nothing_is_asked_for(keeper: World) -> None:
    object.__setattr__(keeper.runtime, "store", None)
    for path in ("/backups", "/backups/archive/drill"):
        answer = keeper.ask.post(path)
        assert answer.status_code == 409
        assert "S3_BUCKET" in answer.json()["detail"]
