"""When a worker is deaf or stuck, and how it ends: decided in memory, on a clock that the tests move."""

import os
import threading
import time
from collections.abc import Callable

import pytest

from orders_backup import bell, liveness
from orders_backup.allegro import answers
from orders_backup.canary import DEAF_AFTER, EVERY, STUCK_AFTER, Hearing
from orders_backup.liveness import Departure, Lookout
from orders_backup.sync import job

WORK = ("sync", {"account_id": "a", "kind": "journal"})


def in_threads(*acts: Callable[[], None]) -> None:
    """Each in a thread of its own that still lives afterwards, as the threads of a worker's pool do."""
    for act in acts:
        done, never = threading.Event(), threading.Event()
        threading.Thread(target=_act_and_stay, args=(act, done, never), daemon=True).start()
        assert done.wait(5)


def _act_and_stay(act: Callable[[], None], done: threading.Event, never: threading.Event) -> None:
    act()
    done.set()
    never.wait(5)


def test_a_worker_whose_canaries_are_not_heard_is_deaf() -> None:
    hearing = Hearing(hands=2)
    for second in (0.0, EVERY, 2 * EVERY):
        hearing.sent(second)
    assert hearing.verdict(DEAF_AFTER - 1) is None
    assert hearing.verdict(DEAF_AFTER + 1) == "deaf"


def test_a_canary_that_was_heard_begins_the_wait_anew() -> None:
    hearing = Hearing(hands=2)
    hearing.sent(0)
    hearing.heard(1)
    assert hearing.verdict(1000) is None
    hearing.sent(1000)
    assert hearing.verdict(1000 + DEAF_AFTER + 1) == "deaf"


def test_who_is_too_busy_for_canaries_and_gets_work_is_not_deaf() -> None:
    hearing = Hearing(hands=2)
    hearing.sent(0)
    hearing.began(DEAF_AFTER - 1, WORK)
    assert hearing.verdict(DEAF_AFTER + 1) is None


def test_a_long_task_with_signs_of_life_is_not_stuck_and_one_without_is() -> None:
    hearing = Hearing(hands=2)
    signs: list[Callable[[float], None]] = []

    def begins() -> None:
        hearing.began(0, WORK)
        signs.append(hearing.sign_of_life())

    in_threads(begins)
    signs[0](STUCK_AFTER)
    assert hearing.verdict(STUCK_AFTER + 1) is None
    assert hearing.verdict(2 * STUCK_AFTER + 1) == "stuck"
    assert hearing.working_on() == [WORK]


def test_who_has_no_hand_free_fetches_nothing_and_is_not_deaf() -> None:
    hearing = Hearing(hands=2)
    in_threads(lambda: hearing.began(0, WORK), lambda: hearing.began(0, WORK))
    for second in range(0, 200, 10):
        hearing.sent(second)
    assert len(hearing.working_on()) == 2
    assert hearing.verdict(200) is None


def test_who_gets_a_hand_free_is_deaf_only_when_canaries_were_not_heard_since() -> None:
    hearing = Hearing(hands=1)
    hearing.began(0, WORK)
    hearing.sent(10)
    hearing.ended()
    hearing.sent(100)
    assert hearing.verdict(100 + DEAF_AFTER - 1) is None
    assert hearing.verdict(100 + DEAF_AFTER + 1) == "deaf"


def test_who_hears_its_canaries_and_gets_none_of_the_work_that_waits_is_deaf() -> None:
    hearing = Hearing(hands=2)
    for second in (0.0, EVERY, 2 * EVERY, 3 * EVERY):
        hearing.saw_waiting(second, 5)
        hearing.heard(second + 1)
    assert hearing.verdict(DEAF_AFTER - 1) is None
    assert hearing.verdict(DEAF_AFTER + 1) == "deaf"


def test_who_gets_work_or_has_no_hand_free_or_sees_none_waiting_is_not_deaf() -> None:
    busy, served, idle = Hearing(hands=1), Hearing(hands=1), Hearing(hands=1)
    for hearing in (busy, served, idle):
        hearing.saw_waiting(0, 5)
    busy.began(1, WORK)
    busy.saw_waiting(20, 5)
    served.began(DEAF_AFTER - 1, WORK)
    served.ended()
    idle.saw_waiting(DEAF_AFTER - 1, 0)
    for hearing in (busy, served, idle):
        assert hearing.verdict(DEAF_AFTER + 1) is None


def test_where_the_broker_is_away_nobody_is_deaf() -> None:
    hearing = Hearing(hands=1)
    hearing.sent(0)
    hearing.saw_waiting(0, 1)
    hearing.not_sent()
    assert hearing.verdict(1000) is None


def test_a_task_that_does_not_end_makes_its_worker_stuck() -> None:
    hearing = Hearing(hands=2)
    hearing.began(0, WORK)
    hearing.heard(STUCK_AFTER)
    assert hearing.verdict(STUCK_AFTER - 1) is None
    assert hearing.verdict(STUCK_AFTER + 1) == "stuck"
    hearing.ended()
    assert hearing.verdict(STUCK_AFTER + 1) is None


def test_deafness_is_known_early_enough_to_be_mended_within_a_minute() -> None:
    assert DEAF_AFTER + EVERY + liveness.LOOK_EVERY + liveness.STOP_WITHIN + liveness.FAREWELL_WITHIN < 60


def test_no_task_is_taken_for_stuck_that_may_still_be_at_work() -> None:
    longest = (job.TURN + job.SLICE).total_seconds() + answers.LONGEST_SECONDS
    assert longest <= bell.LONGEST_TASK.total_seconds()
    assert bell.LONGEST_TASK.total_seconds() < STUCK_AFTER


def test_who_was_frozen_listens_again_before_it_judges_itself() -> None:
    hearing = Hearing(hands=1)
    lookout = Lookout(hearing.verdict)
    hearing.sent(0)
    assert lookout.look(2) is None
    woken = 2 + DEAF_AFTER + liveness.STOOD_STILL
    assert lookout.look(woken) is None
    assert lookout.look(woken + liveness.LOOK_EVERY) is None
    for later in range(4, int(liveness.PATIENCE) + 1, 2):
        last = lookout.look(woken + later)
    assert last == "deaf"


# How it ends


class EndedError(BaseException):
    """Instead of the end of the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise EndedError

    monkeypatch.setattr(os, "_exit", end)
    return codes


def test_a_deaf_worker_lets_tasks_end_and_exits_as_failed(exits: list[int]) -> None:
    undone, farewells, stopping = [WORK], [], threading.Event()

    def running() -> list[object]:
        return list(undone) if not stopping.is_set() else []

    departure = Departure(stopping, lambda _: "deaf", running, lambda: farewells.append(1))
    assert departure.verdict(0) == "deaf"
    with pytest.raises(EndedError):
        departure.leave("deaf")
    assert stopping.is_set()
    assert exits == [liveness.EX_SOFTWARE]
    assert farewells == [1]


def test_a_worker_that_was_asked_to_stop_and_cannot_gives_its_work_back(exits: list[int]) -> None:
    farewells: list[int] = []
    stopping = threading.Event()
    departure = Departure(stopping, lambda _: None, lambda: [WORK], lambda: farewells.append(1))
    stopping.set()
    assert departure.verdict(100) is None
    assert departure.verdict(100 + liveness.STOP_WITHIN - 1) is None
    assert departure.verdict(100 + liveness.STOP_WITHIN + 1) == "asked to stop"
    with pytest.raises(EndedError):
        departure.leave("asked to stop")
    assert (exits, farewells) == ([0], [1])


def test_a_farewell_that_hangs_keeps_nobody(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "FAREWELL_WITHIN", 0.05)
    departure = Departure(threading.Event(), lambda _: "deaf", list, lambda: time.sleep(5))
    with pytest.raises(EndedError):
        departure.leave("deaf")
    assert exits == [liveness.EX_SOFTWARE]
