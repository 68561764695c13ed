"""Alerts and silences over the API."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from orders_backup.alerts.rules import BY_NAME

if TYPE_CHECKING:
    from .conftest import World

OPEN, OVER = "NULL", "now()"


def alert(world: "World", rule: str, subject: object, *, recovered: str = OPEN, opened: str = "now()") -> UUID:
    alert_id = uuid4()
    world.execute(
        f"""INSERT INTO alerts (alert_id, rule, subject, account_id, severity, detail, fired_at, seen_at, opened_at,
                                recovered_at)
            VALUES (:id, :rule, :subject, :account, 'error', 'x', clock_timestamp(), now(), {opened}, {recovered})""",
        id=alert_id,
        rule=rule,
        subject=str(subject),
        account=subject if isinstance(subject, UUID) else None,
    )
    return alert_id


def ids(world: "World", **params: str) -> list[UUID]:
    return [UUID(item["id"]) for page in world.pages("/alerts", limit=2, **params) for item in page.json()["items"]]


def test_alerts_are_listed_newest_first_page_by_page_and_by_what_is_asked_for(world: "World") -> None:
    account = world.account()
    over = alert(world, "sync_failing", account, recovered=OVER)
    lost = alert(world, "token_lost", account)
    silent = alert(world, "workers_silent", "installation")
    alert(world, "sync_stale", account, opened="NULL")  # it has not held for long enough
    assert ids(world) == [silent, lost, over]
    assert ids(world, open="true") == [silent, lost]
    assert ids(world, open="false") == [over]
    assert ids(world, rule="token_lost") == [lost]
    assert ids(world, account_id=str(account)) == [lost, over]
    assert ids(world, open="false", rule="token_lost") == []


def test_an_alert_says_what_it_means_and_what_to_do(world: "World") -> None:
    account = world.account()
    alert(world, "token_lost", account)
    alert(world, "a_rule_of_another_version", account)
    of_another, lost = world.ask.get("/alerts").json()["items"]
    assert (lost["means"], lost["remedy"]) == (BY_NAME["token_lost"].means, BY_NAME["token_lost"].remedy)
    assert (lost["subject"], lost["account_id"], lost["recovered_at"]) == (str(account), str(account), None)
    assert (of_another["means"], of_another["remedy"]) == ("", "")


def test_a_bound_key_sees_alerts_of_its_accounts_and_silences_them_only(world: "World") -> None:
    mine, theirs = world.account(), world.account(uuid4())
    seen = alert(world, "token_lost", mine)
    alert(world, "token_lost", theirs)
    alert(world, "workers_silent", "installation")
    bound = world.client(world.key("admin", user=world.user))
    assert [item["id"] for item in bound.get("/alerts").json()["items"]] == [str(seen)]
    until = "2100-01-01T00:00:00Z"
    for subject in (str(theirs), "installation", None):
        body = {"rule": "token_lost", "subject": subject, "until": until}
        assert bound.post("/alerts/silences", json=body).status_code == 404
    made = bound.post("/alerts/silences", json={"subject": str(mine), "until": until})
    assert made.status_code == 201, made.text
    world.ask.post("/alerts/silences", json={"rule": "token_lost", "until": until})
    assert [item["id"] for item in bound.get("/alerts/silences").json()["items"]] == [made.json()["id"]]
    assert len(world.ask.get("/alerts/silences").json()["items"]) == 2


def test_a_silence_is_made_listed_ended_and_audited(world: "World") -> None:
    until = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    body = {"rule": "webhook_failing", "until": until, "reason": " known "}
    made = world.ask.post("/alerts/silences", json=body).json()
    assert (made["rule"], made["subject"], made["reason"]) == ("webhook_failing", None, "known")
    assert world.ask.delete(f"/alerts/silences/{made['id']}").status_code == 204
    assert world.ask.delete(f"/alerts/silences/{made['id']}").status_code == 404
    assert world.ask.delete(f"/alerts/silences/{uuid4()}").status_code == 404
    [ended] = [item for page in world.pages("/alerts/silences", limit=1) for item in page.json()["items"]]
    assert ended["id"] == made["id"]
    assert ended["until"] < until
    acts = [item["act"] for item in world.ask.get("/audit-log").json()["items"]]
    assert acts.count("make_silence") == 1
    assert "end_silence" in acts


@pytest.mark.parametrize(
    "body",
    [
        {"until": "2100-01-01T00:00:00Z"},
        {"rule": "no_such_rule", "until": "2100-01-01T00:00:00Z"},
        {"rule": "token_lost", "until": "2020-01-01T00:00:00Z"},
        {"rule": "token_lost", "until": "soon"},
        {"rule": "token_lost"},
        {"rule": "token_lost", "until": "2100-01-01T00:00:00Z", "subject": "a\x00b"},
        {"rule": "token_lost", "until": "2100-01-01T00:00:00Z", "subject": ""},
        {"rule": "token_lost", "until": "2100-01-01T00:00:00Z", "reason": "x" * 201},
        {"rule": "'; DROP TABLE alerts", "until": "2100-01-01T00:00:00Z"},
        {"rule": "token_lost", "until": "2100-01-01T00:00:00Z", "for": 1},
    ],
)
def test_what_is_no_silence_is_refused(world: "World", body: dict[str, Any]) -> None:
    assert world.ask.post("/alerts/silences", json=body).status_code == 422
    assert world.ask.get("/alerts/silences").json()["items"] == []


def test_a_repeated_request_makes_one_silence(world: "World") -> None:
    body, headers = {"rule": "token_lost", "until": "2100-01-01T00:00:00Z"}, {"Idempotency-Key": "once"}
    assert len({world.ask.post("/alerts/silences", json=body, headers=headers).text for _ in range(3)}) == 1
    assert len(world.ask.get("/alerts/silences").json()["items"]) == 1
