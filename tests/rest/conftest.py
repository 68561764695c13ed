"""A REST API that is served over a real socket, and verbs that fill the archive behind it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI

from orders_backup import access, api
from orders_backup import db as database
from orders_backup.allegro import answers, wire
from orders_backup.orders import archive, changes, extras
from orders_backup.runtime import Runtime
from orders_backup.tables import accounts
from orders_backup.webhooks import endpoints, replay, sign

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class World:
    """A running API with its archive. Requests go to `ask`, a client with an unbound key that may do everything."""

    runtime: Runtime
    url: str
    stack: ExitStack
    app: FastAPI
    user: UUID = field(default_factory=uuid4)
    sellers: int = 0

    def __post_init__(self) -> None:
        self.ask = self.client(self.key())

    def key(self, *scopes: str, user: UUID | None = None) -> str:
        with database.transaction(self.runtime.db) as tx:
            return access.create_key(tx, name="test", scopes=scopes or access.SCOPES, user_id=user)

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"X-API-Key": key} if key else {}
        return self.stack.enter_context(
            httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=30, verify=answers.trust())
        )

    def account(self, user: UUID | None = None, *, status: str = "active") -> UUID:
        """One more connected seller."""
        self.sellers += 1
        account_id = uuid4()
        row = {"id": account_id, "user_id": user or self.user, "name": f"shop {self.sellers}", "status": status}
        with database.transaction(self.runtime.db) as tx:
            tx.execute(sa.insert(accounts).values(**row, seller_id=str(self.sellers)))
        return account_id

    def read(self, account_id: UUID, *bodies: bytes, at: datetime = START) -> None:
        """Archives what Allegro answered to requests that were sent at `at`."""
        readings = [changes.read(at, body) for body in bodies]
        with database.transaction(self.runtime.db) as tx:
            archive.record(tx, self.runtime.codec, account_id, readings, cause="test")

    def beside(self, account_id: UUID, kind: str, document_id: str, order_id: str, body: bytes) -> None:
        """Archives a document that belongs to an order."""
        with database.transaction(self.runtime.db) as tx:
            found = extras.document(kind, document_id, order_id, START, body, found=True)
            extras.record(tx, self.runtime.codec, account_id, [found])

    def happened(self, account_id: UUID, *bodies: bytes) -> None:
        """Archives events of Allegro's journal."""
        page = b'{"events":[' + b",".join(bodies) + b"]}"
        with database.transaction(self.runtime.db) as tx:
            archive.record_events(tx, self.runtime.codec, account_id, wire.event_page(page))

    def webhook(self) -> tuple[UUID, str]:
        """An endpoint of the user with a test that waits to be sent; the ids of both."""
        options: Any = {"description": "", "event_types": [], "account_ids": [], "content": "thin"}
        with database.transaction(self.runtime.db) as tx:
            made, _ = endpoints.make(
                tx, self.runtime.vault, user_id=self.user, url="https://example.com/hook", **options
            )
            return made, sign.message_id(made, replay.test(tx, made))

    def pages(self, path: str, **params: str | int) -> Iterator[httpx.Response]:
        """Every page of a list, one after the other."""
        cursor: str | None = None
        while True:
            answer = self.ask.get(path, params={**params, **({"cursor": cursor} if cursor else {})})
            assert answer.status_code == 200, answer.text
            yield answer
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return

    def execute(self, statement: str, **values: object) -> None:
        with database.transaction(self.runtime.db) as tx:
            tx.execute(sa.text(statement), values)


@pytest.fixture
def world(runtime: Runtime) -> Iterator[World]:
    listener = socket.create_server(("127.0.0.1", 0))
    app = api.create_app(runtime)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    with ExitStack() as stack:
        yield World(runtime, f"http://127.0.0.1:{listener.getsockname()[1]}", stack, app)
    server.should_exit = True
    thread.join()
    listener.close()
