"""`python -m bench.webhook_receiver`: an endpoint that costs little, prints its port, and tells at /report what it got.

`/ok/…` answers 200, `/flaky/…` three times in ten 500, `/dead/…` never. Each path is an endpoint of its own.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec


@dataclass
class Seen:
    """What one endpoint accepted: how often, in which order, how long after the change."""

    accepted: int = 0
    refused: int = 0
    repeated: int = 0
    out_of_order: int = 0
    last: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def accept(self, body: bytes) -> None:
        message = msgspec.json.decode(body)
        order, seq = message["data"]["order_id"], message["data"]["seq"]
        before = self.last.get(order, 0)
        self.accepted += 1
        self.repeated += seq == before
        self.out_of_order += seq < before
        self.last[order] = max(seq, before)
        self.seconds.append(time.time() - datetime.fromisoformat(message["timestamp"]).timestamp())


class Endpoint(asyncio.Protocol):
    """Just enough of HTTP/1.1 for clients that keep to it."""

    seen: dict[str, Seen] = {}  # noqa: RUF012 - one process, one receiver
    draw = random.Random(1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            mark = head.lower().find(b"content-length:")
            length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self.answer(head.split(b" ", 2)[1].decode(), body)

    def answer(self, path: str, body: bytes) -> None:
        if path == "/report":
            self.reply(200, msgspec.json.encode({name: told(one) for name, one in self.seen.items()}))
            self.seen.clear()
            return
        one = self.seen.setdefault(path, Seen())
        if path.startswith("/dead"):
            return
        if path.startswith("/flaky") and self.draw.random() < 0.3:
            one.refused += 1
            self.reply(500, b"no")
            return
        if not path.startswith("/bare"):
            one.accept(body)
        self.reply(200, b"ok")

    def reply(self, status: int, body: bytes) -> None:
        self.transport.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


def told(seen: Seen) -> dict[str, object]:
    return {name: getattr(seen, name) for name in ("accepted", "refused", "repeated", "out_of_order", "seconds")}


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
