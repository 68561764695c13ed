"""Shared by all tests: a real PostgreSQL and a real broker, started once; a fresh, migrated database for each test."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import Engine
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from orders_backup import db as database
from orders_backup import local, vault
from orders_backup import runtime as runtimes
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300"}
"""Tests do not cut the power; a killed PostgreSQL may lose its last commits here, so who kills it starts his own."""

NOBODY_LISTENS = "http://127.0.0.1:9"
"""Where `settings` points to for Allegro: a test that needs one says so and sets its address."""


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """What shares a costly fixture stays on one process: the tests of a file, and all that judge the kills."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "the kills" if file.endswith(("/test_checks.py", "/test_kills.py")) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Together:
    """Instead of --dist=loadgroup, whose marks pytest 9.2 does not hand on."""
    return Together(config, log)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server's own database; TEST_DATABASE_URL where it is set. Its role may create databases."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with local.start_postgres(tmp_path_factory.mktemp("postgres"), options=NOT_DURABLE) as server:
        yield server.url


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey that all tests share; TEST_BROKER_URL where it is set."""
    if url := os.environ.get("TEST_BROKER_URL"):
        yield url
        return
    with local.start_broker(tmp_path_factory.mktemp("broker")) as server:
        yield server.url


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database to copy; nobody is connected to it."""
    with _temporary_database(postgres_url) as (name, url):
        engine = database.connect(url)
        database.migrate(engine)
        engine.dispose()
        yield name


@pytest.fixture(scope="module")
def shared_db(postgres_url: str, migrated_template: str) -> Iterator[Engine]:
    """A database for a whole module; making one for each test would take most of the time."""
    with _temporary_database(postgres_url, copy_of=migrated_template) as (_, url):
        engine = database.connect(url)
        yield engine
        engine.dispose()


@pytest.fixture
def make_database(postgres_url: str, migrated_template: str) -> Iterator[Callable[[], str]]:
    """Makes one more migrated, empty database each time it is called, and answers with its URL."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_temporary_database(postgres_url, copy_of=migrated_template))[1]


@pytest.fixture
def database_url(make_database: Callable[[], str]) -> str:
    """A migrated, empty database of this test alone."""
    return make_database()


@pytest.fixture
def db(database_url: str) -> Iterator[Engine]:
    """An engine on `database_url`."""
    engine = database.connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Settings as they come from nowhere but here, with an encryption key; Allegro is at an address that is dead."""
    return Settings(
        data_dir=tmp_path,
        database_url=database_url,
        broker_url=broker_url,
        allegro_api_url=NOBODY_LISTENS,
        allegro_auth_url=NOBODY_LISTENS,
        allegro_client_id="simulator",
        allegro_client_secret=SecretStr("simulator-secret"),
        encryption_keys=SecretStr(vault.new_key()),
    )


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    """A runtime built of `settings`, on the same database as `db`."""
    built = runtimes.build(settings)
    yield built
    built.close()


@contextmanager
def _temporary_database(server_url: str, *, copy_of: str = "template0") -> Iterator[tuple[str, str]]:
    """Name and URL of a database that is dropped at the end, whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {copy_of} STRATEGY file_copy")
    url = sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
    try:
        yield name, url
    finally:
        _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: str, statement: str) -> None:
    engine = database.connect(url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
