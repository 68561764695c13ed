"""How bytes may arrive: packed, cut, dripping, endless. Served over a real socket."""

import gzip
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from orders_backup.allegro import answers, client, oauth
from orders_backup.errors import AllegroAnswerError, AllegroUnavailableError, AllegroUnreadableError

MEGABYTE = 1024 * 1024
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = b'{"checkoutForms":[{"id":"a"}],"totalCount":1}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@contextmanager
def served(*parts: bytes | Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """The address of a server that sends these bytes to whoever asks, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                try:
                    for part in parts:
                        for piece in [part] if isinstance(part, bytes) else part():
                            connection.sendall(piece)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def ask(url: str) -> client.OrderPage:
    allegro = client.connect(url, "Tests/1.0 (+https://a.test)", lambda: NOW)
    try:
        return client.orders_updated(allegro, "token", since=NOW, offset=0)
    finally:
        allegro.close()


def sized(body: bytes, *headers: bytes) -> bytes:
    return HEAD + b"".join(header + b"\r\n" for header in headers) + b"content-length: %d\r\n\r\n" % len(body) + body


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
SOUND = {
    "plain": sized(PAGE),
    "until the end": HEAD + b"\r\n" + PAGE,
    "gzip": sized(gzip.compress(PAGE), b"content-encoding: gzip"),
    "x-gzip in capitals": sized(gzip.compress(PAGE), b"Content-Encoding: X-GZIP"),
    "chunks of one byte": CHUNKED + b"".join(chunk(PAGE[n : n + 1]) for n in range(len(PAGE))) + b"0\r\n\r\n",
}
ODD = {
    "too long a content-length": (HEAD + b"content-length: 999\r\n\r\n" + PAGE, AllegroUnavailableError),
    "too short a content-length": (HEAD + b"content-length: 20\r\n\r\n" + PAGE, AllegroUnreadableError),
    "a content-length of words": (HEAD + b"content-length: many\r\n\r\n" + PAGE, AllegroUnavailableError),
    "two content-lengths": (HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n" + PAGE, AllegroUnavailableError),
    "chunks cut off": (CHUNKED + chunk(PAGE[:20]), AllegroUnavailableError),
    "a chunk of no size": (CHUNKED + b"zz\r\n" + PAGE, AllegroUnavailableError),
    "no answer": (b"", AllegroUnavailableError),
    "no http": (b"hello\r\n\r\n", AllegroUnavailableError),
    "gzip cut off": (sized(gzip.compress(PAGE)[:-9], b"content-encoding: gzip"), AllegroAnswerError),
    "gzip spoiled": (sized(gzip.compress(PAGE)[:15] + b"xxxxx", b"content-encoding: gzip"), AllegroAnswerError),
    "deflate": (sized(zlib.compress(PAGE), b"content-encoding: deflate"), AllegroAnswerError),
    "brotli": (sized(PAGE, b"content-encoding: br"), AllegroAnswerError),
    "zstd": (sized(PAGE, b"content-encoding: zstd"), AllegroAnswerError),
    "gzip twice": (sized(gzip.compress(gzip.compress(PAGE)), b"content-encoding: gzip, gzip"), AllegroAnswerError),
}


@pytest.mark.parametrize("answer", SOUND.values(), ids=SOUND)
def test_a_sound_answer_is_read_however_it_is_sent(answer: bytes) -> None:
    with served(answer) as url:
        assert ask(url).orders == [b'{"id":"a"}']


@pytest.mark.parametrize(("answer", "error"), ODD.values(), ids=ODD)
def test_an_odd_answer_is_an_error_known_by_name(answer: bytes, error: type[AllegroUnavailableError]) -> None:
    with served(answer) as url, pytest.raises(AllegroUnavailableError) as failed:
        ask(url)
    assert type(failed.value) is error


def bomb() -> bytes:
    """300 MB of spaces."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(b" " * MEGABYTE) for _ in range(300)) + packer.flush()


def endless() -> Iterator[bytes]:
    for _ in range(200):
        yield chunk(b" " * MEGABYTE)


@pytest.mark.parametrize("how", ["a bomb", "endless", "honest"])
def test_no_answer_takes_more_memory_than_a_few_times_the_largest(how: str) -> None:
    parts: tuple[bytes | Callable[[], Iterator[bytes]], ...] = {
        "a bomb": (sized(bomb(), b"content-encoding: gzip"),),
        "endless": (CHUNKED, endless),
        "honest": (sized(b" " * (answers.LARGEST + 1)),),
    }[how]
    with served(*parts) as url:
        tracemalloc.start()
        with pytest.raises(AllegroUnreadableError, match="larger than 16 MiB") as failed:
            ask(url)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(failed.value.body) == answers.BEGINNING
    assert peak < 4 * answers.LARGEST


def test_the_largest_answer_is_taken() -> None:
    page = PAGE + b" " * (answers.LARGEST - len(PAGE))
    with served(sized(page)) as url:
        assert ask(url).orders == [b'{"id":"a"}']


def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LONGEST_SECONDS", 0.0)
    with served(sized(PAGE)) as url, pytest.raises(AllegroUnavailableError, match="took longer"):
        ask(url)


def test_a_new_pair_of_tokens_that_drips_is_given_up_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "WITHIN", 0.0)
    with served(sized(PAGE)) as url:
        server = oauth.connect(url, "id", "secret", "Tests/1.0")
        with pytest.raises(AllegroUnavailableError, match="took longer"):
            oauth.refresh(server, "token")
        server.close()


def test_a_refusal_with_an_endless_page_is_still_the_refusal() -> None:
    head = b"HTTP/1.1 503 No\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n"
    with served(head, endless) as url, pytest.raises(AllegroUnavailableError) as failed:
        ask(url)
    assert failed.value.http_status == 503


def test_the_authorization_servers_answers_are_bounded_too() -> None:
    with served(sized(bomb(), b"content-encoding: gzip")) as url:
        server = oauth.connect(url, "id", "secret", "Tests/1.0")
        with pytest.raises(AllegroAnswerError):
            oauth.refresh(server, "token")
        server.close()


def test_only_what_can_be_bounded_is_asked_for() -> None:
    allegro = client.connect("http://127.0.0.1:9", "Tests/1.0", lambda: NOW)
    assert allegro.http.headers["accept-encoding"] == "gzip"
    allegro.close()
