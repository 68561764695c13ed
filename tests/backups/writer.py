"""A worker that writes an archive until it is killed: `python -m tests.backups.writer SETTINGS ACCOUNT`.

Between its steps new versions come. It says when it begins, so that nobody kills it while it loads.
"""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from orders_backup import db as database
from orders_backup import runtime as runtimes
from orders_backup.backups import job, state
from orders_backup.orders import archive, changes
from orders_backup.settings import Settings


def main() -> None:
    secrets = {name: os.environ[name.upper()] for name in ("encryption_keys", "aws_secret_access_key")}
    runtime = runtimes.build(Settings.model_validate({**json.loads(sys.argv[1]), **secrets}))
    account_id, number = UUID(sys.argv[2]), os.getpid() * 1_000_000
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    while True:
        number += 1
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=number)
        bodies = [
            json.dumps({"id": f"order-{number}-{n}", "filling": os.urandom(2000).hex()}).encode() for n in range(30)
        ]
        with database.transaction(runtime.db) as tx:
            archive.record(tx, runtime.codec, account_id, [changes.read(at, body) for body in bodies], cause="test")
        with database.transaction(runtime.db) as tx:
            state.wake(tx)
            if number % 7 == 0:  # the day ends
                tx.execute(sa.text("UPDATE archives SET made_at = made_at - interval '3 days' * (1 + number % 300)"))
            tx.execute(sa.text("UPDATE archives SET due_at = clock_timestamp(), leased_until = NULL"))
        job.work(runtime, account_id, step_records=20)


if __name__ == "__main__":
    main()
