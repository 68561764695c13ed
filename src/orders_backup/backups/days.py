"""A day that is over: its steps once more in few files, and the steps removed when those are proven."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from functools import partial

import structlog

from orders_backup import db as database
from orders_backup import store as stores
from orders_backup.backups import manifests, shelf
from orders_backup.backups import run as runs
from orders_backup.backups.manifests import Link, Manifest, Part
from orders_backup.backups.run import Run
from orders_backup.errors import BackupDamagedError, StorageUnavailableError

FILE_RECORDS = 200_000

log = structlog.get_logger()

Source = tuple[Link, Part]


def close(run: Run) -> None:
    """Puts the steps of a day that is over together. Raises BackupDamagedError where one is not as it was stored."""
    row = run.row()
    with database.transaction(run.runtime.db) as tx:
        now = database.clock(tx)
    if row.number == row.days_to or row.made_at is None or row.made_at.astimezone(UTC).date() >= now.date():
        return
    links = _steps(run, row.days_to + 1, row.number, row.head)
    key = shelf.day(run.account_id, links[0].manifest.first)
    sources = [(one, part) for one in links for part in one.manifest.parts]
    parts = [_file(run, shelf.part(key, number), some) for number, some in enumerate(_grouped(sources), start=1)]
    manifest = Manifest(
        account_id=run.account_id,
        first=links[0].manifest.first,
        last=links[-1].manifest.last,
        made_at=now,
        previous=row.days_head,
        account=links[-1].manifest.account,
        counts=dict(sum((Counter(one.manifest.counts) for one in links), Counter())),
        parts=parts,
        day=f"{row.made_at.astimezone(UTC):%Y-%m-%d}",
        last_step=links[-1].sha256,
    )
    content = manifests.encoded(manifest)
    runs.put_manifest(run, key, content, {"days_to": manifest.last, "days_head": manifests.digest(content)})
    _remove(run, manifest)


def _steps(run: Run, first: int, last: int, head: str | None) -> list[Link]:
    """These steps, proven to be a chain that ends in `head`."""
    found = []
    for number in range(first, last + 1):
        content = stores.get(run.store, shelf.step(run.account_id, number))
        if content is None:
            raise BackupDamagedError(f"The manifest of step {number} is missing.")
        found.append(manifests.link(content))
    manifests.require_links(found, before=found[0].manifest.previous, after=first - 1)
    if found[-1].sha256 != head:
        raise BackupDamagedError(f"The manifest of step {last} is not the one that was stored.")
    return found


def _grouped(sources: list[Source]) -> Iterator[list[Source]]:
    group: list[Source] = []
    for one in sources:
        group.append(one)
        if sum(part.records for _, part in group) >= FILE_RECORDS:
            yield group
            group = []
    if group:
        yield group


def _file(run: Run, key: str, sources: list[Source]) -> Part:
    """One file of these; what is in it is unpacked again and compared."""
    digest = hashlib.sha256()

    def content() -> Iterator[bytes]:
        for link, part in sources:
            for chunk in shelf.lines(run.store, shelf.key_of(run.account_id, link, part), part):
                digest.update(chunk)
                run.alive()
                yield chunk

    with tempfile.TemporaryFile() as file:  # the bucket cannot be read while it is written to
        for chunk in shelf.compressed(content()):
            file.write(chunk)
        file.seek(0)
        packed = iter(partial(file.read, shelf.CHUNK_BYTES), b"")
        counted = {"": sum(part.records for _, part in sources)}
        made = shelf.put_packed(run.store, key, packed, counted=counted, alive=run.alive)
    again = hashlib.sha256()
    for chunk in shelf.lines(run.store, key, made):
        again.update(chunk)
        run.alive()
    if again.digest() != digest.digest():
        raise BackupDamagedError(f"The file {made.name} does not hold what was put into it.")
    return made


def _remove(run: Run, manifest: Manifest) -> None:
    """What the day's files hold, too. A bucket that lets nothing be removed keeps it."""
    folder = shelf.step(run.account_id, 0).rpartition("/")[0] + "/"
    keys = [key for key in stores.names(run.store, folder) if manifest.first <= shelf.number(key) <= manifest.last]
    try:
        stores.delete(run.store, keys)
    except StorageUnavailableError as error:
        log.info("archive_removal_refused", account_id=str(run.account_id), files=len(keys), code=error.code)
