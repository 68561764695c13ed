"""The OpenAPI document against tools of others: Schemathesis asks the live API, Spectral reads the document."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from allegro_simulator.server import running
from allegro_simulator.world import World as Allegro
from orders_backup import access
from orders_backup.settings import Settings

from .test_rest_orders import START, order

if TYPE_CHECKING:
    from .conftest import World


ROOT = Path(__file__).parents[2]
SPECTRAL = ROOT / "tests" / "spectral"
SETTINGS = """
[[operations]]
include-path = "/api/v1/changes"
parameters = { wait = 0 }

"""
BEYOND_SCHEMAS = {
    "make_key": "an end in the past",
    "list_orders": "at with other filters, q without words",
    "export_orders": "a month with other times, q without words",
    "start_export": "the same",
    "request_sync": "an empty range",
    "replay_range": "an empty range",
    "make_webhook": "addresses that are not of the public internet",
    "change_webhook": "the same",
    "make_silence": "an end in the past, a rule that there is not, nothing to be silent about",
    "connect_account": "a name without a printable character",
    "change_account": "the same",
}
"""Operations that refuse, with 422, what is right by their schema, and why."""
for operation in BEYOND_SCHEMAS:
    SETTINGS += f"""
[[operations]]
include-operation-id = "{operation}"
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 422]
"""


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """With an Allegro that answers, and an allowance that nobody exhausts."""
    with running(Allegro()) as url:
        yield settings.model_copy(
            update={"allegro_api_url": url, "allegro_auth_url": url, "rate_limit_api": 10**6, "rate_limit_auth": 10**4}
        )


def test_schemathesis_finds_nothing(world: "World", tmp_path: Path) -> None:
    account = world.account()
    for number in range(3):
        world.read(account, order(f"o{number}"), at=START + timedelta(hours=number))
    world.webhook()
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{world.url}/openapi.json"]
    seed, examples = os.environ.get("SCHEMATHESIS_SEED", "1"), os.environ.get("SCHEMATHESIS_EXAMPLES", "2")
    phases = os.environ.get("SCHEMATHESIS_PHASES", "fuzzing,stateful")
    options = ["--checks", "all", "--phases", phases, "--seed", seed, "--max-examples", examples]
    key = world.key(*access.SCOPES)
    header = ["--header", f"X-API-Key: {key}"]
    ended = subprocess.run(
        [*command, *options, *header],
        cwd=tmp_path,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.rest.schemathesis_hooks",
            "OWN_KEY_ID": key.split("_")[2],
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    print(ended.stdout[ended.stdout.find("== SUMMARY ==") :])
    assert ended.returncode == 0, ended.stdout[-20_000:]
    paths = httpx.get(f"{world.url}/openapi.json").json()["paths"].values()
    tested = re.search(r"Tested: (\d+)", ended.stdout)
    assert tested is not None
    assert int(tested[1]) == sum(len(methods) for methods in paths)


def test_spectral_finds_nothing(world: "World", tmp_path: Path) -> None:
    document = tmp_path / "openapi.json"
    document.write_text(httpx.get(f"{world.url}/openapi.json").text)
    linter = SPECTRAL / "node_modules" / ".bin" / "spectral"
    command = [
        str(linter),
        "lint",
        str(document),
        "--ruleset",
        str(SPECTRAL / ".spectral.yaml"),
        "--fail-severity",
        "hint",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document.write_text(document.read_text().replace('"operationId":"show_order"', '"operationId":"show_version"'))
    spoilt = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "operation-operationId-unique" in spoilt.stdout
