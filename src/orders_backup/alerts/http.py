"""The routes of alerts: what is and was wrong, and what nobody wants to be told of for a while."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from fastapi import Path, Query, Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from orders_backup import db as database
from orders_backup import rest
from orders_backup.access import Caller
from orders_backup.accounts import queries as accounts
from orders_backup.alerts import queries, rules, state
from orders_backup.alerts.queries import Shown, ShownSilence
from orders_backup.errors import InvalidRequestError

router = rest.router("/alerts", "alerts")

Admin = Annotated[Caller, Security(rest.caller, scopes=["admin"])]
RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z]+(_[a-z]+)*$", max_length=40)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00]*$")]
SilenceId = Annotated[uuid.UUID, Path(description="As the list of silences tells it.")]


class NewSilence(BaseModel):
    """What to be silent about until when: a rule, a subject (an account's id, a webhook's, `installation` …), or a rule
    about a subject. A key that is bound to a user names one of its accounts."""

    model_config = ConfigDict(extra="forbid")

    rule: RuleName | None = None
    subject: Annotated[rest.Word | None, Field(description="As alerts name it.")] = None
    until: rest.Moment
    reason: Reason = ""

    @model_validator(mode="after")
    def _is_about_something(self) -> Self:
        if self.rule is None and self.subject is None:
            raise ValueError("name a `rule`, a `subject`, or both")
        if self.rule is not None and self.rule not in rules.BY_NAME:
            raise ValueError(f"there is no such rule; choose among {', '.join(rules.BY_NAME)}")
        return self


@dataclass
class AlertPage:
    """A page of alerts, newest first."""

    items: list[Shown]
    next_cursor: str | None


@dataclass
class SilencePage:
    """A page of silences, newest first."""

    items: list[ShownSilence]
    next_cursor: str | None


@router.get("", responses={200: {"model": AlertPage}})
def list_alerts(
    *,
    request: Request,
    caller: Admin,
    is_open: Annotated[bool | None, Query(alias="open", description="Only those that are, or are not, open.")] = None,
    rule: Annotated[RuleName | None, Query(description="Of this rule only.")] = None,
    account_id: uuid.UUID | None = None,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """What is wrong, and was; what is over is kept for 400 days. A key that is bound to a user sees alerts of its
    accounts."""
    query = ("alerts", is_open, rule, account_id)
    after = rest.position(request, cursor, queries.At, query=query)
    wanted: dict[str, Any] = {"is_open": is_open, "rule": rule, "account_id": account_id}
    with rest.reading(request) as tx:
        if account_id is not None:
            accounts.require(tx, account_id, seen_by=caller.user_id)
        items, more = queries.page(tx, seen_by=caller.user_id, after=after, limit=limit, **wanted)
    return rest.page(items, rest.cursor(request, more, query=query) if more else None)


@router.get("/silences", responses={200: {"model": SilencePage}})
def list_silences(request: Request, caller: Admin, limit: rest.Limit = 100, cursor: rest.CursorText = None) -> Response:
    """Of what nothing is, or was, told."""
    after = rest.position(request, cursor, queries.At, query="silences")
    with rest.reading(request) as tx:
        items, more = queries.silences(tx, seen_by=caller.user_id, after=after, limit=limit)
    return rest.page(items, rest.cursor(request, more, query="silences") if more else None)


@router.post("/silences", status_code=201, responses={201: {"model": ShownSilence}})
def make_silence(request: Request, caller: Admin, body: NewSilence) -> Response:
    """Tell nothing of this until then. What opens meanwhile shows in the list, and is told afterwards if it is still
    so."""
    if body.until <= datetime.now(UTC):
        raise InvalidRequestError("until: must lie in the future.")
    with rest.reading(request) as tx:
        queries.require_subject(tx, body.subject, seen_by=caller.user_id)
    with database.transaction(rest.runtime(request).db) as tx:
        made = state.silence(tx, **body.model_dump())
        return rest.answer(queries.silence(tx, made, seen_by=caller.user_id), status=201)


@router.delete("/silences/{silence_id}", status_code=204)
def end_silence(request: Request, caller: Admin, silence_id: SilenceId) -> Response:
    """Tell of it again from now on."""
    with rest.reading(request) as tx:
        queries.silence(tx, silence_id, seen_by=caller.user_id)
    with database.transaction(rest.runtime(request).db) as tx:
        state.end_silence(tx, silence_id)
    return Response(status_code=204)
