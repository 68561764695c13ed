"""The whole service through its public contract, on the embedded default and on the machine's own servers."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from pydantic import SecretStr
from tests.journeys import services

from allegro_simulator import server as simulator
from allegro_simulator.world import World
from orders_backup import access, local, vault
from orders_backup import db as databases
from orders_backup.settings import Settings
from orders_backup.sync import plan

WITHIN = 90.0


@dataclass
class Service:
    """The running service as another program sees it."""

    api: httpx.Client
    world: World

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self.api.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def connect(self, seller_id: str) -> str:
        """Connects a seller by the device flow, and answers with the account's id once it is active."""
        answer = self.api.post("/accounts", json={"user_id": str(uuid4()), "name": "shop"})
        assert answer.status_code == 202, answer.text
        account = answer.json()
        self.world.approves(account["user_code"], seller_id)
        self.wait(lambda: self.get(f"/accounts/{account['id']}")["status"] == "active", "the account is active")
        return str(account["id"])

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN
        while not holds():
            assert time.monotonic() < deadline, f"not within {WITHIN} s: {what}"
            time.sleep(0.25)

    def kept(self, account_id: str) -> dict[str, "Kept"]:
        """Every order of the account; each document is the exact bytes of the page."""
        answer = self.api.get("/orders", params={"account_id": account_id, "limit": 1000})
        page = msgspec.json.decode(answer.content, type=Page)
        assert page.next_cursor is None
        return {item.id: item for item in page.items}


class Kept(msgspec.Struct):
    """An order in a list page."""

    id: str
    gone_at: str | None
    order_data: msgspec.Raw


class Page(msgspec.Struct):
    """A list page."""

    items: list[Kept]
    next_cursor: str | None


@contextmanager
def running(folder: Path, database_url: str, broker_url: str, world: World, **changed: object) -> Iterator[Service]:
    """API, worker and scheduler as processes, pointed at an Allegro that they know by its address only.

    `changed`: settings other than these generous ones.
    """
    with ExitStack() as stack:
        allegro_url = stack.enter_context(simulator.running(world))
        settings = Settings(
            data_dir=folder,
            database_url=database_url,
            broker_url=broker_url,
            allegro_api_url=allegro_url,
            allegro_auth_url=allegro_url,
            allegro_client_id="simulator",
            allegro_client_secret=SecretStr("simulator-secret"),
            encryption_keys=SecretStr(vault.new_key()),
            events_interval=timedelta(seconds=1),
            rate_limit_orders=6_000,
            rate_limit_events=6_000,
            rate_limit_auth=60,
        ).model_copy(update=changed)
        local.migrate(settings)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        for child in local.application_children(settings, "127.0.0.1", port, 2):
            stack.callback(child.stop, within=20)
            child.start()
        db = databases.connect(database_url, pool_size=1)
        stack.callback(db.dispose)
        with databases.transaction(db) as tx:
            key = access.create_key(tx, name="test", scopes=access.SCOPES, user_id=None)
        api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers={"X-API-Key": key}, timeout=30)
        service = Service(stack.enter_context(api), world)
        service.wait(lambda: _is_ready(f"http://127.0.0.1:{port}/readyz"), "the service is ready")
        yield service


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(
    ("database", "broker"),
    [
        ("embedded", "valkey"),
        pytest.param("debian", "rabbitmq", marks=pytest.mark.external),
        pytest.param("debian", "redis", marks=pytest.mark.external),
    ],
)
def test_a_seller_is_connected_backed_up_followed_and_proven(tmp_path: Path, database: str, broker: str) -> None:
    world = World(seed=11, device_interval=1, clock=lambda: datetime.now(UTC) - 2 * plan.SETTLED)
    seller = world.add_seller(350)
    with (
        services.database(database, tmp_path / "database") as database_url,
        services.broker(broker, tmp_path / "broker") as broker_url,
        running(tmp_path / "data", database_url, broker_url, world) as service,
    ):
        account_id = service.connect(seller.id)
        service.wait(lambda: service.get(f"/accounts/{account_id}/completeness")["complete"], "the backfill is proven")
        world.happens(seller.id, 20)
        service.wait(lambda: _is_level(service, account_id, seller.id), "what happened has arrived")
        lost = world.buys(seller.id, silently=True)
        assert lost not in service.kept(account_id)
        asked = service.api.post(f"/accounts/{account_id}/syncs", json={"kind": "reconcile"})
        assert asked.status_code == 202, asked.text
        service.wait(lambda: lost in service.kept(account_id), "the sweep has found the lost one")
        service.wait(lambda: service.get(f"/accounts/{account_id}/completeness")["kind"] == "reconcile", "proven again")
        assert _is_level(service, account_id, seller.id)
        assert service.get(f"/accounts/{account_id}/completeness")["complete"]
        service.wait(lambda: any((tmp_path / "data/tokens" / account_id).glob("*.json")), "the login is in the journal")
    assert world.blocked_calls == 0


def _is_level(service: Service, account_id: str, seller_id: str) -> bool:
    """Whether the newest version of every order that Allegro has is, byte for byte, what Allegro has."""
    kept = service.kept(account_id)
    for form, truth in service.world.truth(seller_id).items():
        mine = kept.get(form)
        if truth.gone and mine is not None and mine.gone_at is None:
            return False
        if not truth.gone and (mine is None or bytes(mine.order_data) != truth.current):
            return False
    return True
