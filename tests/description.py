"""Allegro's own description of its API. It is not part of the project: what needs it runs where it lies beside the
checkout, and says so aloud where it does not."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ORDERS = Path(__file__).parents[2] / "shared" / "allegro" / "openapi" / "orders-openapi-wire.yaml"


@cache
def schemas() -> dict[str, Any]:
    """The schemas of its order API; skips the test that asks where there is no description."""
    if not ORDERS.parents[2].is_dir():
        pytest.skip(f"NOT CHECKED against Allegro's description: it is not at {ORDERS}")
    found: dict[str, Any] = yaml.load(ORDERS.read_text("utf-8"), Loader=yaml.CSafeLoader)["components"]["schemas"]
    return found
