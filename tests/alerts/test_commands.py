"""Alerts as a person types: listed, silenced, and each channel tried."""

import json
from collections.abc import Callable
from uuid import uuid4

import pytest
from tests.test_cli import Run, run
from tests.webhooks.conftest import Receiver

from orders_backup.alerts import state
from orders_backup.errors import SettingsError
from orders_backup.settings import Settings, load

from .conftest import Place

__all__ = ["run"]


def test_each_channel_is_tried_and_the_exit_code_is_0_only_where_all_took_it(
    run: Run,
    make_receiver: Callable[[], Receiver],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = make_receiver(), make_receiver()
    monkeypatch.setenv("ALERT_URLS", f"json://127.0.0.1:{first.port}/s3cr3t json://127.0.0.1:{second.port}/s3cr3t")
    monkeypatch.delenv("DATABASE_URL")
    told = run("alerts", "test")
    assert (told.code, told.out) == (0, "1-json: taken\n2-json: taken\n")
    assert [got.message["title"] for got in first.got] == ["[test] Allegro Orders Backup (production)"]
    second.answers(503)
    told = run("alerts", "test", "--json")
    assert told.code == 1
    assert json.loads(told.out) == [{"channel": "1-json", "error": None}, {"channel": "2-json", "error": "refused"}]
    assert "s3cr3t" not in told.out + told.err


def test_where_nobody_is_told_the_command_says_so(run: Run) -> None:
    told = run("alerts", "test")
    assert told.code == 2
    assert "ALERT_URLS is not set" in told.err


def test_alerts_are_listed_for_people_and_programs(run: Run, place: Place) -> None:
    account = place.seller()
    assert run("alerts", "list").out == ""
    place.loses(account)
    place.round()
    line = run("alerts", "list", "--open").out
    assert "token_lost" in line
    assert str(account) in line
    found = json.loads(run("alerts", "list", "--json", "--account", str(account), "--rule", "token_lost").out)
    assert [(one["rule"], one["severity"], one["recovered_at"]) for one in found] == [("token_lost", "critical", None)]
    assert run("alerts", "list", "--over").out == ""
    assert run("alerts", "list", "--account", str(uuid4())).out == ""


def test_a_silence_is_made_listed_and_ended_by_hand_and_audited(run: Run, place: Place) -> None:
    account = place.seller()
    made = json.loads(run("alerts", "silence", "--subject", str(account), "--hours", "2", "--json").out)
    assert made["id"] in run("alerts", "silences").out
    place.loses(account)
    place.round()
    assert place.titles() == []
    assert run("alerts", "unsilence", made["id"]).code == 0
    assert run("alerts", "unsilence", made["id"]).code == 1
    place.round()
    assert len(place.titles()) == 1
    acts = place.rows("SELECT act, status, target->>'subject' FROM audit_log ORDER BY seq")
    assert acts == [("silence_alerts", 200, str(account)), ("end_silence", 200, None), ("end_silence", 404, None)]


@pytest.mark.parametrize(
    "words", [[], ["--rule", "no_such_rule"], ["--hours", "0"], ["--rule", "no_sync", "--hours", "x"]]
)
def test_a_silence_about_nothing_is_refused(run: Run, place: Place, words: list[str]) -> None:
    assert run("alerts", "silence", *words).code != 0
    with place.runtime.db.begin() as tx:
        assert state.silences(tx) == []


# The setting


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("nonsense", 1),
        ("json://h/ bogus://s3cr3t", 2),
        ("mailto://u:s3cr3t@", 1),
        ("json://h/ s3cr3t", 1),
        ("https://s3cr3t.example", 1),
        ("json://h/, json://i/, slack://s3cr3t", 3),
    ],
)
def test_a_channel_that_apprise_does_not_understand_stops_the_start(
    text: str, place: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALERT_URLS", text)
    with pytest.raises(SettingsError) as refused:
        load(env_file=None)
    assert str(refused.value).startswith("ALERT_URLS must be Apprise addresses with spaces between")
    assert f"number {place} is none" in str(refused.value)
    said = capfd.readouterr()
    assert "s3cr3t" not in str(refused.value) + said.out + said.err


@pytest.mark.parametrize("text", ["json://a/ json://b/", "json://a/,json://b/", "\n json://a/ ,\n json://b/ \n"])
def test_channels_stand_side_by_side_and_are_named_by_place_and_kind(text: str) -> None:
    from orders_backup import channels  # noqa: PLC0415 - beside what it is asked for

    found = channels.connect(text)
    assert found.names == ["1-json", "2-json"]
    assert list(found.urls.values()) == ["json://a/", "json://b/"]


def test_addresses_with_commas_in_them_stay_whole() -> None:
    from orders_backup import channels  # noqa: PLC0415

    text = "mailto://u:p@example.com?to=a@example.com,b@example.com"
    assert channels.addresses(text) == [text]


def test_no_address_shows_in_the_settings() -> None:
    assert "s3cr3t" not in repr(Settings(alert_urls="json://s3cr3t.example/"))  # type: ignore[arg-type]
