"""The worker as a program that can be hurt.

At SIGWINCH it consumes the queue of all work no more, and lives on. At SIGPROF Celery meets an error.
"""

import os
import signal
from typing import Any

from orders_backup import bell, canary, worker


class Hurtable(bell.Listener):
    """The worker's own consumer, with two signals."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        signal.signal(signal.SIGWINCH, lambda *_: self.call_soon(self.task_consumer.cancel_by_queue, bell.QUEUE))
        signal.signal(signal.SIGPROF, lambda *_: self.call_soon(int, "an error"))


def main() -> None:
    vars(bell)["Listener"] = Hurtable
    for name in ("EVERY", "DEAF_AFTER"):
        vars(canary)[name] = float(os.environ.get(f"CANARY_{name}", vars(canary)[name]))
    worker.main()


if __name__ == "__main__":
    main()
