"""Object storage over a real S3 protocol: what is put is there whole, and every failure is one of ours."""

import pytest
from tests.storage import Bucket, bucket

from orders_backup import store
from orders_backup.errors import StorageUnavailableError
from orders_backup.store import Store

__all__ = ["bucket"]


def test_what_was_put_is_got_and_listed_under_its_prefix(bucket: Bucket) -> None:
    mine, other = bucket.store(prefix="/mine/and-more/"), bucket.store()
    assert store.put(mine, "tokens/a/1", b"\x00one")
    assert store.put(mine, "tokens/a/2", b"two")
    assert store.put(mine, "tokens/ab/1", b"three")
    assert store.get(mine, "tokens/a/1") == b"\x00one"
    assert store.names(mine, "tokens/a/") == ["tokens/a/1", "tokens/a/2"]
    assert store.names(other, "mine/and-more/tokens/ab/") == ["mine/and-more/tokens/ab/1"]
    assert store.names(other, "tokens/") == []


def test_a_second_put_replaces_the_first(bucket: Bucket) -> None:
    mine = bucket.store()
    store.put(mine, "key", b"first")
    store.put(mine, "key", b"second")
    assert store.get(mine, "key") == b"second"


def test_what_was_never_put_is_none(bucket: Bucket) -> None:
    assert store.get(bucket.store(), "tokens/a/1") is None


def test_more_names_than_fit_on_one_page_are_all_listed(bucket: Bucket) -> None:
    (bucket.folder / "many").mkdir()
    for number in range(1100):
        (bucket.folder / "many" / f"{number:04}").touch()
    assert len(store.names(bucket.store(), "many/")) == 1100


def asks(mine: Store) -> None:
    """Each question fails alike, and no failure tells a secret."""
    for ask in (lambda: store.put(mine, "k", b""), lambda: store.get(mine, "k"), lambda: store.names(mine, "k/")):
        with pytest.raises(StorageUnavailableError) as refused:
            ask()
        assert str(refused.value).startswith("The object storage does not answer: ")
        assert len(str(refused.value)) < 100


def test_a_server_that_is_away_is_one_failure(bucket: Bucket) -> None:
    mine = bucket.store()
    bucket.stop()
    asks(mine)


def test_a_wrong_key_is_one_failure(bucket: Bucket) -> None:
    asks(bucket.store(secret="another"))


def test_a_store_comes_back_by_itself(bucket: Bucket) -> None:
    mine = bucket.store()
    bucket.stop()
    asks(mine)
    bucket.start()
    assert store.put(mine, "k", b"1")
