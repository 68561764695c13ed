"""Object storage: put, get and list under one prefix of one bucket, and its failures in our words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore import exceptions as exc

from orders_backup.errors import OrdersBackupError, StorageUnavailableError

if TYPE_CHECKING:
    from obstore.store import S3Store

CONNECT_WITHIN = timedelta(seconds=2)
ANSWER_WITHIN = timedelta(seconds=4)
"""Whoever waits for an answer may hold the intent of a refresh, which has a minute in all."""
PART_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 256 * 1024
SILENT_FOR = timedelta(seconds=30)
"""Of transfers of many parts: what is sent at once, what is read at once, and after how long of nothing they fail."""


@dataclass(frozen=True, slots=True)
class Store:
    """A bucket and the prefix under which everything of ours lies, empty or ending in a slash."""

    bucket: "S3Store"
    prefix: str


def connect(
    bucket: str,
    *,
    prefix: str = "",
    endpoint_url: str = "",
    region: str = "",
    access_key_id: str = "",
    secret_access_key: str = "",
    session_token: str = "",
) -> Store:
    """A store; nothing is asked yet. What is empty here, the AWS libraries' other ways supply (roles, profiles)."""
    from obstore.store import S3Store  # noqa: PLC0415 - loads a runtime that nobody needs who has no bucket

    given = {
        "endpoint": endpoint_url,
        "region": region,
        "access_key_id": access_key_id,
        "secret_access_key": secret_access_key,
        "session_token": session_token,
    }
    opened = S3Store(
        bucket,
        **{name: value for name, value in given.items() if value},  # type: ignore[arg-type]
        client_options={
            "connect_timeout": CONNECT_WITHIN,
            "timeout": ANSWER_WITHIN,
            "allow_http": endpoint_url.startswith("http://"),
        },
        retry_config={"max_retries": 0, "retry_timeout": ANSWER_WITHIN},
    )
    return Store(opened, f"{prefix.strip('/')}/" if prefix.strip("/") else "")


def put(store: Store, key: str, content: bytes, *, if_absent: bool = False) -> bool:
    """Stores an object whole or not at all. `if_absent`: an object that is there stays, and the answer is False
    (servers that do not know conditions replace it). Raises StorageUnavailableError."""
    try:
        obstore.put(store.bucket, store.prefix + key, content, mode="create" if if_absent else "overwrite")
    except exc.AlreadyExistsError:
        return False
    except (exc.BaseError, OSError, ValueError) as error:
        raise _unavailable(error) from None
    return True


def get(store: Store, key: str) -> bytes | None:
    """The object's content; None where there is none. Raises StorageUnavailableError."""
    try:
        return bytes(obstore.get(store.bucket, store.prefix + key).bytes())
    except (exc.NotFoundError, FileNotFoundError):
        return None
    except (exc.BaseError, OSError, ValueError) as error:
        raise _unavailable(error) from None


def names(store: Store, prefix: str) -> list[str]:
    """The keys in the folder `prefix`, which ends in a slash, sorted. Raises StorageUnavailableError."""
    try:
        found = [one["path"] for page in obstore.list(store.bucket, store.prefix + prefix) for one in page]
    except (exc.BaseError, OSError, ValueError) as error:
        raise _unavailable(error) from None
    return sorted(path.removeprefix(store.prefix) for path in found)


def files(store: Store, prefix: str) -> list[str]:
    """The keys right in the folder `prefix`, which ends in a slash, and in none below it, sorted. Raises
    StorageUnavailableError."""
    try:
        found = obstore.list_with_delimiter(store.bucket, store.prefix + prefix)["objects"]
    except (exc.BaseError, OSError, ValueError) as error:
        raise _unavailable(error) from None
    return sorted(one["path"].removeprefix(store.prefix) for one in found)


def folders(store: Store, prefix: str) -> list[str]:
    """The names of the folders right in the folder `prefix`, which ends in a slash, sorted. Raises
    StorageUnavailableError."""
    try:
        found = obstore.list_with_delimiter(store.bucket, store.prefix + prefix)["common_prefixes"]
    except (exc.BaseError, OSError, ValueError) as error:
        raise _unavailable(error) from None
    return sorted(path.rstrip("/").rpartition("/")[2] for path in found)


# Much at once


def put_stream(store: Store, key: str, chunks: Iterator[bytes]) -> None:
    """Stores an object of any size whole or not at all, holding a few chunks in memory. What `chunks` raises comes
    through, and nothing is stored. Raises StorageUnavailableError."""
    ours: list[OrdersBackupError] = []

    def watched() -> Iterator[bytes]:
        try:
            yield from chunks
        except OrdersBackupError as error:  # giving up what is under way may fail too, and hide it
            ours.append(error)
            raise

    try:
        obstore.put(
            _patient(store),
            store.prefix + key,
            watched(),
            use_multipart=True,
            chunk_size=PART_BYTES,
            max_concurrency=2,
        )
    except (exc.BaseError, OSError, ValueError) as error:
        raise (ours[0] if ours else _unavailable(error)) from None


def put_large(store: Store, key: str, content: bytes) -> None:
    """Stores an object of some megabytes whole or not at all, in one request. Raises StorageUnavailableError."""
    try:
        obstore.put(_patient(store), store.prefix + key, content, use_multipart=False)
    except (exc.BaseError, OSError, ValueError) as error:
        raise _unavailable(error) from None


def get_stream(store: Store, key: str) -> Iterator[bytes] | None:
    """The object's content in chunks, however slowly they are taken; None where there is none. Raises
    StorageUnavailableError, also while it is read."""
    try:
        found = obstore.get(_patient(store), store.prefix + key)
    except (exc.NotFoundError, FileNotFoundError):
        return None
    except (exc.BaseError, OSError, ValueError) as error:
        raise _unavailable(error) from None

    def chunks() -> Iterator[bytes]:
        try:
            for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except (exc.BaseError, OSError, ValueError) as error:
            raise _unavailable(error) from None

    return chunks()


def size(store: Store, key: str) -> int | None:
    """How many bytes the object has; None where there is none. Raises StorageUnavailableError."""
    try:
        return int(obstore.head(store.bucket, store.prefix + key)["size"])
    except (exc.NotFoundError, FileNotFoundError):
        return None
    except (exc.BaseError, OSError, ValueError) as error:
        raise _unavailable(error) from None


def delete(store: Store, keys: list[str]) -> None:
    """Removes objects, whether they are there or not. Raises StorageUnavailableError."""
    for key in keys:
        try:
            obstore.delete(store.bucket, store.prefix + key)
        except (exc.NotFoundError, FileNotFoundError):
            continue
        except (exc.BaseError, OSError, ValueError) as error:
            raise _unavailable(error) from None


def _patient(store: Store) -> "S3Store":
    """The same bucket for transfers that may last: only silence ends them."""
    waits = {"timeout": timedelta(days=1), "read_timeout": SILENT_FOR}
    options = {**(store.bucket.client_options or {}), **waits}
    return type(store.bucket)(config=store.bucket.config, client_options=options)  # type: ignore[arg-type]


def _unavailable(error: Exception) -> StorageUnavailableError:
    """The kind of failure only: the text may hold the address with its signature."""
    return StorageUnavailableError(f"The object storage does not answer: {type(error).__name__}.")
