"""Reads very many orders: pages in the order of account and id, each in a transaction of its own. Writes nothing.

By primary key, because of an order nothing else stays as it is: one that changes meanwhile comes once, as it was
before or as it is after, and none is passed over. No transaction outlives its page, so that a slow reader holds up
neither the change feed nor PostgreSQL's clean-up, and a walk can go on after a crash.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup.accounts import queries as account_queries
from orders_backup.codec import Codec
from orders_backup.exports.kept import Kept, Page, Place
from orders_backup.orders import queries
from orders_backup.orders.queries import Filter
from orders_backup.tables import accounts, order_extra_versions, order_extras, order_versions, orders

PAGE_ORDERS = 5000
PAGE_BYTES = 8 * 1024 * 1024
"""A page ends with either; bytes are those of the archive, compressed."""
FETCHED_AT_ONCE = 500

_HORIZON = sa.text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")


@contextmanager
def _transaction(db: Engine, wanted: Filter) -> Iterator[Connection]:
    """A short transaction; one that reads for one user is shown that user's rows alone by PostgreSQL, too."""
    with database.transaction(db) as tx:
        if wanted.seen_by is not None:
            database.confine(tx, wanted.seen_by)
        yield tx


@dataclass(frozen=True, slots=True)
class Seller:
    """An account whose orders are read."""

    account_id: UUID
    login: str


def sellers(tx: Connection, wanted: Filter) -> list[Seller]:
    """Those whose orders may be among the wanted ones, in the order of their accounts' ids."""
    seen = account_queries.visible(wanted.seen_by, user_id=wanted.user_id, account_id=wanted.account_id)
    query = sa.select(accounts.c.id, sa.func.coalesce(accounts.c.seller_login, accounts.c.name))
    rows = tx.execute(query.join(seen, accounts.c.id == seen.c.id).order_by(accounts.c.id))
    return [Seller(*row) for row in rows]


def count(tx: Connection, wanted: Filter) -> int:
    """How many orders are wanted, as of now."""
    ids = [seller.account_id for seller in sellers(tx, wanted)]
    query = sa.select(sa.func.count()).where(orders.c.account_id.in_(ids), *queries.conditions(queries.given(wanted)))
    return int(tx.execute(query.select_from(orders), queries.parameters(wanted)).scalar_one())


def horizon(tx: Connection) -> int:
    """Up to here the change feed is told by whatever is read from now on (see orders/feed.py)."""
    return int(tx.execute(_HORIZON).scalar_one())


def walk(
    db: Engine, codec: Codec, wanted: Filter, *, after: Place | None = None, limit: int | None = None
) -> Iterator[Page]:
    """Pages of the wanted orders, `limit` orders at most. The next page is fetched while one is being used."""
    with _transaction(db, wanted) as tx:
        some = [one for one in sellers(tx, wanted) if after is None or one.account_id >= after.account_id]
    reader = ThreadPoolExecutor(1, thread_name_prefix="export")
    try:
        for seller in some:
            start = after.order_id if after is not None and after.account_id == seller.account_id else ""
            fetch = _fetcher(db, codec, wanted, seller)
            coming = reader.submit(fetch, start, limit)
            while (page := coming.result()) is not None:
                limit = None if limit is None else limit - len(page.orders)
                if limit == 0:
                    yield page
                    return
                coming = reader.submit(fetch, page.orders[-1].order_id, limit)
                yield page
    finally:
        reader.shutdown(wait=False, cancel_futures=True)  # who goes away waits for no page that nobody wants


def refunds(db: Engine, codec: Codec, wanted: Filter, *, since: datetime) -> Iterator[tuple[str, bytes]]:
    """The refunds of the wanted sellers that may have been made since then: the account's id and the document. What
    was read before the day before was made before, too, whatever the clocks say."""
    head, version = order_extras.c, order_extra_versions.c
    is_newest = sa.and_(
        version.account_id == head.account_id,
        version.kind == head.kind,
        version.document_id == head.document_id,
        version.version == head.version,
    )
    query = sa.select(head.document_id, version.dictionary_id, version.body).join_from(
        order_extras, order_extra_versions, is_newest
    )
    with _transaction(db, wanted) as tx:
        some = sellers(tx, wanted)
    for seller in some:
        own = query.where(head.account_id == seller.account_id, head.kind == "refunds").order_by(head.document_id)
        own = own.where(head.read_at >= since - timedelta(days=1))
        after = ""
        while True:
            with _transaction(db, wanted) as tx:
                rows = tx.execute(own.where(head.document_id > after).limit(FETCHED_AT_ONCE)).all()
                bodies = [codec.decompress(tx, row.dictionary_id, row.body) for row in rows]
            if not rows:
                break
            yield from ((str(seller.account_id), body) for body in bodies)
            after = rows[-1].document_id


def _fetcher(db: Engine, codec: Codec, wanted: Filter, seller: Seller) -> Callable[[str, int | None], Page | None]:
    """What reads the seller's next page; None where there is none."""
    statement, values = _compiled(db, wanted, seller.account_id)
    openers: dict[int | None, Callable[[bytes], bytes]] = {}

    def open_body(dictionary_id: int | None, body: bytes) -> bytes:
        return openers[dictionary_id](body)

    def fetch(after: str, limit: int | None) -> Page | None:
        most = PAGE_ORDERS if limit is None else min(limit, PAGE_ORDERS)
        with _transaction(db, wanted) as tx:
            found = _rows(tx, statement, {**values, "after": after, "most": most})
            for dictionary_id in {one.dictionary_id for one in found} - openers.keys():
                openers[dictionary_id] = codec.opener(tx, dictionary_id)
        return Page(seller.account_id, seller.login, found, open_body) if found else None

    return fetch


def _rows(tx: Connection, statement: str, values: dict[str, object]) -> list[Kept]:
    tx.execute(sa.text("SET LOCAL jit = off"))
    found: list[Kept] = []
    size = 0
    with database.cursor(tx, "export") as cursor:
        cursor.execute(statement, values, binary=True)
        while size < PAGE_BYTES and (some := cursor.fetchmany(FETCHED_AT_ONCE)):
            rows = [Kept._make(row) for row in some]
            found += rows
            size += sum(len(row.body or b"") for row in rows)
    return found


def _compiled(db: Engine, wanted: Filter, account_id: UUID) -> tuple[str, dict[str, object]]:
    """The query of one page as the driver takes it: its own cursor hands over bytes as bytes, row by row."""
    version, after = order_versions.c, sa.bindparam("after", type_=sa.Text)
    is_newest = sa.and_(
        version.account_id == orders.c.account_id,
        version.order_id == orders.c.order_id,
        version.version == orders.c.version,
        version.order_id > after,  # the same again: else a merge join begins at the account's first version
    )
    query = (
        sa.select(*_columns())
        .select_from(orders.outerjoin(order_versions, is_newest))
        .where(orders.c.account_id == account_id, orders.c.order_id > after)
        .where(*queries.conditions(queries.given(wanted)))
        .order_by(orders.c.order_id)
        .limit(sa.bindparam("most", type_=sa.Integer))
    )
    compiled = query.compile(db)
    return str(compiled), {**compiled.params, **queries.parameters(wanted)}


def _columns() -> Sequence["sa.ColumnElement[object]"]:
    head, version = orders.c, order_versions.c
    doubtful = sa.or_(head.projection_lossy, head.order_data.is_(None))
    return [
        head.order_id,
        head.version,
        doubtful,
        head.ordered_at,
        head.superseded_by,
        head.gone_at,
        version.read_at,
        version.dictionary_id,
        version.body,
    ]
