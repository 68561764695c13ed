"""The resources of what belongs to an order: shipments and invoices by order, lists of returns and refunds."""

import re

from allegro_simulator import answers, extras, shelf, times
from allegro_simulator import state as world_state
from allegro_simulator.extras import Extra
from allegro_simulator.http import Request, Response
from allegro_simulator.state import Seller, State

FORMS = "/order/checkout-forms/"
RETURNS = "/order/customer-returns"
REFUNDS = "/payments/refunds"
SHIPMENTS = FORMS + "{id}/shipments"
INVOICES = FORMS + "{id}/invoices"
BETA = "application/vnd.allegro.beta.v1+json"

PER_SECOND = {SHIPMENTS: (None, 50), RETURNS: (25, 50)}
"""Requests a second of one user and of one client id (Allegro's OpenAPI file)."""

_OF_ORDER = re.compile(r"/order/checkout-forms/[^/]+/(shipments|invoices)")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LISTS = {
    RETURNS: ("returns", "customerReturns", "createdAt", 1_000, 100),
    REFUNDS: ("refunds", "refunds", "occurredAt", 100, 50),
}
"""Kind, name of the array, filter, greatest and default limit."""


def path_class(path: str) -> str | None:
    """The path with the identifier of an order taken out; None where it is none of these."""
    if found := _OF_ORDER.fullmatch(path):
        return FORMS + "{id}/" + found[1]
    return path if path in _LISTS else None


def answer(state: State, account: Seller, request: Request, *, noted: bool) -> Response:
    if request.method != "GET":
        return answers.method_not_allowed(request.path)
    if request.path in _LISTS:
        return _listed(account, request, noted=noted)
    form_id, kind = request.path.removeprefix(FORMS).split("/")
    return _of_order(state, account, form_id, kind, noted=noted)


def _of_order(state: State, account: Seller, form_id: str, kind: str, *, noted: bool) -> Response:
    if not _UUID.fullmatch(form_id):
        return answers.invalid("id", form_id, "must be a valid UUID")
    order = state.forms.get(form_id.lower())
    horizon = shelf.visible_from(world_state.now_ms(state))
    if order is None or order.gone or order.seller_id != account.id or order.bought < horizon:
        return answers.form_not_found(form_id)
    extra = extras.of_order(account.extras, kind, order)
    if noted:
        extras.note(extra)
    return answers.answer(200, extra.body)


def _listed(account: Seller, request: Request, *, noted: bool) -> Response:
    """Newest first; what it does not know it ignores."""
    kind, name, date, most, usual = _LISTS[request.path]
    query = dict(request.query)
    limit, offset = query.get("limit", str(usual)), query.get("offset", "0")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= most):
        return answers.invalid("limit", limit, f"must be a number from 1 to {most}")
    if not (offset.isascii() and offset.isdigit()):
        return answers.invalid("offset", offset, "must be a number greater than or equal to 0")
    bounds = [times.parsed(query[f"{date}.{end}"]) if f"{date}.{end}" in query else -1 for end in ("gte", "lte")]
    if None in bounds:
        return answers.bad_date(request.path)
    found = _between(account.extras[kind], bounds[0], bounds[1])
    rows = found[int(offset) : int(offset) + int(limit)]
    if noted:
        for extra in rows:
            extras.note(extra)
    count = b',"count":%d' % (len(found) if kind == "returns" else len(rows))
    total = b',"totalCount":%d' % len(found) if kind == "refunds" else b""
    body = b"".join((b'{"', name.encode(), b'":[', b",".join(extra.body for extra in rows), b"]", count, total, b"}"))
    return answers.answer(200, body, BETA if kind == "returns" else answers.VENDOR)


def _between(drawer: dict[str, Extra], start: int | None, end: int | None) -> list[Extra]:
    until = 1 << 62 if end in {-1, None} else end or 0
    found = [extra for extra in drawer.values() if (start or 0) <= extra.created <= until]
    return sorted(found, key=lambda extra: (extra.created, extra.id), reverse=True)
