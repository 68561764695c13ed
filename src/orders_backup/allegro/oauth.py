"""Allegro's authorization server: device flow (RFC 8628) and refresh, by form-encoded bodies only.

Error texts are never kept: `invalid_grant` echoes the whole refresh token.
"""

import re
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
import msgspec

from orders_backup.allegro import answers
from orders_backup.allegro.client import check
from orders_backup.errors import AllegroAnswerError, AllegroUnavailableError, TokenRefusedError

T = TypeVar("T")

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
MIN_INTERVAL_SECONDS = 5.0
"""Used where Allegro names no interval (RFC 8628, 3.2)."""
WITHIN = 12.0
"""Seconds of a call, well inside the 60 s in which a used refresh token still works."""
LONGEST_SECONDS = 366 * 86_400.0
"""Nothing of Allegro's lives longer than three months."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """A device authorization to be confirmed by the seller. Times in seconds from now."""

    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: float
    interval: float


@dataclass(frozen=True, slots=True)
class Pair:
    """An access token with its single-use refresh token. `expires_in`: seconds of the access token from now."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: float


class _Device(msgspec.Struct):
    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    expires_in: float = 3600
    interval: float = MIN_INTERVAL_SECONDS


class _Token(msgspec.Struct):
    access_token: str
    refresh_token: str
    expires_in: float = 43199


class _OAuthError(msgspec.Struct):
    error: str = "unknown"


@dataclass(frozen=True, slots=True)
class OAuth:
    """A client of the authorization host with the application's own credentials."""

    http: httpx.Client
    client_id: str

    def close(self) -> None:
        self.http.close()


def connect(
    base_url: str,
    client_id: str,
    client_secret: str,
    user_agent: str,
    *,
    transport: httpx.BaseTransport | None = None,
) -> OAuth:
    http = httpx.Client(
        base_url=base_url,
        auth=(client_id, client_secret),
        headers={"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": user_agent},
        timeout=httpx.Timeout(connect=3, pool=1, write=2, read=6),
        trust_env=False,
        transport=transport,
        verify=answers.trust(),
    )
    return OAuth(http, client_id)


def authorize_device(oauth: OAuth) -> Authorization:
    """Starts a device flow. Raises TokenRefusedError where the application is unknown or not of the device type."""
    device = _post(oauth, "/auth/oauth/device", {"client_id": oauth.client_id}, _Device)
    link = _printable(device.verification_uri)
    return Authorization(
        device_code=_printable(device.device_code),
        user_code=_printable(device.user_code),
        verification_uri=link,
        verification_uri_complete=_printable(device.verification_uri_complete or link),
        expires_in=_seconds(device.expires_in),
        interval=_seconds(device.interval),
    )


def redeem_device_code(oauth: OAuth, device_code: str) -> Pair:
    """The first pair. Raises TokenRefusedError(error): authorization_pending and slow_down mean ask again later."""
    return _token(oauth, {"grant_type": DEVICE_GRANT, "device_code": device_code})


def refresh(oauth: OAuth, refresh_token: str) -> Pair:
    """A new pair for a single-use refresh token. Raises TokenRefusedError('invalid_grant') where it is dead."""
    return _token(oauth, {"grant_type": "refresh_token", "refresh_token": refresh_token})


def _token(oauth: OAuth, form: dict[str, str]) -> Pair:
    token = _post(oauth, "/auth/oauth/token", form, _Token)
    return Pair(_printable(token.access_token), _printable(token.refresh_token), _seconds(token.expires_in))


def _printable(text: str) -> str:
    """What fits into a header, a form and a column. Raises AllegroAnswerError for anything else."""
    if not re.fullmatch(r"[!-~]{1,20000}", text):
        raise AllegroAnswerError("The authorization server's answer is not the JSON it should be: it names no token.")
    return text


def _seconds(value: float) -> float:
    """No less than nothing, and no more than a date can be moved by."""
    return min(max(value, 0.0), LONGEST_SECONDS)


def _post(oauth: OAuth, path: str, form: dict[str, str], shape: type[T]) -> T:
    try:
        answer = answers.send(oauth.http, "POST", path, within=WITHIN, data=form)
    except httpx.HTTPError as error:
        raise AllegroUnavailableError(
            f"Allegro's authorization server did not answer: {type(error).__name__}."
        ) from None
    if answer.status_code in {400, 401}:
        raise TokenRefusedError(_error_code(answer.content), http_status=answer.status_code)
    check(answer)
    try:
        return msgspec.json.decode(answer.content, type=shape, strict=False)
    except (msgspec.MsgspecError, UnicodeError):
        raise AllegroAnswerError("The authorization server's answer is not the JSON it should be.") from None


def _error_code(body: bytes) -> str:
    """The OAuth error code, cut to what a code can be, so that an echoed token never travels on."""
    try:
        code = msgspec.json.decode(body, type=_OAuthError).error
    except (msgspec.MsgspecError, UnicodeError):
        return "unknown"
    return code if re.fullmatch(r"[A-Za-z_ ]{1,64}", code) else "unknown"
