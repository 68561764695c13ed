"""A served API with its archive, and exports that are worked on by hand."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.rest.conftest import World, world
from tests.storage import Bucket, bucket

from orders_backup import runtime as runtimes
from orders_backup.exports import jobs
from orders_backup.runtime import Runtime
from orders_backup.settings import Settings

__all__ = ["bucket", "world"]

ORDERS = Path(__file__).parents[1] / "examples" / "orders"
EXAMPLES = {path.stem: path.read_bytes() for path in sorted(ORDERS.glob("[0-9]*.json"))}


def example(name: str, **changes: Any) -> bytes:
    """The example that begins with this number, as Allegro serves it, with some fields replaced."""
    body = next(content for stem, content in EXAMPLES.items() if stem.startswith(name))
    return json.dumps({**json.loads(body), **changes}, ensure_ascii=False, separators=(",", ":")).encode()


def order(order_id: str, *, bought: str = "2026-06-01T08:00:00.000Z", **fields: Any) -> bytes:
    """A small order of one line."""
    price = {"amount": "12.30", "currency": "PLN"}
    line = {"id": f"line-{order_id}", "quantity": 1, "originalPrice": price, "price": price, "boughtAt": bought}
    document = {"id": order_id, "status": "READY_FOR_PROCESSING", "lineItems": [line], "summary": {"totalToPay": price}}
    return json.dumps({**document, **fields}, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass
class Exports:
    """Exports of a world: asked for over the API, made by a worker's runtime."""

    world: World
    runtime: Runtime
    folder: Path

    def ask(self, **wanted: Any) -> UUID:
        answer = self.world.ask.post("/exports", json={"format": "jsonl", **wanted})
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["id"])

    def work(self, export_id: UUID, **how: Any) -> dict[str, Any]:
        """One slice, whatever the clock says, and what the API tells afterwards."""
        self.due_now(export_id)
        jobs.work(self.runtime, export_id, **how)
        return self.shown(export_id)

    def due_now(self, export_id: UUID) -> None:
        statement = "UPDATE exports SET due_at = clock_timestamp(), leased_until = NULL WHERE export_id = :id"
        self.world.execute(statement, id=export_id)

    def shown(self, export_id: UUID) -> dict[str, Any]:
        found: dict[str, Any] = self.world.ask.get(f"/exports/{export_id}").raise_for_status().json()
        return found

    def files(self) -> list[Path]:
        """What lies in the storage, of every export."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file() and "exports" in path.parts)


@pytest.fixture(params=["disk", "s3"])
def exports(world: World, settings: Settings, bucket: Bucket, request: pytest.FixtureRequest) -> Iterator[Exports]:
    """In both places where files may lie; API and worker share the settings."""
    if request.param == "disk":
        yield Exports(world, world.runtime, settings.data_dir)
        return
    worker = runtimes.build(bucket.settings(settings))
    object.__setattr__(world.runtime, "store", worker.store)
    yield Exports(world, worker, bucket.folder)
    worker.close()
