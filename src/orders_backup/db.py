"""PostgreSQL: the engine, transactions as `with` blocks, and its failures in our words. No query stands here."""

import functools
import select
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from orders_backup.errors import DatabaseUnavailableError, SettingsError

DRIVER = "postgresql+psycopg"
TENANT = "orders_backup_tenant"
"""The role under which the rows of one user are read; a migration makes it."""

_AWAY = (
    exc.OperationalError,
    exc.TimeoutError,
    exc.InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)

_LINK = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}
"""A link that nobody answers on is given up after 15 to 20 s. Without this a cut cable would hold whoever waits
on it for a quarter of an hour: he waits for bytes, and no statement_timeout reaches a client."""

_SESSION = {
    "timezone": "UTC",
    "statement_timeout": "60s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "15s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
    "tcp_user_timeout": "15s",
}
"""The server's side of it. No transaction of ours waits for anything but PostgreSQL, so one that is idle for 15 s
belongs to somebody frozen or cut off; it may hold the row of the request budget, on which everybody waits."""


def connect(url: str, *, pool_size: int = 10, application_name: str = "orders-backup") -> Engine:
    """An engine on psycopg 3. Statements end after 60 s, waits for a lock after 10 s, dead links after 20 s at most,
    so nothing hangs for ever."""
    scheme, _, rest = url.partition("://")
    driver = DRIVER if scheme in {"postgres", "postgresql"} else scheme
    engine = sa.create_engine(
        f"{driver}://{rest}",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        hide_parameters=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": 5,
            "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
            **_LINK,
        },
    )
    sa.event.listen(engine, "checkout", _refuse_dead)
    return engine


def _refuse_dead(connection: "psycopg.Connection[Any]", *_: object) -> None:
    """PostgreSQL says next to nothing on an idle connection unless it ended it: only one on which it said something is
    asked, and all others cost no way to it. The pool opens another one instead of a dead one, and of all older ones."""
    poll = select.poll()
    try:
        poll.register(connection.pgconn.socket, select.POLLIN)
        if poll.poll(0):
            connection.execute("SELECT 1")
            connection.rollback()
    except psycopg.Error:
        raise exc.InvalidatePoolError from None


@contextmanager
def transaction(db: Engine) -> Iterator[Connection]:
    """One transaction: commits at the end of the block, rolls back on any exception.

    Raises DatabaseUnavailableError where PostgreSQL is away; a COMMIT whose answer was lost raises it too,
    so callers must be able to do the whole block again.
    """
    try:
        with _connected(db) as tx, tx.begin():
            yield tx
    except _AWAY as error:
        raise DatabaseUnavailableError(f"PostgreSQL: {_first_line(error)}") from error
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailableError(f"PostgreSQL: {_first_line(error)}") from error
        raise


def _connected(db: Engine) -> Connection:
    try:
        return db.connect()
    except exc.InvalidRequestError:  # the pool's word for new connections that are dead as well
        raise DatabaseUnavailableError("PostgreSQL ends connections as soon as they are made.") from None


@contextmanager
def snapshot(db: Engine) -> Iterator[Connection]:
    """A read-only transaction that sees one moment of the whole database."""
    with transaction(db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)) as tx:
        yield tx


@contextmanager
def statements(db: Engine) -> Iterator[Connection]:
    """Each statement is a transaction of its own, which spares two ways to PostgreSQL. Raises as `transaction` does."""
    with transaction(db.execution_options(isolation_level="AUTOCOMMIT")) as tx:
        yield tx


def confine(tx: Connection, user_id: UUID) -> None:
    """From now on this transaction sees the rows of this user alone, whatever its queries say: PostgreSQL's row-level
    security, under a role that owns nothing and may write nothing."""
    values = {"role": TENANT, "user_id": str(user_id)}
    tx.execute(
        sa.text("SELECT set_config('orders_backup.user_id', :user_id, true), set_config('role', :role, true)"), values
    )


def migrate(db: Engine) -> None:
    """Brings the schema to the newest revision; several at once wait for each other and do it once.

    Raises SettingsError where the database's user may not do that, with what an administrator has to grant.
    """
    try:
        with transaction(db) as tx:
            tx.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('orders-backup migrations'))"))
            config = _alembic()
            config.attributes["connection"] = tx
            command.upgrade(config, "head")
    except exc.ProgrammingError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        raise SettingsError(
            f"The user of DATABASE_URL may not do what a migration needs ({_first_line(error)}). Let an administrator"
            f" make him the owner of the database, and run: CREATE ROLE {TENANT} NOLOGIN;"
            f" GRANT {TENANT} TO {db.url.username};"
        ) from error


def is_migrated(tx: Connection) -> bool:
    """Whether the schema is at the newest revision this program knows."""
    return MigrationContext.configure(tx).get_current_revision() == _head()


@functools.cache
def _head() -> str | None:
    """Asked once: it loads every migration."""
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic() -> Config:
    """Migrations lie beside the package when installed from a wheel, and at the top of a checkout."""
    here = Path(__file__).parent
    folder = here / "_migrations"
    config = Config()
    config.set_main_option("script_location", str(folder if folder.is_dir() else here.parents[1] / "migrations"))
    return config


class Clock:
    """The database's clock carried on by this machine's monotonic one, so that no worker's wall clock matters.

    It never jumps back for a slow answer: a delay between the database's reading and ours makes it look earlier than
    it is, so the latest reading wins, and an earlier one is followed no faster than real clocks drift apart.
    """

    DRIFT = 0.0002
    STEP = 60.0

    def __init__(self) -> None:
        self._kept: tuple[float, float] | None = None

    def set(self, now: datetime) -> None:
        """`now` as the database just told it; call this before anything else that may take time."""
        at = time.monotonic()
        told, kept = now.timestamp() - at, self._kept
        if kept is not None:
            slowed = kept[0] - self.DRIFT * (at - kept[1])
            told = slowed if slowed - self.STEP < told < slowed else told
        self._kept = (told, at)

    def now(self) -> datetime:
        kept = self._kept
        if kept is None:
            return datetime.now(UTC)
        return datetime.fromtimestamp(kept[0] + time.monotonic(), UTC)


def clock(tx: Connection) -> datetime:
    """The database's clock, the one that all workers share."""
    now: datetime = tx.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)


def _first_line(error: Exception) -> str:
    """The driver's own sentence, without the statement and its parameters (they may hold buyers' data)."""
    return next(iter(str(getattr(error, "orig", error)).splitlines()), type(error).__name__)


def copy(
    tx: Connection,
    table: sa.Table,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    types: Sequence[str] | None = None,
) -> None:
    """COPY into a table: five times the speed of arrays, and the same rows. With `types`, in the binary form."""
    listed = list(rows)
    if not listed:
        return
    form = " (FORMAT BINARY)" if types else ""
    with cursor(tx) as bare, bare.copy(f"COPY {table.name} ({', '.join(columns)}) FROM STDIN{form}") as stream:
        if types:
            stream.set_types(types)
        for row in listed:
            stream.write_row(row)


def rows(
    tx: Connection, statement: str, values: Mapping[str, Any], *, plan_once: bool = False
) -> list[tuple[Any, ...]]:
    """Rows as the driver hands them over, bytes as bytes. Unless told otherwise, planned for these values each time:
    a plan for whatever word, depth or account may take a thousand times as long for some."""
    prepare = None if plan_once else False
    return cursor(tx).execute(statement.encode(), values, prepare=prepare, binary=True).fetchall()


def cursor(tx: Connection, name: str = "") -> psycopg.Cursor[Any]:
    """The driver's own cursor in this transaction, for what SQLAlchemy has no words for. With a name it is one of the
    server's, which hands over as many rows as are fetched."""
    connection = tx.connection.driver_connection
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 – connect() makes the engine with this driver
    return connection.cursor(name) if name else connection.cursor()
