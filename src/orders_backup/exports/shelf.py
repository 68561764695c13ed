"""Where finished files lie: in the bucket where one is set, else in the data directory. Whole files or none."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

from orders_backup import store as stores
from orders_backup.errors import StorageUnavailableError
from orders_backup.runtime import Runtime
from orders_backup.store import Store

CHUNK_BYTES = 256 * 1024
MANIFEST = "manifest.json"


def place(runtime: Runtime) -> str:
    """Where new files go."""
    return "disk" if runtime.store is None else "s3"


def put(runtime: Runtime, where: str, export_id: UUID, name: str, chunks: Iterator[bytes]) -> None:
    """Stores a file. What `chunks` raises comes through, and no file is there. Raises StorageUnavailableError."""
    if where == "s3":
        stores.put_stream(_store(runtime), _key(export_id, name), chunks)
        return
    try:
        _write(_folder(runtime, export_id), name, chunks)
    except OSError as error:
        raise StorageUnavailableError(f"The data directory takes no file: {error.strerror}.") from None


def put_manifest(runtime: Runtime, where: str, export_id: UUID, content: bytes) -> None:
    """The manifest, which is never replaced: whoever comes second has the same to say."""
    if where == "s3":
        stores.put(_store(runtime), _key(export_id, MANIFEST), content, if_absent=True)
    elif size(runtime, where, export_id, MANIFEST) is None:
        put(runtime, where, export_id, MANIFEST, iter([content]))


def size(runtime: Runtime, where: str, export_id: UUID, name: str) -> int | None:
    """How many bytes a file has; None where there is none."""
    if where == "s3":
        return stores.size(_store(runtime), _key(export_id, name))
    try:
        return (_folder(runtime, export_id) / name).stat().st_size
    except FileNotFoundError:
        return None


def read(runtime: Runtime, where: str, export_id: UUID, name: str) -> Iterator[bytes]:
    """A file's content. Raises StorageUnavailableError, at once where it is not there."""
    if where == "s3":
        found = stores.get_stream(_store(runtime), _key(export_id, name))
    else:
        found = _read(_folder(runtime, export_id) / name)
    if found is None:
        raise StorageUnavailableError(
            "The file of this export is not there: another machine's disk, or removed by hand."
        )
    return found


def clear(runtime: Runtime, where: str, export_id: UUID) -> None:
    """Removes every file of an export, those of tries that failed too."""
    if where == "s3":
        store, folder = _store(runtime), _key(export_id, "")
        stores.delete(store, stores.names(store, folder))
    else:
        shutil.rmtree(_folder(runtime, export_id), ignore_errors=True)


def _store(runtime: Runtime) -> Store:
    if runtime.store is None:
        raise StorageUnavailableError("This export lies in a bucket, and S3_BUCKET is not set any more.")
    return runtime.store


def _key(export_id: UUID, name: str) -> str:
    return f"exports/{export_id}/{name}"


def _folder(runtime: Runtime, export_id: UUID) -> Path:
    return runtime.settings.data_dir / "exports" / str(export_id)


def _write(folder: Path, name: str, chunks: Iterator[bytes]) -> None:
    """Under another name until it is whole and on the disk. Buyers' data: for nobody else on this machine."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{name}.{uuid4().hex}"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / name)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the name, too
        finally:
            os.close(descriptor)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> Iterator[bytes] | None:
    try:
        file = path.open("rb")
    except OSError:
        return None

    def chunks() -> Iterator[bytes]:
        with file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    return chunks()
