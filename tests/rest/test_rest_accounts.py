"""Accounts and syncs over the API: what a caller sees and may change."""

from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from orders_backup.sync import queries

if TYPE_CHECKING:
    from tests.rest.conftest import World


def test_an_account_tells_its_whole_state(world: "World") -> None:
    account = world.account()
    world.read(account, b'{"id":"a"}', b'{"id":"b"}')
    world.read(account, b'{"id":"b","status":"SENT"}')
    world.execute(
        "INSERT INTO syncs (account_id, kind, due_at, succeeded_at, lag_seconds, failures, last_error) VALUES"
        " (:a, 'journal', '2026-01-01T10:00:00Z', '2026-01-01T09:00:00Z', 1.5, 1, 'Allegro is away'),"
        " (:a, 'listing', '2026-01-01T11:00:00Z', NULL, NULL, 0, NULL)",
        a=account,
    )
    world.execute(
        "INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at, set_aside_at) VALUES"
        " (:a, 'x', 'event', now(), now(), NULL), (:a, 'y', 'event', now(), now(), now())",
        a=account,
    )
    run(world, account, kind="backfill", status="running", inserted=2, expected=8)
    shown = world.ask.get(f"/accounts/{account}").json()
    assert {name: shown[name] for name in ("orders", "versions", "owed", "set_aside")} == {
        "orders": 2,
        "versions": 3,
        "owed": 1,
        "set_aside": 1,
    }
    assert shown["backfill"] == {"state": "running", "progress": 0.25, "listed": 2, "expected": 8}
    assert shown["next_sync_at"] == "2026-01-01T10:00:00Z"
    assert shown["last_synced_at"] == "2026-01-01T09:00:00Z"
    assert (shown["lag_seconds"], shown["last_error"]) == (1.5, "Allegro is away")
    assert (shown["status"], shown["user_code"], shown["token_expires_at"]) == ("active", None, None)


def test_accounts_are_listed_page_by_page_and_narrowed(world: "World") -> None:
    other = uuid4()
    made = [str(world.account()) for _ in range(5)] + [str(world.account(other, status="pending"))]
    listed = [item["id"] for page in world.pages("/accounts", limit=2) for item in page.json()["items"]]
    assert listed == made
    assert [item["id"] for item in world.ask.get(f"/accounts?user_id={other}").json()["items"]] == made[5:]
    assert [item["id"] for item in world.ask.get("/accounts?status=pending").json()["items"]] == made[5:]
    assert world.ask.get("/accounts?status=lost").status_code == 422


def test_an_account_is_renamed_and_paused(world: "World") -> None:
    account = world.account()
    changed = world.ask.patch(f"/accounts/{account}", json={"name": " Sklep ", "paused": True})
    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["paused"]) == ("Sklep", True)
    changed = world.ask.patch(f"/accounts/{account}", json={"paused": False, "sync_interval_seconds": 60})
    assert (changed.json()["name"], changed.json()["paused"]) == ("Sklep", False)
    assert changed.json()["sync_interval_seconds"] == 60
    for wrong in ({"sync_interval_seconds": 59}, {"name": ""}, {"name": "a\x00b"}, {"nom": "x"}):
        refused = world.ask.patch(f"/accounts/{account}", json=wrong)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["name"] == next(iter(wrong))


def test_disconnecting_forgets_the_tokens_and_keeps_the_orders(world: "World") -> None:
    account = world.account()
    world.read(account, b'{"id":"o"}')
    world.execute(
        "INSERT INTO account_tokens (account_id, generation, access_sealed, refresh_sealed, access_expires_at,"
        " obtained_at) VALUES (:a, 1, '', '', now(), now())",
        a=account,
    )
    assert world.ask.get(f"/accounts/{account}").json()["token_expires_at"]
    gone = world.ask.delete(f"/accounts/{account}")
    assert (gone.status_code, gone.content) == (204, b"")
    shown = world.ask.get(f"/accounts/{account}").json()
    assert (shown["status"], shown["token_expires_at"], shown["orders"]) == ("disconnected", None, 1)
    assert world.ask.get("/orders/o").status_code == 200


def test_connecting_while_allegro_is_away_is_a_clear_503(world: "World") -> None:
    answer = world.ask.post("/accounts", json={"user_id": str(uuid4()), "name": "shop"})
    assert answer.status_code == 503
    assert answer.json()["code"] == "allegro_unavailable"
    assert answer.headers["retry-after"] == "5"
    assert world.ask.get("/accounts").json()["items"] == []


def test_a_bound_key_connects_only_its_own_user(world: "World") -> None:
    bound = world.client(world.key("accounts:write", user=world.user))
    answer = bound.post("/accounts", json={"user_id": str(uuid4()), "name": "shop"})
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


def test_a_sync_is_asked_for_and_watched(world: "World") -> None:
    account = world.account()
    body = {"kind": "full", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00+00:00"}
    answer = world.ask.post(f"/accounts/{account}/syncs", json=body)
    assert answer.status_code == 202
    asked: dict[str, Any] = answer.json()
    assert (asked["status"], asked["kind"], asked["from"], asked["to"]) == (
        "queued",
        "full",
        "2026-01-01T00:00:00Z",
        "2026-02-01T00:00:00Z",
    )
    assert world.ask.get(f"/syncs/{asked['id']}").json() == asked
    world.execute(
        "UPDATE sync_history SET status = 'running', started_at = clock_timestamp() - interval '10 s', listed = 10,"
        " inserted = 10, expected = 40, calls = 3 WHERE id = :id",
        id=asked["id"],
    )
    watched = world.ask.get(f"/syncs/{asked['id']}").json()
    assert (watched["progress"], watched["calls"]) == (0.25, 3)
    assert 29 < watched["eta_seconds"] < 40
    assert 0 < watched["eta_low"] < watched["eta_seconds"] < watched["eta_high"]


def test_the_more_was_listed_the_closer_the_eta_is_told() -> None:
    widths = []
    for pages in (0, 1, 10, 100, 10_000):
        low, high = queries.eta_between(100.0, pages)
        assert low
        assert high
        widths.append(high - low)
        assert low < 100 < high
    assert widths == sorted(widths, reverse=True)
    assert queries.eta_between(None, 5) == (None, None)


def test_a_sync_that_makes_no_sense_is_refused(world: "World") -> None:
    account = world.account()
    late, early = "2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"
    for body in (
        {"kind": "backfill"},
        {},
        {"kind": "incremental", "from": early},
        {"kind": "full", "from": late, "to": early},
        {"kind": "full", "from": "2026-01-01"},
        {"kind": "full", "from": "2026-01-01T00:00:00"},
        {"kind": "full", "from": 1767225600},
    ):
        assert world.ask.post(f"/accounts/{account}/syncs", json=body).status_code == 422, body
    paused = world.account(status="reauthorization_required")
    refused = world.ask.post(f"/accounts/{paused}/syncs", json={"kind": "incremental"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


def test_syncs_are_listed_newest_first_page_by_page(world: "World") -> None:
    account = world.account()
    made = [run(world, account, kind="incremental", status="succeeded") for _ in range(5)]
    pages = list(world.pages(f"/accounts/{account}/syncs", limit=2))
    assert [item["id"] for page in pages for item in page.json()["items"]] == made[::-1]


def run(world: "World", account_id: UUID, *, kind: str, status: str, inserted: int = 0, expected: int = 0) -> str:
    run_id = uuid4()
    world.execute(
        "INSERT INTO sync_history (id, account_id, kind, status, listed, inserted, expected)"
        " VALUES (:id, :account, :kind, :status, :inserted, :inserted, :expected)",
        id=run_id,
        account=account_id,
        kind=kind,
        status=status,
        inserted=inserted,
        expected=expected,
    )
    return str(run_id)


def test_a_certificate_tells_of_each_window_what_stands_between_allegro_and_us(world: "World") -> None:
    """Ours that Allegro does not list are beyond its reach only where that ends before them."""
    account, run_id = world.account(), uuid4()
    world.execute(
        "INSERT INTO sync_history (id, account_id, kind, status, started_at, finished_at)"
        " VALUES (:id, :account, 'backfill', 'succeeded', now(), now())",
        id=run_id,
        account=account,
    )
    for since, until, status, unlisted in (
        (360, 0, "verified", 3),
        (900, 360, "verified", 4),
        (990, 900, "open", None),
    ):
        world.execute(
            """INSERT INTO sync_windows (account_id, run_id, window_from, window_to, method, status, listed,
                                         total_count, stored, missing, superseded, set_aside, unlisted)
               VALUES (:account, :run, now() - make_interval(days => :since), now() - make_interval(days => :until),
                       'ids', :status, 9, 9, 8, 0, 2, 1, :unlisted)""",
            account=account,
            run=run_id,
            since=since,
            until=until,
            status=status,
            unlisted=unlisted,
        )
    windows = world.ask.get(f"/accounts/{account}/completeness").json()["windows"]
    same = {"method": "ids", "listed": 9, "stored": 8, "missing": 0, "superseded": 2, "set_aside": 1}
    told = [
        {"status": "verified", "unlisted": 3, "beyond_reach": 0, "explained": 6},
        {"status": "verified", "unlisted": 0, "beyond_reach": 4, "explained": 7},
        {"status": "open", "unlisted": 0, "beyond_reach": None, "explained": 3},
    ]
    assert [{name: one[name] for name in same | told[0]} for one in windows] == [same | one for one in told]


def test_an_account_shows_what_could_cost_it_orders(world: "World") -> None:
    account = world.account()
    assert world.ask.get(f"/accounts/{account}").json()["warnings"] == []
    world.execute("UPDATE accounts SET connected_at = now() - interval '50 days' WHERE id = :a", a=account)
    shown = world.ask.get(f"/accounts/{account}").json()["warnings"]
    assert [one["code"] for one in shown] == ["cliff_near", "journal_gap_near", "certificate_old"]
    assert all(one["sentence"].endswith(".") for one in shown)
    listed = {one["id"]: one["warnings"] for one in world.ask.get("/accounts").json()["items"]}
    assert listed[str(account)] == shown
