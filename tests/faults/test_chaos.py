"""Every kind of fault at the real processes, and what is left of the promises: nothing is broken."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from allegro_simulator import server
from orders_backup import db as database

from . import chaos as campaigns
from . import checks, cluster, proxy, scale
from .chaos import Chaos
from .checks import Evidence
from .conftest import TOLD
from .scale import Extent
from .toxics import Latency
from .watched import WatchedWorld

pytestmark = pytest.mark.timeout(4500)


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """The campaign, over and quiet; workers and schedulers are stopped, the database still answers."""
    extent = scale.chaos()
    size = scale.SLICE_OF_CHAOS if extent.is_slice else scale.CHAOS
    world = WatchedWorld(
        seed=extent.seed,
        access_token_seconds=scale.CLUSTER_TOKEN,
        refresh_grace_seconds=scale.CLUSTER_GRACE,
        device_interval=1,
        client_limit=scale.CLIENT_LIMIT,
    )
    folder = tmp_path_factory.mktemp("chaos")
    try:
        with (
            proxy.links() as links,
            server.running(world) as url,
            cluster.running(folder, url, links, broker=extent.broker) as running,
        ):
            for link in running.links_of("everyone", "allegro"):
                link.put(Latency(*scale.ANSWERS_TAKE))
            chaos = Chaos(world, running, size, random.Random(extent.seed), cluster=running, extent=extent)
            campaigns.run(chaos)
            _tell(chaos)
            yield chaos
    except BaseException as error:
        again = f"make chaos SEED={extent.seed} FAULTS={extent.faults} BROKER={extent.broker}"
        error.add_note(f"Again: {again}")
        raise
    finally:
        if not extent.is_slice:
            shutil.copytree(folder / "logs", _place(extent).with_suffix(".logs"), dirs_exist_ok=True)


def _place(extent: Extent) -> Path:
    return Path(".chaos") / f"{extent.broker}-{extent.seed}-{extent.faults}.json"


def _tell(chaos: Chaos) -> None:
    told = campaigns.report(chaos)
    TOLD.extend(campaigns.table(told))
    if not chaos.extent.is_slice:
        place = _place(chaos.extent)
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(told, indent=2, ensure_ascii=False))
        TOLD.append(f"tally: {place}")


def test_as_many_faults_as_were_wanted_hit_somebody(over: Chaos) -> None:
    assert len(over.hit) >= over.extent.faults


def test_everybody_recovered_in_time_and_no_promise_was_broken_on_the_way(over: Chaos) -> None:
    assert not over.found, checks.summary(over.found)


def test_after_all_faults_the_archive_equals_the_truth(over: Chaos) -> None:
    world = over.world
    evidence = Evidence(
        accounts=dict(over.accounts),
        truth={(seller, form): true for seller in over.accounts for form, true in world.truth(seller).items()},
        served_events={seller: world.served_events(seller) for seller in over.accounts},
        tokens=list(world.tokens),
        lossy=[one.span for one in over.injected],
    )
    with database.transaction(over.cluster.runtime.db) as tx:
        found = checks.violations(tx, evidence)

    assert not found, checks.summary(found)


def test_the_limit_was_kept_and_every_silence_too(over: Chaos) -> None:
    assert not list(checks.limits(over.world, over.silences))


def test_nobody_died_who_was_not_killed(over: Chaos) -> None:
    broker_back = [one.span.until for one in over.injected if "broker" in one.fault.kind.name]
    assert not list(checks.deaths(over.cluster.died_alone, broker_back))


def test_nothing_grew(over: Chaos) -> None:
    assert not list(checks.resources(over.before, over.after))


def test_no_log_tells_a_secret_or_of_a_failure_without_a_name(over: Chaos) -> None:
    found = list(checks.leaks(over.cluster.logs(), ["eyJ"]))

    assert not found, checks.summary(found)
