"""The routes of syncing: ask for a run, watch it, and read the completeness certificate."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

import structlog
from fastapi import Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field, model_validator

from orders_backup import db as database
from orders_backup import rest
from orders_backup.access import Caller
from orders_backup.accounts import queries as accounts
from orders_backup.sync import queries, reconcile, state
from orders_backup.sync.queries import Run
from orders_backup.sync.reconcile import Certificate

log = structlog.get_logger()

router = rest.router("", "syncs")

Syncer = Annotated[Caller, Security(rest.caller, scopes=["sync"])]
Reader = Annotated[Caller, Security(rest.caller, scopes=["orders:read"])]


class NewSync(BaseModel):
    """What to do: `incremental` follows the journal now; `full` lists the last 30 days order by order and compares
    the rest of the year by count; `reconcile` lists it all. `from` and `to` narrow the last two to purchases of that
    time, listed order by order."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["incremental", "full", "reconcile"]
    range_from: rest.Moment | None = Field(default=None, alias="from")
    range_to: rest.Moment | None = Field(default=None, alias="to")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.kind == "incremental" and (self.range_from or self.range_to):
            raise ValueError("from and to belong to full and reconcile; leave them out for incremental")
        if self.range_from and self.range_to and self.range_from >= self.range_to:
            raise ValueError("from must lie before to")
        if self.range_from and self.range_from >= datetime.now(UTC):
            raise ValueError("from must lie in the past")
        return self


@dataclass
class RunPage:
    """A page of runs, newest first."""

    items: list[Run]
    next_cursor: str | None


@router.post("/accounts/{account_id}/syncs", status_code=202, responses={202: {"model": Run}})
def request_sync(request: Request, caller: Syncer, account_id: uuid.UUID, body: NewSync) -> Response:
    """Ask for a sync now. The answer is the run to watch."""
    with rest.reading(request) as tx:
        accounts.require(tx, account_id, seen_by=caller.user_id)
    with database.transaction(rest.runtime(request).db) as tx:
        run_id = state.request(tx, account_id, body.kind, range_from=body.range_from, range_to=body.range_to)
        run = queries.get(tx, run_id, seen_by=caller.user_id)
    log.info("sync_requested", account_id=str(account_id), run_id=str(run_id), kind=body.kind)
    return rest.answer(run, status=202)


@router.get("/accounts/{account_id}/syncs", responses={200: {"model": RunPage}})
def list_syncs(
    request: Request,
    caller: Syncer,
    account_id: uuid.UUID,
    limit: rest.Limit = 100,
    cursor: rest.CursorText = None,
) -> Response:
    """Runs of an account, newest first."""
    query = ("syncs", account_id)
    after = rest.position(request, cursor, queries.Position, query=query)
    with rest.reading(request) as tx:
        accounts.require(tx, account_id, seen_by=caller.user_id)
        items, more = queries.page(tx, account_id, after=after, limit=limit)
    return rest.page(items, rest.cursor(request, more, query=query) if more else None)


@router.get("/syncs/{sync_id}", responses={200: {"model": Run}})
def show_sync(request: Request, caller: Syncer, sync_id: uuid.UUID) -> Response:
    """One run with its counts, calls, progress and estimated time to its end."""
    with rest.reading(request) as tx:
        return rest.answer(queries.get(tx, sync_id, seen_by=caller.user_id))


@router.get("/accounts/{account_id}/completeness", responses={200: {"model": Certificate}})
def show_certificate(request: Request, caller: Reader, account_id: uuid.UUID) -> Response:
    """The completeness certificate: per window what Allegro listed, what is stored, what is missing and why."""
    with rest.reading(request) as tx:
        accounts.require(tx, account_id, seen_by=caller.user_id)
        return rest.answer(reconcile.certificate(tx, account_id))
