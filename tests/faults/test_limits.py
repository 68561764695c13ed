"""The checkers of calls, resources and logs proven: what breaks a promise is reported, what keeps it is not."""

from datetime import UTC, datetime, timedelta

import pytest

from allegro_simulator.limits import Call, Client

from . import checks, scale
from .watched import WatchedWorld


@pytest.fixture
def world() -> WatchedWorld:
    """A simulated Allegro that nobody has called yet."""
    return WatchedWorld(seed=1, client_limit=scale.CLIENT_LIMIT)


def _calls(world: WatchedWorld, *moments: float, seller_id: str | None = "1") -> None:
    for at in moments:
        world._state.ledger.calls.append(Call(at, "GET", "/order/events", 200, seller_id, "simulator"))


def test_more_calls_in_a_minute_than_the_limit_are_found_out(world: WatchedWorld) -> None:
    client = world._state.ledger.clients.setdefault("simulator", Client())
    client.times.extend(float(second) / 100 for second in range(scale.CLIENT_LIMIT))
    assert not list(checks.limits(world, []))

    client.times.append(59.0)

    assert any(one.startswith("I7") for one in checks.limits(world, []))


def test_a_call_to_a_blocked_client_is_found_out(world: WatchedWorld) -> None:
    world._state.ledger.blocked_calls = 1

    assert any("while the client id was blocked" in one for one in checks.limits(world, []))


def test_a_call_in_a_silence_is_found_out_and_one_around_it_is_not(world: WatchedWorld) -> None:
    _calls(world, 100.0, 101.0, 170.0)
    _calls(world, 130.0, seller_id=None)
    assert not list(checks.limits(world, [(100.0, 65)]))

    _calls(world, 140.0)

    assert any("1 calls in a silence" in one for one in checks.limits(world, [(100.0, 65)]))


@pytest.mark.parametrize(
    ("name", "before", "after", "is_found"),
    [
        ("worker-1 MB", 100, 100 + scale.MAY_GROW_MB, False),
        ("worker-1 MB", 100, 101 + scale.MAY_GROW_MB, True),
        ("worker-1 threads", 4, 5 + scale.MAY_GROW_THREADS, True),
        ("scheduler-1 descriptors", 8, 9 + scale.MAY_GROW_DESCRIPTORS, True),
        ("files in the spool", 0, 1, True),
        ("files in the spool", 1, 0, False),
    ],
)
def test_what_grew_is_found_out(name: str, before: int, after: int, *, is_found: bool) -> None:
    assert bool(list(checks.resources({name: before}, {name: after}))) is is_found


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ('{"event": "token_refreshed"}', False),
        ('{"event": "task_failed", "error": "Bearer eyJhbGciOi"}', True),
        ('{"event": "task_crashed", "error": "KeyError"}', True),
        ("Traceback (most recent call last):", True),
        ('{"event": "task_crashed", "error": "OSError:ENOSPC"}', False),
    ],
)
def test_a_secret_or_a_failure_without_a_name_in_a_log_is_found_out(line: str, *, is_found: bool) -> None:
    assert bool(list(checks.leaks([line], ["eyJ"]))) is is_found


@pytest.mark.parametrize(
    ("said", "seconds_before", "is_found"),
    [
        ('"event":"process_failed","reason":"deaf"', 40, False),
        ('"event":"process_failed","reason":"deaf"', 70, True),
        ('"event":"process_failed","reason":"deaf"', -5, True),
        ('"event":"process_failed","reason":"stuck"', 40, True),
        ("Traceback", 40, True),
    ],
)
def test_who_ended_by_himself_is_found_out_but_for_the_deaf(
    said: str, seconds_before: float, *, is_found: bool
) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    words = f'worker-1 ended with code 70: {{"timestamp":"{at.isoformat()}",{said}}}'
    back = at - timedelta(seconds=seconds_before)
    assert bool(list(checks.deaths([words], [back]))) is is_found
