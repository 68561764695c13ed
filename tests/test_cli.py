"""What a person types: every command on a real database, its output, its exit code, its help."""

import hashlib
import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
import typer
from sqlalchemy.engine import Engine

from allegro_simulator.server import running
from allegro_simulator.world import World
from orders_backup import cli, tables
from orders_backup.accounts import journal, pairs, tokens
from orders_backup.allegro.oauth import Pair
from orders_backup.orders import archive, changes, extras
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """Runs a command line against the database of this test, in an otherwise empty environment."""
    handlers = logging.getLogger().handlers[:]
    monkeypatch.chdir(tmp_path)
    values = settings.model_dump(include={"database_url", "broker_url", "data_dir", "allegro_client_id"})
    for name, value in values.items():
        monkeypatch.setenv(name.upper(), str(value))
    monkeypatch.setenv("ALLEGRO_CLIENT_SECRET", settings.allegro_client_secret.get_secret_value())
    monkeypatch.setenv("ENCRYPTION_KEYS", settings.encryption_keys.get_secret_value())

    def run(*words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["orders-backup", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    yield run
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def allegro(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A simulated Allegro with one seller, where the commands find it."""
    world = World()
    world.add_seller(3)
    with running(world) as url:
        monkeypatch.setenv("ALLEGRO_API_URL", url)
        monkeypatch.setenv("ALLEGRO_AUTH_URL", url)
        yield world


@pytest.fixture
def account_id(db: Engine) -> str:
    """An active account."""
    account = {"id": uuid.uuid4(), "user_id": uuid.uuid4(), "name": "Shop", "status": "active", "seller_id": "1"}
    with db.begin() as tx:
        tx.execute(sa.insert(tables.accounts).values(account))
    return str(account["id"])


def commands() -> list[list[str]]:
    """The words of every command there is."""
    found = []
    groups: list[tuple[list[str], Any]] = [([], typer.main.get_command(cli.app))]
    while groups:
        words, group = groups.pop()
        for name, command in group.commands.items():
            deeper = [*words, name]
            if hasattr(command, "commands"):
                groups.append((deeper, command))
            else:
                found.append(deeper)
    return sorted(found)


# Help


@pytest.mark.parametrize("words", [words for words in commands() if words != ["simulator"]], ids=" ".join)
def test_the_help_of_every_command_ends_with_an_example_and_names_the_data_directory(
    run: Run, words: list[str]
) -> None:
    answer = run(*words, "--help")

    assert answer.code == 0
    assert "Example: " in " ".join(answer.out.split()).rpartition("--help")[2]
    assert f"orders-backup {' '.join(words)}" in " ".join(answer.out.split()).rpartition("Example: ")[2]
    assert "--data-dir" in answer.out


def test_the_commands_are_those_of_the_contract() -> None:
    expected = (
        "accounts connect, accounts list, alerts list, alerts silence, alerts silences, alerts test, alerts unsilence,"
        " api, backup begin-anew, backup create, backup drill,"
        " backup finish-restore, backup list, backup restore, backup restore-database, backup verify, certificate,"
        " doctor, drift, keys create, keys list, keys revoke, migrate, orders export, orders rebuild, scheduler,"
        " set-aside acknowledge, set-aside list, set-aside retry, simulator, sync, tokens recover, up, worker"
    )
    assert ", ".join(" ".join(words) for words in commands()) == expected


def test_help_does_not_wait_for_the_database_library() -> None:
    script = "import sys, orders_backup.cli; sys.exit('sqlalchemy' in sys.modules or 'pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_version_is_the_package_s(run: Run) -> None:
    assert run("--version").out.startswith("orders-backup 0.")


# Keys


def test_a_created_key_stands_alone_on_stdout_and_is_listed_without_its_secret(run: Run) -> None:
    created = run("keys", "create", "--name", "shop", "--scopes", "orders:read,sync", "--expires-in-days", "30")
    listed = run("keys", "list", "--json")

    assert created.code == 0
    assert created.out.startswith("aob_live_")
    assert created.out.count("\n") == 1
    [key] = json.loads(listed.out)
    assert (key["name"], key["scopes"]) == ("shop", ["orders:read", "sync"])
    assert created.out.strip() not in listed.out
    assert f"{key['id']}  active  shop  orders:read,sync  every user" in run("keys", "list").out


def test_a_revoked_key_is_listed_as_revoked(run: Run) -> None:
    run("keys", "create", "--name", "shop", "--scopes", "sync", "--scopes", "admin", "--user-id", str(uuid.uuid4()))
    [key] = json.loads(run("keys", "list", "--json").out)

    assert run("keys", "revoke", key["id"]).code == 0

    assert f"{key['id']}  revoked shop" in run("keys", "list").out


def test_what_a_command_changes_stands_in_the_audit_log(run: Run, db: Engine) -> None:
    run("keys", "create", "--name", "shop", "--scopes", "orders:read")
    run("keys", "revoke", "0Ab1Cd2Ef3Gh")
    with db.connect() as connection:
        rows = connection.execute(sa.select(tables.audit_log).order_by(tables.audit_log.c.seq)).all()
    assert [(row.act, row.status) for row in rows] == [("make_key", 200), ("revoke_key", 404)]
    assert rows[0].target == {"name": "shop", "scopes": "orders:read"}
    assert rows[1].target == {"key_id": "0Ab1Cd2Ef3Gh"}
    assert all(row.actor.startswith("cli:") for row in rows)


def test_a_known_failure_is_one_sentence_on_stderr(run: Run) -> None:
    for words in (["keys", "revoke", "unknown"], ["keys", "create", "--name", "x", "--scopes", "everything"]):
        answer = run(*words)

        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("error: ")
        assert answer.err.count("\n") == 1


# Settings


def test_a_malformed_setting_ends_with_code_2_and_its_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "LOUD")

    answer = run("keys", "list")

    assert answer.code == 2
    assert answer.err.startswith("error: LOG_LEVEL ")


def test_without_a_database_a_command_says_how_to_get_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")

    answer = run("accounts", "list")

    assert answer.code == 2
    assert "DATABASE_URL is not set" in answer.err
    assert "orders-backup up" in answer.err


def test_an_unreachable_database_is_a_sentence_without_its_password(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hidden@127.0.0.1:9/orders")

    answer = run("keys", "list")

    assert answer.code == 1
    assert answer.err.startswith("error: PostgreSQL")
    assert "hidden" not in answer.err


def test_migrating_a_migrated_database_changes_nothing(run: Run) -> None:
    assert run("migrate").out == "The schema is at the newest revision.\n"


# Accounts and orders


def test_connecting_prints_the_link_and_the_code_and_lists_the_account_as_pending(run: Run, allegro: World) -> None:
    answer = run("accounts", "connect", "--user-id", str(uuid.uuid4()), "--name", "My shop")
    [account] = json.loads(run("accounts", "list", "--json").out)

    assert answer.code == 0, answer.err
    assert account["status"] == "pending"
    assert account["verification_uri_complete"] in answer.out
    assert account["user_code"] in answer.out
    assert allegro.base_url in answer.out
    assert f"{account['id']}  pending  My shop  0 orders" in run("accounts", "list").out


def test_connecting_with_json_prints_one_document(run: Run, allegro: World) -> None:
    answer = run("accounts", "connect", "--user-id", str(uuid.uuid4()), "--name", "My shop", "--json")

    assert json.loads(answer.out)["verification_uri"].startswith(allegro.base_url)


def test_connecting_without_allegro_fails_with_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLEGRO_AUTH_URL", "http://127.0.0.1:9")

    answer = run("accounts", "connect", "--user-id", str(uuid.uuid4()), "--name", "My shop")

    assert answer.code == 1
    assert answer.err.startswith("error: ")
    assert run("accounts", "list").out == ""


def test_waiting_ends_with_code_1_when_the_seller_is_denied(
    run: Run, db: Engine, allegro: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(_seconds: float) -> None:
        with db.begin() as tx:
            tx.execute(sa.update(tables.accounts).values(status="denied", reason="access_denied"))

    monkeypatch.setattr("time.sleep", deny)

    answer = run("accounts", "connect", "--user-id", str(uuid.uuid4()), "--name", "My shop", "--wait")

    assert answer.code == 1
    assert answer.out.endswith(": denied (access_denied).\n")
    assert allegro.base_url in answer.out


def test_recovering_takes_over_what_the_journal_has_and_says_so(run: Run, runtime: Runtime, account_id: str) -> None:
    account, now = uuid.UUID(account_id), datetime.now(UTC)
    sealed = {n: pairs.seal(runtime, account, n, Pair(f"a{n}", f"r{n}", 43199), now=now) for n in (1, 3, 4)}
    with runtime.db.begin() as tx:
        pairs.adopt(tx, account, 1, sealed[1], now=now)
    journal.spooled(runtime, account, 3, sealed[3])

    answer = run("tokens", "recover")

    assert answer.code == 0, answer.err
    assert answer.out == f"{account_id}  adopted  1 -> 3\n1 accounts with tokens, 1 taken over from the journal.\n"
    assert tokens.current(runtime, account).value == "a3"
    journal.spooled(runtime, account, 4, sealed[4])
    [found] = json.loads(run("tokens", "recover", "--json").out)
    assert (found["account_id"], found["outcome"], found["generation"]) == (account_id, "adopted", 4)


def test_recovering_without_the_object_storage_fails_with_a_sentence(
    run: Run, runtime: Runtime, account_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, now = uuid.UUID(account_id), datetime.now(UTC)
    with runtime.db.begin() as tx:
        pairs.adopt(tx, account, 1, pairs.seal(runtime, account, 1, Pair("a", "r", 43199), now=now), now=now)
    for name, value in (("S3_BUCKET", "shop"), ("S3_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ACCESS_KEY_ID", "k")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")

    answer = run("tokens", "recover")

    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("error: The object storage does not answer")


def test_a_sync_is_queued_over_the_range_that_was_asked_for(run: Run, db: Engine, account_id: str) -> None:
    answer = run("sync", account_id, "--kind", "reconcile", "--from", "2026-01-01", "--to", "2026-02-01T00:00:00+01:00")

    assert answer.code == 0, answer.err
    with db.begin() as tx:
        row = tx.execute(sa.select(tables.sync_history)).one()
    assert answer.out == f"{row.id}\n"
    assert (row.kind, row.range_from.isoformat()) == ("reconcile", "2026-01-01T00:00:00+00:00")
    assert row.range_to.astimezone(row.range_from.tzinfo).isoformat() == "2026-01-31T23:00:00+00:00"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--from", "yesterday", "--kind", "full"], "--from must be a day or a moment"),
        (["--from", "2026-01-01"], "--from and --to belong to --kind full and reconcile"),
        (["--kind", "full", "--from", "2026-01-02", "--to", "2026-01-01"], "--from must lie before --to"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(run: Run, account_id: str, words: list[str], sentence: str) -> None:
    answer = run("sync", account_id, *words)

    assert answer.code == 1
    assert sentence in answer.err


def test_a_certificate_that_proves_nothing_says_so_and_ends_with_code_1(run: Run, account_id: str) -> None:
    plain, as_json = run("certificate", account_id), run("certificate", account_id, "--json")

    assert (plain.code, as_json.code) == (1, 1)
    assert "NOT PROVEN COMPLETE" in plain.out
    assert json.loads(as_json.out)["complete"] is False


def test_a_certificate_prints_every_count_of_every_window(run: Run, account_id: str, db: Engine) -> None:
    with db.begin() as tx:
        run_id = uuid.uuid4()
        tx.execute(
            sa.text("""INSERT INTO sync_history (id, account_id, kind, status, started_at, finished_at)
                       VALUES (:run, :account, 'backfill', 'succeeded', now(), now())"""),
            {"run": run_id, "account": account_id},
        )
        tx.execute(
            sa.text("""INSERT INTO sync_windows (account_id, run_id, window_from, window_to, method, status, listed,
                                                 total_count, stored, missing, superseded, set_aside, unlisted)
                       VALUES (:account, :run, now() - interval '360 d', now(), 'ids', 'verified', 9, 9, 8, 0, 2, 1, 3),
                              (:account, :run, now() - interval '900 d', now() - interval '360 d', 'ids', 'verified',
                               7, 7, 7, 0, 5, 0, 4),
                              (:account, :run, now() - interval '990 d', now() - interval '900 d', 'ids', 'open',
                               0, 7, NULL, NULL, NULL, 0, NULL)"""),
            {"run": run_id, "account": account_id},
        )
    lines = [line for line in run("certificate", account_id).out.splitlines() if " – " in line]
    assert [line.partition(": ")[2] for line in lines] == [
        "listed 9, stored 8, missing 0, superseded 2, set aside 1, beyond reach 0, unlisted 3",
        "listed 7, stored 7, missing 0, superseded 5, set aside 0, beyond reach 4, unlisted 0",
        "listed 7, stored unknown, missing unknown, superseded unknown, set aside 0, beyond reach unknown, unlisted 0",
    ]


def test_an_account_that_does_not_exist_is_an_error(run: Run) -> None:
    for command in ("sync", "certificate", "set-aside list", "set-aside retry", "set-aside acknowledge --reason x"):
        answer = run(*command.split(), str(uuid.uuid4()))

        assert answer.code == 1
        assert answer.err.startswith("error: ")


def test_what_cannot_be_read_is_listed_tried_again_and_acknowledged(run: Run, account_id: str, db: Engine) -> None:
    for body in (b'{"id":"now-understood"}', b"{}"):
        row = {"account_id": account_id, "sha256": hashlib.sha256(body).digest(), "body": body}
        with db.begin() as tx:
            tx.execute(sa.insert(tables.unreadable_orders).values(**row, read_at=sa.func.now()))
    digest = hashlib.sha256(b"{}").hexdigest()

    assert len(json.loads(run("set-aside", "list", account_id, "--json").out)) == 2
    assert run("set-aside", "retry", account_id).out == (
        "0 orders are due now; of the bytes 1 are understood, 1 not.\n"
    )
    assert run("set-aside", "acknowledge", account_id, "--reason", " ").code == 1
    assert run("set-aside", "acknowledge", account_id, "nobody", "--reason", "x").code == 1
    assert run("set-aside", "acknowledge", account_id, digest, "--reason", "sent so").out == "1 acknowledged.\n"
    listed = run("set-aside", "list", account_id).out
    assert digest in listed
    assert "acknowledged: sent so" in listed


def test_what_is_new_at_allegro_is_listed(run: Run, db: Engine) -> None:
    assert run("drift").out == ""
    with db.begin() as tx:
        row = {"path": "order.status", "kind": "unknown_value", "value": "NEW", "seen": 3}
        tx.execute(sa.insert(tables.schema_drift).values(row))
    assert "unknown_value  order.status NEW  seen 3 times" in run("drift").out
    assert json.loads(run("drift", "--json").out)[0]["path"] == "order.status"


# Programs this one turns into


def test_the_simulator_gets_every_option_as_it_was_given(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _program, words: became.append(words))

    run("simulator", "--orders", "5", "--auto-approve", "--help")

    assert became[0][0].endswith("allegro-simulator")
    assert became[0][1:] == ["--orders", "5", "--auto-approve", "--help"]


def test_api_worker_and_scheduler_become_their_modules(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    became: list[str] = []
    monkeypatch.setattr("os.execv", lambda _program, words: became.append(" ".join(words[1:])))

    run("api", "--port", "8123")
    run("worker", "--concurrency", "3")
    run("scheduler")

    assert became == [
        f"-P -m orders_backup.api --host 127.0.0.1 --port 8123 --data-dir {tmp_path}",
        f"-P -m orders_backup.worker worker --concurrency 3 --data-dir {tmp_path}",
        f"-P -m orders_backup.worker scheduler --data-dir {tmp_path}",
    ]


# Exports


def test_orders_are_exported_to_stdout_and_to_a_file(
    run: Run, account_id: str, runtime: Runtime, tmp_path: Path
) -> None:
    body = b'{"id":"o-1","status":"READY_FOR_PROCESSING","lineItems":[{"id":"l","boughtAt":"2026-06-01T08:00:00Z"}]}'
    with runtime.db.begin() as tx:
        reading = changes.read(datetime(2026, 6, 2, tzinfo=UTC), body)
        archive.record(tx, runtime.codec, uuid.UUID(account_id), [reading], cause="test")
    plain = run("orders", "export")
    assert (plain.code, json.loads(plain.out)["order_data"]["id"]) == (0, "o-1")
    file = tmp_path / "june.csv"
    written = run("orders", "export", "--format", "csv", "--month", "2026-06", "--output", str(file))
    assert (written.code, written.out) == (0, "")
    assert "1 orders" in written.err
    assert b"o-1" in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("orders", "export", "--status", "CANCELLED").out == ""
    assert [one.name for one in tmp_path.glob(".*june*")] == []


def test_orders_of_an_earlier_program_are_rebuilt_from_their_bytes(run: Run, account_id: str, runtime: Runtime) -> None:
    account = uuid.UUID(account_id)
    first = b'{"id":"o-1","status":"BOUGHT","buyer":{"lastName":"Nowak"}}'
    newest = b'{"id":"o-1","status":"SENT","note":"\\u0000","lineItems":[{"id":"l","boughtAt":"2026-06-01T08:00:00Z"}]}'
    when = datetime(2026, 6, 2, tzinfo=UTC)
    shipments = b'{"shipments":[{"waybill":"6200"}]}'
    with runtime.db.begin() as tx:
        for hours, body in enumerate((first, newest)):
            reading = changes.read(when + timedelta(hours=hours), body)
            archive.record(tx, runtime.codec, account, [reading], cause="test")
        beside = extras.document("shipments", "o-1", "o-1", when, shipments, found=True)
        extras.record(tx, runtime.codec, account, [beside])
        whole = tx.execute(sa.text("SELECT * FROM orders")).one()._asdict()
        tx.execute(sa.text("UPDATE orders SET status = NULL, ordered_at = NULL, order_data = NULL, words = '',"
                           " line_item_ids = '{}', projection_lossy = false"))  # fmt: skip
    answer = run("orders", "rebuild")
    assert (answer.code, answer.out) == (0, "1 orders rebuilt.\n")
    with runtime.db.begin() as tx:
        rebuilt = tx.execute(sa.text("SELECT * FROM orders")).one()._asdict()
    assert whole["projection_lossy"]
    assert "'6200'" in rebuilt.pop("words")
    assert "'nowak'" in whole.pop("words")
    assert rebuilt == whole
    assert run("orders", "rebuild", "--account-id", str(uuid.uuid4())).code == 1


def test_an_export_that_cannot_be_written_says_so(run: Run, tmp_path: Path) -> None:
    answer = run("orders", "export", "--output", str(tmp_path / "nowhere" / "orders.jsonl"))
    assert (answer.code, answer.out) == (1, "")
    assert "No such file or directory" in answer.err
    assert run("orders", "export", "--format", "accountant").code == 1
    assert run("orders", "export", "--ordered-from", "yesterday").code == 1


# The doctor


def test_the_doctor_says_what_is_wrong_and_what_to_do(run: Run, allegro: World, account_id: str) -> None:
    assert allegro.sellers
    told, for_programs = run("doctor"), run("doctor", "--json")
    found = {one["code"]: one for one in json.loads(for_programs.out)}
    assert (told.code, for_programs.code) == (1, 1)
    assert set(found) == {"no_worker", "sealed_value", "storage_not_set"}
    assert found["sealed_value"]["about"] == account_id
    assert f"error   sealed_value {account_id}: Its login cannot be opened" in told.out
    assert found["no_worker"]["remedy"] in told.out
    assert told.out.endswith("2 errors, 1 warning.\n")


def test_the_doctor_is_content_where_nothing_is_an_error(run: Run, allegro: World, db: Engine) -> None:
    assert allegro.sellers
    with db.begin() as tx:
        tx.execute(sa.text("INSERT INTO worker_slots (worker, slots, canary_done_at) VALUES ('w', 8, now())"))
    answer = run("doctor")
    assert answer.code == 0
    assert answer.out.endswith("1 warning.\n")


def test_the_doctor_names_a_database_that_is_away(run: Run, monkeypatch: pytest.MonkeyPatch, allegro: World) -> None:
    assert allegro.sellers
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    answer = run("doctor", "--json")
    assert answer.code == 1
    assert {one["code"] for one in json.loads(answer.out)} == {"database_failing", "storage_not_set"}


def test_the_doctor_names_a_setting_that_stops_the_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE", "soon")
    answer = run("doctor", "--json")
    assert (answer.code, answer.err) == (1, "")
    [found] = json.loads(answer.out)
    assert found["code"] == "settings_refused"
    assert found["sentence"].startswith("LEASE ")


def test_a_failure_that_nobody_foresaw_is_told_without_any_value(run: Run, db: Engine) -> None:
    with db.begin() as tx:
        tx.execute(
            sa.text("""CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
                              $$ BEGIN RAISE EXCEPTION 'planted %', NEW; END $$""")
        )
        tx.execute(sa.text("CREATE TRIGGER tell BEFORE INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION tell()"))
    found = run("keys", "create", "--name", "planted", "--scopes", "orders:read")
    assert (found.code, found.out) == (1, "")
    assert "process_crashed" in found.err
    assert "RaiseException" in found.err
    assert "planted" not in found.err
    assert "Traceback" not in found.err
