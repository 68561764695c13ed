"""One clock for PostgreSQL and the simulated Allegro, moved by hand: hours pass in a test without waiting."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from orders_backup import db as database

SHADOW = """
CREATE SCHEMA moved;
CREATE TABLE moved.ahead (seconds double precision NOT NULL);
INSERT INTO moved.ahead VALUES (0);
CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT seconds FROM moved.ahead))';
"""
"""A schema that precedes pg_catalog in the search path answers for PostgreSQL's own function."""


@dataclass
class Clockwork:
    """Real time and so many seconds more, in a database and wherever `now` is asked."""

    engine: Engine
    ahead: float = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    def passes(self, seconds: float) -> None:
        self.ahead += seconds
        with self.engine.begin() as tx:
            tx.execute(sa.text("UPDATE moved.ahead SET seconds = :ahead"), {"ahead": self.ahead})


@pytest.fixture
def make_clockwork(make_database: Callable[[], str]) -> Iterator[Callable[[], tuple[str, Clockwork]]]:
    """Makes one more database with a clock of its own; its URL and the clock."""
    made: list[Clockwork] = []

    def make() -> tuple[str, Clockwork]:
        url = make_database()
        name = sa.make_url(url).database
        engine = database.connect(url, pool_size=1)
        with engine.begin() as tx:
            tx.execute(sa.text(SHADOW))
            tx.execute(sa.text(f'ALTER DATABASE "{name}" SET search_path = moved, pg_catalog, public'))
        engine.dispose()
        made.append(Clockwork(engine))
        return url, made[-1]

    yield make
    for clockwork in made:
        clockwork.engine.dispose()
