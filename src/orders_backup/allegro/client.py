"""Allegro's REST API: one function per question, each one HTTP call, its failures in our words. No retries here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import httpx

from orders_backup.allegro import answers, wire
from orders_backup.allegro.answers import Answer
from orders_backup.errors import (
    AllegroAnswerError,
    AllegroError,
    AllegroForbiddenError,
    AllegroLimitError,
    AllegroNotFoundError,
    AllegroUnauthorizedError,
    AllegroUnavailableError,
)

ACCEPT = "application/vnd.allegro.public.v1+json"
BETA = "application/vnd.allegro.beta.v1+json"
RETURNS_LIMIT = 500
"""Half of what a page of returns may hold (Allegro's OpenAPI file): a thousand would be megabytes."""
REFUNDS_LIMIT = 100
"""Most refunds a page holds (Allegro's OpenAPI file)."""
LIST_LIMIT = 100
"""Most orders a list page holds (Allegro's OpenAPI file)."""
RESULT_CAP = 10_000
"""offset + limit may not exceed this, whatever totalCount says (Allegro's OpenAPI file)."""
EVENTS_LIMIT = 1000
"""Most events a journal page holds (Allegro's OpenAPI file)."""

Filters = dict[str, str | list[str]]
"""Parameters of a request; a list is a parameter that is repeated."""


@dataclass(frozen=True, slots=True)
class OrderPage:
    """A list page. `sent_at`: when the request was sent; `orders`: each order's exact bytes. `broken`: why the page
    of one row could not be read; then its bytes stand for the order."""

    sent_at: datetime
    orders: list[bytes]
    total_count: int
    broken: str | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of the journal. `sent_at`: when the request was sent."""

    sent_at: datetime
    events: list[wire.Event]


@dataclass(frozen=True, slots=True)
class OneOrder:
    """One order read by its id."""

    sent_at: datetime
    body: bytes


@dataclass(frozen=True, slots=True)
class ExtraPage:
    """A page of returns or refunds, each as its exact bytes. `is_last`: no more follow."""

    sent_at: datetime
    documents: list[bytes]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Client:
    """A pool of connections to the API host. `now` stamps every reading; it must run with the database's clock."""

    http: httpx.Client
    now: Callable[[], datetime]

    def close(self) -> None:
        self.http.close()


def connect(
    base_url: str,
    user_agent: str,
    now: Callable[[], datetime],
    *,
    transport: httpx.BaseTransport | None = None,
) -> Client:
    """A client for `base_url`. Redirects are not followed and proxies of the environment not used."""
    http = httpx.Client(
        base_url=base_url,
        headers={
            "Accept": ACCEPT,
            "Accept-Encoding": "gzip",
            "User-Agent": user_agent,
            "Accept-Language": "en-US",
        },
        timeout=httpx.Timeout(20, connect=5),
        limits=httpx.Limits(max_connections=32, max_keepalive_connections=32),
        trust_env=False,
        transport=transport,
        verify=answers.trust(),
    )
    return Client(http, now)


def me(client: Client, token: str) -> tuple[str, str]:
    """Id and login of the seller whose token this is."""
    return wire.seller(_get(client, token, "/me").content)


def latest_event_id(client: Client, token: str) -> str | None:
    """The newest event of the journal; None where there was none for 60 days."""
    return wire.latest_event_id(_get(client, token, "/order/event-stats").content)


def events(client: Client, token: str, *, after: str) -> EventPage:
    """Up to 1,000 events of all types with an id greater than `after`, ascending; "0" means from the oldest."""
    sent_at = client.now()
    answer = _get(client, token, "/order/events", {"from": after, "limit": str(EVENTS_LIMIT)})
    return EventPage(sent_at, wire.event_page(answer.content))


def orders_bought(
    client: Client,
    token: str,
    *,
    since: datetime,
    until: datetime,
    offset: int,
    limit: int,
    fulfillment: Sequence[str] = (),
) -> OrderPage:
    """Orders whose latest line item was bought in [since, until), oldest first; `fulfillment`: of these statuses."""
    filters: Filters = {"lineItems.boughtAt.gte": _moment(since), "lineItems.boughtAt.lte": _last_before(until)}
    if fulfillment:
        filters["fulfillment.status"] = list(fulfillment)
    return _list(client, token, filters | {"sort": "lineItems.boughtAt"}, offset, limit)


def orders_updated(client: Client, token: str, *, since: datetime, offset: int) -> OrderPage:
    """Orders with `updatedAt` at or after `since`, oldest change first. Fulfilment changes do not move `updatedAt`."""
    return _list(client, token, {"updatedAt.gte": _moment(since), "sort": "updatedAt"}, offset, LIST_LIMIT)


def order(client: Client, token: str, order_id: str) -> OneOrder:
    """One order. Raises AllegroNotFoundError where it was merged away, is too old, or another seller's, and
    AllegroUnreadableError where its JSON does not end as it began."""
    one = _one(client, token, order_id, "")
    return OneOrder(one.sent_at, wire.whole(one.body))


def shipments(client: Client, token: str, order_id: str) -> OneOrder:
    """The tracking numbers of an order's parcels. Raises AllegroNotFoundError as for the order."""
    return _one(client, token, order_id, "/shipments")


def invoices(client: Client, token: str, order_id: str) -> OneOrder:
    """What Allegro knows of an order's invoices, not their files. Raises AllegroNotFoundError as for the order."""
    return _one(client, token, order_id, "/invoices")


def customer_returns(client: Client, token: str, *, since: datetime, until: datetime, offset: int) -> ExtraPage:
    """Returns declared in [since, until]. A beta resource, with a media type of its own."""
    sent_at = client.now()
    asked = {"createdAt.gte": _moment(since), "createdAt.lte": _moment(until)}
    asked |= {"offset": str(offset), "limit": str(RETURNS_LIMIT)}
    body = _get(client, token, "/order/customer-returns", asked, accept=BETA).content
    return _extra_page(sent_at, body, "customerReturns", offset, RETURNS_LIMIT)


def refunds(client: Client, token: str, *, since: datetime, until: datetime, offset: int) -> ExtraPage:
    """Refunds of payments begun in [since, until]. Raises AllegroForbiddenError without the scope payments:read."""
    sent_at = client.now()
    asked = {"occurredAt.gte": _moment(since), "occurredAt.lte": _moment(until)}
    asked |= {"offset": str(offset), "limit": str(REFUNDS_LIMIT)}
    body = _get(client, token, "/payments/refunds", asked).content
    return _extra_page(sent_at, body, "refunds", offset, REFUNDS_LIMIT)


def _extra_page(sent_at: datetime, body: bytes, name: str, offset: int, limit: int) -> ExtraPage:
    """The last page is not full, and no count tells of more."""
    found = wire.documents(body, name)
    is_full = len(found) >= limit or wire.counted(body) > offset + len(found)
    return ExtraPage(sent_at, found, is_last=not (found and is_full))


def _one(client: Client, token: str, order_id: str, part: str) -> OneOrder:
    sent_at = client.now()
    place, route = quote(order_id, safe="").replace(".", "%2E"), f"/order/checkout-forms/{{id}}{part}"
    return OneOrder(sent_at, _get(client, token, f"/order/checkout-forms/{place}{part}", route=route).content)


def _list(client: Client, token: str, filters: Filters, offset: int, limit: int) -> OrderPage:
    sent_at = client.now()
    parameters: Filters = {**filters, "offset": str(offset), "limit": str(limit)}
    orders, total_count = wire.order_page(_get(client, token, "/order/checkout-forms", parameters).content)
    return OrderPage(sent_at, orders, total_count)


def _get(
    client: Client,
    token: str,
    path: str,
    parameters: Mapping[str, str | list[str]] | None = None,
    *,
    accept: str = ACCEPT,
    route: str = "",
) -> Answer:
    headers = {"Authorization": f"Bearer {token}", "Accept": accept}
    try:
        answer = answers.send(client.http, "GET", path, route=route, params=parameters, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AllegroUnavailableError(f"Allegro did not answer: {type(error).__name__}.") from None
    check(answer)
    return answer


def check(answer: Answer) -> None:
    """Raises the AllegroError that this answer means; silent for JSON with status 200."""
    trace_id = answer.headers.get("trace-id")
    status = answer.status_code
    is_json = "json" in answer.headers.get("content-type", "")
    known = {"http_status": status, "trace_id": trace_id}
    if status == 200 and is_json:
        return
    if status == 200:
        raise AllegroAnswerError("Allegro answered 200 with something that is not JSON.", **known)
    if status == 401:
        raise AllegroUnauthorizedError("Allegro refused the access token.", **known)
    if status == 403 and is_json:
        raise AllegroForbiddenError(
            "Allegro denies access: the application or the seller's consent lacks a right.", **known
        )
    if status == 404 and is_json:
        raise AllegroNotFoundError("Allegro has no such order.", **known)
    if status == 429:
        raise AllegroLimitError("Allegro's request limit was exceeded.", retry_after=_retry_after(answer), **known)
    if status >= 500 or not is_json:
        raise AllegroUnavailableError(f"Allegro answered {status}.", **known)
    raise AllegroError(f"Allegro refused the request with {status}.", **known)


def _retry_after(answer: Answer) -> float | None:
    """Seconds, from a number or an HTTP date (RFC 9110, 10.2.3), at most one hour."""
    value = answer.headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return min(float(value), 3600.0)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), 3600.0)


def _moment(value: datetime) -> str:
    """Milliseconds and `Z`: without a zone Allegro answers 400."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"


def _last_before(value: datetime) -> str:
    """The filter is inclusive and counts milliseconds, so the end of a half-open window is one less."""
    return _moment(datetime.fromtimestamp((round(value.timestamp() * 1000) - 1) / 1000, UTC))
