"""The routes of exports: at once as a stream, or in the background with files and a manifest."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Body, Path, Query, Request, Response, Security
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, WithJsonSchema
from sqlalchemy.engine import Connection

from orders_backup import db as database
from orders_backup import rest
from orders_backup.access import Caller
from orders_backup.accounts import queries as accounts
from orders_backup.errors import ConflictError, NotFoundError
from orders_backup.exports import files, formats, state
from orders_backup.exports.formats import Name
from orders_backup.exports.kept import Tally
from orders_backup.exports.shapes import ExportPage, ExportShown, File
from orders_backup.exports.state import Export
from orders_backup.orders import feed

router = rest.router("", "exports")

Exporter = Annotated[Caller, Security(rest.caller, scopes=["exports"])]
Month = Annotated[rest.Word, WithJsonSchema({"type": "string", "pattern": r"^[1-9]\d{3}-(0[1-9]|1[0-2])$"})]
ExportId = Annotated[uuid.UUID, Path(description="The export's id.")]


class Wanted(BaseModel):
    """Which orders, as in the list of orders. `month` (2026-06): those bought in it by the clock of Warsaw."""

    model_config = ConfigDict(extra="forbid")

    user_id: uuid.UUID | None = None
    account_id: uuid.UUID | None = None
    status: rest.Word | None = None
    fulfillment_status: rest.Word | None = None
    buyer_login: rest.Word | None = None
    marketplace: rest.Word | None = None
    ordered_from: rest.Moment | None = None
    ordered_to: rest.Moment | None = None
    updated_from: rest.Moment | None = None
    updated_to: rest.Moment | None = None
    q: rest.Word | None = None
    month: Month | None = None


class ExportRequest(BaseModel):
    """What to export."""

    model_config = ConfigDict(extra="forbid")

    format: Name
    filter: Wanted = Wanted()


MEDIA_TYPES = [one.media_type.partition(";")[0] for one in formats.FORMATS.values()]
OCTETS: dict[int | str, dict[str, Any]] = {
    200: {"content": {name: {"schema": {"type": "string", "format": "binary"}} for name in MEDIA_TYPES}}
}


@router.get("/orders/export", responses=OCTETS, response_class=StreamingResponse)
def export_orders(  # noqa: PLR0917 - one parameter per filter, as the contract lists them
    request: Request,
    caller: Exporter,
    format: Annotated[Name, Query(description="`accountant` needs a `month`.")],  # noqa: A002 - the contract's name
    user_id: uuid.UUID | None = None,
    account_id: uuid.UUID | None = None,
    status: rest.Word | None = None,
    fulfillment_status: rest.Word | None = None,
    buyer_login: rest.Word | None = None,
    marketplace: rest.Word | None = None,
    ordered_from: rest.Moment | None = None,
    ordered_to: rest.Moment | None = None,
    updated_from: rest.Moment | None = None,
    updated_to: rest.Moment | None = None,
    q: Annotated[rest.Word | None, Query(description="Words, as in the list of orders.")] = None,
    month: Annotated[Month | None, Query(description="2026-06, by the clock of Warsaw.")] = None,
) -> StreamingResponse:
    """All orders of the filter in one stream, in the order of account and id; the connection breaks where it fails."""
    given = {
        "user_id": user_id,
        "account_id": account_id,
        "status": status,
        "fulfillment_status": fulfillment_status,
        "buyer_login": buyer_login,
        "marketplace": marketplace,
        "ordered_from": ordered_from,
        "ordered_to": ordered_to,
        "updated_from": updated_from,
        "updated_to": updated_to,
        "q": q,
        "month": month,
    }
    runtime = rest.runtime(request)
    asked = formats.asked(format, given, seen_by=rest.tenant(request))
    with rest.reading(request) as tx:
        _require(tx, asked.filter.account_id, caller)
    chunks = formats.chunks(runtime.db, runtime.codec, asked, Tally())
    shape = formats.FORMATS[format]
    return _streamed(chunks, shape.media_type, f"orders-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{shape.suffix}")


@router.post("/exports", status_code=202, responses={202: {"model": ExportShown}})
def start_export(request: Request, caller: Exporter, wanted: Annotated[ExportRequest, Body()]) -> Response:
    """An export in the background; ask for it until its `status` is `finished`."""
    runtime, given = rest.runtime(request), wanted.filter.model_dump(exclude_none=True)
    formats.asked(wanted.format, given, seen_by=rest.tenant(request))
    with rest.reading(request) as tx:
        _require(tx, wanted.filter.account_id, caller)
    with database.transaction(runtime.db) as tx:
        export_id = state.create(tx, user_id=rest.tenant(request), name=wanted.format, given=given)
        found = state.get(tx, export_id, seen_by=None)
    return rest.answer(_shown(request, found), status=202, headers={"Location": f"{rest.V1}/exports/{export_id}"})


@router.get("/exports", responses={200: {"model": ExportPage}})
def list_exports(
    request: Request, caller: Exporter, limit: rest.Limit = 100, cursor: rest.CursorText = None
) -> Response:
    """Exports, newest first; those that keys of the same user asked for, where the key is bound to one."""
    after = rest.position(request, cursor, state.Position, query="exports")
    with rest.reading(request) as tx:
        found, more = state.page(tx, seen_by=caller.user_id, after=after, limit=limit)
    items = [_shown(request, one) for one in found]
    return rest.page(items, rest.cursor(request, more, query="exports") if more else None)


@router.get("/exports/{export_id}", responses={200: {"model": ExportShown}})
def show_export(request: Request, caller: Exporter, export_id: ExportId) -> Response:
    """An export with its progress, its files and their SHA-256."""
    with rest.reading(request) as tx:
        found = state.get(tx, export_id, seen_by=caller.user_id)
    return rest.answer(_shown(request, found))


@router.get("/exports/{export_id}/manifest", responses={200: {"model": dict[str, Any]}})
def show_manifest(request: Request, caller: Exporter, export_id: ExportId) -> Response:
    """The manifest as it lies beside the files."""
    found = _finished(request, caller, export_id)
    content = b"".join(files.manifest(rest.runtime(request), found))
    return Response(content, media_type="application/json")


@router.get("/exports/{export_id}/download", responses=OCTETS, response_class=StreamingResponse)
def download_export(request: Request, caller: Exporter, export_id: ExportId) -> StreamingResponse:
    """The whole export as one file, checked on the way: where it was changed, the connection breaks."""
    found = _finished(request, caller, export_id)
    shape = formats.FORMATS[found.format]
    if len(found.parts) > 1 and not shape.joins:
        raise ConflictError(
            f"This export is {len(found.parts)} files of {found.format}, which do not make one; get each of /parts/1 …"
        )
    chunks = files.content(rest.runtime(request), found, found.parts)
    length = sum(part.bytes for part in found.parts)
    return _streamed(chunks, shape.media_type, f"orders-{export_id}.{shape.suffix}", length=length)


@router.get("/exports/{export_id}/parts/{number}", responses=OCTETS, response_class=StreamingResponse)
def download_part(
    request: Request, caller: Exporter, export_id: ExportId, number: Annotated[int, Path(ge=1, le=2**31 - 1)]
) -> StreamingResponse:
    """One file of the export, checked on the way."""
    found = _finished(request, caller, export_id)
    if number > len(found.parts):
        raise NotFoundError(f"This export has {len(found.parts)} files.")
    part, shape = found.parts[number - 1], formats.FORMATS[found.format]
    chunks = files.content(rest.runtime(request), found, [part])
    return _streamed(chunks, shape.media_type, f"orders-{export_id}-{number:05}.{shape.suffix}", length=part.bytes)


def _require(tx: Connection, account_id: uuid.UUID | None, caller: Caller) -> None:
    if account_id is not None:
        accounts.require(tx, account_id, seen_by=caller.user_id)


def _finished(request: Request, caller: Caller, export_id: uuid.UUID) -> Export:
    with rest.reading(request) as tx:
        found = state.get(tx, export_id, seen_by=caller.user_id)
    if found.status != "finished":
        raise ConflictError(f"The export is {found.status}; there are files only while it is finished.")
    return found


def _streamed(chunks: Iterator[bytes], media_type: str, name: str, *, length: int | None = None) -> StreamingResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if length is not None:
        headers["Content-Length"] = str(length)
    return StreamingResponse(chunks, media_type=media_type, headers=headers)


def _shown(request: Request, export: Export) -> ExportShown:
    total, done = export.orders_total, export.orders_done
    is_finished = export.status in {"finished", "expired"}
    progress = 1.0 if is_finished else None if total is None else min(done / total, 1.0) if total else 0.0
    eta = None
    if export.status == "running" and total is not None and done:
        eta = round(max(total - done, 0) * export.busy_seconds / done, 1)
    sums = {name: sum(getattr(part, name) for part in export.parts) for name in _SUMS}
    shown = {name: getattr(export, name) for name in ExportShown.__dataclass_fields__ if hasattr(export, name)}
    parts = [File(*(getattr(part, name) for name in File.__dataclass_fields__)) for part in export.parts]
    cursor = None
    if export.horizon is not None:
        query = ("changes", export.filter.get("account_id") and uuid.UUID(export.filter["account_id"]))
        cursor = rest.cursor(request, feed.Position(export.horizon, 0), query=query)
    own = {"id": export.export_id, "progress": progress, "eta_seconds": eta, "changes_cursor": cursor}
    return ExportShown(**{**shown, **sums, **own, "parts": parts})


_SUMS = ("rows", "bytes", "unreadable", "left_out")
