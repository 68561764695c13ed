"""A small HTTP/1.1 server for a world: keep-alive, faults done for real on the socket; no routing."""

import asyncio
import random
import re
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

from allegro_simulator.http import Request, Response
from allegro_simulator.world import World

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_RESET = struct.pack("ii", 1, 0)
_LONGEST_HEAD = 64 * 1024
_NONSENSE = Response(400, [("content-type", "text/plain")], b"This is not a request.\n")


class _Connection(asyncio.Protocol):
    """One client connection; requests are answered one after another."""

    def __init__(self, world: World, open_ones: set["_Connection"]) -> None:
        self._world = world
        self._open = open_ones
        self._buffer = bytearray()
        self._busy = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type
        self.transport = transport
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._open.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        """Answer what is complete in the buffer, unless a slow answer is still on its way."""
        while not self._busy and not self.transport.is_closing():
            try:
                taken = _taken(self._buffer)
            except ValueError:
                self._send(_NONSENSE, close=True)
                return
            if taken is None:
                return
            request, close = taken
            response = self._world.handle(request)
            if response.fault is not None and response.fault.kind == "slow":
                self._busy = True
                later = partial(self._late, response, close=close)
                asyncio.get_running_loop().call_later(response.fault.seconds, later)
                return
            self._send(response, close=close)

    def _late(self, response: Response, *, close: bool) -> None:
        self._busy = False
        if not self.transport.is_closing():
            self._send(response, close=close)
            self._go_on()

    def _send(self, response: Response, *, close: bool) -> None:
        fault = response.fault
        if fault is not None and fault.kind == "reset":
            self._reset()
            return
        self.transport.write(_head(response, close=close))
        if fault is not None and fault.kind == "truncated":
            self.transport.write(response.body[: int(len(response.body) * fault.keep)])
            self.transport.close()
            return
        if response.body:
            self.transport.write(response.body)
        if close:
            self.transport.close()

    def _reset(self) -> None:
        """Tear the connection down so that the client sees a reset."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


def _taken(buffer: bytearray) -> tuple[Request, bool] | None:
    """The first complete request of the buffer, taken out of it, and whether to close after it.

    None while it is not complete; ValueError where it never will be. Chunked bodies are not understood.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > _LONGEST_HEAD:
            raise ValueError("the head does not end")
        return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if not re.fullmatch(r"[A-Z]+ /\S* HTTP/1\.[01]", first) or "transfer-encoding" in headers:
        raise ValueError("no request that is understood")
    length = int(headers.get("content-length") or 0)
    if len(buffer) < end + 4 + length:
        return None
    body = bytes(buffer[end + 4 : end + 4 + length])
    del buffer[: end + 4 + length]
    method, _, rest = first.partition(" ")
    target, _, version = rest.rpartition(" ")
    path, _, query = target.partition("?")
    asked = parse_qsl(query, keep_blank_values=True)
    close = headers.get("connection", "").lower() == "close" or version == "HTTP/1.0"
    return Request(method, unquote(path), asked, headers, body), close


def _head(response: Response, *, close: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines.append(f"date: {formatdate(usegmt=True)}")
    lines.append(f"content-length: {len(response.body)}")
    if close:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def serve(
    world: World,
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    live: float = 0.0,
    started: Callable[[str], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set. `live` things per minute happen by themselves; `started` gets the base URL."""
    stop = stop or asyncio.Event()
    connections: set[_Connection] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(world, connections), host, port, backlog=1_024)
    world.base_url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    living = asyncio.create_task(_live(world, live)) if live > 0 else None
    started(world.base_url)
    try:
        await stop.wait()
    finally:
        if living:
            living.cancel()
        server.close()
        for connection in list(connections):
            connection.transport.abort()
        await server.wait_closed()


async def _live(world: World, rate: float) -> None:
    draw = random.Random(0)
    while True:
        await asyncio.sleep(60 / rate)
        if sellers := world.sellers:
            world.happens(draw.choice(sellers).id)


async def serve_until_signal(
    world: World, *, host: str, port: int, live: float, started: Callable[[str], None]
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(world, host=host, port=port, live=live, started=started, stop=stop)


@contextmanager
def running(world: World, port: int = 0, *, host: str = "127.0.0.1", live: float = 0.0) -> Iterator[str]:
    """Serve in a thread of its own; yields the base URL, which the world then knows too."""
    ready = threading.Event()
    told: dict[str, BaseException] = {}
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def started(_: str) -> None:
        ready.set()

    def run() -> None:
        try:
            loop.run_until_complete(serve(world, host=host, port=port, live=live, started=started, stop=stop))
        except OSError as error:
            told["error"] = error
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="allegro-simulator", daemon=True)
    thread.start()
    ready.wait()
    if "error" in told:
        raise told["error"]
    try:
        yield world.base_url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
