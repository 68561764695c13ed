"""The route of the audit log. What is in it, audit.py knows."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import Request, Response, Security

from orders_backup import audit, rest
from orders_backup.access import Caller
from orders_backup.audit import Act

router = rest.router("/audit-log", "audit log")

Admin = Annotated[Caller, Security(rest.caller, scopes=["admin"])]
Seq = Annotated[int, msgspec.Meta(ge=0)]


@dataclass
class ActPage:
    """A page of acts, newest first."""

    items: list[Act]
    next_cursor: str | None


@router.get("", responses={200: {"model": ActPage}})
def list_acts(request: Request, caller: Admin, limit: rest.Limit = 100, cursor: rest.CursorText = None) -> Response:
    """What was changed, by whom, and how it ended; by keys of one user where this one is bound to one."""
    before = rest.position(request, cursor, Seq, query="audit-log")
    with rest.reading(request) as tx:
        found = audit.acts(tx, seen_by=caller.user_id, before=before, limit=limit + 1)
    more = found[limit - 1].seq if len(found) > limit else None
    return rest.page(found[:limit], rest.cursor(request, more, query="audit-log") if more else None)
