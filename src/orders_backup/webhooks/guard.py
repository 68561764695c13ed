"""Where webhooks may go: no address but public ones, checked at the moment of connecting and pinned (SSRF).

A name is resolved once for each connection, every address it has is checked, and the connection is made to one of these
very addresses; nobody resolves it a second time. Refused is everything but plain unicast of the public internet.
`ipaddress.is_global` is no help: it lets NAT64, 6to4 and multicast pass, behind which a private address may stand.
"""

import ipaddress
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

import httpcore
import httpx
from httpcore import SOCKET_OPTION

from orders_backup.errors import InvalidRequestError, WebhookTargetError

PORTS = (443, 8443)
LONGEST_URL = 2000

_FORBIDDEN_V4 = [
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # a public address by its number, and the host of every machine at Azure
    )
]
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
"""All that is given out. Outside of it are loopback, mapped and embedded IPv4, NAT64, ULA, link-local, multicast."""
_FORBIDDEN_V6 = [
    ipaddress.IPv6Network(text)
    for text in (
        *("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),  # Teredo, documentation, 6to4
    )
]

_NAME = re.compile(r"(?=.{4,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_USUAL = {"https": 443, "http": 80}
_ASCII = re.compile(r"[!-~]+")
_USER = re.compile(r"[^/?#]*//[^/?#]*@")

Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint's address in the parts that are connected to: one parser for the check and for the call."""

    scheme: str
    host: str
    port: int
    path: bytes

    @property
    def url(self) -> httpcore.URL:
        return httpcore.URL(scheme=self.scheme, host=self.host, port=self.port, target=self.path)

    @property
    def authority(self) -> str:
        """The header `Host`."""
        named = _bracketed(self.host)
        return named if self.port == _USUAL[self.scheme] else f"{named}:{self.port}"


def is_allowed(allowed: frozenset[str], host: str, port: int) -> bool:
    """Whether the operator vouches for this host (or host and port), whatever its address."""
    return host in allowed or f"{_bracketed(host)}:{port}" in allowed


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def target(url: str, allowed: frozenset[str]) -> Target:
    """The address in its parts. Raises InvalidRequestError saying what is wrong with it."""
    if len(url) > LONGEST_URL or not _ASCII.fullmatch(url) or "\\" in url:
        raise InvalidRequestError(f"url: must be at most {LONGEST_URL} characters of ASCII, without spaces.")
    try:
        parsed = httpx.URL(url)
        port = _USUAL.get(parsed.scheme, 0) if parsed.port is None else parsed.port
    except httpx.InvalidURL:
        raise InvalidRequestError("url: is no web address.") from None
    host = parsed.raw_host.decode("ascii").lower()
    if _USER.match(url) or "#" in url:
        raise InvalidRequestError("url: leave out user names, passwords and what follows a #.")
    if parsed.scheme not in {"http", "https"} or not host or not 0 < port < 2**16:
        raise InvalidRequestError("url: must begin with https:// and name a host.")
    if not is_allowed(allowed, host, port):
        _require_public(parsed.scheme, host, port)
    return Target(parsed.scheme, host, port, parsed.raw_path)


def _require_public(scheme: str, host: str, port: int) -> None:
    if scheme != "https" or port not in PORTS:
        ports = " or ".join(str(one) for one in PORTS)
        raise InvalidRequestError(f"url: must begin with https:// and use port {ports}.")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _NAME.fullmatch(host):
            raise InvalidRequestError("url: needs a public name with a dot in it, or a plain IP address.") from None
        return
    if not is_public(str(address)):
        raise InvalidRequestError("url: this is no address of the public internet.")


def is_public(text: str) -> bool:
    """Whether an address, as a resolver gives it, is plain unicast of the public internet."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _FORBIDDEN_V4)
    return (
        address.scope_id is None and address in _UNICAST_V6 and not any(address in network for network in _FORBIDDEN_V6)
    )


def resolve(host: str, port: int) -> list[str]:
    """Every address of a name, as the machine's resolver tells it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"The name {host} cannot be resolved.") from error
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Deadline(threading.local):
    """Until when the call that this thread makes has to be over, however slowly bytes drip."""

    at: float = float("inf")

    def left(self) -> float:
        """Seconds; never 0, which a socket would take for `do not block`."""
        return max(self.at - time.monotonic(), 0.001)

    @contextmanager
    def of(self, seconds: float) -> Iterator[None]:
        self.at = time.monotonic() + seconds
        try:
            yield
        finally:
            self.at = float("inf")

    @property
    def has_passed(self) -> bool:
        return time.monotonic() >= self.at


class Pinned(httpcore.NetworkBackend):
    """Connects to checked addresses only, and bounds all that is done on the connection by the thread's deadline."""

    def __init__(
        self,
        allowed: frozenset[str],
        deadline: Deadline,
        *,
        lookup: Resolve = resolve,
        wire: httpcore.NetworkBackend | None = None,
    ) -> None:
        self._allowed = allowed
        self._deadline = deadline
        self._lookup = lookup
        self._wire = wire or httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises WebhookTargetError where any address of the name is not public: nobody honest has both kinds."""
        addresses = self._lookup(host, port)
        is_free = is_allowed(self._allowed, host, port)
        if not addresses or not (is_free or all(is_public(one) for one in addresses)):
            raise WebhookTargetError(f"The name {host} leads to an address that is not of the public internet.")
        failed: Exception | None = None
        for address in addresses:
            try:
                bounded = min(self._deadline.left(), timeout or self._deadline.left())
                stream = self._wire.connect_tcp(address, port, bounded, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _Bounded(stream, self._deadline)
        raise failed or httpcore.ConnectError("no address")

    def connect_unix_socket(self, *_: object, **__: object) -> httpcore.NetworkStream:
        """Never: webhooks go over the network."""
        raise WebhookTargetError("Webhooks are not sent to sockets of this machine.")


class _Bounded(httpcore.NetworkStream):
    """A stream of which no step lasts beyond the deadline of the thread that takes it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 – the deadline decides
        if self._deadline.has_passed:
            raise httpcore.ReadTimeout
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        if self._deadline.has_passed:
            raise httpcore.WriteTimeout
        self._stream.write(buffer, self._deadline.left())

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, self._deadline.left()), self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
