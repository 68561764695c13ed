"""The simulator's own resources under /_simulator/: every verb of the world and its truth, as JSON."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import parse_qsl

from allegro_simulator.http import Request, Response
from allegro_simulator.state import NotPossibleError, Seller, UnknownInSimulatorError

PREFIX = "/_simulator/"
VERBS = frozenset(
    {
        "orders", "happens", "buys", "fills_in", "pays", "cancels", "modifies_address", "ships", "surcharges",
        "merges", "grows", "loses_event", "duplicates_event", "restores_lost_events", "replays_late",
        "reorders", "approves", "denies", "rejects_tokens", "removes_app", "expires_access_tokens",
        "faults", "clear_faults", "goes_down", "comes_back", "served_events", "events", "worst_window",
        "renders", "limits", "counted",
        "changes_tracking", "adds_invoice", "returns", "advances_return", "refunds", "settles_refund",
    }
)  # fmt: skip


class Controlled(Protocol):
    """What control needs of a world beside its verbs."""

    @property
    def sellers(self) -> list[Seller]: ...
    @property
    def counts(self) -> dict[tuple[str, int], int]: ...
    @property
    def blocked_calls(self) -> int: ...
    @property
    def tokens(self) -> list[Any]: ...
    def add_seller(self, orders: int = ..., *, seed: int | None = ..., login: str | None = ...,
                   months: int = ...) -> Seller: ...  # fmt: skip
    def truth(self, seller_id: str) -> dict[str, Any]: ...
    def extras_truth(self, seller_id: str) -> dict[tuple[str, str], Any]: ...
    def body(self, form_id: str) -> bytes: ...
    def devices(self) -> list[dict[str, Any]]: ...
    def worst_window(self, seconds: float = ...) -> int: ...


def answer(world: Controlled, request: Request) -> Response:
    """200 with the JSON result, 404 for an unknown identifier or verb, 400 for arguments that do not fit."""
    verb = request.path.removeprefix(PREFIX)
    try:
        arguments = _arguments(request)
        if verb == "body":
            return Response(200, [("content-type", "application/json")], world.body(**arguments))
        action = _action(world, verb, request.method)
        return _json(200, action(**arguments))
    except UnknownInSimulatorError as unknown:
        return _json(404, {"error": str(unknown)})
    except (NotPossibleError, ValueError, TypeError) as wrong:
        return _json(400, {"error": str(wrong)})


def _arguments(request: Request) -> dict[str, Any]:
    given: dict[str, Any] = dict(request.query)
    if request.body.lstrip().startswith(b"{"):
        given |= json.loads(request.body)
    else:
        given |= dict(parse_qsl(request.body.decode()))
    return given


def _action(world: Controlled, verb: str, method: str) -> Callable[..., Any]:
    own: dict[tuple[str, str], Callable[..., Any]] = {
        ("POST", "sellers"): lambda **given: _seller(world.add_seller(**given)),
        ("GET", "sellers"): lambda: [_seller(account) for account in world.sellers],
        ("GET", "devices"): world.devices,
        ("GET", "truth"): lambda seller_id: {form: _truth(told) for form, told in world.truth(seller_id).items()},
        ("GET", "extras"): lambda seller_id: {
            f"{kind}/{one}": _extra(told) for (kind, one), told in world.extras_truth(seller_id).items()
        },
        ("GET", "calls"): lambda: _calls(world),
        ("GET", "worst_window"): lambda seconds=60: world.worst_window(float(seconds)),
        ("GET", "tokens"): lambda: [attempt._asdict() for attempt in world.tokens],
    }
    if (method, verb) in own:
        return own[method, verb]
    if verb not in VERBS:
        raise UnknownInSimulatorError(f"no {method} {PREFIX}{verb}")
    action: Callable[..., Any] = getattr(world, verb)
    return action if verb in {"orders", "happens"} else lambda **given: action(**_renamed(given))


def _renamed(given: dict[str, Any]) -> dict[str, Any]:
    """`form_id` is accepted for `form`."""
    return {"form" if name == "form_id" else name: value for name, value in given.items()}


def _seller(account: Seller) -> dict[str, Any]:
    return {"id": account.id, "login": account.login}


def _truth(told: Any) -> dict[str, Any]:
    sha = hashlib.sha256(told.current).hexdigest() if told.current is not None else None
    rest = {name: getattr(told, name) for name in ("gone", "superseded_by", "hidden", "served", "versions")}
    return {"current": sha, **rest}


def _extra(told: Any) -> dict[str, Any]:
    return {"current": hashlib.sha256(told.current).hexdigest(), "order_id": told.order_id, "served": told.served,
            "versions": told.versions}  # fmt: skip


def _calls(world: Controlled) -> dict[str, Any]:
    counts = world.counts
    return {
        "total": sum(counts.values()),
        "counts": [
            {"path": path, "status": status, "count": count} for (path, status), count in sorted(counts.items())
        ],
        "worst_window": world.worst_window(),
        "blocked_calls": world.blocked_calls,
    }


def _json(status: int, value: Any) -> Response:
    body = json.dumps(value, ensure_ascii=False, default=_plain).encode()
    return Response(status, [("content-type", "application/json")], body)


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"not for JSON: {type(value)}")
