"""Seeds of the deterministic campaign: whatever happens, everything that was promised holds afterwards."""

import os

import pytest
from sqlalchemy.engine import Engine

from . import boundaries, plant, story
from .__main__ import tried
from .plant import Found
from .planted import BUGS, NAMED, Bug

SEEDS = range(1, int(os.environ.get("CAMPAIGN_SEEDS", "16")) + 1)
EVERY = int(os.environ.get("CAMPAIGN_EVERY", "36"))
"""Of the boundaries; 1 is all of them."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_of_faults_leaves_everything_as_promised(engine: Engine, seed: int) -> None:
    trouble, trace = tried(engine, seed)

    assert not trouble, "\n".join([*trace[-40:], *trouble, f"again: make faults SEED={seed}"])


@pytest.mark.parametrize(("seed", "families"), [(164, "freeze,tokens"), (138, "freeze,journal")])
def test_a_seed_that_once_failed_leaves_everything_as_promised(engine: Engine, seed: int, families: str) -> None:
    trouble, trace = tried(engine, seed, frozenset(families.split(",")))

    assert not trouble, "\n".join([*trace[-40:], *trouble])


@pytest.mark.parametrize("seed", [25, 34, 56])
def test_the_same_seed_makes_the_same_trace_to_the_byte(engine: Engine, seed: int) -> None:
    _, first = tried(engine, seed)
    _, second = tried(engine, seed)

    assert first == second
    assert first[-1].startswith("statements ")


def test_a_crash_at_any_boundary_leaves_everything_as_promised(engine: Engine) -> None:
    points = list(boundaries.points(engine))

    assert {point.scene.name for point in points} == {scene.name for scene in boundaries.SCENES}
    for point in points[::EVERY]:
        told = boundaries.play(engine, point)
        assert not told.stage.trouble, f"{point}: {told.stage.trouble}\n" + "\n".join(told.stage.trace[-30:])


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_still_finds_its_place_in_the_source(bug: Bug) -> None:
    assert plant.stands(bug)


def test_every_classic_bug_is_planted_once() -> None:
    assert sorted(bug.named for bug in BUGS if bug.named) == sorted(NAMED)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.named], ids=lambda bug: bug.named)
def test_the_proof_fails_where_a_classic_bug_survives(bug: Bug) -> None:
    found = [Found(one, None if one is bug else 1, "", 1.0) for one in BUGS]

    assert not plant.verdict(found, whole=True)


def test_the_proof_fails_where_fewer_than_fifteen_bugs_are_found() -> None:
    found = [Found(bug, 1, "", 1.0) for bug in BUGS if bug.named]

    assert not plant.verdict(found, whole=True)


def test_the_proof_fails_where_a_seed_breaks_the_source_as_it_is() -> None:
    found = [Found(bug, 1, "", 1.0, (7,) if bug is BUGS[0] else ()) for bug in BUGS]

    assert not plant.verdict(found, whole=True)
    assert plant.verdict([Found(bug, 1, "", 1.0) for bug in BUGS], whole=True)


def test_a_filter_that_is_ignored_reaches_windows_that_leave_something_out(engine: Engine) -> None:
    notes: list[str] = []
    for seed in range(1, 7):
        with story.begun(engine, seed, families=frozenset({"lists"}), orders=9, small_pages=False, limit=9_000) as told:
            told.connects()
            told.settles()
            told.weather.is_over, told.weather.lies = False, 12
            told.is_asked_for("reconcile")
            for _ in range(4):
                told.turn()
            notes += [row.note for row in told.stage.rows("SELECT note FROM sync_windows WHERE note IS NOT NULL")]

    assert "a page held orders from outside its window" in notes
