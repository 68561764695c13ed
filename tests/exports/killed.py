"""A worker that dies at a boundary: `python -m tests.exports.killed SETTINGS EXPORT BOUNDARY PART_ORDERS`.

SIGKILL, by its own hand, so that nothing of ours can run after it.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from orders_backup import runtime as runtimes
from orders_backup.exports import jobs, shelf, state
from orders_backup.settings import Settings


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at(boundary: str) -> None:
    """Puts the death where it belongs: into the second file, or around what follows it."""
    put, keep, put_manifest, made = shelf.put, state.keep, shelf.put_manifest, [0]

    def put_(runtime: Any, where: str, export_id: UUID, name: str, chunks: Iterator[bytes]) -> None:
        made[0] += name != shelf.MANIFEST

        def until_death() -> Iterator[bytes]:
            for chunk in chunks:
                yield chunk
                die()

        is_the_one = made[0] == 2 and name != shelf.MANIFEST
        put(runtime, where, export_id, name, until_death() if is_the_one and boundary == "in a file" else chunks)
        if is_the_one and boundary == "after a file":
            die()

    def keep_(*arguments: Any) -> None:
        keep(*arguments)
        if made[0] == 2 and boundary == "before a commit":
            die()

    def put_manifest_(*arguments: Any) -> None:
        if boundary == "before the manifest":
            die()
        put_manifest(*arguments)
        if boundary == "after the manifest":
            die()

    shelf.put, state.keep, shelf.put_manifest = put_, keep_, put_manifest_  # type: ignore[assignment]


def main() -> None:
    given, export_id, boundary, part_orders = sys.argv[1:]
    secrets = {name: os.environ[name.upper()] for name in ("encryption_keys", "aws_secret_access_key")}
    runtime = runtimes.build(Settings.model_validate({**json.loads(given), **secrets}))
    at(boundary)
    jobs.work(runtime, UUID(export_id), part_orders=int(part_orders))


if __name__ == "__main__":
    main()
