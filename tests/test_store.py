"""Object storage over a real S3 protocol: what is put is there whole, and every failure is one of ours."""

from collections.abc import Iterator

import pytest
from tests.storage import Bucket, bucket

from orders_backup import store
from orders_backup.errors import LeaseLostError, StorageUnavailableError
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


# Much at once


def test_a_stream_is_stored_whole_and_read_back_in_chunks(bucket: Bucket) -> None:
    mine = bucket.store(prefix="mine")
    content = [bytes([number]) * 1_000_000 for number in range(30)]
    store.put_stream(mine, "big/file", iter(content))
    assert store.size(mine, "big/file") == 30_000_000
    found = store.get_stream(mine, "big/file")
    assert found is not None
    chunks = list(found)
    assert len(chunks) > 10
    assert b"".join(chunks) == b"".join(content)
    assert store.names(bucket.store(), "mine/big/") == ["mine/big/file"]


@pytest.mark.parametrize("goes_away", [False, True])
def test_a_stream_that_breaks_off_leaves_no_object_and_comes_through(bucket: Bucket, goes_away: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 1_000_000
        if goes_away:
            bucket.stop()
        raise LeaseLostError("ours")

    mine = bucket.store()
    with pytest.raises(LeaseLostError, match="ours"):
        store.put_stream(mine, "big/file", chunks())
    if goes_away:
        bucket.start()
    assert store.size(mine, "big/file") is None
    assert store.names(mine, "big/") == []


def test_what_is_not_there_has_no_size_and_is_deleted_in_peace(bucket: Bucket) -> None:
    mine = bucket.store()
    store.put(mine, "a/1", b"one")
    assert (store.size(mine, "a/1"), store.size(mine, "a/2"), store.get_stream(mine, "a/2")) == (3, None, None)
    store.delete(mine, ["a/1", "a/2"])
    assert store.names(mine, "a/") == []


def test_transfers_fail_alike_where_the_server_is_away(bucket: Bucket) -> None:
    mine = bucket.store()
    bucket.stop()
    for ask in (
        lambda: store.put_stream(mine, "k", iter([b"x"])),
        lambda: store.get_stream(mine, "k"),
        lambda: store.size(mine, "k"),
        lambda: store.delete(mine, ["k"]),
    ):
        with pytest.raises(StorageUnavailableError) as refused:
            ask()
        assert len(str(refused.value)) < 100
