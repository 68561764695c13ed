"""Heads made anew from the archived bytes: columns, projection, words. What the archive holds stays as it is.

For archives that an earlier program filled, whose heads lack what this one knows to make of the same bytes.
"""

from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup.accounts import queries as accounts
from orders_backup.allegro import wire
from orders_backup.codec import Codec
from orders_backup.orders import changes, heads, words
from orders_backup.orders.changes import Reading

PAGE_ORDERS = 500

_VERSIONS = sa.text("""
    SELECT head.order_id, v.version = head.version AS is_newest, v.read_at, v.dictionary_id, v.body
      FROM (SELECT order_id, version FROM orders WHERE account_id = :account AND order_id > :after
             ORDER BY order_id LIMIT :limit) head
      JOIN order_versions v ON v.account_id = :account AND v.order_id = head.order_id
     ORDER BY head.order_id, v.version
""")

_SHIPMENTS = sa.text("""
    SELECT x.order_id, v.dictionary_id, v.body
      FROM order_extras x JOIN order_extra_versions v USING (account_id, kind, document_id, version)
     WHERE x.account_id = :account AND x.kind = 'shipments' AND x.order_id = ANY (:ids)
""")


def rebuild(db: Engine, codec: Codec, account_id: UUID | None) -> Iterator[int]:
    """Every order of the account, None: of all; in short transactions, and how many each of them rebuilt. Raises
    NotFoundError."""
    with database.transaction(db) as tx:
        if account_id is not None:
            accounts.require(tx, account_id, seen_by=None)
        ids = list(tx.execute(sa.select(accounts.visible(None, account_id=account_id).c.id)).scalars())
    for one in ids:
        last: str | None = ""
        while last is not None:
            with database.transaction(db) as tx:
                rebuilt, last = _page(tx, codec, one, after=last)
            yield rebuilt


def words_of_shipments(
    tx: Connection, codec: Codec, account_id: UUID, order_ids: list[str]
) -> Iterator[tuple[str, str]]:
    """By which words the parcels of these orders are found."""
    for row in tx.execute(_SHIPMENTS, {"account": account_id, "ids": order_ids}):
        body = codec.decompress(tx, row.dictionary_id, row.body)
        yield row.order_id, words.beside(wire.tracking_numbers(body))


def _page(tx: Connection, codec: Codec, account_id: UUID, *, after: str) -> tuple[int, str | None]:
    """The next orders by id, rebuilt: how many, and the last of them; None: there are no more. Whoever writes the
    account's orders waits."""
    heads.lock(tx, account_id)
    last, newest = None, dict[str, Reading]()
    vectors: dict[str, list[str]] = defaultdict(list)
    for row in tx.execute(_VERSIONS, {"account": account_id, "after": after, "limit": PAGE_ORDERS}):
        last = row.order_id
        reading = changes.read(row.read_at, codec.decompress(tx, row.dictionary_id, row.body))
        if isinstance(reading, Reading):
            vectors[row.order_id].append(words.of(account_id, reading.facts))
            if row.is_newest:
                newest[row.order_id] = reading
    for order_id, vector in words_of_shipments(tx, codec, account_id, list(newest)):
        vectors[order_id].append(vector)
    heads.rebuild(tx, account_id, [(one, words.together(vectors[name])) for name, one in newest.items()])
    return len(newest), last
