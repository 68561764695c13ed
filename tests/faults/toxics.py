"""The illnesses of a link: slow, cut, silent, refused. Each is lifted without a trace, except what it broke."""

import asyncio
import contextlib
import threading

from .proxy import Connection, Direction, Link, SeveredError, Toxic, drop_packets, jittered, keep_packets


class Watch(Toxic):
    """Does nothing; `seen` is set when bytes that hold `pattern` went up."""

    def __init__(self, pattern: bytes = b"") -> None:
        super().__init__()
        self.pattern, self.seen = pattern, threading.Event()

    async def treat(self, connection: Connection, direction: Direction, chunk: bytes) -> bytes:  # noqa: ARG002
        if direction == "up" and self.pattern in chunk:
            self.seen.set()
        return chunk


class Latency(Toxic):
    """Whatever goes either way comes `seconds` later, a little more or less."""

    def __init__(self, seconds: float, jitter: float) -> None:
        super().__init__()
        self.seconds, self.jitter = seconds, jitter

    async def treat(self, connection: Connection, direction: Direction, chunk: bytes) -> bytes:  # noqa: ARG002
        self.hits += 1
        await asyncio.sleep(jittered(self.seconds, self.jitter))
        return chunk


class Drip(Toxic):
    """Answers come in drops of `size` bytes, ten in a second."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    async def treat(self, connection: Connection, direction: Direction, chunk: bytes) -> bytes:
        if direction == "up":
            return chunk
        self.hits += 1
        while len(chunk) > self.size and self.size:
            connection.client.write(chunk[: self.size])
            chunk = chunk[self.size :]
            await asyncio.sleep(0.1)
        return chunk

    async def end(self, link: Link) -> None:  # noqa: ARG002
        self.size = 0


class Reset(Toxic):
    """Every connection is reset, and every new one with its first bytes."""

    async def begin(self, link: Link) -> None:
        self.hits += link.sever()

    async def treat(self, connection: Connection, direction: Direction, chunk: bytes) -> bytes:  # noqa: ARG002
        self.hits += 1
        raise SeveredError(reset=True)


class Cut(Toxic):
    """A request that holds `pattern` resets its connection: before it reached the server, or, `answered`, when its
    answer is on the way back. So often as `times`."""

    def __init__(self, pattern: bytes = b"", *, answered: bool, times: int = 1) -> None:
        super().__init__()
        self.pattern, self.answered, self.times = pattern, answered, times
        self._asked: set[Connection] = set()

    async def treat(self, connection: Connection, direction: Direction, chunk: bytes) -> bytes:
        if direction == "down":
            if connection not in self._asked:
                return chunk
        elif self.hits >= self.times or self.pattern not in chunk:
            return chunk
        elif self.answered:
            self._asked.add(connection)
            return chunk
        if self.hits >= self.times:
            return chunk
        self.hits += 1
        raise SeveredError(reset=True)


class Truncation(Toxic):
    """Of an answer only `keep` bytes arrive, then an orderly end. So often as `times`."""

    def __init__(self, keep: int, *, times: int = 1) -> None:
        super().__init__()
        self.keep, self.times = keep, times
        self._left: dict[Connection, int] = {}

    async def treat(self, connection: Connection, direction: Direction, chunk: bytes) -> bytes:
        if direction == "up":
            if self.hits < self.times:
                self._left[connection] = self.keep
            return chunk
        if connection not in self._left or self.hits >= self.times:
            return chunk
        left = self._left[connection]
        if len(chunk) <= left:
            self._left[connection] = left - len(chunk)
            return chunk
        self.hits += 1
        connection.client.write(chunk[:left])
        with contextlib.suppress(OSError):
            await connection.client.drain()
        raise SeveredError(reset=False)


class HalfOpen(Toxic):
    """Who is connected now never hears of the other again and is not told; new connections are sound."""

    async def begin(self, link: Link) -> None:
        for connection in link.connections:
            if not connection.is_dark:
                connection.darken()
                self.hits += 1


class Partition(Toxic):
    """No packet gets through, not even that of a new connection; when lifted, TCP sends it all again.

    `ways`: "up" loses what the clients send, "down" keeps the answers back.
    """

    def __init__(self, *ways: Direction) -> None:
        super().__init__()
        self.ways = ways or ("up", "down")
        self._lifted = asyncio.Event()

    async def begin(self, link: Link) -> None:
        if "up" in self.ways:
            for raw in self._sockets(link):
                drop_packets(raw)
                self.hits += 1

    async def end(self, link: Link) -> None:
        self._lifted.set()
        if "up" in self.ways:
            for raw in self._sockets(link):
                keep_packets(raw)

    async def treat(self, connection: Connection, direction: Direction, chunk: bytes) -> bytes:  # noqa: ARG002
        if direction in self.ways:
            self.hits += 1
            await self._lifted.wait()
        return chunk

    def _sockets(self, link: Link) -> "list[object]":
        sound = [one for one in link.connections if not one.is_dark]
        return [*link.listening(), *(one.client.get_extra_info("socket") for one in sound)]


class Refusal(Toxic):
    """Who is connected is reset, and nobody listens."""

    async def begin(self, link: Link) -> None:
        await link.refuse()
        self.hits += link.sever() or 1

    async def end(self, link: Link) -> None:
        await link.listen()
