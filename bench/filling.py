"""An archive with very many orders, made from those of one seller inside PostgreSQL.

Every copy has an id, a moment, an account and the words of its own; the bytes, the columns and the projection are those
of the order it was made from. Half of all orders are the seller's own; the others lie in many small accounts.
"""

import os
from dataclasses import dataclass
from uuid import UUID

import psycopg
from bench.scene import Scene

ACCOUNTS = 200
"""Beside the seller's own; each user has as many of them as `USERS_ACCOUNTS`."""
USERS_ACCOUNTS = 50
COPIES_AT_ONCE = 5
"""So that no statement is a transaction of minutes."""
YEARS = 3
"""The moments of the copies lie in so many."""

PEOPLE = """
    INSERT INTO accounts (id, user_id, name, status, seller_id)
    SELECT gen_random_uuid(), md5('user ' || n / {users_accounts})::uuid, 'copy ' || n, 'active', 'copy ' || n
    FROM generate_series(0, {accounts} - 1) n
"""
PLAN = """
    CREATE UNLOGGED TABLE copies AS
    WITH small AS (SELECT array_agg(id ORDER BY name) AS ids FROM accounts WHERE name LIKE 'copy %')
    SELECT o.order_id AS original, n AS copy, o.order_id || '+' || n AS order_id,
           CASE WHEN n % 2 = 0 THEN o.account_id ELSE small.ids[1 + floor(random() * {accounts})::int] END
           AS account_id,
           random() * interval '{years} years' AS before
    FROM orders o, small, generate_series(1, {copies}) n
    WHERE o.account_id = '{account}'
"""
SWELL = """
    INSERT INTO orders (account_id, order_id, version, versions, sha256, read_at, status, fulfillment_status,
                        buyer_login, marketplace, ordered_at, updated_at, total, currency, line_item_ids, order_data,
                        words)
    SELECT c.account_id, c.order_id, 1, 1, o.sha256, o.read_at, o.status, o.fulfillment_status, o.buyer_login,
           o.marketplace, o.ordered_at - c.before, o.updated_at - c.before, o.total, o.currency, '{{}}', o.order_data,
           ts_delete(o.words, ARRAY['@' || replace(o.account_id::text, '-', ''), replace(o.order_id, '-', '')])
           || array_to_tsvector(ARRAY['@' || replace(c.account_id::text, '-', ''),
                                      replace(o.order_id, '-', '') || c.copy])
    FROM copies c JOIN orders o ON o.account_id = '{account}' AND o.order_id = c.original
    WHERE c.copy BETWEEN {first} AND {last}
"""
SWELL_VERSIONS = """
    INSERT INTO order_versions (account_id, order_id, version, read_at, size, sha256, dictionary_id, body)
    SELECT c.account_id, c.order_id, 1, v.read_at, v.size, v.sha256, v.dictionary_id, v.body
    FROM copies c JOIN orders o ON o.account_id = '{account}' AND o.order_id = c.original
    JOIN order_versions v ON v.account_id = o.account_id AND v.order_id = o.order_id AND v.version = o.version
    WHERE c.copy BETWEEN {first} AND {last}
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'orders' AND indexname LIKE 'ix_%'"


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who looks: `account` has half of the orders, `user` has many accounts; all of them are `orders`."""

    account: UUID
    user: UUID
    accounts_of_user: int
    orders: int


def fill(scene: Scene, account_id: UUID) -> Crowd:
    """Copies until there are as many orders as ARCHIVE_ORDERS says. Indexes are made at the end: quicker."""
    wanted = int(os.environ.get("ARCHIVE_ORDERS", "1000000"))
    kept = scene.rows("SELECT count(*) AS n FROM orders")[0].n
    copies = max(0, -(-wanted // kept) - 1)
    about = {"account": account_id, "accounts": ACCOUNTS, "users_accounts": USERS_ACCOUNTS, "years": YEARS}
    with psycopg.connect(scene.postgres.url, autocommit=True) as connection:

        def execute(statement: str, **span: int) -> None:
            connection.execute(statement.format(**about, **span).encode())

        indexes = connection.execute(INDEXES).fetchall()
        for name, _ in indexes:
            execute(f"DROP INDEX {name}")
        execute(PEOPLE)
        execute(PLAN, copies=copies)
        for first in range(1, copies + 1, COPIES_AT_ONCE):
            for statement in (SWELL, SWELL_VERSIONS):
                execute(statement, first=first, last=min(first + COPIES_AT_ONCE - 1, copies))
        execute("SET maintenance_work_mem = '512MB'")
        for _, definition in indexes:
            execute(definition)
        execute("DROP TABLE copies")
        execute("VACUUM (ANALYZE) orders, order_versions, accounts")
    user = scene.rows("SELECT user_id, count(*) AS n FROM accounts GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1")[0]
    return Crowd(account_id, user.user_id, user.n, kept * (copies + 1))
