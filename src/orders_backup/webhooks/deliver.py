"""A slice of one endpoint's deliveries, from claim to settlement: read the feed, send what is due, write it down.

The coordinator is one thread, which alone talks to the database; the calls are made by up to sixteen more, which belong
to this endpoint alone. No transaction is open while one of them waits. A crash costs nothing: what was not written down
is sent again, under the same id.
"""

import math
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import due, metrics
from orders_backup.codec import Codec
from orders_backup.due import Lease
from orders_backup.errors import InvalidRequestError
from orders_backup.orders import shapes
from orders_backup.runtime import Runtime
from orders_backup.tables import webhooks
from orders_backup.webhooks import endpoints, guard, outbox, schedule, sign
from orders_backup.webhooks.endpoints import Held
from orders_backup.webhooks.outbox import Message, Result
from orders_backup.webhooks.schedule import Answer, Health
from orders_backup.webhooks.sender import Sender

SLICE_SECONDS = 5.0
"""A slice begins nothing new after so long; then it is the next endpoint's turn."""
AT_ONCE = 16
AHEAD = 8
"""Times as much is taken where answers come quickly, so that no thread waits for the database."""
QUICK_SECONDS = 0.2
LOOK_SECONDS = 0.5
GATHER_SECONDS = 0.02

logger = structlog.get_logger()


def deliver(runtime: Runtime, webhook_id: UUID, *, slice_seconds: float = SLICE_SECONDS) -> None:
    """Delivers what is due at the endpoint for a few seconds; nothing where somebody else does, or nothing is due."""
    structlog.contextvars.bind_contextvars(webhook_id=str(webhook_id))
    with database.transaction(runtime.db) as tx:
        lease = due.claim(tx, webhooks, {"webhook_id": webhook_id}, lease=runtime.settings.lease)
    if lease is None:
        return
    runtime.clock.set(lease.now)
    threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
    with Sender(runtime.settings.allowed_webhook_hosts, runtime.clock.now, most=AT_ONCE) as sender:
        try:
            Slice(runtime, lease, webhook_id, sender, threads).work(time.monotonic() + slice_seconds)
        finally:
            threads.shutdown(cancel_futures=True)


@dataclass(slots=True)
class Slice:
    """What is on the way to one endpoint. `flying`: by number; `landed`: what came back and is not yet written
    down; `looked_at`: when the feed was read last, on the monotonic clock."""

    runtime: Runtime
    lease: Lease
    webhook_id: UUID
    sender: Sender
    threads: ThreadPoolExecutor
    flying: dict[int, Message] = field(default_factory=dict)
    landing: "queue.SimpleQueue[tuple[Message, Answer]]" = field(default_factory=queue.SimpleQueue)
    landed: list[tuple[Message, Answer]] = field(default_factory=list)
    looked_at: float = -math.inf

    def work(self, until: float) -> None:
        while True:
            is_over = time.monotonic() >= until or self.runtime.stopping.is_set()
            if not is_over and time.monotonic() - self.looked_at >= LOOK_SECONDS:
                self._look(is_first=self.looked_at < 0)
                self.looked_at = time.monotonic()
            self._turn(is_over=is_over)
            if self.flying:
                self._wait()
            elif is_over or self.looked_at > 0:
                break
        self._settle()

    def _look(self, *, is_first: bool) -> None:
        """One whole pass over what the feed holds now; nothing is sent before its end, which keeps orders in order.

        An open endpoint that has something to be tried with gets nothing more: what it will miss stays in the feed.
        """
        with database.transaction(self.runtime.db) as tx:
            due.fence(tx, self.lease, extend=self.runtime.settings.lease)
            held = endpoints.hold(tx, self.runtime.vault, self.webhook_id)
            due_at = outbox.next_due(tx, self.webhook_id) if held.health.is_open else None
            if not held.wants_news or (due_at is not None and due_at <= held.now):
                return
            seen = outbox.horizon(tx)
            found, after = outbox.fan_out(tx, held.endpoint, seen, after=held.endpoint.cursor, page=outbox.PAGE)
            is_long = after is not None
            if not is_long:
                outbox.let_go(tx, self.webhook_id, found)
        while after is not None:
            with database.transaction(self.runtime.db) as tx:
                due.fence(tx, self.lease, extend=self.runtime.settings.lease)
                _, after = outbox.fan_out(tx, held.endpoint, seen, after=after, page=outbox.PAGE)
        if is_first or is_long:
            with database.transaction(self.runtime.db) as tx:
                due.fence(tx, self.lease, extend=self.runtime.settings.lease)
                outbox.line_up(tx, self.webhook_id)

    def _turn(self, *, is_over: bool) -> None:
        """Writes down what landed and lets fly what is due; both in one transaction."""
        landed, self.landed = self.landed, []
        with database.transaction(self.runtime.db) as tx:
            due.fence(tx, self.lease, extend=self.runtime.settings.lease)
            held = endpoints.hold(tx, self.runtime.vault, self.webhook_id)
            health = self._write_down(tx, held.health, landed)
            limit = 0 if is_over else self._room(held, health, landed=len(landed))
            busy = self.flying.keys() - {message.seq for message, _ in landed}
            messages = outbox.take(tx, self.webhook_id, busy=busy, full=held.is_full, limit=limit) if limit else []
            bodies = [body_of(tx, self.runtime.codec, message, is_full=held.is_full) for message in messages]
        for message, answer in landed:
            del self.flying[message.seq]
            metrics.DELIVERIES.labels("delivered" if answer.is_success else "failed").inc()
            metrics.DELIVERY_SECONDS.observe(answer.seconds)
            ms = round(answer.seconds * 1000, 1)
            logger.info("delivery_attempted", seq=message.seq, status=answer.status, duration_ms=ms)
        tell(held.health, health)
        self._let_fly(held, messages, bodies)

    def _write_down(self, tx: Connection, health: Health, landed: list[tuple[Message, Answer]]) -> Health:
        is_disabled, results, before = health.status == "disabled", [], health
        for message, answer in landed:
            verdict = schedule.judge(answer, message.tries + 1, is_disabled=is_disabled)
            results.append(Result(message, answer, verdict))
            health = schedule.after(health, answer)
        if results:
            outbox.record(tx, self.webhook_id, results, is_spent=not is_disabled)
            said = next((answer.says for _, answer in reversed(landed) if answer.says), None)
            has_success = any(answer.is_success for _, answer in landed)
            endpoints.keep(tx, self.webhook_id, health, last_error=said, has_success=has_success)
        if before.is_open and not health.is_open:
            outbox.hurry(tx, self.webhook_id)
            self.looked_at = -math.inf
        return health

    def _room(self, held: Held, health: Health, *, landed: int) -> int:
        """How many more may fly: none where the endpoint is to be left alone, one at a time where it is open."""
        flying = len(self.flying) - landed
        is_wanted = health.status == "active" or health.reason == "failing"
        if not is_wanted or (health.silent_until is not None and health.silent_until > held.now):
            return 0
        if health.is_open:
            return 1 - min(flying, 1)
        is_quick = health.answer_seconds is not None and health.answer_seconds < QUICK_SECONDS
        return max(AT_ONCE * (AHEAD if is_quick else 1) - flying, 0)

    def _let_fly(self, held: Held, messages: list[Message], bodies: list[bytes]) -> None:
        lines = {message.line for message in self.flying.values()}
        try:
            target = guard.target(held.url, self.runtime.settings.allowed_webhook_hosts) if messages else None
        except InvalidRequestError as error:  # the operator no longer vouches for this host
            target, refusal = None, str(error)
        for message, body in zip(messages, bodies, strict=True):
            if message.line in lines:  # replayed while a later one of its order is on the way
                continue
            self.flying[message.seq] = message
            if target is None:
                self.landing.put((message, Answer(self.runtime.clock.now(), 0.0, error=refusal)))
            else:
                self.threads.submit(self._send, held, target, message, body)

    def _send(self, held: Held, target: guard.Target, message: Message, body: bytes) -> None:
        now = self.runtime.clock.now()
        signed = sign.headers(held.secrets, sign.message_id(self.webhook_id, message.seq), body, now=now)
        self.landing.put((message, self.sender.post(target, signed, body)))

    def _wait(self) -> None:
        """Until something landed, and a moment longer: written down together, many cost what one costs."""
        wait, until = LOOK_SECONDS, time.monotonic() + LOOK_SECONDS
        while len(self.landed) < len(self.flying):
            try:
                self.landed.append(self.landing.get(timeout=max(wait, 0)))
            except queue.Empty:
                return
            until = min(until, time.monotonic() + GATHER_SECONDS) if len(self.landed) == 1 else until
            wait = until - time.monotonic() if len(self.landed) < AT_ONCE else 0

    def _settle(self) -> None:
        with database.transaction(self.runtime.db) as tx:
            due.fence(tx, self.lease, extend=self.runtime.settings.lease)
            held = endpoints.hold(tx, self.runtime.vault, self.webhook_id)
            outbox.prune(tx, self.webhook_id)
            due_at = outbox.next_due(tx, self.webhook_id)
            health = held.health
            if health.status != "active":
                due_at = held.now + schedule.PROBED_EVERY if health.reason == "failing" else None
            elif due_at is not None and health.silent_until is not None:
                due_at = max(due_at, health.silent_until)
            due.settle(tx, self.lease, due_at=due_at, failures=health.failures, last_error=held.last_error)


def body_of(tx: Connection, codec: Codec, message: Message, *, is_full: bool) -> bytes:
    """The JSON that is sent: the same at every attempt. The archived bytes of the order go in as they are."""
    if message.order_id is None:
        data: dict[str, object] = {"sentence": "This is a test; nothing happened to any order."}
    else:
        data = {
            "account_id": message.account_id,
            "user_id": message.user_id,
            "order_id": message.order_id,
            "version": message.version,
            "seq": message.seq,
            "kinds": message.kinds,
            "cause": message.cause,
        }
    if is_full and message.order_id is not None:
        document = None
        if message.document is not None:
            document = shapes.document(codec.decompress(tx, message.dictionary_id, message.document))
        data["order_data"] = document
        missing = "too_large" if message.document is None else "unreadable"
        data["order_data_omitted"] = None if document is not None else missing
    return msgspec.json.encode({"type": message.type, "timestamp": message.occurred_at, "data": data})


def tell(before: Health, now: Health) -> None:
    """The two turns that a person should hear of."""
    if before.status == "active" and now.status == "disabled":
        logger.error("webhook_disabled", reason=now.reason, failures=now.failures)
    if before.status == "disabled" and now.status == "active":
        logger.info("webhook_recovered")
