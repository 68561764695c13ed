"""The shape of one request and one answer; no routing and no sockets."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names are lower case, the query is decoded and keeps repetitions."""

    method: str
    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Fault:
    """What the adaptor must do to the answer on its way out.

    kind: `reset` (connection torn down, nothing sent), `truncated` (`keep` of the body, 0..1, then
    closed) or `slow` (the answer leaves after `seconds`).
    """

    kind: str
    seconds: float = 0.0
    keep: float = 0.5


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer; `fault` is None when it should simply be sent."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    fault: Fault | None = None
