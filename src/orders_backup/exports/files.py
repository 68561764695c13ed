"""The files of a finished export, read back and checked on the way."""

import hashlib
from collections.abc import Iterator, Sequence

from orders_backup.errors import StorageUnavailableError
from orders_backup.exports import shelf
from orders_backup.exports.state import Export, Part
from orders_backup.runtime import Runtime


def content(runtime: Runtime, export: Export, parts: Sequence[Part]) -> Iterator[bytes]:
    """These files one behind the other. Raises StorageUnavailableError: before the first byte where the first file
    is not there, and before the last byte of a file that is not what was stored."""
    where = export.stored_in or "disk"
    first = shelf.read(runtime, where, export.export_id, parts[0].name)

    def chunks() -> Iterator[bytes]:
        yield from _checked(first, parts[0])
        for part in parts[1:]:
            yield from _checked(shelf.read(runtime, where, export.export_id, part.name), part)

    return chunks()


def manifest(runtime: Runtime, export: Export) -> Iterator[bytes]:
    """The manifest as it was stored."""
    return shelf.read(runtime, export.stored_in or "disk", export.export_id, shelf.MANIFEST)


def _checked(chunks: Iterator[bytes], part: Part) -> Iterator[bytes]:
    """A chunk behind: the last one is handed on only when the whole was right."""
    digest, held = hashlib.sha256(), b""
    for chunk in chunks:
        yield held
        digest.update(chunk)
        held = chunk
    if digest.hexdigest() != part.sha256:
        raise StorageUnavailableError(f"The file {part.name} was changed since it was stored.")
    yield held
