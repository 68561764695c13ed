"""Real receivers on this machine, an archive to be told of, and verbs that deliver."""

import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa

from orders_backup import db as database
from orders_backup import runtime as runtimes
from orders_backup.orders import archive, changes
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings
from orders_backup.tables import accounts, webhooks
from orders_backup.webhooks import deliver, endpoints, outbox, replay

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Got:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.message["data"]
        return found

    @property
    def seq(self) -> int:
        return int(self.data["seq"])


@dataclass
class Reply:
    """What a receiver answers. `after`: seconds it waits before it does."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    after: float = 0.0


OK = Reply()


@dataclass
class Receiver:
    """An HTTP server that keeps what it got. `replies` decides each answer; it may be exchanged at any time."""

    port: int = 0
    got: list[Got] = field(default_factory=list)
    accepted: list[Got] = field(default_factory=list)
    connections: int = 0
    replies: Callable[[Got], Reply] = lambda _got: OK
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answers(self, status: int, body: bytes = b"no", **headers: str) -> None:
        reply = Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        self.replies = lambda _got: reply

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    receiver: Receiver

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no failure of the receiver."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        with self.server.receiver.lock:
            self.server.receiver.connections += 1

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if len(body) < int(self.headers["Content-Length"]):  # the sender died in the middle of it
            return
        got = Got(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        reply = receiver.replies(got)
        with receiver.lock:
            receiver.got.append(got)
            if reply.status < 300:
                receiver.accepted.append(got)
        time.sleep(reply.after)
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def make_receiver() -> Iterator[Callable[[], Receiver]]:
    """Starts one more receiver each time it is called."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(receiving())


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.receiver, receiver.port = receiver, server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield receiver
    server.shutdown()
    server.server_close()


@pytest.fixture
def receiver(make_receiver: Callable[[], Receiver]) -> Receiver:
    return make_receiver()


class _Canary(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.touched.append(self.client_address)  # type: ignore[attr-defined]


@pytest.fixture
def canary() -> Iterator[tuple[int, list[object]]]:
    """A port on which nobody may ever knock, and who did."""
    touched: list[object] = []
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Canary)
    server.daemon_threads, server.touched = True, touched  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server.server_address[1], touched
    server.shutdown()
    server.server_close()


@dataclass
class House:
    """An archive of one user with one account, and endpoints that are told of it."""

    runtime: Runtime
    user: UUID
    account: UUID

    def endpoint(self, url: str, *, user: UUID | None = None, **options: Any) -> tuple[UUID, str]:
        """Makes an endpoint of the user (or of another); its id and its secret."""
        given = {"description": "", "event_types": [], "account_ids": [], "content": "thin", **options}
        with database.transaction(self.runtime.db) as tx:
            return endpoints.make(tx, self.runtime.vault, user_id=user or self.user, url=url, **given)

    def seller(self, user: UUID | None = None) -> UUID:
        return add_account(self.runtime, user or self.user)

    def changes(self, *order_ids: str, account: UUID | None = None, **fields: object) -> None:
        """A new version of each of these orders, in one transaction."""
        now = self.value("SELECT clock_timestamp()")
        bodies = [msgspec.json.encode({"id": one, **fields, "note": str(uuid4())}) for one in order_ids]
        with database.transaction(self.runtime.db) as tx:
            readings = [changes.read(now, body) for body in bodies]
            archive.record(tx, self.runtime.codec, account or self.account, readings, cause="test")

    def deliver(self, webhook_id: UUID, *, seconds: float = 30.0) -> None:
        """One slice, whatever the clock says about the endpoint; ends when nothing is due."""
        self.change(
            "UPDATE webhooks SET due_at = clock_timestamp(), leased_until = NULL WHERE webhook_id = :id", id=webhook_id
        )
        deliver.deliver(self.runtime, webhook_id, slice_seconds=seconds)

    def later(self, webhook_id: UUID, interval: str = "3 days") -> None:
        """Time passes for what waits at the endpoint."""
        self.change(
            f"UPDATE webhook_deliveries SET due_at = due_at - interval '{interval}' WHERE webhook_id = :id",
            id=webhook_id,
        )
        self.change(
            f"UPDATE webhooks SET silent_until = silent_until - interval '{interval}',"
            f" failing_since = failing_since - interval '{interval}' WHERE webhook_id = :id",
            id=webhook_id,
        )

    def test(self, webhook_id: UUID) -> int:
        with database.transaction(self.runtime.db) as tx:
            return replay.test(tx, webhook_id)

    def wake(self) -> list[UUID]:
        """What the tick does: the endpoints that it rings for."""
        with database.transaction(self.runtime.db) as tx:
            outbox.wake(tx)
            return [key["webhook_id"] for key in outbox.ring(tx, slots=8)]

    def deliveries(self, webhook_id: UUID) -> list[Any]:
        return self.rows("SELECT * FROM webhook_deliveries WHERE webhook_id = :id ORDER BY seq", id=webhook_id)

    def row(self, webhook_id: UUID) -> Any:
        query = sa.select(webhooks).where(webhooks.c.webhook_id == webhook_id)
        with database.transaction(self.runtime.db) as tx:
            return tx.execute(query).one()

    def rows(self, query: str, **values: object) -> list[Any]:
        with database.transaction(self.runtime.db) as tx:
            return list(tx.execute(sa.text(query), values).all())

    def value(self, query: str, **values: object) -> Any:
        return self.rows(query, **values)[0][0]

    def change(self, statement: str, **values: object) -> None:
        with database.transaction(self.runtime.db) as tx:
            tx.execute(sa.text(statement), values)


def add_account(runtime: Runtime, user: UUID) -> UUID:
    account = uuid4()
    row = {"id": account, "user_id": user, "name": "shop", "status": "active", "seller_id": account.hex}
    with database.transaction(runtime.db) as tx:
        tx.execute(sa.insert(accounts).values(**row))
    return account


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With receivers on this machine allowed."""
    return settings.model_copy(update={"webhook_allowed_hosts": "127.0.0.1"})


@pytest.fixture
def house(settings: Settings) -> Iterator[House]:
    runtime = runtimes.build(settings)
    user = uuid4()
    yield House(runtime, user, add_account(runtime, user))
    runtime.close()
