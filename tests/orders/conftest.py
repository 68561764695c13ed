"""An archive that the tests of a module share, a fresh account in it for each, and verbs that fill it."""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from tests.conftest import _temporary_database

from orders_backup import db as database
from orders_backup.codec import Codec
from orders_backup.orders import archive, changes
from orders_backup.orders.archive import Recorded
from orders_backup.tables import accounts, order_changes, order_versions, orders, unreadable_orders

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def moment(second: float) -> datetime:
    """That many seconds after the start."""
    return START + timedelta(seconds=second)


@dataclass
class Shop:
    """One seller's archive. Bodies are given with the second in which the request for them was sent."""

    db: Engine
    codec: Codec
    account_id: uuid.UUID

    def read(self, *readings: tuple[float, bytes], cause: str = "event") -> Recorded:
        """All of it in one transaction."""
        with database.transaction(self.db) as tx:
            return self.read_in(tx, *readings, cause=cause)

    def read_in(self, tx: Connection, *readings: tuple[float, bytes], cause: str = "event") -> Recorded:
        found = [changes.read(moment(second), body) for second, body in readings]
        return archive.record(tx, self.codec, self.account_id, found, cause=cause)

    def gone(self, order_id: str, *, at: float, line_items: Sequence[str] = ()) -> str | None:
        """Allegro answered 404 at that second."""
        with database.transaction(self.db) as tx:
            return archive.gone(tx, self.account_id, order_id, line_item_ids=line_items, now=moment(at))

    def head(self, order_id: str) -> Any:
        """The order's row, with the projection as text; None where there is none."""
        columns = [column for column in orders.c if column.name != "order_data"]
        query = sa.select(*columns, sa.cast(orders.c.order_data, sa.Text).label("order_data"))
        with database.transaction(self.db) as tx:
            where = (orders.c.account_id == self.account_id, orders.c.order_id == order_id)
            return tx.execute(query.where(*where)).one_or_none()

    def versions(self, order_id: str) -> list[tuple[datetime, bytes]]:
        """Every version by the moment it shows: that moment and its bytes, unpacked by a new process."""
        rows = self._rows(order_versions, order_versions.c.order_id == order_id, first=order_versions.c.read_at)
        with database.transaction(self.db) as tx:
            return [(row.read_at, Codec().decompress(tx, row.dictionary_id, row.body)) for row in rows]

    def bodies(self, order_id: str) -> list[bytes]:
        return [body for _, body in self.versions(order_id)]

    def changes(self, order_id: str) -> list[tuple[int, list[str], str]]:
        """Version, kinds and cause of each change, as they were written."""
        rows = self._rows(order_changes, order_changes.c.order_id == order_id, first=order_changes.c.seq)
        return [(row.version, row.kinds, row.cause) for row in rows]

    def set_aside(self) -> list[bytes]:
        rows = self._rows(unreadable_orders, sa.true(), first=unreadable_orders.c.read_at)
        return [row.body for row in rows]

    def sizes(self) -> tuple[int, int, int]:
        """How many orders, versions and changes there are."""
        tables = (orders, order_versions, order_changes)
        with database.transaction(self.db) as tx:
            queries = [sa.select(sa.func.count()).where(table.c.account_id == self.account_id) for table in tables]
            found = [tx.execute(query).scalar_one() for query in queries]
        return found[0], found[1], found[2]

    def _rows(self, table: sa.Table, where: Any, *, first: Any) -> Any:
        query = sa.select(table).where(table.c.account_id == self.account_id, where).order_by(first)
        with database.transaction(self.db) as tx:
            return tx.execute(query).all()


def order(order_id: str = "order-1", **changed: object) -> bytes:
    """An order's bytes; what is not named here is as in any other."""
    body = {
        "id": order_id,
        "status": "READY_FOR_PROCESSING",
        "buyer": {"login": "kupujacy"},
        "lineItems": [{"id": f"line-of-{order_id}", "boughtAt": "2026-01-01T10:00:00.000Z"}],
        "summary": {"totalToPay": {"amount": "12.30", "currency": "PLN"}},
    }
    return json.dumps({**body, **changed}).encode()


@pytest.fixture(scope="module")
def archive_db(postgres_url: str, migrated_template: str) -> Iterator[Engine]:
    """A migrated database for a whole module."""
    with _temporary_database(postgres_url, copy_of=migrated_template) as (_, url):
        engine = database.connect(url)
        yield engine
        engine.dispose()


def open_shop(db: Engine) -> Shop:
    """One more seller."""
    account_id = uuid.uuid4()
    row = {"id": account_id, "user_id": uuid.uuid4(), "name": "shop", "status": "pending"}
    with database.transaction(db) as tx:
        tx.execute(sa.insert(accounts).values(row))
    return Shop(db, Codec(), account_id)


@pytest.fixture
def shop(archive_db: Engine) -> Shop:
    return open_shop(archive_db)
