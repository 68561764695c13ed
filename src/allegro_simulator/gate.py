"""What every request to the API and the authorization server passes: faults, limits, tokens, the call log."""

from dataclasses import dataclass, replace

from allegro_simulator import answers, api, authorization, extras_api, faults, limits, oauth
from allegro_simulator import state as world_state
from allegro_simulator.api import Distortion
from allegro_simulator.faults import Planned
from allegro_simulator.http import Request, Response
from allegro_simulator.limits import Call
from allegro_simulator.oauth import Grant
from allegro_simulator.state import State


@dataclass(slots=True)
class _Caller:
    """Who asked, as far as a token told."""

    seller_id: str | None = None
    client_id: str | None = None


def answer(state: State, request: Request) -> Response:
    """The answer, with a trace id when it is the API's; the call is counted and logged."""
    now = world_state.now_seconds(state)
    caller = _Caller()
    is_auth = request.path.startswith("/auth/")
    response = faults.outage(state.board, now)
    if response is None:
        planned = faults.due(state.board, request.path)
        response = _with_fault(state, request, caller, planned)
    kind = request.path if is_auth else api.path_class(request.path)
    call = Call(now, request.method, kind, response.status, caller.seller_id, caller.client_id)
    limits.record(state.ledger, call)
    if is_auth:
        return response
    state.traces += 1
    trace = f"{(state.traces * 0x9E3779B97F4A7C15 + state.node) & 0xFFFFFFFFFFFFFFFF:016x}"
    return replace(response, headers=[*response.headers, ("trace-id", trace)])


def _with_fault(state: State, request: Request, caller: _Caller, planned: Planned | None) -> Response:
    if planned is None:
        return _processed(state, request, caller, Distortion(), noted=True)
    response = None
    if faults.needs_processing(planned):
        noted = not faults.loses_answer(planned)
        response = _processed(state, request, caller, _distortion(planned), noted=noted)
    else:
        _counted(state, request, caller)
    return faults.spoiled(planned, response, request.path)


def _distortion(planned: Planned) -> Distortion:
    params = planned.params
    if planned.kind == "wrong_total":
        return Distortion(total_delta=int(params.get("delta", 1)))
    if planned.kind == "ignored_filter":
        return Distortion(ignored=frozenset(params.get("names", ())))
    if planned.kind == "shifted_page":
        return Distortion(shift=int(params.get("by", 1)), total_delta=int(params.get("delta", 0)))
    return Distortion()


def _counted(state: State, request: Request, caller: _Caller) -> bool:
    """Count the request against its client id; whether it may pass. Tokens are not asked to be alive."""
    if request.path.startswith("/auth/"):
        return True
    owner = oauth.owner_of(state.registry, _bearer(request) or "")
    if owner is None:
        return True
    caller.seller_id, caller.client_id = owner.seller_id, owner.client_id
    return limits.admits(state.ledger, owner.client_id, world_state.now_seconds(state))


def _processed(state: State, request: Request, caller: _Caller, wrong: Distortion, *, noted: bool) -> Response:
    if request.path.startswith("/auth/"):
        return authorization.endpoint(state, request)
    if not _counted(state, request, caller):
        return answers.client_blocked()
    grant = _consent(state, _bearer(request))
    if isinstance(grant, Response):
        return grant
    if refused := api.refusal(state, request) or _denial(state, request.path, grant):
        return refused
    return api.resource(state, state.sellers[grant.seller_id], request, wrong, noted=noted)


def _denial(state: State, path: str, grant: Grant) -> Response | None:
    """403 without the scope, 429 where a resource with a limit of its own is asked too often."""
    if api.scope_of(path) not in grant.scopes:
        return answers.access_denied()
    return answers.resource_limited() if _is_crowded(state, path, grant) else None


def _is_crowded(state: State, path: str, grant: Grant) -> bool:
    """Whether this user or this client id asks a resource that has a limit of its own too often."""
    kind = api.path_class(path)
    per_user, per_client = extras_api.PER_SECOND.get(kind, (None, None))
    if not state.resource_limits or per_client is None:
        return False
    now = world_state.now_seconds(state)
    is_crowded = limits.is_crowded(state.ledger, (kind, grant.client_id), now, per_client)
    if per_user is not None:
        is_crowded |= limits.is_crowded(state.ledger, (kind, grant.client_id, grant.seller_id), now, per_user)
    return is_crowded


def _consent(state: State, token: str | None) -> Grant | Response:
    """The grant behind a living token, else the 401 it gets."""
    if token is None:
        return answers.no_token()
    grant = oauth.grant_of(state.registry, token, world_state.now_seconds(state))
    if grant is not None:
        return grant
    known = oauth.owner_of(state.registry, token)
    return answers.token_expired(token) if known else answers.token_unreadable()


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
