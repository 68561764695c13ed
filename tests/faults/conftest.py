"""A finished campaign, run once for all tests of this folder."""

import json
import random
from collections.abc import Iterator

import pytest
from sqlalchemy.engine import Connection

from allegro_simulator import server

from . import campaign as campaigns
from . import checks, scale, service
from .checks import Evidence, Span
from .scene import Campaign
from .watched import WatchedWorld

TOLD: list[str] = []
"""What is written below the results."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of a campaign belong into the output, also when all went well."""
    for line in TOLD:
        terminalreporter.write_line(line)


@pytest.fixture(scope="package", params=scale.seeds(), ids=lambda seed: f"seed {seed}")
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """The campaign of a seed, over and quiet; worker and scheduler are stopped, the database still answers."""
    seed, size = int(request.param), scale.chosen()
    world = WatchedWorld(
        seed=seed,
        access_token_seconds=scale.ACCESS_TOKEN,
        refresh_grace_seconds=scale.GRACE,
        device_interval=1,
        client_limit=service.PLENTY * 100,
    )
    folder = tmp_path_factory.mktemp("kills")
    try:
        with server.running(world) as url, service.running(folder, url) as running:
            campaign = Campaign(world, running, size, random.Random(seed))
            campaigns.run(campaign)
            for name in ("scheduler", "worker"):
                running.stop(name)
            TOLD.append(f"kill campaign, seed {seed}: {json.dumps(campaign.figures())}")
            yield campaign
    except Exception as error:
        error.add_note(f"Again: KILLS={size.kills} KILL_SEED={seed} pytest tests/faults (logs: {folder}/logs)")
        raise


@pytest.fixture(scope="package")
def evidence(finished: Campaign) -> Evidence:
    """Everything that Allegro knows after the campaign."""
    world = finished.world
    return Evidence(
        accounts=dict(finished.accounts),
        truth={(seller, form): true for seller in finished.accounts for form, true in world.truth(seller).items()},
        served_events={seller: world.served_events(seller) for seller in finished.accounts},
        tokens=list(world.tokens),
        lossy=[Span(kill.at, kill.at) for kill in finished.kills if kill.victim != "scheduler"],
    )


@pytest.fixture(scope="package")
def known(finished: Campaign, evidence: Evidence) -> set[str]:
    """What the checkers say of the archive before anything is damaged; nothing, unless the campaign found a fault."""
    with finished.service.runtime.db.connect() as connection:
        return set(checks.violations(connection, evidence))


@pytest.fixture
def tx(finished: Campaign) -> Iterator[Connection]:
    """A transaction on the finished database that leaves nothing behind."""
    with finished.service.runtime.db.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()
