"""What becomes of what fires, minute by minute: opened, told, reminded of, recovered; and that nothing storms."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from orders_backup.alerts import decide, texts
from orders_backup.alerts.decide import Alert, Silence
from orders_backup.alerts.fires import Firing
from orders_backup.alerts.rules import Judgement

START = datetime(2026, 7, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LOST, STALE = "token_lost", "sync_stale"  # critical without a hold; an error that holds for three minutes


class Watch:
    """Rounds a minute apart over rows in memory, and channels that take what they are given unless they are broken."""

    def __init__(self, *channels: str) -> None:
        self.channels, self.broken = channels or ("a",), set[str]()
        self.rows = dict[UUID, Alert]()
        self.now, self.told = START, list[tuple[str, str, int]]()
        self.silences = list[Silence]()

    def round(self, *firing: Firing, judged: Iterable[str] = (LOST, STALE), minutes: float = 1) -> None:
        self.now += minutes * MINUTE
        decision = decide.decide(self.rows.values(), Judgement(frozenset(judged), firing), now=self.now)
        self.rows |= {one.alert_id: one for one in decision.written}
        for one in decision.dropped:
            del self.rows[one]
        for channel in self.channels:
            given = decide.to_tell(self.rows.values(), self.silences, channel, now=self.now)
            for (news, _), some in decide.grouped(given).items():
                if channel in self.broken:
                    continue
                self.told.append((channel, news, len(some)))
                marked = [decide.told(one, by=[channel], channels=self.channels, now=self.now) for one in some]
                self.rows |= {one.alert_id: one for one in marked}

    def news(self, channel: str = "a") -> list[str]:
        return [news for name, news, _ in self.told if name == channel]


def lost(number: int = 1) -> Firing:
    return Firing(LOST, str(UUID(int=number)), UUID(int=number))


STALE_ONE = Firing(STALE, str(UUID(int=9)), UUID(int=9))


def test_what_fires_without_a_hold_is_told_at_once_and_once() -> None:
    watch = Watch()
    for _ in range(59):
        watch.round(lost())
    assert watch.news() == ["opened"]


def test_what_does_not_fire_for_long_enough_is_never_an_alert_and_leaves_no_row() -> None:
    watch = Watch()
    for _ in range(3):
        watch.round(STALE_ONE)
    watch.round()
    assert watch.news() == []
    assert watch.rows == {}
    for _ in range(4):
        watch.round(STALE_ONE)
    assert watch.news() == ["opened"]


def test_a_reminder_comes_by_severity() -> None:
    watch = Watch()
    for _ in range(6 * 60 + 30):
        watch.round(lost(), STALE_ONE)
    assert watch.news().count("reminder") == 6 + 1  # each hour of the critical one; after six hours of the error
    watch.round(lost(), STALE_ONE)
    assert {one.heard for one in watch.rows.values()} == {"reminder"}


def test_recovered_is_told_after_five_quiet_minutes() -> None:
    watch = Watch()
    watch.round(lost())
    for _ in range(5):
        watch.round()
    assert watch.news() == ["opened"]
    watch.round()
    assert watch.news() == ["opened", "recovered"]
    for _ in range(100):
        watch.round()
    assert watch.news() == ["opened", "recovered"]
    assert [one.recovered_at for one in watch.rows.values()] == [START + 7 * MINUTE]


def test_what_comes_back_within_the_five_minutes_has_not_recovered() -> None:
    watch = Watch()
    for _ in range(10):
        watch.round(lost())
        for _ in range(4):
            watch.round()
    assert watch.news() == ["opened"]
    assert len(watch.rows) == 1


def test_what_could_not_be_judged_neither_opens_nor_recovers() -> None:
    watch = Watch()
    watch.round(lost())
    for _ in range(30):
        watch.round(judged=[STALE])
    assert watch.news() == ["opened"]
    assert all(one.recovered_at is None for one in watch.rows.values())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 15)), min_size=1, max_size=150))
def test_however_it_flaps_an_hour_brings_at_most_four_messages(steps: list[tuple[bool, int]]) -> None:
    watch, moments = Watch(), list[datetime]()
    for fires, minutes in steps:
        before = len(watch.told)
        watch.round(*([lost()] if fires else []), minutes=minutes)
        moments += [watch.now] * (len(watch.told) - before)
    assert all(sum(one <= other < one + 60 * MINUTE for other in moments) <= 4 for one in moments)
    news = watch.news()
    assert all(earlier != later for earlier, later in pairwise(news) if later != "reminder")


def test_what_comes_and_goes_every_seven_minutes_is_told_twice_in_half_an_hour() -> None:
    watch = Watch()
    for _ in range(4 * 60 // 7):
        watch.round(lost())
        for _ in range(6):
            watch.round()
    assert 4 <= len(watch.told) <= 4 * 4
    assert len(watch.rows) > 30  # each time is in the list


def test_a_channel_that_takes_news_late_puts_off_no_reminder() -> None:
    watch = Watch("a", "b")
    watch.broken = {"b"}
    for _ in range(30):
        watch.round(lost())
    watch.broken = set()
    for _ in range(31):
        watch.round(lost())
    assert (watch.news("a"), watch.news("b")) == (["opened", "reminder"], ["opened", "reminder"])


def test_what_opens_together_is_one_message_a_severity_and_names_a_few() -> None:
    watch = Watch()
    for _ in range(4):
        watch.round(*(lost(number) for number in range(1, 1001)), STALE_ONE)
    assert watch.told == [("a", "opened", 1000), ("a", "opened", 1)]
    some = [one for one in watch.rows.values() if one.rule == LOST]
    message = texts.message(some, "opened", "critical", installation="here")
    assert message.title == "[critical] token_lost (1000) – here"
    assert "- and 995 more" in message.body
    assert sum(str(one.subject) in message.body for one in some) == 5
    assert len(message.body) < 1000


def test_a_message_is_never_longer_than_a_channel_takes() -> None:
    alert = Alert(UUID(int=1), LOST, "x" * 5000, None, "critical", "", START, START, opened_at=START)
    assert len(texts.message([alert], "opened", "critical", installation="here").body) <= texts.LONGEST + 2


def test_a_broken_channel_keeps_no_other_from_telling_and_is_told_later_what_it_missed() -> None:
    watch = Watch("a", "b")
    watch.broken = {"b"}
    for _ in range(10):
        watch.round(lost())
    assert (watch.news("a"), watch.news("b")) == (["opened"], [])
    watch.broken = set()
    watch.round(lost())
    assert (watch.news("a"), watch.news("b")) == (["opened"], ["opened"])


def test_a_channel_that_stays_broken_takes_no_reminder_from_the_others() -> None:
    watch = Watch("a", "b")
    watch.broken = {"b"}
    for _ in range(4 * 60):
        watch.round(lost())
    assert watch.news("a") == ["opened", "reminder", "reminder", "reminder"]


def test_where_no_channel_took_it_nothing_is_forgotten() -> None:
    watch = Watch()
    watch.broken = {"a"}
    for _ in range(300):
        watch.round(lost())
    watch.broken = set()
    watch.round(lost())
    assert watch.news() == ["opened"]


def test_what_nobody_heard_of_is_not_told_as_recovered() -> None:
    watch = Watch()
    watch.broken = {"a"}
    watch.round(lost())
    for _ in range(10):
        watch.round()
    watch.broken = set()
    watch.round()
    assert watch.news() == []


def test_that_it_recovered_is_old_news_after_a_day() -> None:
    watch = Watch()
    watch.round(lost())
    watch.broken = {"a"}
    for _ in range(7):
        watch.round()
    watch.round(minutes=24 * 60 + 1)
    watch.broken = set()
    watch.round()
    assert watch.news() == ["opened"]


def test_what_fires_again_before_its_recovery_was_told_did_not_recover_for_anybody() -> None:
    watch = Watch()
    watch.round(lost())
    watch.broken = {"a"}
    for _ in range(7):
        watch.round()
    watch.round(lost())
    watch.broken = set()
    for _ in range(10):
        watch.round(lost())
    assert watch.news() == ["opened"]
    for _ in range(60):
        watch.round(lost())
    assert watch.news() == ["opened", "reminder"]


def silenced(make: Callable[[datetime], Silence]) -> Watch:
    """Two alerts fire for an hour under a silence of half an hour."""
    watch = Watch()
    watch.silences = [make(START + 30 * MINUTE)]
    for _ in range(25):
        watch.round(lost(1), lost(2))
    return watch


def test_what_is_silenced_is_told_when_the_silence_ends_if_it_is_still_so() -> None:
    watch = silenced(lambda until: Silence(LOST, None, until))
    assert watch.told == []
    for _ in range(10):
        watch.round(lost(1))
    assert watch.told == [("a", "opened", 1)]


def test_a_silence_of_one_subject_leaves_the_others_heard() -> None:
    assert silenced(lambda until: Silence(None, lost(1).subject, until)).told == [("a", "opened", 1)]
    assert silenced(lambda until: Silence(LOST, lost(1).subject, until)).told == [("a", "opened", 1)]
    assert silenced(lambda until: Silence(STALE, lost(1).subject, until)).told == [("a", "opened", 2)]


def test_a_failing_channel_is_tried_ever_more_rarely() -> None:
    waits = [(decide.try_again_at(failures, START) - START) / MINUTE for failures in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert decide.try_again_at(10**9, START) == START + 30 * MINUTE


def test_a_change_of_severity_or_detail_shows_in_the_row_and_is_no_news() -> None:
    watch = Watch()
    watch.round(replace(lost(), detail="one"))
    watch.round(replace(lost(), detail="two"))
    assert [one.detail for one in watch.rows.values()] == ["two"]
    assert watch.news() == ["opened"]
