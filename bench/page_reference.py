"""The pages that others would make: a FastAPI application whose response model is built from the JSONB projection.

As its documentation shows it: a synchronous route, a pydantic model, a pool of connections; no keys, no cursors that
are signed, no allowance. A child process of the bench of pages: `python -m bench.page_reference URL PORT`.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import sqlalchemy as sa
import uvicorn
from bench import asking
from bench import scene as scenes
from bench.asking import HOST, Client
from bench.scene import Scene
from fastapi import FastAPI
from pydantic import BaseModel

from orders_backup import db as database
from orders_backup.local import processes
from orders_backup.local.processes import Child
from orders_backup.local.server import on_a_free_port
from orders_backup.tables import orders


class OrderOut(BaseModel):
    """The fields of the product's own answer."""

    id: str
    account_id: UUID
    status: str | None
    fulfillment_status: str | None
    ordered_at: datetime | None
    updated_at: datetime | None
    total: str | None
    currency: str | None
    buyer_login: str | None
    version: int
    superseded_by: str | None
    gone_at: datetime | None
    order_data: dict[str, Any]


class PageOut(BaseModel):
    """One page."""

    items: list[OrderOut]


COLUMNS = [orders.c.order_id.label("id")] + [orders.c[name] for name in OrderOut.model_fields if name != "id"]


def create_app(url: str) -> FastAPI:
    app, engine = FastAPI(), database.connect(url)

    @app.get("/orders")
    def list_orders(account_id: UUID, before: datetime, before_id: str = "", limit: int = 100) -> PageOut:
        place = sa.tuple_(sa.literal(before), sa.literal(before_id))
        query = (
            sa.select(*COLUMNS)
            .where(orders.c.account_id == account_id, sa.tuple_(orders.c.ordered_at, orders.c.order_id) < place)
            .order_by(orders.c.ordered_at.desc(), orders.c.order_id.desc())
            .limit(limit)
        )
        with engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return PageOut(items=[OrderOut.model_validate(row) for row in rows])

    return app


@contextmanager
def served(scene: Scene) -> Iterator[int]:
    """A process of it; its port."""
    logs = scene.runtime.settings.data_dir / "logs"

    def on(port: int) -> Child:
        command = [sys.executable, "-m", "bench.page_reference", scene.postgres.url, str(port)]
        return Child("page-reference", command, logs / "page-reference.log")

    child, port = on_a_free_port(on, lambda _, port: processes.accepts_connections(HOST, port), within=scenes.WITHIN)
    try:
        yield port
    finally:
        child.stop(within=30)


def pages(client: Client, account_id: UUID) -> Iterator[object]:
    """Page after page, as long as somebody wants one."""
    place = START
    while True:
        page = client.page(f"/orders?{urlencode({'account_id': str(account_id), **place})}")
        ids, moments = re.findall(ID, page.body), re.findall(MOMENT, page.body)
        is_last = len(ids) < asking.LIMIT
        place = START if is_last else {"before": moments[-1].decode(), "before_id": ids[-1].decode()}
        yield page


START = {"before": "2100-01-01T00:00:00Z", "before_id": ""}
ID = rb'{"id":"([^"]+)","account_id"'
MOMENT = rb'"ordered_at":"([^"]+)"'


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), host=HOST, port=int(sys.argv[2]), log_level="warning")
