"""The rehearsal: green where everything is well, red for every damage that was planted, and its report is signed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from tests.backups.conftest import brought_back, execute, journaled, keep, over, read
from tests.shop import Shop
from tests.storage import Bucket

from orders_backup import db as database
from orders_backup import runtime as runtimes
from orders_backup import store as stores
from orders_backup import vault
from orders_backup.accounts import tokens
from orders_backup.backups import drill, shelf
from orders_backup.backups.drill import Report
from orders_backup.errors import BackupFailedError, SealedValueError
from orders_backup.runtime import Runtime


def rehearse(runtime: Runtime) -> Report:
    """An hour from now, when everything should be in the archive."""
    with database.transaction(runtime.db) as tx:
        now = database.clock(tx) + timedelta(hours=1)
    return drill.drill(runtime, now=now)


@pytest.fixture
def safe(few: Shop) -> Shop:
    """A shop with an archive of three steps."""
    keep(few.runtime)
    for number in range(2):
        read(few, b'{"id":"order-%d","lineItems":[]}' % number, second=number)
        keep(few.runtime)
    return few


def test_what_is_well_is_green_and_its_report_is_signed_and_leaves_nothing_behind(safe: Shop, bucket: Bucket) -> None:
    before = execute(safe.runtime.db, "SELECT count(*) FROM pg_database")
    report = rehearse(safe.runtime)
    assert report.findings == []
    assert (report.ok, report.accounts, report.versions) == (True, 1, 14)
    assert execute(safe.runtime.db, "SELECT count(*) FROM pg_database") == before
    [file] = [file for file in bucket.files() if "drills" in file.parts]
    assert drill.opened(safe.runtime, file.read_bytes()) == report
    with pytest.raises(SealedValueError):
        drill.opened(safe.runtime, file.read_bytes().replace(b'"findings":[]', b'"findings":[ ]'))
    over(safe.runtime)
    keep(safe.runtime)
    assert rehearse(safe.runtime).ok


def test_a_database_that_was_merged_with_the_archive_of_another_is_well(
    few: Shop, make_installation: Callable[[], Runtime]
) -> None:
    """Both have seen the same bytes, at different moments; the archive has both."""
    read(few, b'{"id":"order","v":"A"}', second=1)
    keep(few.runtime)
    other = make_installation()
    brought_back(other, few.account_id)
    read(few, b'{"id":"order","v":"B"}', second=5)
    keep(few.runtime)
    read(Shop(few.world, other, few.seller_id, few.account_id), b'{"id":"order","v":"B"}', second=9)
    keep(other)
    brought_back(other, few.account_id, into_existing=True)
    keep(other)
    assert rehearse(other).findings == []


def test_nothing_to_rehearse_is_not_green(online: Runtime) -> None:
    assert not rehearse(online).ok


class Damages:
    """What may happen to an archive, by name."""

    def __init__(self, shop: Shop, bucket: Bucket) -> None:
        self.shop, self.bucket = shop, bucket
        self.mine = bucket.store(prefix="orders-backup")
        keys = stores.names(self.mine, f"archive/{shop.account_id}/steps/")
        self.parts = [key for key in keys if key.endswith(".zst")]
        self.steps = [key for key in keys if key.endswith(".json")]

    def content(self, key: str) -> bytes:
        found = stores.get(self.mine, key)
        assert found is not None
        return found

    def bit_flip(self) -> None:
        content = bytearray(self.content(self.parts[1]))
        content[len(content) // 2] ^= 1
        stores.put(self.mine, self.parts[1], bytes(content))

    def missing_object(self) -> None:
        stores.delete(self.mine, [self.parts[0]])

    def truncated_part(self) -> None:
        stores.put(self.mine, self.parts[2], self.content(self.parts[2])[:-5])

    def wrong_key(self) -> None:
        other = self.shop.runtime.settings.model_copy(update={"encryption_keys": SecretStr(vault.new_key())})
        object.__setattr__(self.shop.runtime, "vault", runtimes.build(other).vault)

    def gap_in_the_chain(self) -> None:
        stores.delete(self.mine, [self.steps[1]])

    def end_of_the_chain_missing(self) -> None:
        stores.delete(self.mine, [self.steps[2]])

    def older_manifest(self) -> None:
        stores.put(self.mine, self.steps[2], self.content(self.steps[1]))

    def swapped_account(self) -> None:
        theirs = self.content(self.steps[0]).replace(str(self.shop.account_id).encode(), str(UUID(int=7)).encode())
        stores.put(self.mine, self.steps[0], theirs)

    def expired_credentials(self) -> None:
        object.__setattr__(self.shop.runtime, "store", self.bucket.store(prefix="orders-backup", secret="expired"))

    def empty_bucket(self) -> None:
        stores.delete(self.mine, stores.names(self.mine, "archive/"))

    def stale_archive(self) -> None:
        read(self.shop, b'{"id":"never-archived"}', second=9)

    def lost_login(self) -> None:
        stores.delete(self.mine, stores.names(self.mine, "tokens/"))

    def login_that_is_behind(self) -> None:
        """A refresh whose pair reached the database alone."""
        execute(self.shop.runtime.db, "UPDATE account_tokens SET due_at = clock_timestamp()")
        tokens.refresh_due(self.shop.runtime, self.shop.account_id)

    def manifest_on_its_way(self) -> None:
        """A crash between a manifest's intent and its end."""
        statement = "UPDATE archives SET pending_key = :key, pending = '', pending_values = '{}'"
        execute(self.shop.runtime.db, statement, key=shelf.step(self.shop.account_id, 4))


DAMAGES = [name for name in vars(Damages) if not name.startswith("_") and name != "content"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_planted_damage_is_red(safe: Shop, bucket: Bucket, damage: str) -> None:
    getattr(Damages(safe, bucket), damage)()
    report = rehearse(safe.runtime)
    assert not report.ok
    assert [one.account_id for one in report.findings] == [safe.account_id]


def test_a_role_that_may_make_no_databases_is_told(few: Shop) -> None:
    role = f"poor_{few.account_id.hex}"
    execute(few.runtime.db, f"CREATE ROLE {role} LOGIN PASSWORD 'poor' IN ROLE CURRENT_USER")
    url = sa.make_url(few.runtime.settings.database_url).set(username=role, password="poor")
    poor = database.connect(url.render_as_string(hide_password=False))
    with pytest.raises(BackupFailedError, match="CREATEDB"):
        rehearse(replace(few.runtime, db=poor))
    poor.dispose()


def test_accounts_are_rehearsed_one_by_one_and_a_damaged_one_hides_no_other(
    safe: Shop, make_shop: Callable[[int], Shop], bucket: Bucket
) -> None:
    second = make_shop(3)
    second.backfill()
    journaled(safe.runtime)
    keep(safe.runtime)
    Damages(safe, bucket).missing_object()
    report = rehearse(safe.runtime)
    assert [one.account_id for one in report.findings] == [safe.account_id]
    assert report.versions == 3
