"""Somebody who reads the change feed all the while, and a transaction that commits after later ones."""

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup.orders import feed
from orders_backup.orders.feed import START, Position

from . import wires
from .hand import HAND
from .stage import Stage

BYSTANDER = uuid.UUID(int=9)


@dataclass(slots=True)
class Reader:
    """`seen`: every row of the feed by its number, with account, order, version and kinds."""

    stage: Stage
    position: Position = START
    seen: dict[int, tuple[uuid.UUID, str, int, tuple[str, ...]]] = field(default_factory=dict)
    doubled: list[int] = field(default_factory=list)
    slow: Connection | None = None
    slow_until: object = None

    def reads(self) -> None:
        """On from where it was, in small pages."""
        more = True
        while more:
            with wires.quietly(self.stage.engine) as tx:
                tx.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
                changes, self.position, more = feed.page(
                    tx, seen_by=None, account_id=None, after=self.position, limit=5
                )
            for one in changes:
                if one.seq in self.seen:
                    self.doubled.append(one.seq)
                self.seen[one.seq] = (one.account_id, one.order_id, one.version, tuple(one.kinds))

    def overtakes(self) -> None:
        """A transaction takes its place in the feed now and commits only after others have taken later ones."""
        if self.slow is not None:
            self.ends()
            return
        watch, wires.LINE.watch = wires.LINE.watch, wires.Nobody()
        try:
            self._account()
            self.slow = self.stage.engine.connect()
            self.stage.held += 1
            self.slow.execute(sa.text(_CHANGE), {"account": BYSTANDER, "order": f"slow-{len(self.seen)}"})
        finally:
            wires.LINE.watch = watch
        self.slow_until = HAND.now + timedelta(seconds=60)

    def _account(self) -> None:
        with self.stage.engine.begin() as tx:
            tx.execute(sa.text(_ACCOUNT), {"account": BYSTANDER})

    def ends(self) -> None:
        """The slow transaction commits."""
        slow, self.slow = self.slow, None
        if slow is None:
            return
        watch, wires.LINE.watch = wires.LINE.watch, wires.Nobody()
        try:
            with suppress(sa.exc.SQLAlchemyError):
                slow.commit()
            slow.close()
            self.stage.held -= 1
        finally:
            wires.LINE.watch = watch

    def finishes(self) -> None:
        """Reads to the very end; another database's transaction may hold the horizon back for a moment."""
        self.ends()
        for _ in range(500):
            self.reads()
            if len(self.seen) >= self.stage.one("SELECT count(*) FROM order_changes"):
                break
            time.sleep(0.002)
        with wires.quietly(self.stage.engine) as tx:
            tx.execute(sa.text("DELETE FROM accounts WHERE id = :account"), {"account": BYSTANDER})

    def gaps(self) -> list[str]:
        """What the feed showed otherwise than the tables hold it."""
        rows = self.stage.rows("SELECT seq, account_id, order_id, version, kinds FROM order_changes")
        kept = {row.seq: (row.account_id, row.order_id, row.version, tuple(row.kinds)) for row in rows}
        found = [f"I5 the feed showed change {seq} twice" for seq in self.doubled]
        found += [f"I5 the feed never showed change {seq}" for seq in kept.keys() - self.seen.keys()]
        mine = {seq for seq, (account_id, *_) in self.seen.items() if account_id != BYSTANDER}
        return found + [
            f"I5 the feed showed change {seq} of a write that was rolled back" for seq in mine - kept.keys()
        ]


_ACCOUNT = """
    INSERT INTO accounts (id, user_id, name, status) VALUES (:account, :account, 'bystander', 'disconnected')
        ON CONFLICT DO NOTHING
"""
_CHANGE = """
    INSERT INTO order_changes (account_id, order_id, version, kinds, cause)
    VALUES (:account, :order, 1, ARRAY['order.created'], 'event')
"""
