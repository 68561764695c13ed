"""`kill -9` of the worker, the scheduler and PostgreSQL in the middle of backfill and of refresh."""

from collections import Counter

import pytest
from sqlalchemy.engine import Connection

from . import checks, scale
from .checks import Evidence
from .scene import Campaign

pytestmark = pytest.mark.timeout(900)


def test_after_every_kill_the_archive_equals_the_truth(tx: Connection, evidence: Evidence) -> None:
    found = checks.violations(tx, evidence)

    assert not found, checks.summary(found)


def test_every_victim_was_killed_as_often_in_each_phase(finished: Campaign) -> None:
    counts = Counter((kill.phase, kill.victim) for kill in finished.kills)

    assert counts == {(phase, victim): finished.size.kills for phase in scale.PHASES for victim in scale.VICTIMS}


def test_nobody_died_who_was_not_killed_and_no_failure_went_unnamed(finished: Campaign) -> None:
    assert not finished.service.died_alone
    for name in ("worker", "scheduler"):
        log = finished.service.log(name)
        assert "task_crashed" not in log
        assert "Traceback" not in log


def test_no_token_stands_in_a_log(finished: Campaign) -> None:
    for name in ("worker", "scheduler", "postgres"):
        assert "eyJ" not in finished.service.log(name)
