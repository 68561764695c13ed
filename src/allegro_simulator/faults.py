"""The switch for faults: which request is hit, and what it gets in place of its answer."""

from dataclasses import dataclass, field, replace
from typing import Any

from allegro_simulator import answers
from allegro_simulator.http import Fault, Response

TOKEN_PATH = "/auth/oauth/token"  # noqa: S105 - a path
LIST_PATH = "/order/checkout-forms"
ON_LISTS = frozenset({"wrong_total", "ignored_filter", "shifted_page"})
KINDS = frozenset({"status", "reset", "truncated", "slow", "html", "answer", "lost_token_answer"}) | ON_LISTS


@dataclass(slots=True)
class Planned:
    """A fault that waits for its requests; `times` None means until cleared.

    params: `code`, `body` ("json"|"html"), `variant` ("client"|"resource"), `retry_after` for status;
    `body` (bytes), `code` (200), `content_type` (JSON) and `headers` (pairs) for answer; `seconds` for slow;
    `keep` (0..1) for truncated; `delta` for wrong_total; `names` for ignored_filter; `by` (rows) and `delta` (of
    totalCount) for shifted_page.
    """

    kind: str
    times: int | None = 1
    path: str = ""
    after: bool = False
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Switchboard:
    """Faults in the order they were asked for, and an outage of everything."""

    planned: list[Planned] = field(default_factory=list)
    down_status: int | None = None
    down_until: float | None = None


def plan(board: Switchboard, planned: Planned) -> None:
    if planned.kind not in KINDS:
        raise ValueError(f"no such fault: {planned.kind}; there are {', '.join(sorted(KINDS))}")
    board.planned.append(planned)


def due(board: Switchboard, path: str) -> Planned | None:
    """The first planned fault that hits this path; it is used up by this."""
    for planned in board.planned:
        if path.startswith(planned.path) and _possible(planned.kind, path):
            if planned.times is not None:
                planned.times -= 1
                if planned.times <= 0:
                    board.planned.remove(planned)
            return planned
    return None


def outage(board: Switchboard, now: float) -> Response | None:
    """The answer while everything is down; None when it is up. Status 0 resets connections."""
    if board.down_status is None:
        return None
    if board.down_until is not None and now >= board.down_until:
        board.down_status = None
        return None
    if board.down_status == 0:
        return Response(0, [], b"", Fault("reset"))
    return answers.gateway_page(board.down_status)


def loses_answer(planned: Planned) -> bool:
    """Whether the client never gets the whole of the true answer."""
    return planned.kind in {"status", "reset", "truncated", "html", "answer", "lost_token_answer"}


def needs_processing(planned: Planned) -> bool:
    """Whether the request is processed in spite of the fault."""
    return planned.after or planned.kind in {"truncated", "slow", "lost_token_answer"} | ON_LISTS


def spoiled(planned: Planned, response: Response | None, path: str) -> Response:
    """What leaves in place of `response`, which is None when the request was not processed."""
    params = planned.params
    if planned.kind in {"status", "html", "answer"}:
        return _another(planned, path)
    sent = response or Response(0, [], b"")
    if planned.kind in {"reset", "lost_token_answer"}:
        return replace(sent, fault=Fault("reset"))
    if planned.kind == "truncated":
        return replace(sent, fault=Fault("truncated", keep=float(params.get("keep", 0.5))))
    if planned.kind == "slow":
        return replace(sent, fault=Fault("slow", seconds=float(params.get("seconds", 1.0))))
    return sent


def _another(planned: Planned, path: str) -> Response:
    params = planned.params
    if planned.kind == "status":
        return _status_answer(params, path)
    if planned.kind == "html":
        return answers.page(200, "<!doctype html><title>Allegro</title><p>Przerwa techniczna</p>")
    whole = answers.answer(int(params.get("code", 200)), params["body"], params.get("content_type", answers.VENDOR))
    return replace(whole, headers=[*whole.headers, *params.get("headers", ())])


def _possible(kind: str, path: str) -> bool:
    if kind == "lost_token_answer":
        return path == TOKEN_PATH
    return path == LIST_PATH if kind in ON_LISTS else True


def _status_answer(params: dict[str, Any], path: str) -> Response:
    code = int(params.get("code", 500))
    html = params.get("body", "html" if code == 403 else "json") == "html"
    response = _error_page(code) if html else _error_document(code, params, path)
    if "retry_after" in params:
        header = ("retry-after", str(params["retry_after"]))
        return replace(response, headers=[*response.headers, header])
    return response


def _error_page(code: int) -> Response:
    return answers.captcha() if code == 403 else answers.gateway_page(code)


def _error_document(code: int, params: dict[str, Any], path: str) -> Response:
    if code == 429 and path == TOKEN_PATH:
        return answers.token_creation_limited()
    if code == 429:
        limited = params.get("variant") == "resource"
        return answers.resource_limited() if limited else answers.client_blocked()
    known = {
        401: lambda: answers.token_expired("<jwt>"),
        403: answers.access_denied,
        404: lambda: answers.form_not_found(path.rpartition("/")[2]),
        406: answers.not_acceptable,
    }
    return known[code]() if code in known else answers.server_error(code)
