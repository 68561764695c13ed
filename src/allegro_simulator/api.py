"""The API resources: /me, the journal, the list and the single order; tokens are checked elsewhere."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from allegro_simulator import answers, extras_api, journal, orders, shelf, times
from allegro_simulator import state as world_state
from allegro_simulator.http import Request, Response
from allegro_simulator.orders import Order
from allegro_simulator.shelf import Wanted
from allegro_simulator.state import Seller, State

EVENTS = "/order/events"
STATS = "/order/event-stats"
FORMS = "/order/checkout-forms"
FORM = FORMS + "/{id}"
ME = "/me"

_MEDIA_TYPE = re.compile(r"application/vnd\.allegro\.public\.v1\+json", re.IGNORECASE)
_BETA = re.compile(re.escape(extras_api.BETA), re.IGNORECASE)
_USER_AGENT = re.compile(r"[\x21-\x27\x2a-\x2e\x30-\x7e]+/[0-9][\x21-\x27\x2a-\x7e]* \(\+https://[^\s()]+\)")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_SORTS = {
    "lineItems.boughtAt": (False, False),
    "-lineItems.boughtAt": (False, True),
    "updatedAt": (True, False),
    "-updatedAt": (True, True),
}
_DEEPEST = 10_000
_DATES = ("lineItems.boughtAt.gte", "lineItems.boughtAt.lte", "updatedAt.gte", "updatedAt.lte")


@dataclass(frozen=True, slots=True)
class Distortion:
    """How a list answer is made wrong on purpose; the default is not at all."""

    total_delta: int = 0
    ignored: frozenset[str] | None = None
    shift: int = 0


def path_class(path: str) -> str:
    """The path with the identifier of an order taken out."""
    if extra := extras_api.path_class(path):
        return extra
    if path.startswith(FORMS + "/"):
        return FORM
    return path if path in {ME, EVENTS, STATS, FORMS} else "other"


def scope_of(path: str) -> str:
    own = {ME: "allegro:api:profile:read", extras_api.REFUNDS: "allegro:api:payments:read"}
    return own.get(path, "allegro:api:orders:read")


def refusal(state: State, request: Request) -> Response | None:
    """403 for a nameless client, 406 for a media type that is not served; None when both are right."""
    if state.check_user_agent and not _USER_AGENT.fullmatch(request.headers.get("user-agent", "")):
        return answers.access_denied()
    served = _BETA if request.path == extras_api.RETURNS else _MEDIA_TYPE
    if not served.search(request.headers.get("accept", "")):
        return answers.not_acceptable()
    return None


def resource(state: State, account: Seller, request: Request, wrong: Distortion, *, noted: bool) -> Response:
    """The answer of the resource. `noted` is False when the client will not get it, so nothing counts as served."""
    if extras_api.path_class(request.path):
        return extras_api.answer(state, account, request, noted=noted)
    resources: dict[str, Callable[[], Response]] = {
        ME: lambda: me(account),
        EVENTS: lambda: events(state, account, request, noted=noted),
        STATS: lambda: event_stats(state, account),
        FORMS: lambda: checkout_forms(state, account, request, wrong, noted=noted),
        FORM: lambda: checkout_form(state, account, request.path.removeprefix(FORMS + "/"), noted=noted),
    }
    found = resources.get(path_class(request.path))
    if found is None:
        return answers.no_such_resource(request.path)
    return found() if request.method == "GET" else answers.method_not_allowed(request.path)


def me(account: Seller) -> Response:
    about = {
        "id": account.id,
        "login": account.login,
        "firstName": "Sprzedawczyni",
        "lastName": f"Testowa-{account.number}",
        "email": f"{account.login}@sprzedawca.example",
        "baseMarketplace": {"id": account.marketplace},
        "company": {"name": f"Sklep Wzorcowy {account.number} sp. z o.o.", "taxId": f"000000{account.number:04d}"},
        "features": ["SUPER_SELLER"] if account.number % 2 else [],
    }
    return answers.document(200, about, answers.VENDOR)


def events(state: State, account: Seller, request: Request, *, noted: bool) -> Response:
    """The journal after `from`, exclusive, oldest first."""
    query = dict(request.query)
    limit, after = query.get("limit", "100"), query.get("from", "0") or "0"
    if refused := _out_of("limit", limit, 1, 1_000):
        return refused
    if not _NUMBER.fullmatch(after) or after.startswith("-"):
        return answers.invalid("from", after, "must be an id of an event")
    kinds = frozenset(value for name, value in request.query if name == "type")
    found = journal.page(account.journal, world_state.now_us(state), after=int(after), kinds=kinds, limit=int(limit))
    if noted:
        account.journal.served.update(str(event.id) for event in found)
    return answers.answer(200, b'{"events":[' + b",".join(map(journal.body, found)) + b"]}")


def event_stats(state: State, account: Seller) -> Response:
    latest = journal.latest(account.journal, world_state.now_us(state))
    seen = latest and {"id": str(latest.id), "occurredAt": times.text(latest.occurred)}
    return answers.document(200, {"latestEvent": seen}, answers.VENDOR)


def checkout_form(state: State, account: Seller, form_id: str, *, noted: bool) -> Response:
    if not _UUID.fullmatch(form_id):
        return answers.invalid("id", form_id, "must be a valid UUID")
    order = state.forms.get(form_id.lower())
    horizon = shelf.visible_from(world_state.now_ms(state))
    if order is None or order.gone or order.seller_id != account.id or order.bought < horizon:
        return answers.form_not_found(form_id)
    document = orders.body(order)
    if noted:
        _note(order)
    return answers.answer(200, document)


def checkout_forms(state: State, account: Seller, request: Request, wrong: Distortion, *, noted: bool) -> Response:
    """The list with the documented filters; what it does not know it ignores."""
    query = dict(request.query)
    limit, offset = query.get("limit", "100"), query.get("offset", "0")
    refused = _out_of("limit", limit, 1, 100) or _out_of("offset", offset, 0, None)
    if refused:
        return refused
    if int(limit) + int(offset) > _DEEPEST:
        return answers.too_deep()
    sort = query.get("sort", "-lineItems.boughtAt")
    if sort not in _SORTS:
        return answers.invalid("sort", sort, "must be one of lineItems.boughtAt, updatedAt")
    asked = [pair for pair in request.query if not _ignored(pair[0], wrong)]
    wanted = _wanted(asked, sort)
    if wanted is None:
        return answers.bad_date(FORMS)
    start = max(0, int(offset) + wrong.shift)
    rows, total = shelf.page(account.shelf, wanted, world_state.now_ms(state), start, int(limit))
    parts = [order.body or orders.body(order) for order in rows]
    if noted:
        for order in rows:
            _note(order)
    tail = b'],"count":%d,"totalCount":%d}' % (len(rows), max(0, total + wrong.total_delta))
    return answers.answer(200, b"".join((b'{"checkoutForms":[', b",".join(parts), tail)))


def _ignored(name: str, wrong: Distortion) -> bool:
    if wrong.ignored is None:
        return False
    return not wrong.ignored or name in wrong.ignored


def _wanted(query: list[tuple[str, str]], sort: str) -> Wanted | None:
    """The filters of a request; None where a date has no zone or is none."""
    dates: dict[str, int] = {}
    fields: dict[str, set[str]] = {}
    for name, value in query:
        if name in _DATES:
            moment = times.parsed(value)
            if moment is None:
                return None
            dates[name] = moment
        elif name in shelf.FIELDS:
            fields.setdefault(name, set()).add(value)
    by_update, descending = _SORTS[sort]
    return Wanted(
        bought_from=dates.get(_DATES[0]),
        bought_to=dates.get(_DATES[1]),
        updated_from=dates.get(_DATES[2]),
        updated_to=dates.get(_DATES[3]),
        fields=tuple(sorted((name, frozenset(values)) for name, values in fields.items())),
        by_update=by_update,
        descending=descending,
    )


def _out_of(name: str, value: str, low: int, high: int | None) -> Response | None:
    """A 422 where the value is no number from `low` to `high`."""
    if not _NUMBER.fullmatch(value):
        return answers.invalid(name, value, "must be a number")
    if int(value) < low:
        return answers.invalid(name, value, f"must be greater than or equal to {low}")
    if high is not None and int(value) > high:
        return answers.invalid(name, value, f"must be less than or equal to {high}")
    return None


def _note(order: Order) -> None:
    """Remember that this version left the house."""
    if order.served is None:
        order.served = [order.sha]
    elif order.served[-1] != order.sha:
        order.served.append(order.sha)
