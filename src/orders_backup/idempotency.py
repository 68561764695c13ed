"""A request that is sent twice under one Idempotency-Key is done once; the second is told what the first was.

Answers are kept for a day, sealed: some tell a secret. Knows nothing of HTTP; alone writes `idempotent_answers`.
"""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from orders_backup.errors import IdempotencyKeyReusedError, RequestInProgressError
from orders_backup.tables import idempotent_answers
from orders_backup.vault import Vault

KEPT_FOR = timedelta(days=1)
LOCKED_FOR = timedelta(seconds=90)
"""Longer than any request takes; after it a request that a crash left open is done again."""
_FORGOTTEN_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Promise:
    """A request that its caller may repeat."""

    key_id: str
    idempotency_key: str
    fingerprint: bytes


def begin(tx: Connection, vault: Vault, promise: Promise) -> str | None:
    """The answer that the request was given before; None: it has to be done now, and `keep` or `release` follows.

    Raises IdempotencyKeyReusedError for another request under the same key, and RequestInProgressError.
    """
    _forget_old(tx)
    now, table = sa.func.clock_timestamp(), idempotent_answers.c
    row = {
        "key_id": promise.key_id,
        "idempotency_key": promise.idempotency_key,
        "fingerprint": promise.fingerprint,
        "locked_until": now + LOCKED_FOR,
    }
    is_left = (table.fingerprint == promise.fingerprint) & table.answer_sealed.is_(None) & (table.locked_until < now)
    taken = insert(idempotent_answers).values(row)
    taken = taken.on_conflict_do_update(
        index_elements=["key_id", "idempotency_key"], set_={"locked_until": now + LOCKED_FOR}, where=is_left
    )
    if tx.execute(taken.returning(table.key_id)).one_or_none() is not None:
        return None
    found = tx.execute(sa.select(table.fingerprint, table.answer_sealed).where(*_is(promise))).one()
    if found.fingerprint != promise.fingerprint:
        raise IdempotencyKeyReusedError(
            "This Idempotency-Key was sent with another request before; make a new one for each request."
        )
    if found.answer_sealed is None:
        raise RequestInProgressError("The request under this Idempotency-Key is being worked on; ask again soon.")
    return vault.open(found.answer_sealed, *_place(promise))


def keep(tx: Connection, vault: Vault, promise: Promise, answer: str) -> None:
    """This is what every repetition is told from now on."""
    sealed = vault.seal(answer, *_place(promise))
    tx.execute(sa.update(idempotent_answers).where(*_is(promise)).values(answer_sealed=sealed))


def release(tx: Connection, promise: Promise) -> None:
    """The request was refused or failed: it may be sent again under the same key."""
    tx.execute(sa.delete(idempotent_answers).where(*_is(promise), idempotent_answers.c.answer_sealed.is_(None)))


def _forget_old(tx: Connection) -> None:
    """A few of the oldest, so that nobody has to clean up."""
    table = idempotent_answers.c
    key = sa.tuple_(table.key_id, table.idempotency_key)
    old = sa.select(table.key_id, table.idempotency_key).where(table.created_at < sa.func.clock_timestamp() - KEPT_FOR)
    old = old.order_by(table.created_at).limit(_FORGOTTEN_AT_ONCE).with_for_update(skip_locked=True)
    tx.execute(sa.delete(idempotent_answers).where(key.in_(old)))


def _is(promise: Promise) -> list[sa.ColumnElement[bool]]:
    table = idempotent_answers.c
    return [table.key_id == promise.key_id, table.idempotency_key == promise.idempotency_key]


def _place(promise: Promise) -> tuple[str, ...]:
    return "idempotent answer", promise.key_id, promise.idempotency_key
