"""What a person types to look after archives and to bring them back."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from tests.backups.conftest import execute, keep, read
from tests.shop import Shop
from tests.storage import Bucket

from orders_backup import cli
from orders_backup import store as stores
from orders_backup.backups import dumps, shelf
from orders_backup.local import postgres
from orders_backup.runtime import Runtime


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs a command line in an installation."""

    def run(runtime: Runtime, *words: str) -> Answer:
        config = runtime.settings
        for name in ("database_url", "data_dir", "s3_bucket", "s3_endpoint_url", "s3_prefix", "aws_access_key_id"):
            monkeypatch.setenv(name.upper(), str(getattr(config, name)))
        for name in ("encryption_keys", "aws_secret_access_key"):
            monkeypatch.setenv(name.upper(), getattr(config, name).get_secret_value())
        monkeypatch.setattr(sys, "argv", ["orders-backup", "backup", *words])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        structlog.reset_defaults()
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return run


Run = Callable[..., Answer]


def test_archives_are_listed_with_what_is_in_them(few: Shop, run: Run) -> None:
    keep(few.runtime)
    [told] = json.loads(run(few.runtime, "list", "--json").out)["archives"]
    assert (told["account_id"], told["versions"], told["last_step"]) == (str(few.account_id), 12, 1)
    assert str(few.account_id) in run(few.runtime, "list").out


def test_a_whole_archive_is_told_from_damaged_ones(few: Shop, run: Run, bucket: Bucket) -> None:
    keep(few.runtime)
    answer = run(few.runtime, "verify", "--json")
    assert (answer.code, json.loads(answer.out)[0]["problem"]) == (0, None)
    read(few, b'{"id":"x"}')
    keep(few.runtime)
    stores.delete(bucket.store(prefix="orders-backup"), [shelf.step(few.account_id, 2)])
    answer = run(few.runtime, "verify")
    assert answer.code == 1
    assert "ends at 1" in answer.out


def test_one_damaged_archive_hides_no_other(
    few: Shop, make_shop: Callable[[int], Shop], run: Run, bucket: Bucket
) -> None:
    second = make_shop(1)
    second.backfill()
    keep(few.runtime)
    mine = bucket.store(prefix="orders-backup")
    stores.put(mine, shelf.step(few.account_id, 1), b"{")
    found = {one["account_id"]: one for one in json.loads(run(few.runtime, "list", "--json").out)["archives"]}
    assert "cannot be read" in found[str(few.account_id)]["problem"]
    assert (found[str(second.account_id)]["problem"], found[str(second.account_id)]["versions"]) == (None, 1)
    assert "cannot be read" in run(few.runtime, "list").out


def test_a_backup_that_was_just_made_stays_though_a_clock_was_ahead(few: Shop, run: Run) -> None:
    later = datetime.now(UTC) + timedelta(days=3)
    ahead = dumps.create(few.runtime, postgres.find(), now=later)
    words = ["--keep-daily", "1", "--keep-weekly", "0", "--keep-monthly", "0"]
    made = json.loads(run(few.runtime, "create", "--json", *words).out)
    assert [one.id for one in dumps.everything(few.runtime)] == [ahead.id, made["id"]]


def test_an_archive_is_begun_anew_by_a_command(few: Shop, run: Run) -> None:
    keep(few.runtime)
    answer = run(few.runtime, "begin-anew", "--account-id", str(few.account_id))
    assert (answer.code, "step 3" in answer.out) == (0, True)
    assert execute(few.runtime.db, "SELECT act, status FROM audit_log") == [("begin_archive_anew", 200)]


def test_a_restore_by_other_means_is_finished_by_a_command(few: Shop, run: Run) -> None:
    assert run(few.runtime, "finish-restore").out == "The database is ready.\n"


def test_an_emptied_bucket_is_noticed(few: Shop, run: Run, bucket: Bucket) -> None:
    keep(few.runtime)
    mine = bucket.store(prefix="orders-backup")
    stores.delete(mine, stores.names(mine, "archive/"))
    answer = run(few.runtime, "verify", "--json")
    assert answer.code == 1
    assert [one["id"] for one in json.loads(answer.out)] == [str(few.account_id)]


def test_everything_is_brought_back_by_one_command_and_noted(
    few: Shop, run: Run, make_installation: Callable[[], Runtime]
) -> None:
    keep(few.runtime)
    other = make_installation()
    answer = run(other, "restore", "--all")
    assert (answer.code, answer.out.split("  ")[1].split(",")[0]) == (0, "active")
    assert execute(other.db, "SELECT count(*) FROM orders") == [(12,)]
    assert execute(other.db, "SELECT act, status FROM audit_log") == [("restore_backup", 200)]
    assert run(other, "restore", "--all").out == "Everything is here already.\n"
    refused = run(other, "restore", "--account-id", str(few.account_id))
    assert refused.code == 1
    assert "--into-existing" in refused.err
    added = run(other, "restore", "--account-id", str(few.account_id), "--into-existing", "--json")
    assert json.loads(added.out)[0]["added"] == 0


@pytest.mark.parametrize(
    "words", [["restore"], ["restore", "--all", "--account-id", "6b1fd9f0-0000-4000-8000-000000000000"]]
)
def test_a_restore_wants_one_account_or_all(few: Shop, run: Run, words: list[str]) -> None:
    assert run(few.runtime, *words).code == 1


def test_the_database_is_backed_up_listed_verified_and_restored(
    few: Shop, run: Run, make_empty: Callable[..., Runtime], bucket: Bucket
) -> None:
    first = json.loads(run(few.runtime, "create", "--json").out)
    assert run(few.runtime, "create", "--keep-daily", "1").code == 0
    [second] = json.loads(run(few.runtime, "list", "--json").out)["databases"]
    assert second["id"] != first["id"]
    assert len([file for file in bucket.files() if "database" in file.parts]) == 2
    assert run(few.runtime, "verify").code == 0
    other = make_empty()
    answer = run(other, "restore-database")
    assert (answer.code, answer.out.split()[0]) == (0, second["id"])
    assert execute(other.db, "SELECT count(*) FROM orders") == [(12,)]
    assert "not empty" in run(other, "restore-database", "--backup-id", second["id"]).err
    assert run(other, "restore-database", "--backup-id", "20200101T000000Z-00000000").code == 1
