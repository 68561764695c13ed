"""The worker as a program that goes deaf at SIGWINCH: it consumes the queue of all work no more, and lives on."""

import os
import signal

from orders_backup import bell, canary, worker
from orders_backup.bell import Bell
from orders_backup.settings import Settings


def main() -> None:
    made: list[Bell] = []

    def celery_app(config: Settings) -> Bell:
        made.append(bell.celery_app(config))
        return made[0]

    def go_deaf(*_: object) -> None:
        listener = made[0].listener
        assert listener is not None
        listener.call_soon(listener.task_consumer.cancel_by_queue, bell.QUEUE)

    vars(worker)["celery_app"] = celery_app
    for name in ("EVERY", "DEAF_AFTER"):
        vars(canary)[name] = float(os.environ.get(f"CANARY_{name}", vars(canary)[name]))
    signal.signal(signal.SIGWINCH, go_deaf)
    worker.main()


if __name__ == "__main__":
    main()
