"""The SQL of lists of orders: where the orders of a page are, then these with their documents. Nothing is written.

The places come first, from an index that holds them in the list's order and without a look at any order: one walk per
account, each stopping at the end of the page, then a merge; a plain join would sort every order of every account.
Rows with and without the time are asked for separately because one index cannot give NULLS LAST in both
directions. A statement is written once for each shape of question, and its rows come from the driver as they are: both
together take less time than the documents.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

from orders_backup import db as database
from orders_backup.accounts import queries as account_queries
from orders_backup.codec import Codec
from orders_backup.orders import queries, words
from orders_backup.orders.queries import Filter, Position
from orders_backup.orders.shapes import Order, OrderSummary
from orders_backup.tables import accounts, order_versions, orders

_SEEN = {"seen_by": accounts.c.user_id, "user_id": accounts.c.user_id, "account_id": accounts.c.id}
_AFTER = ("after_at", "after_order_id", "after_account_id")


@dataclass(frozen=True, slots=True)
class _Question:
    """What a statement depends on: which filters there are, not what they ask for."""

    given: frozenset[str]
    sort: str
    goes_on: bool
    full: bool
    dated: bool
    limit: int

    @property
    def is_plain(self) -> bool:
        """Whoever asks from wherever, the best way to answer is the same."""
        return self.given <= _SEEN.keys()


def page(
    tx: Connection, codec: Codec, wanted: Filter, *, after: Position | None, limit: int, full: bool
) -> tuple[list[Order] | list[OrderSummary], Position | None]:
    """Orders with their documents (or without), and the position to go on from; None: that was all.

    Orders without the time that sorts them come last in either direction.
    """
    rows: list[tuple[Any, ...]] = []
    if after is None or after.at is not None:
        rows = _slice(tx, wanted, after, limit=limit + 1, full=full, dated=True)
    if len(rows) <= limit:
        later = after if after is not None and after.at is None else None
        rows += _slice(tx, wanted, later, limit=limit + 1 - len(rows), full=full, dated=False)
    found = _orders(tx, codec, rows[:limit], full=full)
    if len(rows) <= limit:
        return found, None
    last = found[-1]
    return found, Position(getattr(last, wanted.sort.lstrip("-")), last.id, last.account_id)


def search(tx: Connection, wanted: Filter, *, after: Position | None, limit: int) -> tuple[list[Position], bool]:
    """Where the orders are that a question finds, in the list's order, and whether there are more.

    Not under row-level security, which would keep PostgreSQL from using the index of words for a bound key: `those`
    reads what it finds, and is. So nothing of a foreign order gets further than here.
    """
    seen = account_queries.visible(wanted.seen_by, user_id=wanted.user_id, account_id=wanted.account_id)
    is_narrow = any(getattr(wanted, name) is not None for name in _SEEN)
    ids = list(tx.execute(sa.select(seen.c.id).limit(words.MOST_ACCOUNTS + 1)).scalars()) if is_narrow else None
    values = queries.parameters(wanted, ids)
    if ids == []:
        return [], False
    time, is_falling = orders.c[wanted.sort.lstrip("-")], wanted.sort.startswith("-")
    key = [orders.c.order_id, orders.c.account_id]
    query = sa.select(time, *key).where(*queries.conditions(queries.given(wanted)))
    if is_narrow:
        query = query.where(orders.c.account_id.in_(sa.select(seen.c.id)))
    if after is not None:
        query = query.where(_follows(after, time, key, is_falling=is_falling))
    ordered = query.order_by(_directed(time, is_falling).nulls_last(), *(_directed(one, is_falling) for one in key))
    compiled = ordered.limit(limit + 1).compile(dialect=tx.dialect)
    rows = [Position(*row) for row in database.rows(tx, str(compiled), {**compiled.params, **values})]
    return rows[:limit], len(rows) > limit


def those(
    tx: Connection, codec: Codec, places: Sequence[Position], wanted: Filter, *, full: bool
) -> tuple[list[Order] | list[OrderSummary], Position | None]:
    """The orders at these places with their documents (or without), in the same order, and the place of the last."""
    values = {
        "seen_by": wanted.seen_by,
        "account_ids": [one.account_id for one in places],
        "order_ids": [one.order_id for one in places],
    }
    statement = _of_those(tx.dialect, full=full)
    found = _orders(tx, codec, database.rows(tx, statement, values, plan_once=True), full=full)
    by_key = {(one.account_id, one.order_id): one for one in places}
    return found, by_key[found[-1].account_id, found[-1].id] if found else None


def _slice(
    tx: Connection, wanted: Filter, after: Position | None, *, limit: int, full: bool, dated: bool
) -> list[tuple[Any, ...]]:
    """The next orders that have the sorting time, or that lack it."""
    question = _Question(queries.given(wanted), wanted.sort, after is not None, full, dated, limit)
    place = dict(zip(_AFTER, (after.at, after.order_id, after.account_id), strict=True)) if after else {}
    values = {**queries.parameters(wanted), **place}
    return database.rows(tx, _of_slice(tx.dialect, question), values, plan_once=question.is_plain)


@functools.lru_cache(maxsize=1000)
def _of_slice(dialect: Dialect, question: _Question) -> str:
    time, is_falling = orders.c[question.sort.lstrip("-")], question.sort.startswith("-")
    key = ([time] if question.dated else []) + [orders.c.order_id, orders.c.account_id]
    narrowed = [_SEEN[name] == sa.bindparam(name, type_=sa.Uuid) for name in _SEEN if name in question.given]
    seen = sa.select(accounts.c.id).where(*narrowed).subquery("seen")
    walk = sa.select(*key).where(orders.c.account_id == seen.c.id, *queries.conditions(question.given))
    walk = walk.where(time.is_not(None) if question.dated else time.is_(None))
    if question.goes_on:
        names = _AFTER if question.dated else _AFTER[1:]
        place = sa.tuple_(*(sa.bindparam(name, type_=one.type) for name, one in zip(names, key, strict=True)))
        walk = walk.where(sa.tuple_(*key) < place if is_falling else sa.tuple_(*key) > place)
    limit: sa.ColumnElement[int] = sa.literal_column(str(question.limit))  # known to whatever plan
    lateral = walk.order_by(*(_directed(one, is_falling) for one in key)).limit(limit).lateral("walk")
    merged = sa.select(lateral).select_from(seen.join(lateral, sa.true()))
    places = merged.order_by(*(_directed(one, is_falling) for one in lateral.c)).limit(limit).subquery("place")
    return _shown(dialect, places, [_directed(places.c[one.name], is_falling) for one in key], full=question.full)


@functools.cache
def _of_those(dialect: Dialect, *, full: bool) -> str:
    asked = sa.func.unnest(
        sa.bindparam("account_ids", type_=sa.ARRAY(sa.Uuid)), sa.bindparam("order_ids", type_=sa.ARRAY(sa.Text))
    )
    places = asked.table_valued("account_id", "order_id", with_ordinality="number", name="place").render_derived()
    bound = sa.bindparam("seen_by", type_=sa.Uuid)
    return _shown(dialect, places, [places.c.number], full=full, narrowed=bound.is_(None) | (_SEEN["seen_by"] == bound))


def _shown(
    dialect: Dialect,
    places: sa.FromClause,
    order: "Sequence[sa.ColumnElement[Any]]",
    *,
    full: bool,
    narrowed: "sa.ColumnElement[bool] | None" = None,
) -> str:
    """The orders at these places, as the driver takes the statement: each by its key, whatever PostgreSQL expects."""
    head, version = orders.c, order_versions.c
    found = places.join(orders, (head.account_id == places.c.account_id) & (head.order_id == places.c.order_id))
    found = found.join(accounts, accounts.c.id == head.account_id)
    columns = queries.SHOWN
    if full:
        is_newest = (version.account_id == head.account_id) & (version.order_id == head.order_id)
        found = found.outerjoin(order_versions, is_newest & (version.version == head.version))
        columns = [*columns, queries.DOUBT, version.dictionary_id, version.body]
    query = sa.select(*columns).select_from(found).order_by(*order)
    return str((query if narrowed is None else query.where(narrowed)).compile(dialect=dialect))


def _orders(
    tx: Connection, codec: Codec, rows: Sequence[tuple[Any, ...]], *, full: bool
) -> list[Order] | list[OrderSummary]:
    if not full:
        return [OrderSummary(*row) for row in rows]
    return [queries.order(tx, codec, row) for row in rows]


def _follows(
    after: Position, time: "sa.Column[Any]", key: "list[sa.Column[Any]]", *, is_falling: bool
) -> sa.ColumnElement[bool]:
    """What comes after this place, where those without the time come last."""
    values = [after.order_id, after.account_id]
    if after.at is None:
        return sa.and_(time.is_(None), _beyond(key, values, is_falling=is_falling))
    return sa.or_(time.is_(None), _beyond([time, *key], [after.at, *values], is_falling=is_falling))


def _beyond(columns: "Sequence[sa.Column[Any]]", values: Sequence[Any], *, is_falling: bool) -> sa.ColumnElement[bool]:
    place = sa.tuple_(*(sa.literal(value, column.type) for value, column in zip(values, columns, strict=True)))
    return sa.tuple_(*columns) < place if is_falling else sa.tuple_(*columns) > place


def _directed(column: sa.ColumnElement[Any], is_falling: bool) -> sa.ColumnElement[Any]:
    return column.desc() if is_falling else column.asc()
