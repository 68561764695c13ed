"""No login is lost: thousands of refreshes, each with something that goes wrong at a random step."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.accounts.test_journal import HOURS, Login, make_login
from tests.clockwork import make_clockwork
from tests.logins import crashes
from tests.logins.crashes import Outage
from tests.storage import bucket

from allegro_simulator import oauth as registry
from allegro_simulator import server
from orders_backup import runtime as runtimes
from orders_backup.accounts import journal, pairs, tokens
from orders_backup.accounts.sweeper import Sweep
from orders_backup.errors import OrdersBackupError
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

__all__ = ["bucket", "make_clockwork", "make_login"]

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Who is killed leaves files open; in one process Python notices that, where a system would have closed them."""

RUNS = int(os.environ.get("LOGINS", "40"))
"""Kills at random steps; of the other faults a fiftieth to a third as many. `make logins`: 1,000."""
SEED = int(os.environ.get("LOGINS_SEED", str(random.randrange(10**6))))
TOLD: list[str] = []
"""The tally, a line for each test; the conftest prints it."""
SWEPT_EVERY, RUNG_EVERY = 3.0, 5.0


@dataclass
class Campaign:
    """One login whose refreshes go wrong one after the other, on two machines that come and go."""

    login: Login
    draw: random.Random
    outage: Outage
    disks: list[Path]
    steps: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def refresh(self, happens: Callable[[], None], *, disk: Path) -> None:
        """A refresh that is due, with something that happens before one of its lines."""
        self.login.clockwork.passes(10.5 * HOURS)
        with crashes.process(self.login, self.outage, disk) as runtime:
            at = self.draw.randint(1, self.steps)
            crashes.steps_of(lambda: self._tries(lambda: self._turn(runtime)), at, happens)
        self.tally["runs"] += 1

    def counts_steps(self) -> None:
        """How many lines of ours run in a refresh and a round in which nothing goes wrong."""
        self.login.clockwork.passes(10.5 * HOURS)
        with crashes.process(self.login, self.outage, self.disks[0]) as runtime:
            self.steps = crashes.steps_of(lambda: self._turn(runtime), 0, crashes.kill)
        assert self.steps > 100

    def _turn(self, runtime: Runtime) -> None:
        """What a worker does with a bell and in a round of the sweeper."""
        tokens.refresh_due(runtime, self.login.account_id)
        Sweep(runtime).round()

    def _tries(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OrdersBackupError as error:
            self.tally[error.code] += 1

    def recovers(self, before: int, *, disk: Path, within: float) -> None:
        """Another process, its sweeper every three seconds and the bell every five, until the login is renewed."""
        began = self.login.clockwork.ahead
        with crashes.process(self.login, self.outage, disk) as runtime:
            sweep = Sweep(runtime)
            while self.login.clockwork.ahead - began < within:
                self.login.clockwork.passes(1)
                passed = self.login.clockwork.ahead - began
                if passed % SWEPT_EVERY == 0:
                    sweep.round()
                if passed % RUNG_EVERY == 0:
                    self._tries(lambda: tokens.refresh_due(runtime, self.login.account_id))
                if passed % SWEPT_EVERY == 0 and not self.outage.lasts and self.is_renewed(before):
                    break
            sweep.round()
            sweep.round()
            self.slowest = max(self.slowest, self.login.clockwork.ahead - began)
            self.check(runtime, before)

    def is_renewed(self, before: int) -> bool:
        query = "SELECT generation > :before AND intent_at IS NULL FROM account_tokens"
        with self.login.runtime.db.begin() as tx:
            return bool(tx.execute(sa.text(query), {"before": before}).scalar_one())

    def check(self, runtime: Runtime, before: int) -> None:
        """The account is active, its refresh token unused and alive at Allegro, its access token the living one, and
        the journal has the pair."""
        with self.login.runtime.db.begin() as tx:
            row = pairs.found(tx, self.login.account_id)
        assert row is not None
        assert self.login.status == "active"
        assert row.generation > before
        pair = pairs.opened(runtime, row.account_id, row.generation, pairs.sealed(row), now=self.login.clockwork.now())
        known = self.login.world._state.registry
        assert known.refreshes[pair.refresh_token].used_at is None
        now = self.login.clockwork.now().timestamp()
        assert registry.grant_of(known, pair.access_token, now) is not None
        here = journal.entries(runtime, row.account_id, everywhere=False)
        assert journal.entry(row.generation, pairs.sealed(row)) in here
        assert list(journal.waiting(runtime)) == []

    @property
    def generation(self) -> int:
        return self.login.generation

    def tell(self, what: str) -> None:
        uses, longest = uses_of_tokens(self.login)
        reconnects = len(self.login.world._state.registry.grants) - 1
        repeated = sum(count - 1 for count in uses.values())
        TOLD.append(
            f"{what}: {self.tally['runs']} runs, {len(uses)} rotations, {repeated} calls repeated in the grace, latest"
            f" after {longest:.1f} s, slowest recovery {self.slowest:.0f} s, {reconnects} reconnects,"
            f" {self.steps} steps, {dict(self.tally)}"
        )
        assert reconnects == 0
        assert longest <= 55.5


def uses_of_tokens(login: Login) -> tuple[Counter[int | None], float]:
    """How often each refresh token was accepted, and the longest time between two uses of one."""
    first: dict[int | None, float] = {}
    accepted = [use for use in login.world.tokens if use.outcome == "ok"]
    longest = max((use.at - first.setdefault(use.generation, use.at) for use in accepted), default=0.0)
    return Counter(use.generation for use in accepted), longest


@pytest.fixture
def campaign(make_login: Callable[[Settings | None], Login], tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    login = make_login(None)
    disks = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    made = Campaign(login, random.Random(SEED), Outage(login), disks)
    made.counts_steps()
    return made


@pytest.mark.timeout(3600)
def test_a_kill_at_any_step_costs_no_login(campaign: Campaign) -> None:
    for _ in range(RUNS):
        before = campaign.generation
        died, recovers = campaign.disks[0], campaign.disks[campaign.draw.random() < 0.3]
        campaign.refresh(crashes.kill, disk=died)
        campaign.recovers(before, disk=recovers, within=120)
        if recovers is not died:
            with crashes.process(campaign.login, campaign.outage, died) as runtime:
                Sweep(runtime).round()
                campaign.check(runtime, before)
    campaign.tell("kills")


@pytest.mark.timeout(3600)
def test_a_kill_and_then_an_outage_within_the_grace_cost_no_login(campaign: Campaign) -> None:
    for _ in range(max(RUNS // 10, 5)):
        before = campaign.generation
        campaign.refresh(crashes.kill, disk=campaign.disks[0])
        campaign.outage.begins(campaign.draw.uniform(1, 40))
        campaign.recovers(before, disk=campaign.disks[campaign.draw.random() < 0.3], within=180)
    campaign.tell("kills with outages")


@pytest.mark.timeout(3600)
def test_lost_answers_cost_no_login(campaign: Campaign) -> None:
    for _ in range(max(RUNS * 3 // 10, 8)):
        before = campaign.generation
        campaign.login.world.faults("lost_token_answer", times=campaign.draw.randint(1, 3))
        campaign.refresh(lambda: None, disk=campaign.disks[0])
        campaign.recovers(before, disk=campaign.disks[campaign.draw.random() < 0.3], within=120)
        campaign.login.world.clear_faults()
    campaign.tell("lost answers")


@pytest.mark.timeout(3600)
def test_outages_of_the_database_cost_no_login(campaign: Campaign) -> None:
    for _ in range(max(RUNS // 10, 6)):
        before = campaign.generation
        seconds = campaign.draw.uniform(1, 55)
        campaign.refresh(lambda: campaign.outage.begins(seconds), disk=campaign.disks[0])  # noqa: B023 - called at once
        campaign.recovers(before, disk=campaign.disks[0], within=240)
    campaign.tell("database away for 1-55 s")


@pytest.mark.timeout(3600)
def test_two_hours_without_a_database_cost_no_login(campaign: Campaign) -> None:
    for _ in range(max(RUNS // 50, 6)):
        before = campaign.generation
        campaign.refresh(lambda: campaign.outage.begins(2 * HOURS), disk=campaign.disks[0])
        campaign.login.clockwork.passes(2 * HOURS)
        campaign.recovers(before, disk=campaign.disks[0], within=240)
    campaign.tell("database away for 2 h")


@pytest.mark.timeout(3600)
def test_commits_whose_answer_was_lost_cost_no_login(campaign: Campaign) -> None:
    def loses() -> None:
        campaign.outage.loses_commits = 1

    for _ in range(max(RUNS // 10, 6)):
        before = campaign.generation
        campaign.refresh(loses, disk=campaign.disks[0])
        campaign.outage.loses_commits = 0
        campaign.recovers(before, disk=campaign.disks[0], within=120)
    campaign.tell("answers of a COMMIT lost")


def test_fifty_workers_make_one_refresh_a_rotation(campaign: Campaign) -> None:
    login, workers = campaign.login, 50
    settings = login.runtime.settings
    made = [
        runtimes.build(settings, pool_size=1, transport=login.runtime.oauth.http._transport) for _ in range(workers)
    ]
    try:
        for _ in range(5):
            login.clockwork.passes(10.5 * HOURS)
            before, calls = campaign.generation, len(login.world.tokens)
            barrier = threading.Barrier(workers)

            def ask(runtime: Runtime, before: int = before, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                for _ in range(3):
                    try:
                        tokens.refresh(runtime, login.account_id, seen=before, refused=True)
                    except OrdersBackupError:
                        time.sleep(0.02)

            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(ask, made))
            assert len(login.world.tokens) == calls + 1
            assert campaign.generation == before + 1
    finally:
        for runtime in made:
            runtime.close()
    TOLD.append(f"{workers} workers at once: 5 rotations, {len(login.world.tokens)} refreshes")


CHILD = """
import sys
from uuid import UUID
from orders_backup import runtime as runtimes, settings
from orders_backup.accounts import tokens
runtime = runtimes.build(settings.load(env_file=None))
account = UUID(sys.argv[1])
print("ready", flush=True)
while True:
    tokens.refresh(runtime, account, seen=tokens.current(runtime, account).generation)
"""
"""A worker that does nothing but refresh."""


@pytest.mark.timeout(3600)
def test_sigkill_of_a_refreshing_process_costs_no_login(campaign: Campaign) -> None:
    login, kills = campaign.login, max(RUNS // 25, 2)
    with server.running(login.world) as url:
        for _ in range(kills):
            environment = environment_of(login.runtime.settings, url, campaign.disks[0])
            command = [sys.executable, "-c", CHILD, str(login.account_id)]
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
                time.sleep(campaign.draw.uniform(0, 0.3))
                child.kill()
            campaign.tally["runs"] += 1
            before = campaign.generation - 1
            if not campaign.is_renewed(before):
                before += 1
            campaign.recovers(before, disk=campaign.disks[campaign.draw.random() < 0.3], within=120)
    campaign.tell("SIGKILL of a real process")


def environment_of(settings: Settings, url: str, disk: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "DATA_DIR": str(disk),
        "DATABASE_URL": settings.database_url,
        "ALLEGRO_API_URL": url,
        "ALLEGRO_AUTH_URL": url,
        "ALLEGRO_CLIENT_ID": settings.allegro_client_id,
        "ALLEGRO_CLIENT_SECRET": settings.allegro_client_secret.get_secret_value(),
        "ENCRYPTION_KEYS": settings.encryption_keys.get_secret_value(),
        **{f"RATE_LIMIT_{name}": "1000000" for name in ("CLIENT", "DEFAULT", "ORDERS", "EVENTS", "AUTH")},
    }
