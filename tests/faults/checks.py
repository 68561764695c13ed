"""The invariants, asked of a finished database and the simulator's truth. Each yields a sentence per violation."""

import functools
import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
import zstandard
from sqlalchemy.engine import Connection, Row

from allegro_simulator.oauth import Refreshed
from allegro_simulator.world import Truth, World
from orders_backup.sync import reconcile

from . import scale
from .watched import made_at

Key = tuple[str, str]
"""Seller and order."""


class Span(NamedTuple):
    """From the beginning of a fault to its end. `loses`: what was read in it may never have reached the disk."""

    since: datetime
    until: datetime
    loses: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """What Allegro knows, and when a reading may have been lost on its way to the disk."""

    accounts: dict[str, UUID]
    truth: dict[Key, Truth]
    served_events: dict[str, set[str]]
    tokens: Sequence[Refreshed]
    lossy: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Version:
    """One stored version; `body` is None where it cannot be opened."""

    number: int
    read_at: datetime
    size: int
    sha256: str
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Archive:
    """What we kept, versions in the order of reading."""

    heads: "dict[Key, Row[Any]]"
    versions: dict[Key, list[Version]]


def violations(tx: Connection, evidence: Evidence) -> list[str]:
    """Every broken promise, each beginning with the name of its invariant; empty when all hold."""
    kept = _archive(tx, evidence)
    return [
        *_lost(evidence, kept),
        *_doubled(tx, evidence, kept),
        *_skipped(tx, evidence),
        *_unfounded(kept),
        *_tokens(tx, evidence),
        *_runs(tx),
        *_unsettled(tx),
        *_unproven(tx, evidence),
    ]


def at_any_moment(tx: Connection) -> Iterator[str]:
    """What must hold while work is under way and faults go on."""
    query = """
        SELECT order_id, version FROM (SELECT order_id, version, sha256, lag(sha256) OVER each AS before
                                         FROM order_versions WINDOW each AS (PARTITION BY account_id, order_id
                                                                             ORDER BY read_at, version)) AS v
         WHERE sha256 = before
    """
    for row in tx.execute(sa.text(query)):
        yield f"I2 {row.order_id} has version {row.version} twice in a row"
    for row in tx.execute(sa.text("SELECT name, status, reason FROM accounts WHERE status <> 'active'")):
        yield f"I6 {row.name} is {row.status} ({row.reason})"
    query = "SELECT id FROM sync_history WHERE listed <> inserted + updated + unchanged + set_aside + gone"
    for row in tx.execute(sa.text(query)):
        yield f"runs: {row.id} does not add up"


def limits(world: World, silences: Sequence[tuple[float, float]]) -> Iterator[str]:
    """I7: never more calls than the limit in any minute, and none while Allegro wants silence.

    `silences`: when each began, and its seconds. Refreshes may break one: a login would be lost else.
    """
    if (worst := world.worst_window(60)) > scale.CLIENT_LIMIT:
        yield f"I7 {worst} calls in a minute, and the limit is {scale.CLIENT_LIMIT}"
    if world.blocked_calls:
        yield f"I7 {world.blocked_calls} calls were made while the client id was blocked"
    calls = world.calls
    for began, seconds in silences:
        inside = [one for one in calls if began + scale.PERMITS_LAST < one.at < began + seconds and one.seller_id]
        if inside:
            late = max(one.at for one in inside) - began
            yield f"I7 {len(inside)} calls in a silence of {seconds} s, the last after {late:.1f} s"


def deaths(words: Iterable[str], broker_back: Sequence[datetime]) -> Iterator[str]:
    """Nobody ends by himself, but for who heard nothing any more soon after his broker was hit: that is how a worker
    whose client library did not come back is replaced.

    `words`: the last ones of each who ended by himself; `broker_back`: when faults of the broker ended.
    """
    for said in words:
        deaf = _DEAF.search(said)
        at = datetime.fromisoformat(deaf[1]) if deaf else None
        if at is None or not any(timedelta(0) < at - end < timedelta(seconds=scale.DEAF_WITHIN) for end in broker_back):
            yield said


_DEAF = re.compile(r'"timestamp":"([^"]+)".*"reason":"deaf"')


def resources(before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    """I9: what a process holds does not grow with the faults it went through."""
    for name, now in after.items():
        grown = now - before[name]
        may = next((most for word, most in _MAY_GROW.items() if name.endswith(word)), 0)
        if grown > may:
            yield f"I9 {name} grew from {before[name]} to {now}"


_MAY_GROW = {
    " MB": scale.MAY_GROW_MB,
    " descriptors": scale.MAY_GROW_DESCRIPTORS,
    " threads": scale.MAY_GROW_THREADS,
    "connections": scale.MAY_GROW_DESCRIPTORS,
}


def leaks(lines: Iterable[str], secrets: Sequence[str]) -> Iterator[str]:
    """I12: no token and no word of a buyer stands in a log. Failures nobody named stand there neither."""
    for line in lines:
        if any(secret in line for secret in secrets):
            yield f"I12 a log holds what is secret: {line[:40]}…"
        if ("task_crashed" in line or line.startswith("Traceback")) and not _DISK_IS_FULL.search(line):
            yield f"logs: a failure that has no name: {line[:600]}"


_DISK_IS_FULL = re.compile("OSError:ENOSPC|DiskFull")


def summary(found: Sequence[str]) -> str:
    """How many of each invariant, and the first few of each."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for one in found:
        by_name[one.split()[0]].append(one)
    return "\n".join(f"{len(some)} x {name}:\n  " + "\n  ".join(some[:5]) for name, some in by_name.items())


def _may_have_been_lost(key: Key, evidence: Evidence) -> bool:
    """Whether somebody was hit while this form lived: it may have been served to him, and was merged away before
    anybody could read it again. No program can keep what it was killed with."""
    successor = evidence.truth[key].superseded_by
    if successor is None:
        return False
    born, merged = made_at(key[1]), made_at(successor)
    return any(born <= span.until and span.since <= merged for span in evidence.lossy if span.loses)


def _archive(tx: Connection, evidence: Evidence) -> Archive:
    sellers = {account: seller for seller, account in evidence.accounts.items()}
    query = """
        SELECT account_id, order_id, version, versions, sha256, read_at, gone_at, projection_lossy,
               order_data::text AS order_data
          FROM orders
    """
    heads = {(sellers[row.account_id], row.order_id): row for row in tx.execute(sa.text(query))}
    dictionaries = {row.id: row.content for row in tx.execute(sa.text("SELECT id, content FROM codec_dictionaries"))}
    versions: dict[Key, list[Version]] = defaultdict(list)
    for row in tx.execute(sa.text("SELECT * FROM order_versions ORDER BY read_at, version")):
        body = _opened(dictionaries.get(row.dictionary_id), row.body)
        one = Version(row.version, row.read_at, row.size, row.sha256.hex(), body)
        versions[sellers[row.account_id], row.order_id].append(one)
    return Archive(heads, versions)


@functools.lru_cache(maxsize=100_000)
def _opened(dictionary: bytes | None, compressed: bytes) -> bytes | None:
    """Done without the product's codec: what the archive holds must be readable with nothing but zstd."""
    try:
        return _decompressor(dictionary).decompress(compressed, max_output_size=10_000_000)
    except zstandard.ZstdError:
        return None


@functools.cache
def _decompressor(dictionary: bytes | None) -> zstandard.ZstdDecompressor:
    known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    return zstandard.ZstdDecompressor(dict_data=known)


@functools.lru_cache(maxsize=100_000)
def _same_document(text: str | None, body: bytes) -> bool:
    try:
        return text is not None and bool(json.loads(text) == json.loads(body))
    except ValueError:
        return False


def _lost(evidence: Evidence, kept: Archive) -> Iterator[str]:
    """I1: whatever was served or is listed is stored, and what is not gone is stored as it is now."""
    for key, truth in evidence.truth.items():
        is_listed = not truth.gone and not truth.hidden
        head = kept.heads.get(key)
        if head is None:
            if is_listed or (truth.served and not _may_have_been_lost(key, evidence)):
                yield f"I1 {key} is {'listed' if is_listed else 'gone but was served'} and is not stored"
        elif is_listed and _newest(kept.versions[key], head) != truth.current:
            yield f"I1 {key}: the newest stored bytes are not what Allegro serves now"
        elif is_listed and head.gone_at is not None:
            yield f"I1 {key} is listed and is stored as gone"
        elif truth.gone and head.gone_at is None:
            yield f"I1 {key} was merged away and is not stored as gone"
    for key in kept.heads.keys() - evidence.truth.keys():
        yield f"I1 {key} is stored and never was"


def _newest(versions: Sequence[Version], head: "Row[Any]") -> bytes | None:
    return next((one.body for one in versions if one.number == head.version), None)


def _doubled(tx: Connection, evidence: Evidence, kept: Archive) -> Iterator[str]:
    """I2: no version twice, none that was not served, in the order of the truth; one 'created' per order."""
    for key, versions in kept.versions.items():
        shas = [one.sha256 for one in versions]
        truth = evidence.truth.get(key)
        if any(one == other for one, other in itertools.pairwise(shas)):
            yield f"I2 {key} has the same version twice in a row"
        if truth is None or not set(shas) <= set(truth.served):
            yield f"I2 {key} has a version that was never served"
        elif not _in_order(shas, truth.versions):
            yield f"I2 {key} has its versions in another order than they came to be"
    query = """
        SELECT o.account_id, o.order_id, count(c.seq) AS times
          FROM orders o LEFT JOIN order_changes c
            ON c.account_id = o.account_id AND c.order_id = o.order_id AND 'order.created' = ANY (c.kinds)
         GROUP BY 1, 2 HAVING count(c.seq) <> 1
    """
    for row in tx.execute(sa.text(query)):
        yield f"I2 {row.order_id} was created {row.times} times according to the journal of changes"


def _in_order(some: Sequence[str], all_of_them: Sequence[str]) -> bool:
    rest = iter(all_of_them)
    return all(one in rest for one in some)


def _skipped(tx: Connection, evidence: Evidence) -> Iterator[str]:
    """I3: every event that was served is stored, once, and its order was read afterwards."""
    for seller_id, served in evidence.served_events.items():
        query = sa.text("SELECT event_id, processed_at FROM order_events WHERE account_id = :account")
        rows = tx.execute(query, {"account": evidence.accounts[seller_id]}).all()
        stored = Counter(row.event_id for row in rows)
        for event_id in sorted(served - stored.keys()):
            yield f"I3 event {event_id} of {seller_id} was served and is not stored"
        for event_id, times in stored.items():
            if times > 1:
                yield f"I3 event {event_id} of {seller_id} is stored {times} times"
        for row in rows:
            if row.processed_at is None:
                yield f"I3 event {row.event_id} of {seller_id} was never followed by a reading"


def _unfounded(kept: Archive) -> Iterator[str]:
    """I4: heads and projections follow from the versions, and the versions' bytes are what their hashes say."""
    for key, versions in kept.versions.items():
        for one in versions:
            if one.body is None or hashlib.sha256(one.body).hexdigest() != one.sha256 or len(one.body) != one.size:
                yield f"I4 {key} version {one.number}: the bytes are not those of the hash"
        if [one.number for one in sorted(versions, key=lambda one: one.number)] != list(range(1, len(versions) + 1)):
            yield f"I4 {key}: the versions are not numbered from 1 on without a gap"
    for key, head in kept.heads.items():
        yield from _unfounded_head(key, head, kept.versions[key])


def _unfounded_head(key: Key, head: "Row[Any]", versions: Sequence[Version]) -> Iterator[str]:
    named = next((one for one in versions if one.number == head.version), None)
    if named is None or named.sha256 != head.sha256.hex():
        yield f"I4 {key}: the head names a version that is not there"
        return
    if head.versions != len(versions):
        yield f"I4 {key}: the head counts {head.versions} versions and there are {len(versions)}"
    if any(one.read_at > head.read_at for one in versions) or versions[-1].number != head.version:
        yield f"I4 {key}: there is a version newer than the head"
    if named.body is not None and (head.projection_lossy or not _same_document(head.order_data, named.body)):
        yield f"I4 {key}: the projection is not that of the newest version"


def _tokens(tx: Connection, evidence: Evidence) -> Iterator[str]:
    """I6: nobody has to connect again; no refresh token was refused, or used again when its grace was nearly over."""
    for row in tx.execute(sa.text("SELECT name, status, reason FROM accounts WHERE status <> 'active'")):
        yield f"I6 {row.name} is {row.status} ({row.reason})"
    used: dict[tuple[str | None, int | None], float] = {}
    for use in evidence.tokens:
        first = used.setdefault((use.seller_id, use.generation), use.at)
        if use.outcome != "ok":
            yield f"I6 a refresh of {use.seller_id}, generation {use.generation}, was answered {use.outcome}"
        elif use.at - first > scale.LATEST_REUSE:
            yield f"I6 generation {use.generation} of {use.seller_id} was used again after {use.at - first:.1f} s"


def _runs(tx: Connection) -> Iterator[str]:
    """Conservation: each run adds up, all runs together made what there is, and none was left behind."""
    query = """
        SELECT h.account_id, bool_and(listed = inserted + updated + unchanged + set_aside + gone) AS adds_up,
               count(*) FILTER (WHERE finished_at IS NULL) AS unfinished, sum(inserted) AS inserted,
               sum(inserted + updated) AS stored, sum(set_aside) AS set_aside,
               (SELECT count(*) FROM orders o WHERE o.account_id = h.account_id) AS orders,
               (SELECT count(*) FROM order_versions v WHERE v.account_id = h.account_id) AS versions
          FROM sync_history h GROUP BY h.account_id
    """
    for row in tx.execute(sa.text(query)):
        if not row.adds_up or row.set_aside:
            yield f"runs of {row.account_id} do not add up"
        if row.unfinished:
            yield f"runs of {row.account_id}: {row.unfinished} were left behind"
        if (row.inserted, row.stored) != (row.orders, row.versions):
            yield f"runs of {row.account_id} counted {row.inserted} and {row.stored}, not {row.orders} {row.versions}"


def _unsettled(tx: Connection) -> Iterator[str]:
    """Nothing is left that somebody claimed and nobody holds, or that somebody began and nobody ended."""
    for table in ("syncs", "account_tokens", "device_flows"):
        allowed = timedelta(seconds=1)
        query = sa.text(f"SELECT * FROM {table} WHERE leased_until < clock_timestamp() - CAST(:allowed AS interval)")
        for row in tx.execute(query, {"allowed": allowed}):
            yield f"leases: {table} of {row.account_id} was claimed until {row.leased_until} and never given back"
    for row in tx.execute(sa.text("SELECT account_id FROM owed_orders")):
        yield f"leases: an order of {row.account_id} is still owed"


def _unproven(tx: Connection, evidence: Evidence) -> Iterator[str]:
    """The certificate says of itself whether it is complete; its numbers must be those of the truth."""
    for seller_id, account_id in evidence.accounts.items():
        certificate = reconcile.certificate(tx, account_id)
        if not certificate.complete:
            yield f"certificate of {seller_id}: {'; '.join(certificate.open_questions)}"
        in_windows = [window for window in certificate.windows if window.listed != window.stored]
        if certificate.missing or in_windows:
            yield f"certificate of {seller_id}: {certificate.missing} missing"
