"""Exports in the background: whole or nothing, through crashes and outages; nobody else's; gone when they expire."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from tests.exports.conftest import Exports, order
from tests.rest.conftest import START, World
from tests.storage import Bucket

from orders_backup import db as database
from orders_backup.errors import LeaseLostError
from orders_backup.exports import jobs, reading, shelf, state

ROOT = Path(__file__).parents[2]


def fill(world: World, orders: int) -> UUID:
    account = world.account()
    world.read(account, *(order(f"o-{number:02}") for number in range(orders)))
    return account


def direct(world: World, name: str) -> bytes:
    return world.ask.get("/orders/export", params={"format": name}).raise_for_status().content


def download(exports: Exports, export_id: UUID, path: str = "download") -> bytes:
    return exports.world.ask.get(f"/exports/{export_id}/{path}").raise_for_status().content


def manifests(exports: Exports) -> list[dict[str, Any]]:
    """Every manifest that anybody could see, after a look at each file it names."""
    found = []
    for file in exports.files():
        if file.name == "manifest.json":
            told = json.loads(file.read_text())
            for part in told["parts"]:
                content = file.with_name(part["name"]).read_bytes()
                assert (len(content), hashlib.sha256(content).hexdigest()) == (part["bytes"], part["sha256"])
            found.append(told)
    return found


# The whole way


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_the_parts_of_a_job_are_the_stream_cut_in_pieces(exports: Exports, name: str) -> None:
    fill(exports.world, 5)
    asked = exports.world.ask.post("/exports", json={"format": name})
    assert (asked.status_code, asked.json()["status"]) == (202, "queued")
    export_id = UUID(asked.json()["id"])
    assert asked.headers["location"] == f"/api/v1/exports/{export_id}"
    shown = exports.work(export_id, part_orders=2)
    assert (shown["status"], shown["progress"], shown["orders_done"], shown["rows"]) == ("finished", 1.0, 5, 5)
    assert [part["orders"] for part in shown["parts"]] == [2, 2, 1]
    whole = download(exports, export_id)
    assert whole == direct(exports.world, name)
    assert b"".join(download(exports, export_id, f"parts/{number}") for number in (1, 2, 3)) == whole
    [manifest] = manifests(exports)
    assert json.loads(download(exports, export_id, "manifest")) == manifest
    assert {part["name"]: part["sha256"] for part in manifest["parts"]} == {
        part["name"]: part["sha256"] for part in shown["parts"]
    }
    assert (manifest["orders"], manifest["bytes"]) == (5, len(whole))


@pytest.mark.parametrize("orders", [0, 2, 4])
def test_there_is_no_empty_file_behind_the_last_order(exports: Exports, orders: int) -> None:
    if orders:
        fill(exports.world, orders)
    shown = exports.work(exports.ask(), part_orders=2)
    assert [part["orders"] for part in shown["parts"]] == ([0] if not orders else [2] * (orders // 2))
    assert shown["status"] == "finished"


def test_parquet_of_several_files_is_got_file_by_file(exports: Exports) -> None:
    fill(exports.world, 3)
    export_id = exports.ask(format="parquet")
    assert exports.work(export_id, part_orders=2)["status"] == "finished"
    refused = exports.world.ask.get(f"/exports/{export_id}/download")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert download(exports, export_id, "parts/2").startswith(b"PAR1")
    assert exports.world.ask.get(f"/exports/{export_id}/parts/3").status_code == 404


def test_a_job_takes_every_filter_that_a_stream_takes(exports: Exports) -> None:
    account = fill(exports.world, 2)
    late = order("late", bought="2026-07-02T00:00:00Z", updatedAt="2026-07-03T00:00:00Z", buyer={"login": "Jan"})
    exports.world.read(account, late)
    wanted = {
        "user_id": str(exports.world.user),
        "account_id": str(account),
        "status": "READY_FOR_PROCESSING",
        "buyer_login": "Jan",
        "ordered_from": "2026-07-01T00:00:00+02:00",
        "ordered_to": "2026-08-01T00:00:00Z",
        "updated_from": "2026-07-03T00:00:00Z",
        "updated_to": "2026-07-03T00:00:01Z",
    }
    export_id = exports.ask(filter=wanted)
    shown = exports.work(export_id)
    assert (shown["orders_total"], shown["orders_done"], set(shown["filter"])) == (1, 1, set(wanted))
    assert json.loads(download(exports, export_id))["id"] == "late"


def test_the_accountants_pack_is_one_file(exports: Exports) -> None:
    fill(exports.world, 3)
    export_id = exports.ask(format="accountant", filter={"month": "2026-06"})
    assert len(exports.work(export_id, part_orders=1)["parts"]) == 1
    assert download(exports, export_id).startswith(b"PK")


def test_files_are_for_nobody_else_on_the_machine(exports: Exports, bucket: Bucket) -> None:
    fill(exports.world, 1)
    exports.work(exports.ask())
    found = exports.files()
    assert len(found) == 2
    if exports.folder != bucket.folder:
        assert {file.stat().st_mode & 0o777 for file in found} == {0o600}


# Progress


def test_a_slice_gives_the_slot_back_and_tells_how_far_it_is(exports: Exports) -> None:
    fill(exports.world, 4)
    export_id = exports.ask()
    assert (exports.shown(export_id)["progress"], exports.shown(export_id)["eta_seconds"]) == (None, None)
    shown = exports.work(export_id, part_orders=3, slice_seconds=0)
    assert (shown["status"], shown["orders_total"], shown["orders_done"], shown["progress"]) == ("running", 4, 3, 0.75)
    exports.world.execute("UPDATE exports SET busy_seconds = 6")
    assert exports.shown(export_id)["eta_seconds"] == 2.0
    refused = exports.world.ask.get(f"/exports/{export_id}/download")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert manifests(exports) == []
    assert exports.work(export_id)["status"] == "finished"
    assert download(exports, export_id) == direct(exports.world, "jsonl")


def test_the_change_feed_goes_on_where_the_export_ends(exports: Exports) -> None:
    account = fill(exports.world, 3)
    export_id = exports.ask(filter={"account_id": str(account)})
    cursor = exports.work(export_id)["changes_cursor"]
    exports.world.read(account, order("later"), order("o-00", note={"text": "x"}), at=START.replace(hour=13))
    page = exports.world.ask.get("/changes", params={"cursor": cursor, "account_id": str(account)}).json()
    assert [change["order_id"] for change in page["items"]] == ["later", "o-00"]


# Crashes


@pytest.mark.parametrize(
    "boundary", ["in a file", "after a file", "before a commit", "before the manifest", "after the manifest"]
)
def test_a_killed_worker_costs_the_part_it_was_at(exports: Exports, boundary: str) -> None:
    fill(exports.world, 5)
    export_id = exports.ask()
    settings = exports.runtime.settings
    names = {"data_dir", "database_url", "s3_bucket", "s3_endpoint_url", "s3_prefix", "aws_access_key_id"}
    secrets = {
        name: getattr(settings, name).get_secret_value() for name in ("encryption_keys", "aws_secret_access_key")
    }
    command = [sys.executable, "-m", "tests.exports.killed", settings.model_dump_json(include=names)]
    environment = {**os.environ, **{name.upper(): value for name, value in secrets.items()}}
    ended = subprocess.run(
        [*command, str(export_id), boundary, "2"], cwd=ROOT, env=environment, check=False, timeout=120
    )
    assert ended.returncode == -signal.SIGKILL
    assert len(manifests(exports)) == (boundary == "after the manifest")
    with database.transaction(exports.runtime.db) as tx:
        before = state.get(tx, export_id, seen_by=None)
    assert len(before.parts) == {"in a file": 1, "after a file": 1, "before a commit": 1}.get(boundary, 3)
    assert exports.shown(export_id)["status"] == "running"

    shown = exports.work(export_id, part_orders=2)

    assert shown["status"] == "finished"
    assert [part["name"] for part in shown["parts"]][: len(before.parts)] == [part.name for part in before.parts]
    assert len(manifests(exports)) == 1
    assert download(exports, export_id) == direct(exports.world, "jsonl")
    if exports.runtime.store is None:
        assert [file for file in exports.files() if file.name.startswith(".")] == [] or boundary == "in a file"


def test_who_lost_the_lease_writes_nothing_that_counts(exports: Exports) -> None:
    fill(exports.world, 3)
    export_id = exports.ask()
    exports.world.execute("""
        CREATE FUNCTION claimed_by_another() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.lease_generation := NEW.lease_generation + 1; RETURN NEW; END'""")
    when = "BEFORE UPDATE OF horizon ON exports FOR EACH ROW"
    exports.world.execute(f"CREATE TRIGGER another {when} EXECUTE FUNCTION claimed_by_another()")
    with pytest.raises(LeaseLostError):
        exports.work(export_id)
    exports.world.execute("DROP TRIGGER another ON exports")
    assert (exports.shown(export_id)["parts"], manifests(exports)) == ([], [])
    [theirs] = [file.name for file in exports.files()]
    shown = exports.work(export_id)
    assert (shown["status"], theirs == shown["parts"][0]["name"]) == ("finished", False)
    assert download(exports, export_id) == direct(exports.world, "jsonl")


def test_a_long_part_keeps_its_lease_and_tells_how_far_it_is(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SIGN_OF_LIFE_EVERY", 0)
    monkeypatch.setattr(reading, "PAGE_ORDERS", 1)
    fill(exports.world, 5)
    export_id = exports.ask()
    exports.world.execute("CREATE TABLE signs (until timestamptz, done bigint)")
    exports.world.execute("""
        CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO signs VALUES (NEW.leased_until, NEW.orders_done); RETURN NEW; END'""")
    exports.world.execute("CREATE TRIGGER noted AFTER UPDATE ON exports FOR EACH ROW EXECUTE FUNCTION noted()")
    exports.work(export_id)
    with database.transaction(exports.runtime.db) as tx:
        signs = tx.execute(sa.text("SELECT until, done FROM signs WHERE until IS NOT NULL")).all()
    assert len({sign.until for sign in signs}) > 5
    assert {sign.done for sign in signs} >= {1, 2, 3, 4, 5}


def test_a_long_part_gives_signs_of_life(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "SIGN_OF_LIFE_EVERY", 0)
    monkeypatch.setattr(reading, "PAGE_ORDERS", 1)
    fill(exports.world, 5)
    export_id = exports.ask()
    signs: list[float] = []
    exports.work(export_id, sign=signs.append)
    assert len(signs) > 5
    assert signs == sorted(signs)


def test_a_worker_that_is_asked_to_end_leaves_the_export_to_others_at_no_cost(exports: Exports) -> None:
    fill(exports.world, 5)
    export_id = exports.ask()
    exports.work(export_id, part_orders=2, slice_seconds=0)
    exports.runtime.stopping.set()
    shown = exports.work(export_id, part_orders=2)
    assert (shown["status"], len(shown["parts"])) == ("running", 1)
    with database.transaction(exports.runtime.db) as tx:
        left = sa.text("SELECT due_at <= clock_timestamp(), leased_until, failures FROM exports")
        assert tuple(tx.execute(left).one()) == (True, None, 0)
    exports.runtime.stopping.clear()
    assert exports.work(export_id)["status"] == "finished"
    assert download(exports, export_id) == direct(exports.world, "jsonl")


def test_a_worker_that_dies_every_time_is_given_up(exports: Exports) -> None:
    fill(exports.world, 1)
    export_id = exports.ask()
    exports.world.execute("UPDATE exports SET failures = 10")
    shown = exports.work(export_id)
    assert shown["status"] == "failed"
    assert shown["last_error"]
    assert shown["expires_at"] is not None


def test_storage_that_is_away_is_waited_for(exports: Exports, bucket: Bucket) -> None:
    fill(exports.world, 3)
    export_id = exports.ask()
    exports.world.execute("UPDATE exports SET orders_done = 2")  # as a part left it that a killed worker was at
    if exports.runtime.store is None:
        blocker = exports.folder / "exports"
        blocker.write_text("a file where the folder should be")
        shown = exports.work(export_id)
        blocker.unlink()
    else:
        bucket.stop()
        shown = exports.work(export_id)
        bucket.start()
    assert (shown["status"], shown["parts"], shown["orders_done"]) == ("running", [], 0)
    assert "data directory" in shown["last_error"] or "object storage" in shown["last_error"]
    with database.transaction(exports.runtime.db) as tx:
        waits = tx.execute(sa.text("SELECT due_at > clock_timestamp(), failures FROM exports")).one()
    assert tuple(waits) == (True, 1)
    shown = exports.work(export_id)
    assert (shown["status"], shown["last_error"]) == ("finished", None)


def test_no_manifest_names_a_file_that_is_not_whole(exports: Exports) -> None:
    fill(exports.world, 3)
    export_id = exports.ask()
    exports.work(export_id, part_orders=2, slice_seconds=0)
    [file] = [one for one in exports.files() if one.name.startswith("part-00001")]
    shelf.put(exports.runtime, shelf.place(exports.runtime), export_id, file.name, iter([file.read_bytes()[:-1]]))
    assert exports.work(export_id)["status"] == "running"
    assert manifests(exports) == []


# Downloads


def test_a_file_that_was_changed_breaks_the_download(exports: Exports) -> None:
    fill(exports.world, 3)
    export_id = exports.ask()
    exports.work(export_id)
    [file] = [one for one in exports.files() if one.name.startswith("part-")]
    file.write_bytes(file.read_bytes().replace(b"12.30", b"99.30"))
    with pytest.raises(httpx.RemoteProtocolError):
        download(exports, export_id)


def test_a_file_that_is_gone_is_told_before_the_first_byte(exports: Exports) -> None:
    fill(exports.world, 3)
    export_id = exports.ask()
    exports.work(export_id)
    [file] = [one for one in exports.files() if one.name.startswith("part-")]
    file.unlink()
    refused = exports.world.ask.get(f"/exports/{export_id}/download")
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")


def test_an_expired_export_leaves_no_file(exports: Exports) -> None:
    fill(exports.world, 3)
    kept, gone = exports.ask(), exports.ask()
    for export_id in (kept, gone):
        exports.work(export_id)
    shelf.put(exports.runtime, shelf.place(exports.runtime), gone, "part-00009-1.jsonl", iter([b"of one who died"]))
    with database.transaction(exports.runtime.db) as tx:
        days = sa.text("SELECT DISTINCT round(extract(epoch FROM due_at - clock_timestamp()) / 86400) FROM exports")
        assert [int(day) for day in tx.execute(days).scalars()] == [7]
    shown = exports.work(gone)
    assert shown["status"] == "expired"
    assert [file for file in exports.files() if str(gone) in file.parts] == []
    assert exports.world.ask.get(f"/exports/{gone}/download").status_code == 409
    assert download(exports, kept) == direct(exports.world, "jsonl")
    jobs.work(exports.runtime, gone)
    assert exports.shown(gone)["status"] == "expired"


# Who may


def test_a_job_of_a_bound_key_holds_that_users_orders_alone(exports: Exports) -> None:
    world, stranger = exports.world, uuid4()
    fill(world, 2)
    world.read(world.account(stranger), order("theirs"))
    bound = world.client(world.key("exports", user=stranger))
    asked = bound.post("/exports", json={"format": "jsonl"})
    export_id = UUID(asked.json()["id"])
    exports.work(export_id)
    lines = bound.get(f"/exports/{export_id}/download").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["theirs"]
    mine = world.client(world.key("exports", user=world.user))
    for path in ("", "/download", "/manifest", "/parts/1"):
        assert mine.get(f"/exports/{export_id}{path}").status_code == 404
        assert bound.get(f"/exports/{export_id}{path}").status_code == 200
    assert mine.get("/exports").json()["items"] == []
    assert [one["id"] for one in bound.get("/exports").json()["items"]] == [str(export_id)]


def test_exports_are_listed_newest_first(world: World) -> None:
    made = [world.ask.post("/exports", json={"format": "jsonl"}).json()["id"] for _ in range(3)]
    found = [one["id"] for page in world.pages("/exports", limit=2) for one in page.json()["items"]]
    assert found == made[::-1]


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({"format": "xml"}, 422),
        ({"format": "accountant"}, 422),
        ({"format": "jsonl", "filter": {"statsu": "x"}}, 422),
        ({"format": "jsonl", "filter": {"ordered_from": "yesterday"}}, 422),
        ({"format": "jsonl", "filter": {"account_id": "6b1f0000-0000-4000-8000-000000000000"}}, 404),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(world: World, wanted: dict[str, Any], status: int) -> None:
    assert world.ask.post("/exports", json=wanted).status_code == status
    assert world.ask.get("/exports").json()["items"] == []


def test_at_most_two_exports_run_at_once(world: World) -> None:
    for _ in range(4):
        world.ask.post("/exports", json={"format": "jsonl"})

    def rung() -> int:
        with database.transaction(world.runtime.db) as tx:
            return len(state.ring(tx))

    assert (rung(), rung()) == (2, 0)
    world.execute("UPDATE exports SET leased_until = clock_timestamp() + interval '1 min' WHERE rung_at IS NOT NULL")
    assert rung() == 0
    world.execute("""UPDATE exports SET due_at = NULL, leased_until = NULL
                      WHERE export_id = (SELECT export_id FROM exports WHERE leased_until IS NOT NULL LIMIT 1)""")
    assert rung() == 1
