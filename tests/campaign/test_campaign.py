"""Seeds of the deterministic campaign: whatever happens, everything that was promised holds afterwards."""

import os

import pytest
from sqlalchemy.engine import Engine

from . import boundaries, plant
from .__main__ import tried
from .planted import BUGS, Bug

SEEDS = range(1, int(os.environ.get("CAMPAIGN_SEEDS", "24")) + 1)
EVERY = int(os.environ.get("CAMPAIGN_EVERY", "12"))
"""Of the boundaries; 1 is all of them."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_of_faults_leaves_everything_as_promised(engine: Engine, seed: int) -> None:
    trouble, trace = tried(engine, seed)

    assert not trouble, "\n".join([*trace[-40:], *trouble, f"again: make faults SEED={seed}"])


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
