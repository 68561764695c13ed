"""One server of the embedded default: running, on a free port of 127.0.0.1. Knows not which program it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from orders_backup.local import processes
from orders_backup.local.processes import Child


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; stops at the end of a `with` block. `url` carries its password."""

    program: str
    port: int
    url: str
    child: Child
    stop_within: float = 60.0

    def stop(self) -> None:
        self.child.stop(within=self.stop_within)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def on_a_free_port(
    make: Callable[[int], Child], ready: Callable[[Child, int], bool], *, within: float
) -> tuple[Child, int]:
    """On a free port; on another where someone was quicker. The child is stopped where it does not get ready."""
    for attempt in range(3):
        port = processes.free_port()
        child = make(port)
        child.start()
        try:
            processes.wait_until(lambda: ready(child, port), child, within=within)  # noqa: B023
        except BaseException:
            child.stop(within=10)
            if attempt < 2 and _was_taken(port):
                continue
            raise
        return child, port
    raise AssertionError


def _was_taken(port: int) -> bool:
    try:
        processes.probe_port("127.0.0.1", port)
    except OSError:
        return True
    return False


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
