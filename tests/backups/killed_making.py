"""A worker that dies while it makes a backup: `python -m tests.backups.killed_making SETTINGS BACKUP MOMENT`.

SIGKILL, by its own hand, so that nothing of ours can run after it.
"""

import json
import os
import signal
import sys
from typing import Any
from uuid import UUID

from orders_backup import runtime as runtimes
from orders_backup import store as stores
from orders_backup.backups import dumps, making, smoke
from orders_backup.settings import Settings


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at(moment: str) -> None:
    put_large, put, parts = stores.put_large, stores.put, [0]

    def put_large_(*arguments: Any) -> None:
        put_large(*arguments)
        parts[0] += 1
        if moment == "between two parts" and parts[0] == 2:
            die()

    def put_(*arguments: Any, **named: Any) -> bool:
        if moment == "before the manifest":
            die()
        put(*arguments, **named)
        die()
        return True

    dumps.PART_BYTES = 4096
    stores.put_large = put_large_  # type: ignore[assignment]
    if moment.endswith("the manifest"):
        stores.put = put_
    if moment == "in a drill":
        smoke.findings = die  # type: ignore[assignment]


def main() -> None:
    given, backup_id, moment = sys.argv[1:]
    secrets = {name: os.environ[name.upper()] for name in ("encryption_keys", "aws_secret_access_key")}
    runtime = runtimes.build(Settings.model_validate({**json.loads(given), **secrets}))
    at(moment)
    making.work(runtime, UUID(backup_id))


if __name__ == "__main__":
    main()
