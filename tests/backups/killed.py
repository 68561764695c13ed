"""A restore that dies: `python -m tests.backups.killed SETTINGS ACCOUNT PHASE`, by SIGKILL in this phase."""

import json
import os
import signal
import sys
from typing import Any
from uuid import UUID

from orders_backup import runtime as runtimes
from orders_backup.backups import merging, restore
from orders_backup.orders import restoring
from orders_backup.settings import Settings


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    given, account_id, phase = sys.argv[1:]
    secrets = {name: os.environ[name.upper()] for name in ("encryption_keys", "aws_secret_access_key")}
    runtime = runtimes.build(Settings.model_validate({**json.loads(given), **secrets}))
    put_back, made = merging.put_back, [0]

    def put_back_(*arguments: Any) -> None:
        """The second batch is written and not committed."""
        put_back(*arguments)
        made[0] += 1
        if made[0] == 2:
            die()

    restore.BATCH_RECORDS, restoring.PAGE_VERSIONS = 15, 10
    if phase == "bytes":
        merging.put_back = put_back_  # type: ignore[assignment]
    for progress in restore.restore(runtime, UUID(account_id)):
        if phase == progress.phase == "heads" and progress.done > 15:
            die()
        if phase == "login" and progress.phase == "heads" and progress.done == progress.of:
            restore._logged_in = die  # type: ignore[assignment]


if __name__ == "__main__":
    main()
