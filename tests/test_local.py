"""The embedded default with real processes: started, killed, started again, stopped; nothing is lost or left behind."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from orders_backup import access, db, local
from orders_backup.errors import DatabaseUnavailableError, LocalServiceError, SettingsError
from orders_backup.local import broker, directory, postgres, processes
from orders_backup.settings import Settings

CREDENTIALS = {"ALLEGRO_CLIENT_ID": "simulator", "ALLEGRO_CLIENT_SECRET": "simulator-secret"}
DEAD = {"ALLEGRO_API_URL": "http://127.0.0.1:9", "ALLEGRO_AUTH_URL": "http://127.0.0.1:9"}
IN_SECONDS = 30.0


class Up:
    """`orders-backup up` in a process of its own, as a person starts it."""

    def __init__(self, data_dir: Path, environment: Mapping[str, str], *, port: int | None = None) -> None:
        self.data_dir = data_dir
        self.port = port or processes.free_port()
        self._said = data_dir.with_name(f"{data_dir.name}-{self.port}.out")
        clean = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "PYTHONPATH"}}
        with self._said.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orders_backup.cli", "up", f"--data-dir={data_dir}", f"--port={self.port}"],
                stdout=out,
                stderr=out,
                env={**clean, **environment},
                cwd=data_dir.parent,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def ready(self) -> "Up":
        wait_until(lambda: "Ready" in self.said or self.process.poll() is not None)
        assert "Ready" in self.said, self.said
        return self

    def ended(self) -> int:
        return self.process.wait(IN_SECONDS)

    def pid_of(self, name: str) -> int:
        return int(json.loads((self.data_dir / "lock").read_text())["children"][name])

    def kill(self, name: str) -> None:
        """Kill -9, and waits until another one runs in its place."""
        before = self.pid_of(name)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: self.pid_of(name) != before)

    def remember(self, name: str) -> None:
        """Writes something into the database of this run."""
        with self.transaction() as tx:
            access.create_key(tx, name=name, scopes=["sync"])

    def remembers(self) -> list[str]:
        with self.transaction() as tx:
            return [key.name for key in access.list_keys(tx)]

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        engine = db.connect(directory.current_settings(self.data_dir).database_url, pool_size=1)
        try:
            with db.transaction(engine) as tx:
                yield tx
        finally:
            engine.dispose()


def wait_until(true: Callable[[], bool], *, within: float = IN_SECONDS) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def processes_of(data_dir: Path) -> list[str]:
    """Command lines of all that lives and works on this directory."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(data_dir) in line]


@contextmanager
def started(data_dir: Path, **environment: str) -> Iterator[Up]:
    up = Up(data_dir, {**CREDENTIALS, **DEAD, **environment})
    try:
        yield up.ready()
    finally:
        if up.process.poll() is None:
            up.process.kill()
        up.process.wait()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One running service for the tests that leave it as healthy as they found it."""
    with started(tmp_path_factory.mktemp("up") / "data") as running:
        yield running
        running.process.terminate()
        assert running.ended() == 0


# While it runs


def test_a_second_up_on_the_same_data_says_which_process_holds_it(up: Up) -> None:
    second = Up(up.data_dir, CREDENTIALS)

    assert second.ended() == 1
    assert f"in use by process {up.process.pid} (http://127.0.0.1:{up.port})" in second.said
    assert second.said.count("\n") == 1


def test_a_busy_port_is_named_before_anything_is_started(up: Up, tmp_path: Path) -> None:
    second = Up(tmp_path / "other", CREDENTIALS, port=up.port)

    assert second.ended() == 1
    assert f"Port {up.port} on 127.0.0.1 is used by another program" in second.said
    assert not (tmp_path / "other" / "postgres").exists()


def test_a_killed_postgres_is_started_again_with_its_data(up: Up) -> None:
    up.remember("before the kill")

    up.kill("postgres")

    wait_until(lambda: "before the kill" in _in_peace(up.remembers))
    assert "postgres was ended by SIGKILL" in up.said


def test_a_killed_broker_and_api_are_started_again_on_their_ports(up: Up) -> None:
    for name in ("broker", "api"):
        up.kill(name)

    wait_until(lambda: processes.accepts_connections("127.0.0.1", up.port))
    url = directory.current_settings(up.data_dir).broker_url
    port = int(url.rpartition(":")[2].partition("/")[0])
    wait_until(lambda: processes.accepts_connections("127.0.0.1", port))


def test_files_that_hold_secrets_are_closed_to_others(up: Up) -> None:
    for name in ("secrets.json", "running.json", "broker/broker.conf", "lock"):
        assert (up.data_dir / name).stat().st_mode & 0o077 == 0, name


def test_neither_server_lets_in_who_has_no_password(up: Up) -> None:
    settings = directory.current_settings(up.data_dir)
    engine = sa.create_engine(sa.make_url(settings.database_url).set(drivername="postgresql+psycopg", password="guess"))
    with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
        engine.connect()
    engine.dispose()
    port = int(settings.broker_url.rpartition(":")[2].partition("/")[0])
    assert not broker.answers_ping(port, "guess")


# From start to stop


def test_what_was_stored_is_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "with a space"
    with started(data_dir) as first:
        first.remember("kept")
        key = directory.secrets_of(data_dir)["encryption_keys"]
        first.process.send_signal(signal.SIGINT)
        assert first.ended() == 0
    assert processes_of(data_dir) == []
    assert not (data_dir / "running.json").exists()

    with started(data_dir) as second:
        assert second.remembers() == ["kept"]
        assert directory.secrets_of(data_dir)["encryption_keys"] == key
        second.process.terminate()
        assert second.ended() == 0
    assert processes_of(data_dir) == []


def test_a_killed_up_leaves_nothing_behind_and_the_next_one_starts(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with started(data_dir) as first:
        first.remember("kept")
        first.process.kill()
        first.process.wait()

    with started(data_dir) as second:  # at once, while the orphans may still be stopping
        assert second.remembers() == ["kept"]
        running = processes_of(data_dir)
        assert len([line for line in running if "orders_backup.api" in line]) == 1, running
        second.process.kill()

    wait_until(lambda: processes_of(data_dir) == [])


def test_servers_killed_all_at_once_start_again_with_what_was_stored(tmp_path: Path) -> None:
    for attempt in range(3):
        server, queue = local.start_postgres(tmp_path), local.start_broker(tmp_path)
        engine = db.connect(server.url, pool_size=1)
        with db.transaction(engine) as tx:
            tx.execute(sa.text("CREATE TABLE IF NOT EXISTS stored (attempt int)"))
            assert tx.execute(sa.text("SELECT count(*) FROM stored")).scalar() == attempt
            tx.execute(sa.text("INSERT INTO stored VALUES (1)"))
        engine.dispose()
        for process in _processes_on(tmp_path):
            process.kill()
        server.child.wait(5)
        queue.child.wait(5)


def test_a_database_and_broker_that_are_set_are_used(
    make_database: Callable[[], str], broker_url: str, tmp_path: Path
) -> None:
    url, data_dir = make_database(), tmp_path / "data"
    with started(data_dir, DATABASE_URL=url, BROKER_URL=broker_url) as up:
        assert f"DATABASE_URL is set: {local.without_password(url)}" in up.said
        assert url not in up.said
        assert not (data_dir / "postgres").exists()
        assert not (data_dir / "broker").exists()
        up.process.terminate()
        assert up.ended() == 0


def test_without_credentials_up_says_what_to_fill_in_and_offers_the_simulator(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", {"ALLEGRO_CLIENT_ID": "mine"})

    assert up.ended() == 2
    assert up.said.startswith("error: ALLEGRO_CLIENT_SECRET is not set.")
    assert "https://apps.developer.allegro.pl" in up.said
    assert "orders-backup simulator" in up.said
    assert "ALLEGRO_CLIENT_SECRET=simulator-secret" in up.said
    assert not (tmp_path / "data").exists()


# What a crash leaves


def test_a_note_of_a_crashed_run_does_not_mislead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    directory.write_running(tmp_path, database_url="postgresql://127.0.0.1:1/gone")

    assert directory.current_settings(tmp_path, env_file=None).database_url == ""


def test_a_note_of_a_living_run_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with directory.held(tmp_path, service_url="http://127.0.0.1:8000"):
        directory.write_running(tmp_path, database_url="postgresql://127.0.0.1:1/here")

        assert directory.current_settings(tmp_path, env_file=None).database_url == "postgresql://127.0.0.1:1/here"


def test_a_postgres_left_running_is_stopped_before_the_next_starts(tmp_path: Path) -> None:
    left = local.start_postgres(tmp_path)

    with local.start_postgres(tmp_path) as server:
        assert left.child.wait(0)
        assert server.child.is_running


def test_a_broker_left_running_is_stopped_before_the_next_starts(tmp_path: Path) -> None:
    left = local.start_broker(tmp_path)

    with local.start_broker(tmp_path) as server:
        assert left.child.wait(0)
        assert server.child.is_running


def test_a_process_that_took_the_number_of_a_crashed_postgres_is_left_alone(tmp_path: Path) -> None:
    local.start_postgres(tmp_path).stop()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (tmp_path / "postgres" / "postmaster.pid").write_text(f"{bystander.pid}\n{tmp_path}/postgres\n")
        try:
            with local.start_postgres(tmp_path):
                assert bystander.poll() is None
        finally:
            bystander.kill()


def test_an_order_that_postgres_refuses_stands_nowhere_in_its_log(tmp_path: Path) -> None:
    """A document that is no JSONB, a row that a constraint forbids, one that is there already, an unready statement."""
    planted = {"order": '{"id":"o","buyer":{"email":"planted@example.com"},"note":"\\u0000"}'}
    with local.start_postgres(tmp_path) as server:
        engine = db.connect(server.url)
        with db.transaction(engine) as tx:
            tx.execute(sa.text("CREATE TABLE kept (document text UNIQUE CHECK (length(document) < 90))"))
            tx.execute(sa.text("INSERT INTO kept VALUES (:order)"), planted)
        for refused in (
            "SELECT CAST(:order AS jsonb)",
            "INSERT INTO kept VALUES (:order)",
            "INSERT INTO kept VALUES (:order || repeat('x', 90))",
            "DO $$ BEGIN PERFORM 'planted@example.com'::jsonb; END $$",
            "SELECT 'planted@example.com', nobody",
        ):
            with pytest.raises(sa.exc.DBAPIError), db.transaction(engine) as tx:
                tx.execute(sa.text(refused), planted)
        engine.dispose()
    log = (tmp_path / "logs" / "postgres.log").read_text()
    assert log.count("ERROR:") == 5
    assert "planted" not in log


def test_a_start_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)

    with local.start_postgres(tmp_path) as server:
        assert server.child.is_running
    assert not (tmp_path / "postgres.new").exists()


# Secrets


def test_a_database_without_its_encryption_key_gets_no_new_one(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()

    with pytest.raises(SettingsError, match="Set ENCRYPTION_KEYS as it was"):
        directory.encryption_keys(Settings(), tmp_path, say=print)
    assert not (tmp_path / "secrets.json").exists()


def test_secrets_that_cannot_be_read_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"encryption_keys": "key1:')

    with pytest.raises(LocalServiceError, match="Put it back from your copy"):
        directory.encryption_keys(Settings(), tmp_path, say=print)
    assert (tmp_path / "secrets.json").read_text() == '{"encryption_keys": "key1:'


def test_a_database_without_its_password_says_what_to_put_back(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()

    with pytest.raises(LocalServiceError, match=r"secrets\.json"):
        local.start_postgres(tmp_path)


# Programs and users


def test_data_of_another_postgres_names_the_version_it_needs() -> None:
    with pytest.raises(LocalServiceError, match="Install PostgreSQL 9, or set DATABASE_URL"):
        postgres.find(made_by="9")


def test_programs_on_path_serve_where_the_wheels_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, program = postgres.find(), broker.find()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", f"{folder}:{program.parent}")

    assert postgres.find() == folder.resolve()
    assert broker.find() == program


def test_missing_programs_are_named_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_folders", lambda: iter(()))
    monkeypatch.setattr(broker, "_programs", lambda: iter(()))

    with pytest.raises(LocalServiceError, match="apt install postgresql"):
        postgres.find()
    with pytest.raises(LocalServiceError, match="apt install redis-server"):
        broker.find()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step down")
def test_root_runs_postgres_as_nobody_where_user_namespaces_are_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "AS_MAPPED_USER", ("false",))
    postgres._way_down.cache_clear()
    try:
        with local.start_postgres(_open_to_all(tmp_path)) as server:
            assert psutil.Process(server.child.pid).uids().real == 65534
        (tmp_path / "closed").mkdir(mode=0o700)
        with pytest.raises(LocalServiceError, match="the user nobody cannot reach"):
            local.start_postgres(tmp_path / "closed" / "data")
    finally:
        postgres._way_down.cache_clear()


def test_a_child_that_keeps_dying_is_started_ever_more_rarely(tmp_path: Path) -> None:
    said: list[str] = []
    child = processes.Child("worker", ["sh", "-c", "echo no such thing; exit 3"], tmp_path / "worker.log")
    child.start()
    now = time.monotonic()
    for _ in range(3):
        child.wait(5)
        processes.revive(child, now, said.append)
        now += 100
        processes.revive(child, now, said.append)
    child.wait(5)

    waits = [line.split(" s:")[0] for line in said]
    assert waits == ["Starting again in 0.5", "Starting again in 1", "Starting again in 2"]
    assert said[0].endswith("worker ended with code 3: no such thing")


def test_a_child_that_will_not_stop_is_killed_with_its_own_children(tmp_path: Path) -> None:
    stubborn = processes.Child("worker", ["sh", "-c", "trap '' TERM; sleep 61.5 & wait; sleep 60"], tmp_path / "log")
    stubborn.start()
    wait_until(lambda: any("sleep 61.5" in line for line in _command_lines()))

    assert stubborn.stop(within=0.2) is False

    wait_until(lambda: not any(line == "sleep 61.5" for line in _command_lines()))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(LocalServiceError, match="cannot be used"):
        local.need_free_port("192.0.2.1", 8000)


def test_free_ports_are_not_those_someone_listens_on() -> None:
    with socket.create_server(("127.0.0.1", processes.free_port())) as server, pytest.raises(OSError, match="in use"):
        processes.probe_port("127.0.0.1", server.getsockname()[1])


def _command_lines() -> list[str]:
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]


def _processes_on(data_dir: Path) -> list[psutil.Process]:
    """All that has this directory in its command line, with all they started."""
    mine = [one for one in psutil.process_iter(["cmdline"]) if str(data_dir) in " ".join(one.info["cmdline"] or [])]
    return [*mine, *(child for one in mine for child in one.children(recursive=True))]


def _in_peace(ask: Callable[[], list[str]]) -> list[str]:
    """Nothing, while the database is away."""
    try:
        return ask()
    except DatabaseUnavailableError:
        return []


def _open_to_all(tmp_path: Path) -> Path:
    """A directory every user can reach: pytest's own folders are closed."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    return tmp_path / "data"


def test_processes_that_draw_alike_do_not_want_the_same_port() -> None:
    found = set()
    for _ in range(5):
        random.seed(7)
        found.add(processes.free_port())
    assert len(found) > 1
