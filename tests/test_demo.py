"""The demo's proof can fail: each way in which a backup may differ from the truth is named."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo import proof, stage


def _told(*served: str, **others: Any) -> dict[str, Any]:
    return {"served": list(served), "current": served[-1] if served else "?", "gone": False, "hidden": False} | others


def test_a_backup_that_equals_the_truth_differs_in_nothing() -> None:
    truth = {"1": _told("a"), "2": _told("a", "b"), "3": _told("a", gone=True), "4": _told(gone=True)}

    assert proof.differences(truth, {"1": ["a"], "2": ["a", "b"], "3": ["a"]}) == []


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ({}, "1: not in the backup"),
        ({"1": ["a"]}, "1: 1 versions held, 2 served, and they are not the same"),
        ({"1": ["a", "c"]}, "1: 2 versions held, 2 served, and they are not the same"),
        ({"1": ["b", "a"]}, "1: 2 versions held, 2 served, and they are not the same"),
        ({"1": ["a", "b"], "2": ["a"]}, "2: in the backup, but Allegro never had it"),
    ],
)
def test_whatever_is_missing_changed_or_too_much_is_named(held: dict[str, list[str]], named: str) -> None:
    assert proof.differences({"1": _told("a", "b")}, held) == [named]


def test_a_purchase_that_was_never_read_is_a_difference() -> None:
    assert proof.differences({"1": _told()}, {}) == ["1: not in the backup"]


def test_a_version_that_was_not_fetched_since_is_a_difference() -> None:
    truth = {"1": _told("a", current="b")}

    assert proof.differences(truth, {"1": ["a"]}) == ["1: the newest version is not the one at Allegro"]


def test_no_setting_of_a_real_installation_reaches_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "BROKER_URL", "DATA_DIR", "ENCRYPTION_KEYS", "ALLEGRO_CLIENT_ID", "RATE_LIMIT_ORDERS"):
        monkeypatch.setenv(name, "real")

    found = stage.environment(RATE_LIMIT_AUTH="60")

    assert "real" not in found.values()
    assert found["RATE_LIMIT_AUTH"] == "60"


def test_every_setting_of_the_service_is_kept_from_the_demo() -> None:
    from orders_backup.settings import Settings  # noqa: PLC0415 - the demo itself imports nothing of the service

    names = {name.upper() for name in Settings.model_fields}

    assert {name for name in names if not name.startswith(stage.OWN_PREFIXES)} == stage.OWN_SETTINGS
