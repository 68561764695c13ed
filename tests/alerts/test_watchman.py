"""Who looks when the usual way fails: rounds that nobody does, and a database that is away."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.webhooks.conftest import Receiver, Reply

from orders_backup import db as database
from orders_backup import health, local
from orders_backup.alerts import watchman
from orders_backup.alerts.watchman import Memory
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

from .conftest import Place, with_channels

AWAY = "postgresql://nobody@127.0.0.1:9/none"


@pytest.fixture
def away(settings: Settings, receiver: Receiver) -> Iterator[Runtime]:
    """An installation whose database nobody reaches."""
    found = with_channels(
        settings.model_copy(update={"database_url": AWAY}), f"json://127.0.0.1:{receiver.port}/s3cr3t"
    )
    yield found
    found.close()


@pytest.fixture
def receiver(make_receiver: Callable[[], Receiver]) -> Receiver:
    return make_receiver()


def titles(receiver: Receiver) -> list[str]:
    return [str(got.message["title"]) for got in receiver.accepted]


OPENED = "[critical] database_failing – Allegro Orders Backup (production)"
BACK = "[recovered] database_failing – Allegro Orders Backup (production)"


@pytest.fixture
def back(away: Runtime, runtime: Runtime) -> Runtime:
    """The same installation whose database answers again."""
    return replace(away, db=runtime.db)


def test_a_database_that_is_away_is_told_after_a_minute_each_hour_and_when_it_is_back(
    away: Runtime, back: Runtime, receiver: Receiver
) -> None:
    memory, start = Memory(), 1_800_000_000.0
    for seconds in range(0, 2 * 3600 + 61, 30):
        watchman.look(away, memory, now=start + seconds)
    assert titles(receiver) == [OPENED] * 3
    for seconds in (0, 15, 30):
        watchman.look(back, memory, now=start + 8000 + seconds)
    assert titles(receiver) == [OPENED] * 3 + [BACK]


def test_a_short_absence_is_told_to_nobody(away: Runtime, back: Runtime, receiver: Receiver) -> None:
    memory = Memory()
    watchman.look(away, memory, now=1000.0)
    watchman.look(away, memory, now=1059.0)
    watchman.look(back, memory, now=1070.0)
    watchman.look(away, memory, now=1080.0)
    watchman.look(away, memory, now=1139.0)
    assert titles(receiver) == []


def test_all_watchmen_of_a_machine_speak_once(away: Runtime, back: Runtime, receiver: Receiver) -> None:
    memories = [Memory(), Memory(), Memory()]
    for seconds in range(0, 600, 15):
        for memory in memories:
            watchman.look(away, memory, now=1_800_000_000.0 + seconds)
    assert titles(receiver) == [OPENED]
    newcomer = Memory()  # a process that was started after the outage
    for memory in [newcomer, *memories]:
        watchman.look(back, memory, now=1_800_000_700.0)
    assert titles(receiver) == [OPENED, BACK]


def test_of_watchmen_who_look_at_the_same_moment_one_speaks(away: Runtime, receiver: Receiver) -> None:
    receiver.replies = lambda _: Reply(after=0.5)
    memories = [Memory(away_since=1_800_000_000.0) for _ in range(4)]
    together = threading.Barrier(len(memories))

    def look(memory: Memory) -> None:
        together.wait(10)
        watchman._tell(away, memory, now=1_800_000_100.0)

    with ThreadPoolExecutor(len(memories)) as pool:
        list(pool.map(look, memories))
    assert titles(receiver) == [OPENED]


def test_a_process_that_begins_anew_tells_of_the_same_outage_only_when_a_reminder_is_due(
    away: Runtime, receiver: Receiver
) -> None:
    for start in (0.0, 600.0, 1200.0):
        memory = Memory()
        for seconds in (0.0, 61.0):
            watchman.look(away, memory, now=1_800_000_000.0 + start + seconds)
    assert titles(receiver) == [OPENED]


def test_a_message_that_no_channel_took_is_tried_again(away: Runtime, receiver: Receiver) -> None:
    receiver.answers(500)
    memory = Memory()
    for seconds in (0.0, 61.0, 76.0):
        watchman.look(away, memory, now=1_800_000_000.0 + seconds)
    assert len(receiver.got) == 2
    receiver.replies = type(receiver)().replies
    watchman.look(away, memory, now=1_800_000_091.0)
    watchman.look(away, memory, now=1_800_000_106.0)
    assert titles(receiver) == [OPENED]


@pytest.mark.parametrize(
    "content",
    [b"\xff\x00", b"away", b"away soon", b"", b"back 1e999", b"away 9" * 1000, b"away 999999999999", "away ²".encode()],
)
def test_a_file_that_was_spoiled_silences_nobody(away: Runtime, receiver: Receiver, content: bytes) -> None:
    (away.settings.data_dir / "database-away").write_bytes(content)
    memory = Memory()
    for seconds in (0.0, 61.0):
        watchman.look(away, memory, now=1_800_000_000.0 + seconds)
    assert titles(receiver) == [OPENED]


def test_without_a_folder_each_process_speaks_for_itself(away: Runtime, receiver: Receiver) -> None:
    lost = replace(away, settings=away.settings.model_copy(update={"data_dir": Path("/nowhere")}))
    memory = Memory()
    for seconds in (0.0, 61.0, 76.0):
        watchman.look(lost, memory, now=1_800_000_000.0 + seconds)
    assert titles(receiver) == [OPENED]


def test_a_real_database_that_is_stopped_is_told_of_and_its_return_too(
    settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    url = f"json://127.0.0.1:{receiver.port}/"
    memory = Memory()
    with local.start_postgres(tmp_path / "own") as server:
        runtime = with_channels(settings.model_copy(update={"database_url": server.url}), url)
        database.migrate(runtime.db)
        watchman.look(runtime, memory, now=1000.0)
    watchman.look(runtime, memory, now=1100.0)
    watchman.look(runtime, memory, now=1170.0)
    assert titles(receiver) == [OPENED]
    with local.start_postgres(tmp_path / "own") as server:
        again = with_channels(settings.model_copy(update={"database_url": server.url}), url)
        watchman.look(again, memory, now=1200.0)
        again.close()
    assert titles(receiver) == [OPENED, BACK]
    runtime.close()


# Rounds that nobody does


def test_where_neither_scheduler_nor_worker_lives_the_watchman_tells(place: Place) -> None:
    memory = Memory()
    place.change("DELETE FROM worker_slots")
    watchman.look(place.runtime, memory, now=1000.0)
    assert place.titles() == []  # the rounds are not late yet
    place.change("UPDATE watches SET began_at = now() - interval '1 h', ticked_at = now() - interval '10 min'")
    for _ in range(3):
        place.change("UPDATE watches SET due_at = now() - interval '4 min'")
        watchman.look(place.runtime, memory, now=1000.0)
        place.later("1 min")
    assert [title.split()[1] for title in place.titles()] == ["scheduler_silent", "workers_silent"]


def test_where_workers_do_the_rounds_the_watchman_does_none(place: Place) -> None:
    place.loses(place.seller())
    place.change("UPDATE watches SET due_at = now() - interval '2 min'")
    watchman.look(place.runtime, Memory(), now=1000.0)
    assert place.titles() == []
    place.change("UPDATE watches SET due_at = now() - interval '4 min', leased_until = now() + interval '1 min'")
    watchman.look(place.runtime, Memory(), now=1000.0)
    assert place.titles() == []


def test_on_an_empty_installation_the_watchman_begins_the_rounds(place: Place) -> None:
    place.change("DELETE FROM watches")
    watchman.look(place.runtime, Memory(), now=1000.0)
    assert place.rows("SELECT kind, ticked_at FROM watches ORDER BY 1") == [
        ("hourly", None),
        ("quick", None),
        ("thorough", None),
    ]


def test_the_thread_looks_until_it_is_stopped_and_outlives_failures(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchman, "LOOK_EVERY", 0.01)
    looks, enough = list[int](), threading.Event()
    failures: list[Exception] = [DatabaseUnavailableError("away"), ValueError("k4n4r3k")]

    def look(_: Runtime) -> health.Health:
        looks.append(1)
        if len(looks) > 5:
            enough.set()
        if failures:
            raise failures.pop()
        return health.Health({"database": health.OK, "migrations": "behind"})

    monkeypatch.setattr(health, "look_at_database", look)
    stopping = threading.Event()
    with capture_logs() as logs:
        thread = watchman.keep_watch(place.runtime, stopping)
        assert enough.wait(10)
        stopping.set()
        thread.join(10)
    assert not thread.is_alive()
    assert [one["event"] for one in logs] == ["alert_watch_crashed"]
