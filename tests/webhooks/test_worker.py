"""The tick rings for endpoints that have something to be told, and the task tells them; the receivers' page is true."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orders_backup import bell, worker

if TYPE_CHECKING:
    from .conftest import House, Receiver

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"


@pytest.mark.filterwarnings("ignore:Task name")
def test_the_tick_rings_for_an_endpoint_only_when_something_happened(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    app = bell.celery_app(house.runtime.settings)
    worker.register(app, house.runtime)
    house.change("UPDATE accounts SET paused = true")  # so that nothing but webhooks is rung for
    assert worker.tick(house.runtime, app, wake=True) == 0
    house.changes("o")
    assert worker.tick(house.runtime, app, wake=False) == 0
    assert worker.tick(house.runtime, app, wake=True) == 1
    assert worker.tick(house.runtime, app, wake=True) == 0
    app.tasks["deliver"].run(str(webhook))
    assert [got.data["order_id"] for got in receiver.got] == ["o"]
    assert worker.tick(house.runtime, app, wake=True) == 0


def test_what_the_page_for_receivers_says_about_verifying_is_true(house: "House", receiver: "Receiver") -> None:
    webhook, secret = house.endpoint(receiver.url)
    house.changes("o")
    house.deliver(webhook)
    (got,) = receiver.got
    by_hand = next(code for code in re.findall(r"```python\n(.+?)```", PAGE.read_text(), re.DOTALL) if "def " in code)
    names: dict[str, Any] = {}
    exec(by_hand, names)  # noqa: S102 - our own page
    assert names["is_ours"](secret, got.headers, got.body) is True
    assert names["is_ours"](secret, got.headers, got.body + b" ") is False
    assert names["is_ours"](secret, {**got.headers, "webhook-timestamp": "1"}, got.body) is False
