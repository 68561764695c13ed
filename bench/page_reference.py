"""The pages that others would make: a FastAPI application whose response model is built from the JSONB projection.

As its documentation shows it: a synchronous route, a pydantic model, a pool of connections; no keys, no cursors that
are signed, no allowance. A child process of the bench of pages: `python -m bench.page_reference URL PORT`.
"""

import sys
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from orders_backup import db as database
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


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
