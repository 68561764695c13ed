"""Beneath every filter of ours PostgreSQL keeps users apart: taken out, the filters let nothing foreign through."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from fastapi import Request, Security
from fastapi.security import APIKeyHeader, SecurityScopes
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ProgrammingError

from orders_backup import access, rest
from orders_backup import db as database
from orders_backup.access import Caller
from orders_backup.errors import SettingsError
from orders_backup.exports import jobs
from orders_backup.tables import metadata
from orders_backup.webhooks import sign

from .test_api import BACKUP, EXPORT, ITEM, NAMELESS, filled, routes

if TYPE_CHECKING:
    from .conftest import World

THEIRS = "theirs-4711"
"""Stands in everything that the other user has."""

READ = [(path, scope) for method, path, scope in routes() if method == "GET"]
ROWS = {
    "account_tokens": "INSERT INTO account_tokens (account_id, generation, access_sealed, refresh_sealed,"
    " access_expires_at, obtained_at) VALUES (:account, 1, '', '', now(), now())",
    "device_flows": "INSERT INTO device_flows (account_id, user_code, device_code_sealed, verification_uri,"
    " verification_uri_complete, interval_seconds, expires_at) VALUES (:account, :mark, '', :mark, :mark, 5, now())",
    "discoveries": "INSERT INTO discoveries (account_id, day, net, what, orders) VALUES (:account, now(), 'full',"
    " 'missing', 1)",
    "extra_kinds": "INSERT INTO extra_kinds (account_id, kind, reason) VALUES (:account, 'returns', :mark)",
    "owed_orders": "INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at)"
    " VALUES (:account, :mark, 'event', now(), now())",
    "sync_history": "INSERT INTO sync_history (id, account_id, kind, status) VALUES (:id, :account, 'full', 'queued')",
    "sync_windows": "INSERT INTO sync_windows (run_id, account_id, window_from, window_to, method)"
    " VALUES (:id, :account, now(), now() + interval '1 day', 'ids')",
    "syncs": "INSERT INTO syncs (account_id, kind) VALUES (:account, 'journal')",
    "warnings_given": "INSERT INTO warnings_given (account_id, day, code) VALUES (:account, now(), :mark)",
    "webhooks": "INSERT INTO webhooks (webhook_id, user_id, url, secret_sealed, cursor_xid)"
    " VALUES (:hook, :user, :mark, '', '1')",
    "webhook_deliveries": "INSERT INTO webhook_deliveries (webhook_id, seq, account_id, order_id, type, kinds, cause,"
    " occurred_at) VALUES (:hook, 7, :account, :mark, 'x', '{}', 'event', now())",
    "webhook_attempts": "INSERT INTO webhook_attempts (webhook_id, seq, number, attempted_at, seconds, answer)"
    " VALUES (:hook, 7, 1, now(), 1, :mark)",
    "audit_log": "INSERT INTO audit_log (actor, user_id, act, target) VALUES (:mark, :user, 'x', '{}')",
    "schema_drift": "INSERT INTO schema_drift (path, kind, value, seen, example_account_id, example_order_id)"
    " VALUES ('p', 'new_field', '', 1, :account, :mark)",
    "archives": "INSERT INTO archives (account_id, account_mark) VALUES (:account, :mark)",
    "restores": "INSERT INTO restores (account_id, source) VALUES (:account, :mark)",
    "restored_states": "INSERT INTO restored_states (account_id, order_id) VALUES (:account, :mark)",
    "backups": "INSERT INTO backups (backup_id, kind, asked_by) VALUES (CAST(:backup AS uuid), 'dump', :mark)",
    "alerts": "INSERT INTO alerts (alert_id, rule, subject, account_id, severity, detail, fired_at, seen_at, opened_at)"
    " VALUES (:id, :mark, :mark, :account, 'error', :mark, now(), now(), now())",
    "alert_silences": "INSERT INTO alert_silences (silence_id, rule, subject, until)"
    " VALUES (:id, :mark, CAST(CAST(:account AS uuid) AS text), now())",
    "alert_channels": "INSERT INTO alert_channels (channel, tried_at) VALUES (:mark, now())",
    "watches": "INSERT INTO watches (kind, last_error) VALUES ('quick', :mark)",
    "request_budget": "INSERT INTO request_budget (key, full_at) VALUES (:mark, now())",
    "counters": "INSERT INTO counters (name, labels, value) VALUES (:mark, '', 1)",
    "worker_slots": "INSERT INTO worker_slots (worker, slots) VALUES (:mark, 1)",
}
NOT_OF_A_USER = {"codec_dictionaries"}
"""Shown to all: dictionaries of the whole installation, without which no bytes can be read."""


REFUSED = {"/schema-drift", "/backups", "/backups/{backup_id}"}
"""Where PostgreSQL refuses a confined transaction: the columns of examples, and backups, which are everybody's."""


@dataclasses.dataclass
class Others:
    """What another user has, in every table; and the user who must not see it."""

    account: UUID
    user: UUID
    run: UUID
    hook: UUID
    me: UUID
    export: str = ""

    def at(self, path: str) -> str:
        found = filled(path, self.account, self.run, self.hook, sign.message_id(self.hook, 7))
        return found.replace(str(EXPORT), self.export) + ("?format=jsonl" if path == "/orders/export" else "")


@pytest.fixture
def others(world: "World") -> Others:
    found = Others(world.account(), world.user, uuid4(), uuid4(), uuid4())
    world.account(found.me)
    world.execute("UPDATE accounts SET name = :mark, seller_login = :mark WHERE id = :account",
                  mark=THEIRS, account=found.account)  # fmt: skip
    world.read(found.account, b'{"id":"o","note":"%s"}' % THEIRS.encode(), NAMELESS)
    world.read(found.account, b'{"id":"o","note":"%s","n":2}' % THEIRS.encode(), at=datetime.now(UTC))
    world.happened(found.account, b'{"id":"1","order":{"checkoutForm":{"id":"o"}},"type":"%s"}' % THEIRS.encode())
    world.beside(found.account, "returns", "r", "o", b'{"note":"%s"}' % THEIRS.encode())
    world.key("admin", user=found.user)
    values = {
        "account": found.account,
        "user": found.user,
        "mark": THEIRS,
        "id": found.run,
        "hook": found.hook,
        "backup": BACKUP,
    }
    for statement in ROWS.values():
        world.execute(statement, **{name: value for name, value in values.items() if f":{name}" in statement})
    theirs = world.client(world.key("exports", user=found.user))
    found.export = theirs.post("/exports", json={"format": "jsonl", "filter": {}}).json()["id"]
    jobs.work(world.runtime, UUID(found.export))
    world.client(world.key("admin")).post("/api-keys", json={}, headers={"Idempotency-Key": "k"})
    world.execute("INSERT INTO idempotent_answers (key_id, idempotency_key, fingerprint, locked_until)"
                  " VALUES ('k', 'k', '', now())")  # fmt: skip
    return found


@pytest.fixture
def unfiltered(world: "World") -> Iterator[None]:
    """Our own filters are taken out: to every route each caller looks like one who may see all users."""

    def caller(
        request: Request,
        wanted: SecurityScopes,
        key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))],
    ) -> Caller:
        return dataclasses.replace(rest.caller(request, wanted, key, None), user_id=None)

    world.app.dependency_overrides[rest.caller] = caller
    yield
    world.app.dependency_overrides.clear()


def foreign(world: "World", others: Others, path: str, scope: str) -> bool:
    """Whether a key of `me` is shown anything of the others."""
    answer = world.client(world.key(scope, user=others.me)).get(others.at(path))
    is_refused = path in REFUSED and answer.status_code == 500
    assert is_refused or answer.status_code in {200, 404, 422}, answer.text
    words = (THEIRS, str(others.account), str(others.user), str(others.run), str(others.hook), others.export, ITEM)
    return answer.status_code == 200 and (answer.text == "{}" or any(word in answer.text for word in words))


@pytest.mark.usefixtures("unfiltered")
def test_no_route_shows_foreign_rows_even_without_its_own_filter(world: "World", others: Others) -> None:
    assert len(READ) > 15
    assert [path for path, scope in READ if foreign(world, others, path, scope)] == []


@pytest.mark.usefixtures("unfiltered")
def test_without_either_the_same_question_does_show_them(
    world: "World", others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "confine", lambda *_: None)
    blind = {path for path, scope in READ if not foreign(world, others, path, scope)}
    assert blind == {"/orders/export"}  # whose own filter and confinement are one


def test_every_table_has_a_foreign_row_in_this_test(world: "World", others: Others) -> None:
    with database.transaction(world.runtime.db) as tx:
        filled_ones = {one for one in metadata.tables if rows(tx, one)}
    assert set(metadata.tables) - filled_ones <= NOT_OF_A_USER, others


def rows(tx: Connection, table: str) -> list[str]:
    return list(tx.execute(sa.text(f"SELECT CAST(t AS text) FROM {table} t")).scalars())


def seen(tx: Connection, table: str) -> list[str]:
    """The rows of a table that a confined transaction sees, with those columns that it may see."""
    told = sa.text("SELECT name FROM unnest(CAST(:names AS text[])) name"
                   " WHERE has_column_privilege(current_user, :table, name, 'SELECT')")  # fmt: skip
    names = [column.name for column in metadata.tables[table].c]
    columns = tx.execute(told, {"names": names, "table": table}).scalars().all()
    if not columns:
        return []
    return list(tx.execute(sa.text(f"SELECT CAST(ROW({', '.join(columns)}) AS text) FROM {table}")).scalars())


def test_no_table_shows_a_foreign_row_to_a_confined_transaction(world: "World", others: Others) -> None:
    foreign_words = [THEIRS, str(others.account), str(others.user), str(others.run), str(others.hook)]
    with database.snapshot(world.runtime.db) as tx:
        database.confine(tx, others.me)
        found = {table: seen(tx, table) for table in metadata.tables if table not in NOT_OF_A_USER}
    told = [row for some in found.values() for row in some]
    assert not [row for row in told if any(word in row for word in foreign_words)]
    assert {table: len(some) for table, some in found.items() if some} == {"accounts": 1, "schema_drift": 1}


FORBIDDEN = (
    "INSERT INTO accounts (id, user_id, name, status) VALUES (gen_random_uuid(), gen_random_uuid(), 'x', 'pending')",
    "UPDATE orders SET status = 'x'",
    "DELETE FROM order_versions",
    "TRUNCATE order_changes",
    "SELECT secret_sha256 FROM api_keys",
    "SELECT secret_sealed FROM webhooks",
    "SELECT example_order_id FROM schema_drift",
    "SELECT answer_sealed FROM idempotent_answers",
)


def test_a_confined_transaction_writes_nothing_and_reads_no_secret(world: "World", others: Others) -> None:
    for statement in FORBIDDEN:
        with world.runtime.db.connect() as tx:
            database.confine(tx, others.me)
            with pytest.raises(ProgrammingError) as refused:
                tx.execute(sa.text(statement))
        assert isinstance(refused.value.orig, InsufficientPrivilege), statement


def test_without_a_user_a_confined_role_sees_nothing(world: "World", others: Others) -> None:
    with database.snapshot(world.runtime.db) as tx:
        tx.execute(sa.text(f"SET LOCAL ROLE {database.TENANT}"))
        assert tx.execute(sa.text("SELECT count(*) FROM orders")).scalar_one() == 0, others


def test_a_connection_that_goes_back_to_the_pool_is_confined_no_more(world: "World", others: Others) -> None:
    with database.snapshot(world.runtime.db) as tx:
        database.confine(tx, others.me)
    for _ in range(20):
        with database.snapshot(world.runtime.db) as tx:
            assert tx.execute(sa.text("SELECT count(*) FROM orders")).scalar_one() == 1


def test_a_key_bound_to_a_user_reads_all_that_is_his(world: "World", others: Others) -> None:
    his = world.client(world.key(*access.SCOPES, user=others.user))
    for path, _ in READ:
        answer = his.get(others.at(path))
        assert answer.status_code == (403 if path.startswith("/backups") else 200), (path, answer.text)


def test_every_table_of_accounts_rows_has_its_policy(world: "World") -> None:
    query = """SELECT c.relname, c.relrowsecurity, EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)
                 FROM pg_class c WHERE c.relname = ANY(:names)"""
    names = [name for name, table in metadata.tables.items() if "account_id" in table.c]
    with database.transaction(world.runtime.db) as tx:
        found = {row[0]: (row[1], row[2]) for row in tx.execute(sa.text(query), {"names": names})}
    assert len(found) > 15
    assert {name for name, told in found.items() if told != (True, True)} == set()


GRANTED = ("archives", "restores", "restored_states")


@pytest.mark.parametrize("table", GRANTED)
def test_what_belongs_to_archives_is_granted_to_nobody_and_would_show_ones_own_rows_alone(
    world: "World", others: Others, table: str
) -> None:
    count = sa.text(f"SELECT count(*) FROM {table}")
    with world.runtime.db.connect() as tx:
        database.confine(tx, others.user)
        with pytest.raises(ProgrammingError):
            tx.execute(count)
    world.execute(f"GRANT SELECT ON {table} TO {database.TENANT}")
    for user, seen_by_him in ((others.user, 1), (others.me, 0)):
        with database.snapshot(world.runtime.db) as tx:
            database.confine(tx, user)
            assert tx.execute(count).scalar_one() == seen_by_him
    with database.transaction(world.runtime.db) as tx:
        assert tx.execute(count).scalar_one() == 1


def test_backups_would_show_no_row_even_if_they_were_granted(world: "World", others: Others) -> None:
    world.execute(f"GRANT SELECT ON backups TO {database.TENANT}")
    with database.snapshot(world.runtime.db) as tx:
        database.confine(tx, others.user)
        assert tx.execute(sa.text("SELECT count(*) FROM backups")).scalar_one() == 0


def test_an_owner_without_rights_over_roles_is_told_what_to_ask_for_and_is_confined_then(postgres_url: str) -> None:
    name = f"plain_{uuid4().hex}"
    server = database.connect(postgres_url).execution_options(isolation_level="AUTOCOMMIT")
    url = sa.make_url(postgres_url).set(database=name, username=name, password="plain")
    owner = database.connect(url.render_as_string(hide_password=False))
    with server.connect() as admin:
        admin.execute(sa.text(f"CREATE ROLE {name} LOGIN PASSWORD 'plain'"))
        admin.execute(sa.text(f"CREATE DATABASE {name} OWNER {name}"))
        try:
            with pytest.raises(SettingsError, match=f"GRANT {database.TENANT} TO {name};"):
                database.migrate(owner)
            admin.execute(sa.text(f"GRANT {database.TENANT} TO {name}"))
            database.migrate(owner)
            with database.snapshot(owner) as tx:
                database.confine(tx, uuid4())
                assert tx.execute(sa.text("SELECT count(*) FROM accounts")).scalar_one() == 0
        finally:
            owner.dispose()
            admin.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
            admin.execute(sa.text(f"DROP ROLE {name}"))
    server.dispose()
