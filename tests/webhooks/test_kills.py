"""Processes that deliver are killed while messages are on the way: each message arrives, in order, under one id."""

import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from .conftest import Got, Reply

if TYPE_CHECKING:
    from .conftest import House, Receiver

DELIVERS = """
import sys, uuid
from orders_backup import runtime, settings
from orders_backup.webhooks import deliver
built = runtime.build(settings.load(env_file=None))
deliver.deliver(built, uuid.UUID(sys.argv[1]), slice_seconds=60)
"""
KILLS = 4


def test_a_killed_process_loses_no_message_and_invents_none(house: "House", receiver: "Receiver") -> None:
    webhook, _ = house.endpoint(receiver.url)
    draw = random.Random(3)
    orders = [f"o{number}" for number in range(25)]
    killed = 0
    for _ in range(KILLS):
        for _ in range(3):
            house.changes(*orders)
        house.change("UPDATE webhooks SET due_at = clock_timestamp(), leased_until = NULL")
        process = start(house, str(webhook))
        last_words = draw.randint(1, 60)
        receiver.replies = lambda got, process=process, at=last_words: kills(got, receiver, process, at)  # type: ignore[misc]
        receiver.got.clear()
        killed += process.wait(timeout=60) == -signal.SIGKILL
    assert killed == KILLS
    receiver.replies = lambda _got: Reply()
    house.deliver(webhook)
    told: dict[str, list[int]] = {}
    ids: dict[str, bytes] = {}
    for got in receiver.accepted:
        assert ids.setdefault(got.headers["webhook-id"], got.body) == got.body
        seen = told.setdefault(got.data["order_id"], [])
        if got.data["version"] not in seen:
            seen.append(got.data["version"])
    assert told == {order: list(range(1, 3 * KILLS + 1)) for order in orders}
    assert len(ids) == 25 * 3 * KILLS
    assert {row.status for row in house.deliveries(webhook)} == {"delivered"}


def start(house: "House", webhook_id: str) -> "subprocess.Popen[bytes]":
    config = house.runtime.settings
    environment = {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}},
        "DATABASE_URL": config.database_url,
        "ENCRYPTION_KEYS": config.encryption_keys.get_secret_value(),
        "WEBHOOK_ALLOWED_HOSTS": config.webhook_allowed_hosts,
        "DATA_DIR": str(config.data_dir),
    }
    return subprocess.Popen([sys.executable, "-c", DELIVERS, webhook_id], env=environment)


def kills(_got: Got, receiver: "Receiver", process: "subprocess.Popen[bytes]", at: int) -> Reply:
    """The receiver has it, and before its answer arrives nobody is there any more."""
    if len(receiver.got) >= at:
        process.kill()
    return Reply()
