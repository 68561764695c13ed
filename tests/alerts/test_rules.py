"""Rules over pictures: what fires, what does not, and of what nothing can be said."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from orders_backup.alerts import rules, usual
from orders_backup.alerts.fires import INSTALLATION
from orders_backup.alerts.picture import Account, Backups, Channel, Doubt, Endpoint, Picture, Quiet
from orders_backup.alerts.rules import RULES, Round

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
ACCOUNT, WEBHOOK = UUID(int=1), UUID(int=2)
WELL = Account(ACCOUNT, is_active=True, is_paused=False, followed_at=NOW - timedelta(minutes=2), is_stale=False)
CERTAIN = Doubt(ACCOUNT, frozenset())
SELLING = Quiet(ACCOUNT, NOW - timedelta(hours=3, minutes=5), NOW - timedelta(minutes=1), expected=9.2)
SAFE = Backups(NOW - timedelta(hours=25), has_failed=False, drill_at=NOW - timedelta(days=7), drill_ok=True)
HEALTHY = Picture(
    now=NOW,
    began_at=NOW - timedelta(days=30),
    events_interval=timedelta(seconds=150),
    failing_parts={},
    workers_answered=timedelta(seconds=20),
    ticked_at=NOW - timedelta(seconds=15),
    silent_until=NOW - timedelta(minutes=11),
    accounts=[WELL],
    endpoints=[Endpoint(WEBHOOK, is_disabled=False, failures=2)],
    channels=[Channel("1-json", 2)],
    backups=SAFE,
    doubts=[CERTAIN],
    quiet=[SELLING],
)
ROUNDS: tuple[Round, ...] = ("quick", "thorough", "hourly")


def paused(**facts: Any) -> Account:
    return replace(WELL, is_paused=True, **facts)


def sick(**facts: Any) -> Picture:
    return replace(HEALTHY, **facts)


CASES: list[tuple[str, str, Picture]] = [
    ("broker_failing", INSTALLATION, sick(failing_parts={"broker": "does not answer"})),
    ("storage_failing", INSTALLATION, sick(failing_parts={"storage": "does not answer"})),
    ("workers_silent", INSTALLATION, sick(workers_answered=timedelta(seconds=61))),
    ("workers_silent", INSTALLATION, sick(workers_answered=None)),
    ("scheduler_silent", INSTALLATION, sick(ticked_at=NOW - timedelta(seconds=181))),
    ("scheduler_silent", INSTALLATION, sick(ticked_at=None)),
    ("work_waits", "sync journal", sick(waiting={"sync journal": 700.0})),
    ("allegro_down", INSTALLATION, sick(accounts=[WELL, replace(WELL, failing=["journal"], is_allegro_away=True)])),
    ("limit_exceeded", INSTALLATION, sick(silent_until=NOW - timedelta(minutes=9))),
    ("no_sync", INSTALLATION, sick(accounts=[replace(WELL, followed_at=NOW - timedelta(minutes=31))])),
    ("no_sync", INSTALLATION, sick(accounts=[replace(WELL, followed_at=None)])),
    ("sync_failing", str(ACCOUNT), sick(accounts=[replace(WELL, failing=["journal", "sweep"])])),
    ("sync_stale", str(ACCOUNT), sick(accounts=[replace(WELL, is_stale=True)])),
    ("operation_failing", str(ACCOUNT), sick(failing_work=[("login", str(ACCOUNT)), ("archive", str(ACCOUNT))])),
    ("operation_failing", "exports", sick(failing_work=[("export", "exports")])),
    ("token_lost", str(ACCOUNT), sick(accounts=[replace(WELL, is_active=False, is_lost=True)])),
    ("login_late", str(ACCOUNT), sick(accounts=[replace(WELL, login_expired_at=NOW - timedelta(minutes=61))])),
    ("webhook_disabled", str(WEBHOOK), sick(endpoints=[Endpoint(WEBHOOK, is_disabled=True, failures=40)])),
    ("webhook_failing", str(WEBHOOK), sick(endpoints=[Endpoint(WEBHOOK, is_disabled=False, failures=3)])),
    ("channel_failing", "1-json", sick(channels=[Channel("1-json", 3)])),
    ("backup_missing", INSTALLATION, sick(backups=replace(SAFE, verified_at=NOW - timedelta(hours=26, seconds=1)))),
    ("backup_missing", INSTALLATION, sick(backups=replace(SAFE, verified_at=None))),
    ("backup_failed", INSTALLATION, sick(backups=replace(SAFE, has_failed=True))),
    ("drill_missing", INSTALLATION, sick(backups=replace(SAFE, drill_at=NOW - timedelta(days=8, seconds=1)))),
    ("drill_missing", INSTALLATION, sick(backups=replace(SAFE, drill_at=None))),
    ("drill_failed", INSTALLATION, sick(backups=replace(SAFE, drill_ok=False))),
    ("cliff_near", str(ACCOUNT), sick(doubts=[replace(CERTAIN, warnings=frozenset({"cliff_near"}))])),
    ("journal_gap_near", str(ACCOUNT), sick(doubts=[replace(CERTAIN, warnings=frozenset({"journal_gap_near"}))])),
    ("certificate_old", str(ACCOUNT), sick(doubts=[replace(CERTAIN, warnings=frozenset({"certificate_old"}))])),
    ("not_proven", str(ACCOUNT), sick(doubts=[replace(CERTAIN, is_unproven=True)])),
    ("orders_owed", str(ACCOUNT), sick(doubts=[replace(CERTAIN, owed=1)])),
    ("orders_failing", str(ACCOUNT), sick(doubts=[replace(CERTAIN, failing=1)])),
    ("set_aside", str(ACCOUNT), sick(doubts=[replace(CERTAIN, set_aside=1)])),
    ("orders_unusual", str(ACCOUNT), sick(quiet=[replace(SELLING, expected=9.3)])),
]


def fired(picture: Picture) -> list[tuple[str, str]]:
    return [(one.rule, one.subject) for round_ in ROUNDS for one in rules.judge(picture, round_).firing]


def test_of_a_healthy_installation_nothing_fires_and_everything_is_known() -> None:
    assert fired(HEALTHY) == []
    known = {name for round_ in ROUNDS for name in rules.judge(HEALTHY, round_).rules}
    assert known == {rule.name for rule in RULES} - {"database_failing"}


@pytest.mark.parametrize(("rule", "subject", "picture"), CASES)
def test_a_rule_fires_about_what_is_wrong_and_no_other_does(rule: str, subject: str, picture: Picture) -> None:
    assert fired(picture) == [(rule, subject)]


def test_every_rule_was_seen_to_fire() -> None:
    assert {rule for rule, _, _ in CASES} | {"database_failing"} == {rule.name for rule in RULES}


def test_of_what_nobody_looked_at_nothing_is_said() -> None:
    blind = Picture(NOW, NOW, timedelta(seconds=150), workers_answered=timedelta(0), ticked_at=NOW)
    for round_ in ROUNDS:
        judged = rules.judge(blind, round_)
        assert judged.firing == []
        assert judged.rules <= {"workers_silent", "scheduler_silent", "work_waits", "limit_exceeded"}
        assert not (judged.rules & {"operation_failing"})  # whose accounts are not known


def test_what_has_never_happened_is_late_only_after_somebody_has_looked_for_so_long() -> None:
    none_yet = Backups(None, has_failed=False, drill_at=None, drill_ok=False)
    young = sick(
        began_at=NOW - timedelta(seconds=50), backups=none_yet, ticked_at=None, workers_answered=None,
        accounts=[replace(WELL, followed_at=None)],
    )  # fmt: skip
    assert fired(young) == []
    aged = replace(young, began_at=NOW - timedelta(hours=27))
    assert {rule for rule, _ in fired(aged)} == {"backup_missing", "workers_silent", "scheduler_silent"}


@pytest.mark.parametrize(
    "account",
    [
        paused(is_stale=True, failing=["journal"], followed_at=None),
        replace(WELL, is_active=False, is_stale=True, failing=["journal"], followed_at=None),
    ],
    ids=["paused", "not active"],
)
def test_who_is_not_to_be_synced_is_neither_stale_nor_failing(account: Account) -> None:
    assert fired(sick(accounts=[account])) == []


def test_who_is_polled_rarely_is_not_missed_before_three_of_his_intervals() -> None:
    rare = replace(WELL, polled_every=timedelta(hours=1), followed_at=NOW - timedelta(hours=2, minutes=59))
    assert fired(sick(accounts=[rare])) == []
    assert fired(sick(accounts=[replace(rare, followed_at=NOW - timedelta(hours=3, minutes=1))])) == [
        ("no_sync", INSTALLATION)
    ]
    assert fired(sick(accounts=[rare, replace(WELL, followed_at=NOW - timedelta(minutes=31))])) == [
        ("no_sync", INSTALLATION)
    ]


@pytest.mark.parametrize(
    ("cause", "worse"),
    [
        ("broker_failing", {"failing_parts": {"broker": "does not answer"}, "workers_answered": None}),
        ("workers_silent", {"workers_answered": timedelta(hours=2)}),
        ("scheduler_silent", {"ticked_at": NOW - timedelta(hours=2)}),
    ],
)
def test_one_cause_is_one_alert(cause: str, worse: dict[str, Any]) -> None:
    old = replace(WELL, is_stale=True, followed_at=NOW - timedelta(hours=2), login_expired_at=NOW - timedelta(hours=2))
    picture = sick(accounts=[old], waiting={"sync journal": 7200.0}, **worse)
    assert fired(picture) == [(cause, INSTALLATION)]
    assert "sync_stale" not in rules.judge(picture, "quick").rules  # so that it does not recover either


def test_allegro_is_down_where_half_of_the_accounts_get_no_answer_and_not_for_one_of_many() -> None:
    away = replace(WELL, failing=["journal"], is_allegro_away=True)
    refused = replace(WELL, failing=["journal"])
    assert fired(sick(accounts=[away, WELL, WELL])) == [("sync_failing", str(ACCOUNT))]
    assert fired(sick(accounts=[refused])) == [("sync_failing", str(ACCOUNT))]
    assert fired(sick(accounts=[away, away, WELL])) == [("allegro_down", INSTALLATION)]


def test_three_hours_without_an_order_are_unusual_only_where_many_were_to_come() -> None:
    short = replace(SELLING, since=NOW - timedelta(hours=3), expected=100.0)
    assert fired(sick(quiet=[short])) == []
    found = rules.judge(sick(quiet=[replace(SELLING, expected=40.0)]), "hourly").firing
    assert found[0].detail == "None for 3 h; 40 are usual."


def test_whether_orders_are_missing_is_unknown_while_the_journal_is_not_read() -> None:
    judged = rules.judge(sick(quiet=[replace(SELLING, expected=40.0, is_stale=True)]), "hourly")
    assert list(judged.firing) == []
    assert set(judged.unknown) == {("orders_unusual", str(ACCOUNT))}


# How many are usual


def test_an_hour_is_worth_an_eighth_of_what_it_had_in_eight_weeks_by_the_clock_of_warsaw() -> None:
    noon = datetime(2026, 7, 1, 10, tzinfo=UTC)  # a Wednesday, 12:00 in Warsaw
    counts = {(3, 12): 80, (3, 13): 8}
    assert usual.expected(counts, noon, noon + timedelta(hours=1)) == pytest.approx(10)
    assert usual.expected(counts, noon + timedelta(minutes=30), noon + timedelta(hours=3)) == pytest.approx(6)
    assert usual.expected(counts, noon + timedelta(hours=1), noon) == 0
    winter = datetime(2026, 1, 7, 11, tzinfo=UTC)
    assert usual.expected(counts, winter, winter + timedelta(hours=1)) == pytest.approx(10)


def test_a_night_without_orders_is_usual() -> None:
    counts = {(day, hour): 400 for day in range(1, 8) for hour in range(8, 22)}
    night = datetime(2026, 6, 30, 20, 0, tzinfo=UTC)
    assert usual.expected(counts, night, night + timedelta(hours=10)) == 0


def test_the_hour_that_the_clock_repeats_counts_twice_and_the_one_it_skips_never() -> None:
    counts = {(7, 2): 8}
    autumn, spring = datetime(2026, 10, 24, 23, tzinfo=UTC), datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert usual.expected(counts, autumn, autumn + timedelta(hours=5)) == pytest.approx(2)
    assert usual.expected(counts, spring, spring + timedelta(hours=5)) == 0


# What is documented


def test_every_rule_is_documented_with_its_severity_and_nothing_else_is() -> None:
    text = (Path(__file__).parents[2] / "docs/operating.md").read_text()
    table = text.partition("### Rules\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    assert {row[0].strip("`"): row[1] for row in rows} == {rule.name: rule.severity for rule in RULES}
    assert all(len(row) == 4 and row[2] and row[3] for row in rows)


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.means.endswith(".")
        assert rule.remedy.endswith((".", "?"))
