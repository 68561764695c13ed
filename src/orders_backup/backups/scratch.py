"""An empty installation for a drill: a database of its own, no disk, the same bucket; gone afterwards."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ProgrammingError

from orders_backup import db as database
from orders_backup.codec import Codec
from orders_backup.errors import BackupFailedError, DatabaseUnavailableError
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings


@contextmanager
def made(runtime: Runtime, *, migrated: bool = True) -> Iterator[Runtime]:
    """On the server of DRILL_DATABASE_URL, else on our own. What a drill that was killed left there goes first: of one
    installation one drill is under way. Raises BackupFailedError, DatabaseUnavailableError."""
    config, prefix = runtime.settings, _prefix(runtime.settings)
    place, name = sa.make_url(config.drill_database_url or config.database_url), f"{prefix}{uuid4().hex[:12]}"
    url = place.set(database=name).render_as_string(hide_password=False)
    with _server(runtime) as server:
        _sweep(server, prefix)
        _alone(server, f"CREATE DATABASE {name} TEMPLATE template0")
        engine = database.connect(url, pool_size=3)
        try:
            with tempfile.TemporaryDirectory() as folder:
                if migrated:
                    database.migrate(engine)
                chosen = config.model_copy(update={"database_url": url, "data_dir": Path(folder)})
                yield replace(runtime, settings=chosen, db=engine, codec=Codec())
        finally:
            engine.dispose()
            _alone(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def _server(runtime: Runtime) -> Iterator[Engine]:
    """Where scratch databases are made."""
    if not runtime.settings.drill_database_url:
        yield runtime.db
        return
    engine = database.connect(runtime.settings.drill_database_url, pool_size=1)
    try:
        try:
            with database.transaction(engine):
                pass
        except DatabaseUnavailableError as error:
            raise BackupFailedError(f"The server of DRILL_DATABASE_URL does not answer: {error}") from error
        yield engine
    finally:
        engine.dispose()


def _prefix(config: Settings) -> str:
    """Of the scratch databases of this installation, whatever its port is today; others may share the server."""
    own = (config.s3_endpoint_url, config.s3_bucket, config.s3_prefix, sa.make_url(config.database_url).database)
    return f"orders_backup_drill_{hashlib.sha256(repr(own).encode()).hexdigest()[:10]}_"


def _sweep(server: Engine, prefix: str) -> None:
    with database.transaction(server) as tx:
        query = sa.text("SELECT datname FROM pg_database WHERE starts_with(datname, :prefix)")
        left = tx.execute(query, {"prefix": prefix}).scalars().all()
    for name in left:
        _alone(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _alone(server: Engine, statement: str) -> None:
    """Outside of any transaction, as PostgreSQL wants it for databases."""
    try:
        with database.statements(server) as connection:
            connection.execute(sa.text(statement))
    except ProgrammingError as error:
        raise BackupFailedError(
            "The user of the database may make no databases for drills: ALTER ROLE … CREATEDB."
        ) from error
