"""Each toxic as a plain client sees it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .proxy import Link, links
from .toxics import Cut, Drip, HalfOpen, Latency, Partition, Refusal, Reset, Truncation, Watch

PATIENCE = 0.5
"""So long a client waits here for what does not come."""


@pytest.fixture
def received() -> list[bytes]:
    """What reached the server."""
    return []


@pytest.fixture
def link(received: list[bytes]) -> Iterator[Link]:
    """A link to a server that says everything it hears back."""
    with _echo(received) as port, links() as made:
        yield made.add("client→echo", port)


@contextmanager
def _echo(received: list[bytes]) -> Iterator[int]:
    def serve(one: socket.socket) -> None:
        try:
            while heard := one.recv(65_536):
                received.append(heard)
                one.sendall(heard)
        except OSError:
            pass
        finally:
            one.close()

    def accept() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(one,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@contextmanager
def _client(link: Link) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", link.port), timeout=10) as one:
        yield one


def _ask(client: socket.socket, words: bytes = b"hello") -> bytes:
    client.sendall(words)
    heard = b""
    while len(heard) < len(words) and (part := client.recv(65_536)):
        heard += part
    return heard


def _is_silent(client: socket.socket) -> bool:
    client.settimeout(PATIENCE)
    try:
        return client.recv(1) is None
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)


def test_a_sound_link_changes_nothing(link: Link) -> None:
    with _client(link) as client:
        assert _ask(client, b"x" * 300_000) == b"x" * 300_000


def test_a_watch_tells_that_certain_bytes_went_up(link: Link) -> None:
    with _client(link) as client, link.under(Watch(b"COMMIT")) as watch:
        _ask(client, b"BEGIN")
        assert not watch.seen.is_set()

        _ask(client, b"COMMIT")

    assert watch.seen.is_set()


def test_latency_makes_an_answer_late(link: Link) -> None:
    with _client(link) as client, link.under(Latency(0.2, 0.0)):
        began = time.monotonic()
        assert _ask(client) == b"hello"

    assert time.monotonic() - began >= 0.4


def test_a_drip_brings_an_answer_in_drops(link: Link) -> None:
    with _client(link) as client, link.under(Drip(1)):
        began = time.monotonic()
        assert _ask(client) == b"hello"

    assert time.monotonic() - began >= 0.4


def test_a_reset_ends_old_and_new_connections_until_it_is_lifted(link: Link, received: list[bytes]) -> None:
    with _client(link) as old:
        _ask(old)
        received.clear()
        link.put(Reset())
        with pytest.raises(ConnectionResetError):
            old.recv(1)
        with _client(link) as new, pytest.raises(ConnectionResetError):
            _ask(new)
    link.lift(link.toxics[-1])
    assert received == []

    with _client(link) as later:
        assert _ask(later) == b"hello"


@pytest.mark.parametrize("answered", [False, True])
def test_a_cut_loses_the_request_or_only_its_answer(link: Link, received: list[bytes], *, answered: bool) -> None:
    with _client(link) as client, link.under(Cut(b"COMMIT", answered=answered)) as cut:
        assert _ask(client, b"BEGIN") == b"BEGIN"
        with pytest.raises(ConnectionResetError):
            _ask(client, b"COMMIT")
        with _client(link) as other:
            assert _ask(other, b"COMMIT") == b"COMMIT", "only once"

    assert received == ([b"BEGIN", b"COMMIT", b"COMMIT"] if answered else [b"BEGIN", b"COMMIT"])
    assert cut.hits == 1


def test_a_truncated_answer_ends_in_order(link: Link) -> None:
    with _client(link) as client, link.under(Truncation(2)):
        assert _ask(client) == b"he"
        assert client.recv(1) == b""


def test_a_half_open_connection_is_silent_for_ever_and_a_new_one_is_sound(link: Link, received: list[bytes]) -> None:
    with _client(link) as old:
        assert _ask(old) == b"hello"
        with link.under(HalfOpen()), _client(link) as new:
            old.sendall(b"lost")
            assert _is_silent(old)
            assert _ask(new) == b"hello"
        assert _is_silent(old)

    assert b"lost" not in received


def test_bytes_into_a_half_open_connection_are_not_acknowledged(link: Link) -> None:
    with _client(link) as client:
        _ask(client)
        with link.under(HalfOpen()):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
            client.sendall(b"lost")
            with pytest.raises(TimeoutError, match="timed out"):
                client.recv(1)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            with pytest.raises(OSError, match=r"Broken pipe|timed out"):
                client.sendall(b"more")


def test_a_partition_keeps_back_what_was_sent_and_admits_nobody(link: Link, received: list[bytes]) -> None:
    with _client(link) as old:
        with link.under(Partition()):
            old.sendall(b"hello")
            assert _is_silent(old)
            assert received == []
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", link.port), timeout=PATIENCE)

        assert old.recv(5) == b"hello"
        with _client(link) as new:
            assert _ask(new) == b"hello"


def test_a_partition_of_one_way_lets_requests_through_and_keeps_answers_back(link: Link, received: list[bytes]) -> None:
    with _client(link) as client:
        with link.under(Partition("down")):
            client.sendall(b"hello")
            assert _is_silent(client)
            assert received == [b"hello"]

        assert client.recv(5) == b"hello"


def test_a_refusal_lets_nobody_in_until_it_is_lifted(link: Link) -> None:
    with link.under(Refusal()), pytest.raises(ConnectionRefusedError), _client(link):
        pass

    with _client(link) as client:
        assert _ask(client) == b"hello"


def test_toxics_work_together(link: Link) -> None:
    with _client(link) as client, link.under(Latency(0.2, 0.0)), link.under(Truncation(3)):
        began = time.monotonic()
        assert _ask(client) == b"hel"

    assert time.monotonic() - began >= 0.4
