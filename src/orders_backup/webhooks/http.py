"""The routes of webhooks: endpoints, their deliveries, tests, replays, secrets."""

import uuid
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from fastapi import Path, Query, Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, WithJsonSchema, model_validator
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import rest
from orders_backup.access import Caller
from orders_backup.errors import InvalidRequestError
from orders_backup.webhooks import endpoints, guard, queries, replay, sign
from orders_backup.webhooks.endpoints import Content, Webhook
from orders_backup.webhooks.queries import Delivery, DeliveryWithAttempts
from orders_backup.webhooks.replay import Replay, Wanted

router = rest.router("/webhooks", "webhooks")

Teller = Annotated[Caller, Security(rest.caller, scopes=["webhooks"])]
DeliveryId = Annotated[rest.Word, Path(description="The message's `webhook-id`.")]
Url = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=guard.LONGEST_URL),
    WithJsonSchema({"type": "string", "format": "uri", "minLength": 1, "maxLength": guard.LONGEST_URL}),
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00]*$")]
EventType = Annotated[str, StringConstraints(pattern=r"^order\.[a-z]+(_[a-z]+)*$", max_length=64)]
EventTypes = Annotated[list[EventType], Field(max_length=50, description="Kinds of change; none given: all.")]
AccountIds = Annotated[list[uuid.UUID], Field(max_length=1000, description="None given: all.")]
Overlap = Annotated[rest.Whole, Field(ge=0, le=7 * 86_400, description="Seconds for which the old secret signs, too.")]


class NewWebhook(BaseModel):
    """An endpoint to make. `user_id`: whose changes; absent or null with an unbound key: every user's."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    user_id: uuid.UUID | None = None
    description: Text = ""
    event_types: EventTypes = []
    account_ids: AccountIds = []
    content: Content = "thin"


class Changes(BaseModel):
    """What to change; what is absent stays. `status` active brings a disabled endpoint back."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    description: Text | None = None
    event_types: EventTypes | None = None
    account_ids: AccountIds | None = None
    content: Content | None = None
    status: Literal["active", "paused"] | None = None


class Range(BaseModel):
    """Which changes to send again: stored from (inclusive) to (exclusive; now where absent)."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    stored_from: Annotated[rest.Moment, Field(alias="from")]
    stored_to: Annotated[rest.Moment | None, Field(alias="to")] = None
    order_id: rest.Word | None = None
    only_failed: StrictBool = False
    dry_run: StrictBool = False

    @model_validator(mode="after")
    def _runs_forward(self) -> Self:
        if self.stored_to is not None and self.stored_to <= self.stored_from:
            raise ValueError("`to` must lie after `from`")
        return self


class Rotation(BaseModel):
    """How long both secrets sign."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: Overlap = 86_400


@dataclass(frozen=True, slots=True)
class MadeWebhook(Webhook):
    """An endpoint as it was just made. `secret` signs every message; told this one time."""

    secret: str


@dataclass(frozen=True, slots=True)
class NewSecret:
    """The new secret, told this one time. `old_secret_until`: the old one signs as well until then."""

    secret: str
    old_secret_until: datetime | None


@dataclass
class WebhookPage:
    """A page of endpoints, oldest first."""

    items: list[Webhook]
    next_cursor: str | None


@dataclass
class DeliveryPage:
    """A page of deliveries, newest first."""

    items: list[Delivery]
    next_cursor: str | None


@router.get("", responses={200: {"model": WebhookPage}})
def list_webhooks(
    request: Request, caller: Teller, limit: rest.Limit = 100, cursor: rest.CursorText = None
) -> Response:
    """Endpoints with how they are."""
    after = rest.position(request, cursor, endpoints.At, query="webhooks")
    with rest.reading(request) as tx:
        items, more = endpoints.page(tx, seen_by=caller.user_id, after=after, limit=limit)
    return rest.page(items, rest.cursor(request, more, query="webhooks") if more else None)


@router.post("", status_code=201, responses={201: {"model": MadeWebhook}})
def make_webhook(request: Request, caller: Teller, body: NewWebhook) -> Response:
    """Make an endpoint. It is told of everything that changes from now on; the answer tells its secret, once."""
    runtime, user_id = rest.runtime(request), body.user_id or caller.user_id
    if user_id is not None:
        caller.require_user(user_id)
    guard.target(body.url, runtime.settings.allowed_webhook_hosts)
    with database.transaction(runtime.db) as tx:
        given = {**body.model_dump(), "user_id": user_id}
        webhook_id, secret = endpoints.make(tx, runtime.vault, **given)
        made = endpoints.get(tx, webhook_id, seen_by=caller.user_id)
    shown = MadeWebhook(**{one.name: getattr(made, one.name) for one in fields(made)}, secret=secret)
    return rest.answer(shown, status=201, headers=rest.NOT_STORED)


@router.get("/{webhook_id}", responses={200: {"model": Webhook}})
def show_webhook(request: Request, caller: Teller, webhook_id: uuid.UUID) -> Response:
    """One endpoint."""
    with rest.reading(request) as tx:
        return rest.answer(endpoints.get(tx, webhook_id, seen_by=caller.user_id))


@router.patch("/{webhook_id}", responses={200: {"model": Webhook}})
def change_webhook(request: Request, caller: Teller, webhook_id: uuid.UUID, body: Changes) -> Response:
    """Change, pause or resume an endpoint. While it is paused nothing is lost: it goes on where it was."""
    runtime = rest.runtime(request)
    given: dict[str, Any] = {name: value for name, value in body.model_dump().items() if value is not None}
    if body.url is not None:
        guard.target(body.url, runtime.settings.allowed_webhook_hosts)
    _require_visible(request, webhook_id, caller)
    with database.transaction(runtime.db) as tx:
        row = endpoints.lock(tx, webhook_id, seen_by=caller.user_id)
        endpoints.require_accounts(tx, body.account_ids or [], user_id=row.user_id)
        endpoints.change(tx, webhook_id, row, given)
        return rest.answer(endpoints.get(tx, webhook_id, seen_by=caller.user_id))


@router.delete("/{webhook_id}", status_code=204)
def delete_webhook(request: Request, caller: Teller, webhook_id: uuid.UUID) -> Response:
    """Delete an endpoint with its deliveries."""
    _require_visible(request, webhook_id, caller)
    with database.transaction(rest.runtime(request).db) as tx:
        endpoints.lock(tx, webhook_id, seen_by=caller.user_id)
        endpoints.remove(tx, webhook_id)
    return Response(status_code=204)


@router.post("/{webhook_id}/rotate-secret", status_code=201, responses={201: {"model": NewSecret}})
def rotate_secret(request: Request, caller: Teller, webhook_id: uuid.UUID, body: Rotation | None = None) -> Response:
    """A new secret. For `overlap_seconds` (a day by default) messages carry two signatures, of both secrets."""
    runtime, overlap = rest.runtime(request), timedelta(seconds=(body or Rotation()).overlap_seconds)
    _require_visible(request, webhook_id, caller)
    with database.transaction(runtime.db) as tx:
        endpoints.lock(tx, webhook_id, seen_by=caller.user_id)
        secret = endpoints.rotate(tx, runtime.vault, webhook_id, overlap=overlap)
        shown = NewSecret(secret, endpoints.get(tx, webhook_id, seen_by=caller.user_id).old_secret_until)
    return rest.answer(shown, status=201, headers=rest.NOT_STORED)


@router.post("/{webhook_id}/test", status_code=202, responses={202: {"model": DeliveryWithAttempts}})
def send_test(request: Request, caller: Teller, webhook_id: uuid.UUID) -> Response:
    """Send a `webhook.test` message, on the same way as every other; the delivery's route tells how it went."""
    _require_visible(request, webhook_id, caller)
    with database.transaction(rest.runtime(request).db) as tx:
        endpoints.require_reachable(endpoints.lock(tx, webhook_id, seen_by=caller.user_id))
        seq = replay.test(tx, webhook_id)
        return rest.answer(queries.get(tx, webhook_id, sign.message_id(webhook_id, seq)), status=202)


@router.post("/{webhook_id}/replay", status_code=202, responses={202: {"model": Replay}})
def replay_range(request: Request, caller: Teller, webhook_id: uuid.UUID, body: Range) -> Response:
    """Send the changes of a span of time once more, in order and under their old ids; `dry_run` only counts them.

    The endpoint's filters apply. 100,000 changes at most at once.
    """
    until = body.stored_to or datetime.now(UTC)
    if until <= body.stored_from:
        raise InvalidRequestError("from: must lie in the past.")
    wanted = Wanted(body.stored_from, until, body.order_id, body.only_failed)
    _require_visible(request, webhook_id, caller)
    if body.dry_run:  # may count for long: nobody who delivers waits for it
        with database.snapshot(rest.runtime(request).db) as tx:
            row = endpoints.row(tx, webhook_id, seen_by=caller.user_id)
            return rest.answer(replay.replay(tx, row, wanted, dry_run=True), status=202)
    with database.transaction(rest.runtime(request).db) as tx:
        row = endpoints.lock(tx, webhook_id, seen_by=caller.user_id)
        return rest.answer(replay.replay(tx, row, wanted, dry_run=False), status=202)


@router.get("/{webhook_id}/deliveries", responses={200: {"model": DeliveryPage}})
def list_deliveries(
    *,
    request: Request,
    caller: Teller,
    webhook_id: uuid.UUID,
    status: queries.Status | None = None,
    order_id: Annotated[rest.Word | None, Query(description="Of this order only.")] = None,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """What is and was to be sent, newest first; what ended is kept for 30 days."""
    query = ("deliveries", webhook_id, status, order_id)
    after = rest.position(request, cursor, queries.At, query=query)
    with rest.reading(request) as tx:
        _require(tx, webhook_id, caller)
        items, more = queries.page(tx, webhook_id, status=status, order_id=order_id, after=after, limit=limit)
    return rest.page(items, rest.cursor(request, more, query=query) if more else None)


@router.get("/{webhook_id}/deliveries/{delivery_id}", responses={200: {"model": DeliveryWithAttempts}})
def show_delivery(request: Request, caller: Teller, webhook_id: uuid.UUID, delivery_id: DeliveryId) -> Response:
    """One delivery with every attempt: when, how long, which status, what was answered."""
    with rest.reading(request) as tx:
        _require(tx, webhook_id, caller)
        return rest.answer(queries.get(tx, webhook_id, delivery_id))


def _require_visible(request: Request, webhook_id: uuid.UUID, caller: Caller) -> None:
    """The same, beneath every filter of ours; before something is changed."""
    with rest.reading(request) as tx:
        _require(tx, webhook_id, caller)


def _require(tx: Connection, webhook_id: uuid.UUID, caller: Caller) -> None:
    """Raises NotFoundError unless the caller may see the endpoint."""
    endpoints.get(tx, webhook_id, seen_by=caller.user_id)
