"""Devices, grants and tokens, and the rules by which they live; no routing."""

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

SCOPES = (
    "allegro:api:orders:read",
    "allegro:api:profile:read",
    "allegro:api:payments:read",
    "allegro:api:billing:read",
    "allegro:api:fulfillment:read",
)
_THREE_MONTHS = 90 * 86_400
_CODE_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_DEVICE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

PENDING = "pending"
APPROVED = "approved"
DENIED = "denied"
USED = "used"


@dataclass(slots=True)
class Device:
    """One started device flow."""

    device_code: str
    user_code: str
    client_id: str
    scopes: tuple[str, ...]
    expires_at: float
    state: str = PENDING
    seller_id: str | None = None
    polled_at: float | None = None


@dataclass(slots=True, eq=False)
class Grant:
    """A seller's consent: one living access token, a chain of refresh tokens numbered by generation."""

    seller_id: str
    client_id: str
    scopes: tuple[str, ...]
    generation: int = 0
    access: str = ""
    alive: bool = True
    removed: bool = False


@dataclass(slots=True)
class Access:
    grant: Grant
    expires_at: float


@dataclass(slots=True)
class Refresh:
    """A refresh token; `used_at` is the moment of its first use."""

    grant: Grant
    generation: int
    expires_at: float
    used_at: float | None = None


class Refreshed(NamedTuple):
    """One attempt to refresh; outcome is `ok`, or the error that was answered."""

    at: float
    seller_id: str | None
    generation: int | None
    in_grace: bool
    outcome: str


class Pair(NamedTuple):
    """A new pair of tokens."""

    access: str
    refresh: str
    jti: str
    grant: Grant


@dataclass(slots=True)
class Registry:
    """Everything the authorization server knows. Durations in seconds."""

    random: random.Random
    issuer: str
    access_seconds: int
    grace_seconds: float
    interval: int
    device_seconds: int
    devices: dict[str, Device] = field(default_factory=dict)
    accesses: dict[str, Access] = field(default_factory=dict)
    refreshes: dict[str, Refresh] = field(default_factory=dict)
    grants: list[Grant] = field(default_factory=list)
    log: list[Refreshed] = field(default_factory=list)


def start_device(registry: Registry, client_id: str, scope: str, now: float) -> Device:
    """Begin a device flow; nothing asked means every scope of the application."""
    asked = scope.split()
    scopes = tuple(name for name in SCOPES if name in asked) if asked else SCOPES
    device = Device(
        device_code="".join(registry.random.choices(_DEVICE_LETTERS, k=32)),
        user_code="".join(registry.random.choices(_CODE_LETTERS, k=9)),
        client_id=client_id,
        scopes=scopes,
        expires_at=now + registry.device_seconds,
    )
    registry.devices[device.device_code] = device
    return device


def device_by_user_code(registry: Registry, user_code: str, now: float) -> Device | None:
    """The pending flow with this code, typed with spaces or capitals or not."""
    typed = user_code.replace(" ", "").replace("-", "").lower()
    for device in registry.devices.values():
        if device.user_code == typed and device.state == PENDING and now < device.expires_at:
            return device
    return None


def poll(registry: Registry, device_code: str, client_id: str, now: float) -> Pair | str:
    """Tokens for an approved device, once; otherwise the error to answer."""
    device = registry.devices.get(device_code)
    if device is None or device.state == USED or now >= device.expires_at or device.client_id != client_id:
        return "invalid_request"
    before, device.polled_at = device.polled_at, now
    if before is not None and now - before < registry.interval:
        return "slow_down"
    if device.state == DENIED:
        return "access_denied"
    if device.state == PENDING or device.seller_id is None:
        return "authorization_pending"
    device.state = USED
    grant = Grant(device.seller_id, client_id, device.scopes)
    registry.grants.append(grant)
    return _pair(registry, grant, now)


def refresh(registry: Registry, token: str, client_id: str, now: float) -> Pair | str:
    """A new pair; otherwise the error to answer. Each attempt is logged.

    The first use starts the grace: within it the same token gives another pair, and each new pair
    kills the access token before it.
    """
    known = registry.refreshes.get(token)
    if known is None or known.grant.client_id != client_id:
        outcome = "invalid_token" if token in registry.accesses else "invalid_grant"
        registry.log.append(Refreshed(now, None, None, in_grace=False, outcome=outcome))
        return outcome
    again = known.used_at is not None
    outcome = _verdict(registry, known, now)
    registry.log.append(Refreshed(now, known.grant.seller_id, known.generation, again, outcome))
    if outcome != "ok":
        return outcome
    known.used_at = known.used_at if again else now
    return _pair(registry, known.grant, now)


def _verdict(registry: Registry, known: Refresh, now: float) -> str:
    if known.grant.removed:
        return "removed"
    if not known.grant.alive or now >= known.expires_at:
        return "invalid_grant"
    if known.used_at is not None and now - known.used_at > registry.grace_seconds:
        return "invalid_grant"
    return "ok"


def grant_of(registry: Registry, token: str, now: float) -> Grant | None:
    """The grant behind an access token that is alive; None for a dead or unknown one."""
    access = registry.accesses.get(token)
    if access is None or now >= access.expires_at:
        return None
    grant = access.grant
    return grant if grant.alive and not grant.removed and grant.access == token else None


def owner_of(registry: Registry, token: str) -> Grant | None:
    """The grant an access token was issued for, dead or alive."""
    access = registry.accesses.get(token)
    return access.grant if access else None


def kill(registry: Registry, seller_id: str, *, removed: bool = False) -> int:
    """End every grant of a seller, as a change of password or the removal of the application does."""
    ended = [grant for grant in registry.grants if grant.seller_id == seller_id and grant.alive]
    for grant in ended:
        grant.alive, grant.removed = removed, removed
    return len(ended)


def expire(registry: Registry, seller_id: str, now: float) -> int:
    """Let the living access tokens of a seller expire now."""
    living = [grant for grant in registry.grants if grant.seller_id == seller_id and grant.alive]
    for grant in living:
        registry.accesses[grant.access].expires_at = now
    return len(living)


def _pair(registry: Registry, grant: Grant, now: float) -> Pair:
    jti = str(uuid.UUID(int=registry.random.getrandbits(128), version=4))
    grant.generation += 1
    claims = {
        "user_name": grant.seller_id,
        "scope": list(grant.scopes),
        "allegro_api": True,
        "iss": registry.issuer,
        "exp": int(now) + registry.access_seconds,
        "jti": jti,
        "client_id": grant.client_id,
    }
    access = _jwt(claims)
    refresh_token = _jwt({**claims, "ati": jti, "exp": int(now) + _THREE_MONTHS})
    grant.access = access
    registry.accesses[access] = Access(grant, now + registry.access_seconds)
    registry.refreshes[refresh_token] = Refresh(grant, grant.generation, now + _THREE_MONTHS)
    return Pair(access, refresh_token, jti, grant)


def _jwt(claims: dict[str, object]) -> str:
    """Shaped like a signed token; the signature is a digest and proves nothing."""
    parts = [{"alg": "RS256", "typ": "JWT"}, claims]
    head = ".".join(_base64(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return f"{head}.{_base64(hashlib.shake_256(head.encode()).digest(256))}"


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def unlinked_first(registry: Registry, seller_ids: Iterable[str]) -> str | None:
    """The seller with the fewest grants, for flows that nobody approves by hand."""
    counts = dict.fromkeys(seller_ids, 0)
    for grant in registry.grants:
        counts[grant.seller_id] = counts.get(grant.seller_id, 0) + 1
    return min(counts, key=lambda seller_id: counts[seller_id], default=None)
