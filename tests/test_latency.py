"""Slow answers: told from what is usual, of one account or of a class of routes, and not by one slow answer."""

from collections import deque
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from orders_backup import latency
from orders_backup.latency import Latencies

QUICK, SLOW = 0.2, 2.0


def note(latencies: Latencies, account_id: UUID, *seconds: float) -> list[tuple[bool, bool]]:
    """Answers of one job for this account."""
    recent: deque[float] = deque(maxlen=8)
    return [latencies.note("orders", account_id, recent, one) for one in seconds]


@given(st.lists(st.floats(0.05, 0.49), min_size=1, max_size=60))
def test_answers_within_half_a_second_are_never_slow(answers: list[float]) -> None:
    assert set(note(Latencies(), uuid4(), *answers)) == {(False, False)}


def test_an_account_whose_answers_take_three_times_as_long_as_usual_is_slow_once() -> None:
    latencies = Latencies()
    note(latencies, uuid4(), *[QUICK] * 10)
    told = note(latencies, uuid4(), *[SLOW] * 8)
    assert [account for account, _ in told].count(True) == 1
    assert not any(everybody for _, everybody in told)


def test_a_few_slow_answers_among_quick_ones_mean_nothing() -> None:
    told = note(Latencies(), uuid4(), *[QUICK, QUICK, SLOW] * 20)
    assert set(told) == {(False, False)}


def test_a_class_of_routes_is_slow_when_most_accounts_are() -> None:
    latencies = Latencies()
    sellers = [uuid4() for _ in range(10)]
    for seller in sellers:
        note(latencies, seller, QUICK)
    told = [note(latencies, seller, SLOW)[0] for seller in sellers]
    assert [everybody for _, everybody in told].count(True) == 1
    assert not any(account for account, _ in told)


def test_what_takes_long_for_good_becomes_usual() -> None:
    known = latency.usual(None, QUICK)
    for _ in range(1000):
        known = latency.usual(known, SLOW)
    assert not latency.is_slow([SLOW] * 8, known)


def test_one_slow_answer_hardly_moves_the_usual() -> None:
    assert latency.usual(QUICK, 60.0) < 1.02 * QUICK
