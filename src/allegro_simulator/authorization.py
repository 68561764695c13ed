"""The two resources of the authorization server: starting a device flow, and tokens."""

import base64
import binascii
import secrets
from urllib.parse import parse_qsl

from allegro_simulator import answers, oauth
from allegro_simulator import state as world_state
from allegro_simulator.http import Request, Response
from allegro_simulator.oauth import Pair
from allegro_simulator.state import State

DEVICE = "/auth/oauth/device"
TOKEN = "/auth/oauth/token"  # noqa: S105 - a path
VERIFICATION = "/skojarz-aplikacje"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
REFRESH_GRANT = "refresh_token"
_FORM = "application/x-www-form-urlencoded"

_SENTENCES = {
    "authorization_pending": "User has not authorized the device code yet.",
    "invalid_request": "Invalid device code",
    "invalid_token": "Encoded token is not a refresh token",
}


def endpoint(state: State, request: Request) -> Response:
    """The answer of either resource."""
    if request.path not in {DEVICE, TOKEN}:
        return answers.document(404, {"error": "not_found"})
    if request.method != "POST":
        return answers.oauth_error(405, "method_not_allowed", "Request method is not supported")
    client_id = _client_of(state, request)
    if client_id is None:
        return answers.unauthorized_client()
    if request.path == DEVICE:
        return _device(state, request, client_id)
    return _token(state, request, client_id)


def _client_of(state: State, request: Request) -> str | None:
    """The client id of right Basic credentials, else None."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    right = secrets.compare_digest(client_id.encode(), state.client_id.encode())
    return client_id if right and secrets.compare_digest(secret.encode(), state.client_secret.encode()) else None


def _form_of(request: Request) -> dict[str, str] | None:
    """The form-encoded body, empty for another content type; None where a parameter is given twice."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != _FORM:
        return {}
    pairs = parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
    return dict(pairs) if len({name for name, _ in pairs}) == len(pairs) else None


def _missing(name: str) -> Response:
    return answers.oauth_error(400, "invalid_request", f"OAuth 2.0 Parameter: {name}")


def _device(state: State, request: Request, client_id: str) -> Response:
    """Starts a flow; `client_id` may stand in the body or in the query."""
    form = _form_of(request)
    given = {**dict(request.query), **(form or {})}
    if form is None or not given.get("client_id"):
        return _missing("client_id")
    if given["client_id"] != client_id:
        return answers.unauthorized_client()
    device = oauth.start_device(state.registry, client_id, given.get("scope", ""), world_state.now_seconds(state))
    if state.auto_approve:
        device.seller_id = oauth.unlinked_first(state.registry, state.sellers)
        device.state = oauth.APPROVED if device.seller_id else oauth.PENDING
    page = state.base_url + VERIFICATION
    return answers.document(
        200,
        {
            "device_code": device.device_code,
            "expires_in": state.registry.device_seconds,
            "user_code": device.user_code,
            "interval": state.registry.interval,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?code={device.user_code}",
        },
    )


def _token(state: State, request: Request, client_id: str) -> Response:
    """Tokens for a form-encoded body; parameters in the query are refused."""
    form = _form_of(request)
    if request.query or form is None or not form.get("grant_type"):
        return _missing("grant_type")
    now = world_state.now_seconds(state)
    if form["grant_type"] == DEVICE_GRANT:
        if not form.get("device_code"):
            return _missing("device_code")
        return _answer(state, oauth.poll(state.registry, form["device_code"], client_id, now), "")
    if form["grant_type"] == REFRESH_GRANT:
        token = form.get("refresh_token")
        if not token:
            return _missing("refresh_token")
        return _answer(state, oauth.refresh(state.registry, token, client_id, now), token)
    return answers.oauth_error(400, "unsupported_grant_type", "Unsupported grant type")


def _answer(state: State, outcome: Pair | str, token: str) -> Response:
    if isinstance(outcome, Pair):
        return answers.document(
            200,
            {
                "access_token": outcome.access,
                "token_type": "bearer",
                "refresh_token": outcome.refresh,
                "expires_in": state.registry.access_seconds,
                "scope": " ".join(outcome.grant.scopes),
                "allegro_api": True,
                "jti": outcome.jti,
            },
        )
    if outcome == "removed":
        return answers.unauthorized_client()
    if outcome == "invalid_grant":
        return answers.oauth_error(400, outcome, f"Invalid refresh token: {token}")
    return answers.oauth_error(400, outcome, _SENTENCES.get(outcome))
