"""The log of changes in Allegro's schema: what documents hold that is not known, or lack that was. Writes its table.

Noted in memory while orders are archived, and written later in a transaction of its own: it can neither hold up nor
spoil the archive. What is lost by a crash is found again with the next order of that shape.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Engine

from orders_backup import db as database
from orders_backup.allegro import differences
from orders_backup.allegro.differences import Difference
from orders_backup.errors import DatabaseUnavailableError
from orders_backup.tables import schema_drift

WALKS = 10
"""Documents of one deviation that are looked at closely; after these every …"""
EVERY = 50
"""… so many, which keeps a field that every order has from costing anything."""
SAMPLE = 16
"""Of a mass of documents every so many is looked at: reading one strictly costs a tenth of archiving it."""
DEVIATIONS = 500
"""Deviations remembered; hostile documents could make up any number of them."""
ROWS = 1000
"""Findings kept in the table, for the same reason."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Deviation:
    """Documents that a strict reader refuses with the same words, and what was found in those looked at last."""

    seen: int
    found: list[Difference]


@dataclass(slots=True)
class _Noted:
    """Sightings that are not written yet; an example of them."""

    seen: int
    account_id: UUID
    order_id: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference, how often and when it was seen, and one order that has it. `seen` counts the documents that were
    looked at: all of those that change, one of sixteen while a history is read."""

    path: str
    kind: str
    value: str
    first_seen: datetime
    last_seen: datetime
    seen: int
    example_account_id: UUID | None
    example_order_id: str | None

    @property
    def told(self) -> str:
        """What a person is told of it."""
        return f"{self.first_seen:%Y-%m-%d}  {self.kind}  {self.path} {self.value}  seen {self.seen} times"


class Drift:
    """What this process has seen; one per process, safe among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deviations: dict[str, _Deviation] = {}
        self._noted: dict[Difference, _Noted] = {}
        self._turn = 0

    def see(
        self, document: str, account_id: UUID, bodies: Iterable[tuple[str | None, bytes]], *, sampled: bool = False
    ) -> None:
        """Notes in what these documents, with the ids of their orders, differ from what is known. No I/O."""
        for order_id, body in bodies:
            self._turn += 1
            if sampled and self._turn % SAMPLE:
                continue
            words = differences.stumble(document, body)
            if words is not None:
                with self._lock:
                    self._note(document, words, account_id, order_id, body)

    def _note(self, document: str, words: str, account_id: UUID, order_id: str | None, body: bytes) -> None:
        known = self._deviations.get(words)
        if known is None or known.seen < WALKS or known.seen % EVERY == 0:
            found = differences.differences(document, body)
        else:
            found = known.found
        if known is not None:
            known.seen, known.found = known.seen + 1, found
        elif len(self._deviations) < DEVIATIONS:
            self._deviations[words] = _Deviation(1, found)
        for difference in found:
            noted = self._noted.get(difference)
            if noted is not None:
                noted.seen += 1
            elif len(self._noted) < DEVIATIONS:
                self._noted[difference] = _Noted(1, account_id, order_id)

    def write(self, db: Engine) -> None:
        """Writes what was noted since the last time. Whatever fails, the next time does it."""
        with self._lock:
            noted, self._noted = self._noted, {}
        if not noted:
            return
        try:
            with database.transaction(db) as tx:
                new = _keep(tx, noted)
        except (DatabaseUnavailableError, exc.DBAPIError) as error:
            with self._lock:
                self._noted = noted | self._noted
            log.warning("schema_drift_postponed", error=type(error).__name__)
            return
        for difference in new:
            log.warning("schema_drift_found", path=difference.path, kind=difference.kind)


def findings(tx: Connection, *, seen_by: UUID | None = None) -> list[Finding]:
    """Everything found so far, the newest finding first; `seen_by`: the user whose orders may be named, None: all."""
    table = schema_drift.c
    named = [sa.null(), sa.null()] if seen_by is not None else [table.example_account_id, table.example_order_id]
    query = sa.select(table.path, table.kind, table.value, table.first_seen, table.last_seen, table.seen, *named)
    rows = tx.execute(query.order_by(table.first_seen.desc(), table.path, table.kind, table.value))
    return [Finding(*row) for row in rows]


def _keep(tx: Connection, noted: dict[Difference, _Noted]) -> list[Difference]:
    """Adds up what is known and inserts what is not; these are named."""
    tx.execute(sa.text("SET LOCAL lock_timeout = '2s'"))
    table = schema_drift.c
    room = ROWS - tx.execute(sa.select(sa.func.count()).select_from(schema_drift)).scalar_one()
    new: list[Difference] = []
    for difference, seen in sorted(noted.items(), key=lambda one: (one[0].path, one[0].kind, one[0].value)):
        key = {"path": difference.path, "kind": difference.kind, "value": difference.value}
        if _add(tx, key, seen.seen) or len(new) >= room:
            continue
        example = {"example_account_id": seen.account_id, "example_order_id": seen.order_id}
        statement = insert(schema_drift).values(**key, **example, seen=seen.seen).on_conflict_do_nothing()
        if tx.execute(statement.returning(table.path)).one_or_none() is not None:
            new.append(difference)
    return new


def _add(tx: Connection, key: dict[str, Any], seen: int) -> bool:
    table = schema_drift.c
    statement = sa.update(schema_drift).values(seen=table.seen + seen, last_seen=sa.func.clock_timestamp())
    return tx.execute(statement.where(*(table[name] == value for name, value in key.items()))).rowcount > 0
