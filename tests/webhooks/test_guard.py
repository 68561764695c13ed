"""No webhook ever connects to anything but a public address: 100 addresses and tricks, and a canary nobody touches."""

import socket
import ssl
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpcore
import pytest

from orders_backup.errors import InvalidRequestError, WebhookTargetError
from orders_backup.webhooks import guard
from orders_backup.webhooks.sender import Sender

if TYPE_CHECKING:
    from .conftest import House, Receiver

NOBODY: frozenset[str] = frozenset()
PUBLIC = "93.184.216.34"

FORBIDDEN = [
    *(
        "127.0.0.1",
        "127.1.2.3",
        "127.255.255.254",
        "0.0.0.0",  # noqa: S104
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
    ),
    *("172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255", "169.254.169.254", "169.254.0.1"),
    *("100.64.0.1", "100.127.255.255", "100.100.100.200", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.31.196.1", "192.52.193.1", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:93.184.216.34"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "100::1"),
    *("2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1", "5f00::1"),
    *("fc00::1", "fd00:ec2::254", "fd12:3456:789a::1", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "ff0e::1"),
    *("2620:4f:8000::1", "4000::1", "::ffff:0:127.0.0.1", "2606:4700::1%lo", "", "localhost", "127.1", "0x7f000001"),
]
"""As a resolver may give them, those among them that Python calls global included."""

ALLOWED = ["93.184.216.34", "8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1"]
ALLOWED += ["198.17.255.255", "198.20.0.1", "223.255.255.255", "2606:4700::6810:84e5", "2a00:1450:4001::1"]

TRICKS = [
    *("http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com:443/_x"),
    *("https://localhost/", "https://localhost./", "https://LOCALHOST/", "https://127.0.0.1/", "https://127.1/"),
    *(
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
    ),
    *(
        "https://127.0.0.1./",
        "https://127.0.1/",
        "https://0/",
        "https://1/",
        "https://00000000177.1/",
        "https://0x7f.1/",
    ),
    *(
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::1%25lo]/",
    ),
    *("https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[fe80::1]/", "https://[fd00:ec2::254]/"),
    *(
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://100.100.100.200/",
    ),
    *(
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://example.com@127.0.0.1/",
        "https://@example.com/",
    ),
    *("https://127.0.0.1#@example.com/", "https://example.com\\@127.0.0.1/", "https://127.0.0.1\\.example.com/"),
    *("https://example.com:22/", "https://example.com:80/", "https://example.com:6379/", "https://example.com:0/"),
    *(
        "https://example.com:99999/",
        "https://example.com:-1/",
        "https://example.com:44 3/",
        "https:///path",
        "https://",
    ),
    *(
        "//example.com/",
        "example.com",
        "",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: x",
        "https://ex\tample.com/",
    ),
    *(
        "https://①②⑦.⓪.⓪.①/",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://exämple.com/",
        "https://example.com/ü",
    ),
    *(
        "https://intranet/",
        "https://metadata/",
        "https://-example.com/",
        "https://example..com/",
        "https://example.com./",
    ),
    *(
        "https://example.com/#fragment",
        "javascript:alert(1)",
        "https://127.0.0.1.0x7f/",
        "https://" + "a" * 2000 + ".com/",
    ),
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_an_address_that_is_not_of_the_public_internet_is_not_connected_to(
    address: str, canary: tuple[int, list[object]]
) -> None:
    port, touched = canary
    assert not guard.is_public(address)
    backend = guard.Pinned(NOBODY, guard.Deadline(), lookup=lambda _host, _port: [address])
    with pytest.raises(WebhookTargetError):
        backend.connect_tcp("hooks.example", port, timeout=1)
    with pytest.raises(WebhookTargetError):  # nor where a good one is named beside it
        guard.Pinned(NOBODY, guard.Deadline(), lookup=lambda *_: [PUBLIC, address]).connect_tcp("hooks.example", port)
    assert touched == []


def test_there_are_at_least_sixty_of_them() -> None:
    assert len(set(FORBIDDEN)) >= 60
    assert len(set(TRICKS)) >= 60


@pytest.mark.parametrize("address", ALLOWED)
def test_public_addresses_pass(address: str) -> None:
    assert guard.is_public(address)


@pytest.mark.parametrize("url", TRICKS)
def test_an_address_that_plays_tricks_is_refused_when_it_is_given(url: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^url: "):
        guard.target(url, NOBODY)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?x=1&y=%20",
        "https://example.com:8443/",
        "https://sub.xn--exmple-cua.com/",
        "https://xn--bcher-kva.example/",
        "https://xn--a.com/",
        "https://93.184.216.34/",
        "https://[2606:4700::6810:84e5]:8443/x",
    ],
)
def test_an_honest_address_is_taken_apart_as_it_is(url: str) -> None:
    found = guard.target(url, NOBODY)
    assert f"{found.scheme}://{found.authority}{found.path.decode()}" == url


HOSTS = [
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0x7f.1",
    "localhost",
    "127.0.0.1",
    "::1",
    "0",
    "::ffff:127.0.0.1",
]


@pytest.mark.parametrize("host", HOSTS)
def test_whatever_the_machines_own_resolver_makes_of_a_host_the_canary_is_not_touched(
    host: str, canary: tuple[int, list[object]]
) -> None:
    """Even where the first check were missing: the address that is connected to is the one that was checked."""
    port, touched = canary
    with Sender(NOBODY, lambda: datetime.now(UTC), most=1, seconds=2) as sender:
        answer = sender.post(guard.Target("http", host, port, b"/"), {}, b"{}")
    assert answer.status is None
    assert touched == []


class Wire(httpcore.NetworkBackend):
    """Notes where somebody wants to connect to, and lets nobody."""

    def __init__(self) -> None:
        self.dialled: list[str] = []

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        self.dialled.append(f"{host}:{port}")
        raise httpcore.ConnectError("nobody is there")


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(canary: tuple[int, list[object]]) -> None:
    """DNS rebinding: public the first time, private every other. It is asked once for each connection."""
    port, touched = canary
    answers = [[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]]
    asked: list[str] = []

    def rebinds(host: str, _port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    wire = Wire()
    with Sender(NOBODY, lambda: datetime.now(UTC), most=1, lookup=rebinds, wire=wire) as sender:
        first = sender.post(guard.Target("http", "rebinds.example", port, b"/"), {}, b"{}")
        assert (wire.dialled, len(asked)) == ([f"{PUBLIC}:{port}"], 1)
        second = sender.post(guard.Target("http", "rebinds.example", port, b"/"), {}, b"{}")
    assert first.error is not None
    assert "not of the public internet" in (second.error or "")
    assert wire.dialled == [f"{PUBLIC}:{port}"]
    assert touched == []


def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, canary: tuple[int, list[object]], receiver: "Receiver"
) -> None:
    port, touched = canary
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    with Sender(frozenset({"127.0.0.1"}), lambda: datetime.now(UTC), most=1) as sender:
        answer = sender.post(guard.Target("http", "127.0.0.1", receiver.port, b"/"), {}, b"{}")
    assert answer.status == 200
    assert touched == []


def test_the_certificate_has_to_be_that_of_the_name_although_an_address_is_dialled() -> None:
    """SNI and the check of the certificate go by the name in the address, never by the number."""
    names: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def greets() -> None:
        held, _ = listener.accept()
        hello = held.recv(4096)
        names.append("hooks.example" if b"hooks.example" in hello else "")
        held.close()

    thread = threading.Thread(target=greets, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    with Sender(
        frozenset({"hooks.example"}), lambda: datetime.now(UTC), most=1, lookup=lambda *_: ["127.0.0.1"]
    ) as sender:
        answer = sender.post(guard.Target("https", "hooks.example", port, b"/"), {}, b"{}")
    thread.join(5)
    listener.close()
    assert answer.status is None
    assert names == ["hooks.example"]
    context: Any = httpcore.default_ssl_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_an_endpoint_whose_host_the_operator_no_longer_vouches_for_gets_nothing(
    house: "House", receiver: "Receiver"
) -> None:
    webhook, _ = house.endpoint(receiver.url)
    house.changes("o")
    object.__setattr__(
        house.runtime, "settings", house.runtime.settings.model_copy(update={"webhook_allowed_hosts": "10.0.0.7:8080"})
    )
    house.deliver(webhook)
    (row,) = house.deliveries(webhook)
    assert row.status == "pending"
    assert "https://" in row.last_error
    assert receiver.connections == 0


@pytest.mark.parametrize(
    ("allowed", "host", "port", "is_free"),
    [
        ("hooks.internal", "hooks.internal", 80, True),
        ("hooks.internal:8080", "hooks.internal", 8080, True),
        ("hooks.internal:8080", "hooks.internal", 80, False),
        ("hooks.internal", "evil.hooks.internal", 80, False),
        ("[::1]:8080", "::1", 8080, True),
        ("", "localhost", 443, False),
    ],
)
def test_the_operator_vouches_for_exactly_what_he_names(allowed: str, host: str, port: int, *, is_free: bool) -> None:
    assert guard.is_allowed(frozenset(filter(None, [allowed])), host, port) is is_free
