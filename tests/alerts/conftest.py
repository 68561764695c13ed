"""A watched installation: real receivers as channels, verbs that make things go wrong, and time that passes."""

import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from tests.webhooks.conftest import Receiver, make_receiver

from orders_backup import db as database
from orders_backup import roster
from orders_backup import runtime as runtimes
from orders_backup.alerts import watch
from orders_backup.alerts.rules import Round
from orders_backup.roster import Report
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.tables import accounts, syncs

__all__ = ["make_receiver"]


@dataclass
class Place:
    """A running installation with nothing wrong, watched by rounds that the test asks for."""

    runtime: Runtime
    receivers: list[Receiver]
    sellers: list[UUID] = field(default_factory=list)

    def seller(self, user: UUID | None = None) -> UUID:
        """One more connected account whose journal was just read."""
        account_id = uuid4()
        row = {"id": account_id, "user_id": user or uuid4(), "name": "k4n4r3k shop", "status": "active"}
        with database.transaction(self.runtime.db) as tx:
            now = database.clock(tx)
            tx.execute(sa.insert(accounts).values(**row, seller_id=str(account_id.int), connected_at=now))
            job = {"account_id": account_id, "kind": "journal", "due_at": now + timedelta(days=9)}
            tx.execute(sa.insert(syncs).values(**job, succeeded_at=now))
        self.sellers.append(account_id)
        return account_id

    def loses(self, account_id: UUID) -> None:
        self.change("UPDATE accounts SET status = 'reauthorization_required' WHERE id = :id", id=account_id)

    def reconnects(self, account_id: UUID) -> None:
        self.change("UPDATE accounts SET status = 'active' WHERE id = :id", id=account_id)

    def lives(self) -> None:
        """A scheduler ticks, and a worker answers."""
        with database.transaction(self.runtime.db) as tx:
            watch.begin(tx)
            roster.put(tx, Report("worker", 8, 0.0, 0.0))

    def round(self, kind: Round = "quick", *, is_alive: bool = True) -> None:
        """One round now, whatever the clock says."""
        if is_alive:
            self.lives()
        self.change("UPDATE watches SET due_at = clock_timestamp(), leased_until = NULL WHERE kind = :kind", kind=kind)
        watch.work(self.runtime, kind)

    def rounds(self, number: int, kind: Round = "quick") -> None:
        """So many, a minute after each other."""
        for _ in range(number):
            self.round(kind)
            self.later("1 min")

    def later(self, interval: str) -> None:
        """Time passes for everything that alerts have written down."""
        ago = "CAST(:interval AS interval)"
        columns = ("fired_at", "seen_at", "opened_at", "quiet_since", "recovered_at", "told_at")
        moved = ", ".join(f"{name} = {name} - {ago}" for name in columns)
        self.change(f"UPDATE alerts SET {moved}", interval=interval)
        self.change(f"UPDATE alert_silences SET until = until - {ago}", interval=interval)
        self.change(f"UPDATE alert_channels SET tried_at = tried_at - {ago}", interval=interval)
        self.change(f"UPDATE watches SET began_at = began_at - {ago}, due_at = due_at - {ago}", interval=interval)

    def titles(self, number: int = 0) -> list[str]:
        """What a receiver was told, in order."""
        return [str(one["title"]) for one in self.messages(number)]

    def messages(self, number: int = 0) -> list[dict[str, Any]]:
        return [got.message for got in self.receivers[number].accepted]

    def rows(self, query: str, **values: object) -> list[Any]:
        with database.transaction(self.runtime.db) as tx:
            return list(tx.execute(sa.text(query), values).all())

    def change(self, statement: str, **values: object) -> None:
        with database.transaction(self.runtime.db) as tx:
            tx.execute(sa.text(statement), values)


def with_channels(settings: Settings, *urls: str) -> Runtime:
    return runtimes.build(settings.model_copy(update={"alert_urls": SecretStr(" ".join(urls))}))


@pytest.fixture
def place(settings: Settings, make_receiver: Callable[[], Receiver]) -> Iterator[Place]:
    """Two channels, both healthy."""
    receivers = [make_receiver(), make_receiver()]
    runtime = with_channels(settings, *(f"json://127.0.0.1:{one.port}/s3cr3t-path" for one in receivers))
    found = Place(runtime, receivers)
    found.lives()
    yield found
    runtime.close()


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs to be rid of a mail."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.mails.append(b"".join(lines).decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 well\r\n")
            if word == b"QUIT":
                return


@pytest.fixture
def mailbox() -> Iterator[tuple[int, list[str]]]:
    """A mail server: its port, and the mails that it took."""
    mails: list[str] = []
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mail)
    server.daemon_threads, server.mails = True, mails  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server.server_address[1], mails
    server.shutdown()
    server.server_close()
