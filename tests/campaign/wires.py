"""The campaign's database: PostgreSQL whose clock is in our hand, behind connections that can be cut anywhere."""

import contextlib
import functools
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, LiteralString, Protocol, cast
from weakref import WeakSet

import psycopg
import sqlalchemy as sa
from psycopg import _queries
from psycopg._preparing import PrepareManager
from psycopg.pq import ExecStatus, PGconn, TransactionStatus
from psycopg.pq.abc import PGconn as PGconnOf
from psycopg.rows import namedtuple_row
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup import local
from orders_backup.tables import metadata

from .hand import HAND

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 – for folders with names of their own
"""Where files need not outlive the machine; None: wherever temporary files go."""

SERVER = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
_CLOCK = """
    CREATE SCHEMA campaign;
    CREATE FUNCTION campaign.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS $$ SELECT CAST(pg_catalog.current_setting('campaign.now') AS timestamptz) $$;
"""
_DEFAULTS = """
    SELECT format('ALTER TABLE %I.%I ALTER COLUMN %I SET DEFAULT campaign.clock_timestamp()',
                  table_schema, table_name, column_name)
      FROM information_schema.columns WHERE column_default LIKE '%clock_timestamp()%'
"""


class Watch(Protocol):
    """Who is asked at every boundary, and may raise there."""

    def states(self, wire: "Wire", statement: str, *, begins: bool) -> None: ...
    def commits(self, wire: "Wire", really: Callable[[], None]) -> None: ...
    def wrote(self, rows: int) -> None: ...


class Nobody:
    """Watches nothing: the campaign's own look at the database."""

    def states(self, wire: "Wire", statement: str, *, begins: bool) -> None: ...
    def commits(self, wire: "Wire", really: Callable[[], None]) -> None:  # noqa: ARG002 – as a watch is asked
        really()

    def wrote(self, rows: int) -> None: ...


class Line:
    """Who watches now; one line serves all connections of an engine."""

    watch: Watch = Nobody()


LINE = Line()


Spare = list[tuple[PGconnOf, PrepareManager]]
"""Connections that nobody uses, each with what was prepared on it."""
NOTHING = PGconn.connect_start(b"host=/nowhere")
NOTHING.finish()
_queries._query2pg = functools.lru_cache(maxsize=4_000)(_queries._query2pg_nocache)
"""The driver remembers how it reads a statement; the product has more of them than it keeps by itself."""
IN_TRANSACTION = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


WIRES: WeakSet["Wire"] = WeakSet()


def open_transactions() -> int:
    """How many of our connections are in a transaction; asked between two steps, so all of these are idle in it."""
    return sum(wire.pgconn.transaction_status in IN_TRANSACTION for wire in WIRES)


class Wire(psycopg.Connection[Any]):
    """A connection that tells the watch of every statement and commit, and the database what time it is."""

    told: str = ""
    spare: Spare | None = None

    def tell(self, *, begins: bool) -> None:
        """A transaction begins in the same message."""
        now = HAND.now.isoformat()
        words = ["BEGIN"] if begins else []
        words += [f"SET campaign.now = '{now}'"] if self.told != now else []
        if words:
            self._does("; ".join(words))
            self.told = now

    def before(self, query: object) -> None:
        begins = self.pgconn.transaction_status == TransactionStatus.IDLE
        LINE.watch.states(self, str(query), begins=begins)
        self.tell(begins=begins)

    def commit(self) -> None:
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            return
        LINE.watch.commits(self, lambda: self._does("COMMIT"))

    def _does(self, words: str) -> None:
        result = self.pgconn.exec_(words.encode())
        if result.status != ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)

    def rollback(self) -> None:
        """The time that was told in a transaction is forgotten with it."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            self.told = ""
            super().rollback()

    def close(self) -> None:
        """Rolled back before it is cut, so that the database forgets everything at once and not a little later.

        The product loses it for good; what was beneath serves whoever connects next, who is spared a handshake.
        """
        if not self.closed and self.pgconn.transaction_status != TransactionStatus.IDLE:
            with contextlib.suppress(psycopg.Error):
                super().rollback()
        if self.spare is not None and not self.closed and self.pgconn.transaction_status == TransactionStatus.IDLE:
            self.spare.append((self.pgconn, self._prepared))
            self.pgconn = NOTHING
        super().close()


class Statement(psycopg.Cursor[Any]):
    """A cursor whose every statement is a boundary."""

    def _wire(self) -> Wire:
        return cast(Wire, self.connection)

    def execute(self, query: Any, *args: Any, **options: Any) -> "Statement":
        self._wire().before(query)
        super().execute(query, *args, **options)
        LINE.watch.wrote(self.rowcount)
        return self

    @property
    def description(self) -> Any:
        """Names and types alone: nobody asks for more, and the driver's own takes longer than some statements."""
        found = self.pgresult
        if found is None or not found.nfields:
            return None
        return [
            ((found.fname(at) or b"").decode(), found.ftype(at), None, None, None, None, None)
            for at in range(found.nfields)
        ]

    def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        self._wire().before(query)
        super().executemany(query, *args, **options)
        LINE.watch.wrote(self.rowcount)

    @contextlib.contextmanager
    def copy(self, statement: Any, *args: Any, **options: Any) -> Iterator[psycopg.Copy]:
        self._wire().before(statement)
        with super().copy(statement, *args, **options) as stream:
            yield stream
        LINE.watch.wrote(1)


def connect(url: str) -> Engine:
    """The product's engine, on our wires. Nothing breaks but by us, so a connection is not pinged before its use."""
    engine = database.connect(url)
    engine.pool._pre_ping = False
    engine.pool._pool.use_lifo = True  # type: ignore[attr-defined]

    spare: Spare = []

    @event.listens_for(engine, "do_connect")
    def on_our_wire(_dialect: object, _record: object, arguments: Any, options: Any) -> Wire:
        if spare:
            pgconn, prepared = spare.pop()
            wire = Wire(pgconn)
            wire._prepared = prepared
        else:
            wire = Wire.connect(*arguments, **options)
            wire.prepare_threshold, wire.prepared_max = 0, None
        wire.cursor_factory, wire.spare = Statement, spare
        WIRES.add(wire)
        return wire

    return engine


@contextlib.contextmanager
def fresh(server_url: str, template: str) -> Iterator[Engine]:
    """A database of its own, copied from the template, and gone afterwards."""
    name = f"campaign_{uuid.uuid4().hex}"
    _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    _execute(server_url, f"ALTER DATABASE {name} SET search_path = campaign, pg_catalog, public")
    engine = connect(_on(server_url, name))
    try:
        yield engine
    finally:
        engine.dispose()
        _eyes(engine).closes()
        _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def make_template(server_url: str) -> str:
    """A migrated database whose clock is in our hand, to be copied."""
    name = f"template_{uuid.uuid4().hex}"
    _execute(server_url, f"CREATE DATABASE {name}")
    engine = database.connect(_on(server_url, name))
    database.migrate(engine)
    with engine.begin() as tx:
        tx.execute(sa.text(_CLOCK))
        for statement in tx.execute(sa.text(_DEFAULTS)).scalars().all():
            tx.execute(sa.text(statement))
    engine.dispose()
    return name


def empty(engine: Engine) -> None:
    """Every table as it was in the beginning, down to the places of its rows; those that nobody touched are so.

    But `accounts`, of which a story has one that counts: to cut it would cost the plans of all that refer to it.
    """
    with quietly(engine) as tx:
        touched = set(tx.execute(_TOUCHED, {"names": TABLES}).scalars())
        if touched:
            tx.exec_driver_sql(f"TRUNCATE {', '.join(sorted(touched | PARTS))} RESTART IDENTITY")
        tx.exec_driver_sql("DELETE FROM accounts")


TABLES = [table.name for table in metadata.sorted_tables]
PARTS = {"sync_history", "sync_windows"}
_TOUCHED = sa.text("""
    SELECT relname FROM pg_class WHERE relname = ANY (:names) AND relname <> 'accounts' AND pg_relation_size(oid) > 0
""")


@contextlib.contextmanager
def quietly(engine: Engine) -> Iterator[Connection]:
    """A transaction of the campaign's own, which nothing disturbs and nobody counts."""
    watch, LINE.watch = LINE.watch, Nobody()
    try:
        with engine.begin() as tx:
            yield tx
    finally:
        LINE.watch = watch


class Eye:
    """The campaign's look at the database between two steps: one message there and one back."""

    def __init__(self, engine: Engine) -> None:
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._wire = psycopg.connect(url, autocommit=True, options="-c timezone=UTC", row_factory=namedtuple_row)
        self._wire.prepare_threshold, self._wire.prepared_max = 0, None
        self._told = ""

    def sees(self, query: str, values: dict[str, object]) -> list[Any]:
        now = HAND.now.isoformat()
        if "clock_timestamp" in query and self._told != now:
            self._wire.pgconn.exec_(f"SET campaign.now = '{now}'".encode())
            self._told = now
        return self._wire.execute(_for_driver(query), values).fetchall()

    def closes(self) -> None:
        self._wire.close()


_eyes = functools.cache(Eye)
"""One for each engine."""


def look(engine: Engine, query: str, **values: object) -> list[Any]:
    """What is committed there; values are written `:name` in the query."""
    return _eyes(engine).sees(query, values)


@functools.cache
def _for_driver(query: str) -> LiteralString:
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", query.replace("%", "%%"))


_WRITES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM|COPY)\s+(\w+)", re.IGNORECASE)


@functools.lru_cache(maxsize=4_000)
def table_written(statement: str) -> str | None:
    """The table that a statement writes; None where it only reads."""
    found = _WRITES.match(statement)
    return found[1].lower() if found else None


def _on(url: str, name: str) -> str:
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def _execute(url: str, statement: str) -> None:
    engine = database.connect(url, pool_size=1).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a PostgreSQL of one's own, in memory where that can be; through a socket, which costs least."""
    with tempfile.TemporaryDirectory(prefix="campaign", dir=MEMORY) as folder:
        sockets = Path(folder) / "postgres"
        options = {**SERVER, "unix_socket_directories": str(sockets)}
        with local.start_postgres(Path(folder), options=options) as started:
            url = sa.make_url(started.url).set(
                host="", query={"host": str(sockets), "port": str(started.port)}, port=None
            )
            yield url.render_as_string(hide_password=False)
