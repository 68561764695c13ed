"""A link between two programs that can be made ill: a TCP proxy on 127.0.0.1 with toxics. Knows no protocol.

Every toxic is put on and lifted while connections are open, and several may be on one link at once. Where packets
have to vanish, a socket filter of the kernel drops them before they are acknowledged, as a cut cable does.
"""

import asyncio
import contextlib
import ctypes
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from orders_backup.local import processes

Direction = Literal["up", "down"]
"""Up: from the client to the server."""
T = TypeVar("T", bound="Toxic")
R = TypeVar("R")

_RESET = struct.pack("ii", 1, 0)
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
"""A classic BPF program of one instruction: return 0, keep nothing of the packet."""
_FILTER = struct.pack("HP", 1, ctypes.addressof(_DROP_ALL))


class SeveredError(Exception):
    """A toxic ends the connection. `reset`: by RST; else by an orderly end."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("severed")
        self.reset = reset


@dataclass(slots=True, eq=False)
class Connection:
    """A client's connection and ours to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_dark: bool = False

    def darken(self) -> None:
        """No packet of either side arrives any more; neither side is told."""
        self.is_dark = True
        for writer in (self.client, self.server):
            drop_packets(writer.get_extra_info("socket"))

    def end(self, *, reset: bool) -> None:
        for writer in (self.client, self.server):
            raw = writer.get_extra_info("socket")
            if reset and raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()


def drop_packets(raw: Any) -> None:
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FILTER)


def keep_packets(raw: Any) -> None:
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


class Toxic:
    """One illness. All methods run in the thread of the links. `hits`: how often it did something to somebody."""

    def __init__(self) -> None:
        self.hits = 0

    async def begin(self, link: "Link") -> None: ...

    async def end(self, link: "Link") -> None: ...

    async def treat(self, connection: Connection, direction: Direction, chunk: bytes) -> bytes:  # noqa: ARG002
        """What goes on in place of `chunk`. Raises SeveredError."""
        return chunk


class Link:
    """One place to connect to in place of the server at `upstream`."""

    def __init__(self, name: str, upstream: int, loop: asyncio.AbstractEventLoop) -> None:
        self.name, self.upstream, self.port = name, upstream, processes.free_port()
        self.toxics: list[Toxic] = []
        self.connections: set[Connection] = set()
        self._loop = loop
        self._server: asyncio.Server | None = None

    @contextmanager
    def under(self, toxic: T) -> Iterator[T]:
        """The toxic works until the block ends."""
        self.put(toxic)
        try:
            yield toxic
        finally:
            self.lift(toxic)

    def put(self, toxic: Toxic) -> None:
        self.toxics.append(toxic)
        self._do(toxic.begin(self))

    def lift(self, toxic: Toxic) -> None:
        self.toxics.remove(toxic)
        self._do(toxic.end(self))

    def open(self) -> None:
        self._do(self.listen())

    def close(self) -> None:
        self._do(self._close())

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def refuse(self) -> None:
        """Nobody listens any more; who is connected stays."""
        if self._server is not None:
            self._server.close()

    def listening(self) -> "list[Any]":
        return list(self._server.sockets) if self._server else []

    def sever(self) -> int:
        """RST to everyone connected; how many these were."""
        connected = [one for one in self.connections if not one.is_dark]
        for one in connected:
            one.end(reset=True)
        return len(connected)

    def _do(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _close(self) -> None:
        await self.refuse()
        for one in list(self.connections):
            one.end(reset=True)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            client.transport.abort()
            return
        connection = Connection(client, server)
        self.connections.add(connection)
        flows = [
            asyncio.create_task(self._pump(connection, "up", reader, server)),
            asyncio.create_task(self._pump(connection, "down", answers, client)),
        ]
        with contextlib.suppress(asyncio.CancelledError):
            _, others = await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
            await asyncio.gather(*flows, return_exceptions=True)
        self.connections.discard(connection)

    async def _pump(
        self, connection: Connection, direction: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        """Until one side ends, or a toxic ends both."""
        try:
            while chunk := await source.read(65_536):
                for toxic in list(self.toxics):
                    chunk = await toxic.treat(connection, direction, chunk) if chunk else chunk
                if connection.is_dark:
                    await asyncio.Event().wait()
                sink.write(chunk)
                await sink.drain()
        except SeveredError as severed:
            connection.end(reset=severed.reset)
        except OSError:
            connection.end(reset=True)
        else:
            connection.end(reset=False)


@dataclass
class Links:
    """All links of a scene, served by one thread."""

    by_name: dict[str, Link] = field(default_factory=dict)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def add(self, name: str, upstream: int) -> Link:
        link = Link(name, upstream, self.loop)
        link.open()
        self.by_name[name] = link
        return link


@contextmanager
def links() -> Iterator[Links]:
    """The thread runs during the block; at its end every connection is reset."""
    made = Links()
    thread = threading.Thread(target=made.loop.run_forever, name="links", daemon=True)
    thread.start()
    try:
        yield made
    finally:
        for link in made.by_name.values():
            link.close()
        asyncio.run_coroutine_threadsafe(_cancel_all(), made.loop).result(timeout=30)
        made.loop.call_soon_threadsafe(made.loop.stop)
        thread.join()
        made.loop.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def jittered(seconds: float, jitter: float) -> float:
    return max(seconds + random.uniform(-jitter, jitter), 0.0)
