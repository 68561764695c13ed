"""SIGKILL at any moment of writing an archive: no manifest ever names a bad file, and nothing is lost.

BACKUP_KILLS says how often; `make archives` kills 200 times.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.backups.conftest import bodies, execute, given_settings, keep, stored
from tests.shop import Shop

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("BACKUP_KILLS", "6"))


def test_a_worker_that_is_killed_at_any_moment_leaves_a_whole_archive(few: Shop) -> None:
    dice = random.Random(7)
    settings, secrets = given_settings(few.runtime)
    command = [sys.executable, "-m", "tests.backups.writer", settings, str(few.account_id)]
    few.runtime.codec.prepare(few.runtime.db, [])
    for _ in range(KILLS):
        worker = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **secrets}, stdout=subprocess.PIPE)
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"begun\n"
        time.sleep(dice.uniform(0.05, 1.5))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
        archived = bodies(few.runtime, few.account_id)  # every manifest, every file, every document is proven by this
        assert set(archived) <= set(stored(few.runtime, few.account_id))
    execute(few.runtime.db, "UPDATE archives SET due_at = clock_timestamp(), leased_until = NULL")
    keep(few.runtime)
    assert sorted(set(bodies(few.runtime, few.account_id))) == stored(few.runtime, few.account_id)
    assert bodies(few.runtime, few.account_id) == stored(few.runtime, few.account_id)
