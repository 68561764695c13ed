"""What docs/api.md shows does what it says: every curl of it is run, and its Python client works."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from allegro_simulator.server import running
from allegro_simulator.world import World as Allegro
from orders_backup import access
from orders_backup.exports import jobs
from orders_backup.settings import Settings

from .test_api import NAMELESS
from .test_rest_orders import HOUR, START

if TYPE_CHECKING:
    from .conftest import World

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
EXAMPLES = PAGE[PAGE.index("\n## Examples\n") :]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", EXAMPLES, re.MULTILINE | re.DOTALL)
STRICT = 'set -euo pipefail\ncurl() { command curl --fail-with-body --silent --show-error "$@"; }\n'
[CLIENT] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    with running(Allegro()) as url:
        yield settings.model_copy(update={"allegro_api_url": url, "allegro_auth_url": url})


def cancelled(order_id: str, version: int = 1) -> bytes:
    return json.dumps(
        {
            "id": order_id,
            "status": "CANCELLED",
            "buyer": {"login": "Client:1", "lastName": "Nowak"},
            "lineItems": [{"id": "1", "offer": {"name": "Koc polarowy"}, "boughtAt": START.isoformat()}],
            "version": version,
        }
    ).encode()


@pytest.fixture
def named(world: "World") -> dict[str, str]:
    """What the examples call by a name, in an archive that has all of it."""
    account = world.account()
    world.read(account, cancelled("first"), cancelled("second"), NAMELESS)
    world.read(account, cancelled("first", 2), at=START + HOUR)
    world.beside(account, "shipments", "first", "first", b'{"shipments":[{"waybill":"6200"}]}')
    key = world.key(*access.SCOPES)
    ask = world.client(key)
    export = ask.post("/exports", json={"format": "csv"}).json()["id"]
    jobs.work(world.runtime, UUID(export))
    page: dict[str, str | int] = {"buyer_login": "Client:1", "status": "CANCELLED", "limit": 1}
    aside = ask.get(f"/accounts/{account}/set-aside").json()["items"][0]["sha256"]
    following = ask.get("/orders", params=page).json()["next_cursor"]
    return {"KEY": key, "ACCOUNT": str(account), "ORDER": "first", "EXPORT": export, "SHA256": aside, "NEXT": following}


@pytest.mark.parametrize("block", BLOCKS, ids=[re.sub(r"\W+", " ", block[-60:]).strip() for block in BLOCKS])
def test_an_example_works_as_it_stands(world: "World", named: dict[str, str], block: str, tmp_path: Path) -> None:
    given = block.replace("http://127.0.0.1:8000", world.url).replace("limit=1000", "limit=1")
    given = given.replace("9f3c…", named["SHA256"])
    ended = subprocess.run(
        ["bash", "-c", STRICT + given],
        cwd=tmp_path,
        env={**os.environ, **named},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, f"{given}\n{ended.stdout}\n{ended.stderr}"
    if "openssl" in block:
        digest = ended.stdout.splitlines()[-1]
        assert f"sha-256=:{digest}:" in ended.stdout


def test_there_are_as_many_examples_as_the_page_shows() -> None:
    assert len(BLOCKS) > 10
    assert sum(block.count("curl ") for block in BLOCKS) == EXAMPLES.count("\ncurl ")


class _EnoughError(Exception):
    """Ends a client that would follow for ever."""


def test_the_python_client_pages_follows_and_goes_on_after_a_crash(
    world: "World", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = world.account()
    for number in range(120):
        world.read(account, cancelled(f"o{number:03}"), at=START + timedelta(minutes=number))
    monkeypatch.setenv("KEY", world.key("orders:read"))
    monkeypatch.setenv("ORDERS_BACKUP", world.url)
    client: dict[str, Any] = {}
    exec(compile(CLIENT, "docs/api.md", "exec"), client)  # noqa: S102 - our own page
    assert sorted(one["id"] for one in client["orders"](status="CANCELLED")) == [f"o{one:03}" for one in range(120)]
    assert list(client["orders"](status="SENT")) == []
    with pytest.raises(RuntimeError, match="invalid_request"):
        client["ask"]("/orders", limit=0)
    place, seen = tmp_path / "place", list[str]()

    def handle(change: dict[str, Any], crash_at: int) -> None:
        if len(seen) == crash_at:
            raise _EnoughError
        seen.append(change["order_data"]["id"])

    for crash_at in (110, 130):
        with pytest.raises(_EnoughError):
            client["follow"](place, partial(handle, crash_at=crash_at), wait=0)
        world.read(account, cancelled("later"))
    client["api"].close()
    assert seen[:110] == [f"o{one:03}" for one in range(110)]
    assert seen[110:] == [f"o{one:03}" for one in range(100, 120)]  # what came after the last place comes again
