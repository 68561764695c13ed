"""The token journal: every pair outside the database, and a restored database that finds it."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from tests.clockwork import Clockwork, make_clockwork
from tests.shop import PLENTY
from tests.storage import Bucket, bucket

from allegro_simulator.transport import WorldTransport
from allegro_simulator.world import World
from orders_backup import db as database
from orders_backup import runtime as runtimes
from orders_backup.accounts import connect, journal, pairs, recovery, tokens
from orders_backup.accounts.calls import Calls, Route
from orders_backup.accounts.sweeper import Sweep
from orders_backup.allegro import client, oauth
from orders_backup.budget import Priority
from orders_backup.errors import OrdersBackupError, ReauthorizationRequiredError, StorageUnavailableError
from orders_backup.local import postgres
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

__all__ = ["bucket", "make_clockwork"]

HOURS = 3600.0


@dataclass
class Login:
    """One seller's login here: the clock all see, the runtime of the one worker, and verbs."""

    clockwork: Clockwork
    world: World
    runtime: Runtime
    account_id: UUID
    seller_id: str
    url: str

    def sweeps(self, rounds: int = 1) -> Sweep:
        sweep = Sweep(self.runtime)
        for _ in range(rounds):
            sweep.round()
        return sweep

    def rotates(self, times: int = 1) -> None:
        """So many refreshes, each when it is due, each carried to the journal."""
        for _ in range(times):
            self.clockwork.passes(10.5 * HOURS)
            tokens.refresh_due(self.runtime, self.account_id)
            self.sweeps()

    def value(self, query: str) -> Any:
        with database.transaction(self.runtime.db) as tx:
            return tx.execute(sa.text(query)).scalar_one_or_none()

    @property
    def generation(self) -> int:
        """0 where there are no tokens."""
        return int(self.value("SELECT generation FROM account_tokens") or 0)

    @property
    def status(self) -> str:
        return str(self.value("SELECT status FROM accounts"))

    def calls(self) -> str:
        """A call in the seller's name, as a sync makes it; who he is."""
        with database.transaction(self.runtime.db) as tx:
            self.runtime.clock.set(database.clock(tx))
        calls = Calls(self.runtime, self.account_id, priority=Priority.LIVE)
        return calls.ask(Route.DEFAULT, lambda token: client.me(self.runtime.allegro, token))[0]

    def works_until_settled(self) -> None:
        """What a worker does in the two minutes after a refusal: the bell rings when the refresh is due."""
        for _ in range(40):
            self.clockwork.passes(3)
            try:
                tokens.refresh_due(self.runtime, self.account_id)
                self.calls()
            except OrdersBackupError:
                continue

    def files(self) -> list[str]:
        folder = self.runtime.settings.data_dir / "tokens" / str(self.account_id)
        return sorted(path.stem for path in folder.glob("*.json"))

    def loses_its_disk(self) -> None:
        shutil.rmtree(self.runtime.settings.data_dir)

    def dumps(self, file: Path) -> None:
        self._run("pg_dump", "--format=custom", f"--file={file}", "--schema=public", self.url)

    def restores(self, file: Path) -> None:
        self._run("pg_restore", "--clean", "--if-exists", "--single-transaction", f"--dbname={self.url}", str(file))

    def _run(self, program: str, *arguments: str) -> None:
        self.runtime.db.dispose()
        subprocess.run([str(postgres.find() / program), *arguments], check=True, capture_output=True)


@pytest.fixture
def make_login(
    settings: Settings, make_clockwork: Callable[[], tuple[str, Clockwork]]
) -> Iterator[Callable[[Settings | None], Login]]:
    """Connects a seller on a database whose clock is moved by hand."""
    made: list[Login] = []

    def make(chosen: Settings | None = None) -> Login:
        url, clockwork = make_clockwork()
        world = World(seed=3, device_interval=1, clock=clockwork.now)
        seller = world.add_seller(2)
        urls = {"allegro_api_url": world.base_url, "allegro_auth_url": world.base_url, "database_url": url}
        mine = (chosen or settings).model_copy(update={**urls, **PLENTY, "rate_limit_auth": 100_000})
        runtime = runtimes.build(mine, transport=WorldTransport(world))
        account_id = connect.begin(runtime, user_id=uuid4(), name="shop")
        login = Login(clockwork, world, runtime, account_id, seller.id, url)
        made.append(login)
        agrees(login)
        return login

    yield make
    for login in made:
        login.runtime.close()


def agrees(login: Login) -> None:
    """The seller confirms the code that waits."""
    login.world.approves(login.world.devices()[-1]["user_code"], login.seller_id)
    login.clockwork.passes(20)
    connect.poll(login.runtime, login.account_id)
    assert login.status == "active"


@pytest.fixture
def login(make_login: Callable[[Settings | None], Login]) -> Login:
    """A seller whose pairs go to the disk only."""
    return make_login(None)


@pytest.fixture
def stored(make_login: Callable[[Settings | None], Login], settings: Settings, bucket: Bucket) -> Login:
    """A seller whose pairs go to object storage too."""
    return make_login(bucket.settings(settings))


# What is kept


def test_every_generation_is_on_the_disk_and_in_object_storage_after_one_round(stored: Login, bucket: Bucket) -> None:
    stored.sweeps()
    [first] = (int(name[:12]) for name in stored.files())  # 1, or the time where the storage was slow to say that
    tokens.refresh(stored.runtime, stored.account_id, seen=first)
    stored.sweeps()
    assert [int(name[:12]) for name in stored.files()] == [first, first + 1]
    assert [path.stem for path in bucket.files()] == stored.files()
    assert bucket.files()[0].relative_to(bucket.folder).parts[:3] == ("orders-backup", "tokens", str(stored.account_id))
    assert list(journal.waiting(stored.runtime)) == []


def test_no_token_and_nothing_of_one_stands_in_the_journal_or_in_its_names(stored: Login, bucket: Bucket) -> None:
    token = tokens.refresh(stored.runtime, stored.account_id, seen=1)
    stored.sweeps()
    with database.transaction(stored.runtime.db) as tx:
        row = pairs.found(tx, stored.account_id)
    assert row is not None
    clear = pairs.opened(stored.runtime, stored.account_id, 2, pairs.sealed(row), now=stored.clockwork.now())
    for path in [*bucket.files(), *stored.runtime.settings.data_dir.rglob("*.json")]:
        for secret in (token.value, clear.refresh_token, clear.refresh_token[-40:]):
            assert secret not in path.read_text()
            assert secret not in str(path)


def test_the_disk_keeps_the_newest_generations_and_object_storage_all(stored: Login, bucket: Bucket) -> None:
    stored.rotates(8)
    assert [int(name[:12]) for name in stored.files()] == [5, 6, 7, 8, 9]
    assert [int(path.stem[:12]) for path in bucket.files()] == list(range(1, 10))


def test_a_pair_waits_on_the_disk_while_object_storage_is_away(stored: Login, bucket: Bucket) -> None:
    stored.sweeps()
    bucket.stop()
    tokens.refresh(stored.runtime, stored.account_id, seen=1)
    sweep = stored.sweeps(2)
    assert sweep.failing["carry_spool"] == "storage_unavailable"
    assert [entry.generation for _, entry, _ in journal.waiting(stored.runtime)] == [2]
    bucket.start()
    sweep.round()
    assert [int(path.stem[:12]) for path in bucket.files()] == [1, 2]
    assert list(journal.waiting(stored.runtime)) == []


def test_logins_from_before_the_journal_are_journaled_when_a_worker_starts(stored: Login, bucket: Bucket) -> None:
    stored.clockwork.passes(HOURS)
    stored.loses_its_disk()
    stored.sweeps()
    assert [int(path.stem[:12]) for path in bucket.files()] == [1]
    assert len(stored.files()) == 1


def test_a_full_disk_loses_no_pair_that_the_database_can_take(login: Login) -> None:
    spool = journal.spool_folder(login.runtime)
    shutil.rmtree(spool)
    spool.write_text("a file stands where the folder should be")
    assert tokens.refresh(login.runtime, login.account_id, seen=1).generation == 2
    assert login.calls() == login.seller_id
    login.sweeps()
    assert [int(name[:12]) for name in login.files()] == [2]


def test_a_damaged_file_keeps_no_login_from_the_older_pair(login: Login, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    login.dumps(dump)
    login.rotates(2)
    login.restores(dump)
    folder = login.runtime.settings.data_dir / "tokens" / str(login.account_id)
    newest = folder / f"{login.files()[-1]}.json"
    for damage in (b"", b"{", b'{"access": 1}', json.dumps({"access": "", "refresh": "", "access_expires_at": ""})):
        newest.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
        found = recovery.look(login.runtime, login.account_id, everywhere=True)
        assert found is not None
        assert found.generation == 2


def test_a_login_that_was_half_forgotten_is_forgotten_by_the_next_round(login: Login) -> None:
    login.rotates(2)
    folder = login.runtime.settings.data_dir / "tokens" / str(login.account_id)
    kept = {path: path.read_bytes() for path in folder.glob("*.json")}
    assert len(kept) >= 2
    with database.transaction(login.runtime.db) as tx:
        connect.disconnect(tx, login.account_id)
    login.sweeps()
    assert not any(path.exists() for path in kept)
    for path, content in kept.items():
        path.write_bytes(content)
    login.sweeps()
    assert not any(path.exists() for path in kept)


@pytest.mark.parametrize("is_away", [False, True])
def test_the_disk_forgets_a_login_whatever_object_storage_does(stored: Login, bucket: Bucket, is_away: bool) -> None:
    stored.rotates(1)
    assert stored.files()
    if is_away:
        bucket.stop()
    with database.transaction(stored.runtime.db) as tx:
        connect.disconnect(tx, stored.account_id)
    stored.sweeps(2)
    assert [name[13:] for name in stored.files()] == ["forgotten"]


# A restored database


@pytest.mark.parametrize("lost", ["nothing", "disk", "storage"])
def test_an_old_dump_costs_no_login(
    stored: Login, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, lost: str
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    stored.sweeps()
    stored.dumps(dump)
    stored.rotates(5)
    assert stored.generation == 6
    stored.restores(dump)
    assert stored.generation == 1
    if lost == "disk":
        stored.loses_its_disk()
    if lost == "storage":
        bucket.stop()
    assert stored.calls() == stored.seller_id
    assert stored.status == "active"
    assert stored.generation in {6, 7}
    assert {use.outcome for use in stored.world.tokens} == {"ok"}, "no dead token was shown to Allegro"
    stored.rotates(2)
    assert stored.status == "active"
    assert stored.calls() == stored.seller_id


@pytest.mark.parametrize("lost", ["nothing", "disk"])
def test_a_young_dump_shows_allegro_no_dead_token(
    stored: Login, tmp_path_factory: pytest.TempPathFactory, lost: str
) -> None:
    """Its access token has not expired, but is dead: the 401 is enough to look in the journal."""
    dump = tmp_path_factory.mktemp("dump") / "dump"
    stored.rotates(1)
    stored.dumps(dump)
    tokens.refresh(stored.runtime, stored.account_id, seen=2)
    stored.sweeps()
    stored.clockwork.passes(300)  # the grace is over
    stored.restores(dump)
    if lost == "disk":
        stored.loses_its_disk()
    assert stored.calls() == stored.seller_id
    assert stored.generation == 3
    assert {use.outcome for use in stored.world.tokens} == {"ok"}


@pytest.mark.parametrize("lost", ["nothing", "disk", "storage"])
def test_a_dump_of_a_paused_account_is_found_out_at_its_next_refresh(
    stored: Login, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, lost: str
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    stored.sweeps()
    stored.dumps(dump)
    stored.rotates(5)
    stored.restores(dump)
    if lost == "disk":
        stored.loses_its_disk()
    if lost == "storage":
        bucket.stop()
    tokens.refresh_due(stored.runtime, stored.account_id)
    assert stored.status == "active"
    assert stored.generation in {6, 7}
    assert stored.calls() == stored.seller_id


def test_without_disk_and_storage_a_dead_login_is_said_to_be_dead(
    login: Login, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    login.dumps(dump)
    login.rotates(5)
    login.restores(dump)
    login.loses_its_disk()
    login.works_until_settled()
    assert login.status == "reauthorization_required"
    login.clockwork.passes(20)
    with pytest.raises(ReauthorizationRequiredError):
        tokens.refresh(login.runtime, login.account_id, seen=1)


def test_while_object_storage_is_away_no_login_is_given_up(
    stored: Login, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    stored.sweeps()
    stored.dumps(dump)
    stored.rotates(5)
    stored.restores(dump)
    stored.loses_its_disk()
    bucket.stop()
    stored.works_until_settled()
    assert stored.status == "active"
    bucket.start()
    stored.clockwork.passes(600)
    tokens.refresh_due(stored.runtime, stored.account_id)
    assert stored.generation in {6, 7}
    assert stored.calls() == stored.seller_id


def test_recovery_takes_over_the_newest_of_every_account_and_says_so(
    stored: Login, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    stored.sweeps()
    stored.dumps(dump)
    stored.rotates(5)
    stored.restores(dump)
    stored.loses_its_disk()
    assert [(one.outcome, one.generation_before, one.generation) for one in recovery.recover(stored.runtime)] == [
        ("adopted", 1, 6)
    ]
    assert [one.outcome for one in recovery.recover(stored.runtime)] == ["level"]
    assert stored.calls() == stored.seller_id


def test_recovery_wakes_an_account_that_was_lost_for_want_of_the_newer_pair(
    login: Login, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    login.dumps(dump)
    login.rotates(3)
    login.restores(dump)
    folder = login.runtime.settings.data_dir / "tokens"
    folder.rename(aside := tmp_path_factory.mktemp("aside") / "tokens")
    login.works_until_settled()
    assert login.status == "reauthorization_required"
    aside.rename(folder)
    assert [one.outcome for one in recovery.recover(login.runtime)] == ["adopted"]
    assert login.status == "active"
    assert login.calls() == login.seller_id


def test_recovery_without_the_storage_it_needs_fails_loudly(stored: Login, bucket: Bucket) -> None:
    bucket.stop()
    with pytest.raises(StorageUnavailableError):
        list(recovery.recover(stored.runtime))


# Logins that ended, and new ones


def disconnects(login: Login) -> None:
    with database.transaction(login.runtime.db) as tx:
        connect.disconnect(tx, login.account_id)


@pytest.mark.parametrize("lost", ["nothing", "disk"])
def test_a_login_that_was_forgotten_does_not_come_back_with_an_old_dump(
    stored: Login, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, lost: str
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    stored.rotates(2)
    stored.dumps(dump)
    stored.rotates(2)
    disconnects(stored)
    stored.sweeps()
    assert [name.partition("-")[2] for name in stored.files()] == ["forgotten"]
    assert {path.read_text() for path in bucket.files()} == {"{}"}
    stored.restores(dump)
    assert stored.status == "active"
    if lost == "disk":
        stored.loses_its_disk()
    assert [one.outcome for one in recovery.recover(stored.runtime)] == ["forgotten"]
    assert stored.status == "disconnected"
    assert stored.value("SELECT count(*) FROM account_tokens") == 0


def test_a_pair_that_comes_after_the_disconnecting_is_not_kept_for_later(login: Login) -> None:
    login.sweeps()
    disconnects(login)
    late = pairs.seal(login.runtime, login.account_id, 2, oauth.Pair("a", "r", 43199), now=login.clockwork.now())
    login.sweeps()
    journal.spooled(login.runtime, login.account_id, 2, late)
    login.sweeps()
    assert [name.partition("-")[2] for name in login.files()] == ["forgotten"]
    assert list(journal.waiting(login.runtime)) == []


@pytest.mark.parametrize("storage", ["there", "away"])
def test_a_reconnect_is_above_everything_the_journal_knows_although_the_database_is_older(
    stored: Login, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, storage: str
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    stored.sweeps()
    stored.dumps(dump)
    stored.rotates(5)
    stored.restores(dump)
    stored.loses_its_disk()
    if storage == "away":
        bucket.stop()
    connect.begin_again(stored.runtime, stored.account_id)
    agrees(stored)
    assert stored.generation > 6
    generation = stored.generation
    stored.sweeps()
    assert stored.generation == generation
    assert stored.calls() == stored.seller_id


def test_a_login_after_a_forgotten_one_is_found_by_an_older_dump(
    stored: Login, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dump = tmp_path_factory.mktemp("dump") / "dump"
    stored.rotates(1)
    stored.dumps(dump)
    disconnects(stored)
    stored.sweeps()
    connect.begin_again(stored.runtime, stored.account_id)
    agrees(stored)
    stored.rotates(1)
    stored.restores(dump)
    assert stored.calls() == stored.seller_id
    assert stored.status == "active"


# A second pair of one generation


def test_a_late_second_pair_serves_when_the_first_is_dead(login: Login) -> None:
    with database.transaction(login.runtime.db) as tx:
        row = pairs.found(tx, login.account_id)
    assert row is not None
    old = login.runtime.vault.open(row.refresh_sealed, login.account_id, 1, "refresh")
    first = oauth.refresh(login.runtime.oauth, old)
    tokens.refresh(login.runtime, login.account_id, seen=1)
    late = pairs.seal(login.runtime, login.account_id, 2, first, now=login.clockwork.now())
    tokens.keep(login.runtime, login.account_id, 2, late)
    login.sweeps()
    assert [name[:12] for name in login.files()] == ["000000000001", "000000000002", "000000000002"]
    assert login.generation == 2

    known = login.world._state.registry.refreshes
    with database.transaction(login.runtime.db) as tx:
        row = pairs.found(tx, login.account_id)
    assert row is not None
    del known[login.runtime.vault.open(row.refresh_sealed, login.account_id, 2, "refresh")]
    login.clockwork.passes(11 * HOURS)
    login.works_until_settled()
    assert login.status == "active"
    assert login.calls() == login.seller_id


# Fences


def test_a_pair_that_somebody_overtook_is_not_taken_over(login: Login) -> None:
    older = pairs.seal(login.runtime, login.account_id, 2, oauth.Pair("a", "r", 43199), now=login.clockwork.now())
    tokens.refresh(login.runtime, login.account_id, seen=1)
    tokens.refresh(login.runtime, login.account_id, seen=2)
    with database.transaction(login.runtime.db) as tx:
        assert not pairs.take_over(tx, login.account_id, 2, older)
        assert not pairs.renew(tx, login.account_id, 1, older)
    assert login.generation == 3
    assert login.calls() == login.seller_id


def test_a_pair_of_another_account_or_generation_is_not_taken(login: Login) -> None:
    login.sweeps()
    folder = login.runtime.settings.data_dir / "tokens" / str(login.account_id)
    [file] = folder.glob("*.json")
    shutil.copy(file, folder / "000000000009-00000000.json")
    found = recovery.look(login.runtime, login.account_id, everywhere=False)
    assert found is not None
    assert found.outcome == "level"
    assert login.generation == 1


def test_files_are_for_their_owner_alone(login: Login) -> None:
    login.sweeps()
    for path in (login.runtime.settings.data_dir / "tokens").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
