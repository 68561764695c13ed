"""A process in this process: it dies at any line of ours, like kill -9, and its database can be away."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from tests.accounts.test_journal import Login

import orders_backup
from orders_backup import runtime as runtimes
from orders_backup.runtime import Runtime

OURS = str(Path(orders_backup.__file__).parent)
STEPS = tuple(f"{OURS}/{name}" for name in ("accounts/", "db.py", "store.py", "allegro/oauth.py"))


class Killed(BaseException):
    """Nothing of ours catches it, and nothing runs after it but what closes a transaction without a commit."""


class Outage:
    """PostgreSQL is away until a moment of the moved clock; a COMMIT may be done and its answer lost."""

    def __init__(self, login: Login) -> None:
        self.login = login
        self.until = 0.0
        self.loses_commits = 0

    def begins(self, seconds: float) -> None:
        self.until = self.login.clockwork.now().timestamp() + seconds

    @property
    def lasts(self) -> bool:
        return self.login.clockwork.now().timestamp() < self.until

    def check(self) -> None:
        if self.lasts:
            raise psycopg.OperationalError("the database is away")

    def on_commit(self, connection: sa.Connection) -> None:
        self.check()
        if self.loses_commits:
            self.loses_commits -= 1
            connection.connection.commit()
            raise psycopg.OperationalError("the answer of the COMMIT was lost")


@contextmanager
def process(login: Login, outage: Outage, data_dir: Path) -> Iterator[Runtime]:
    """A process with its own connections, which end with it whatever it was doing."""
    settings = login.runtime.settings.model_copy(update={"data_dir": data_dir})
    runtime = runtimes.build(settings, pool_size=2, transport=login.runtime.oauth.http._transport)
    opened: list[Any] = []
    event.listen(runtime.db, "connect", lambda connection, _: opened.append(connection))
    event.listen(runtime.db, "before_cursor_execute", lambda *_: outage.check())
    event.listen(runtime.db, "commit", outage.on_commit)
    try:
        yield runtime
    finally:
        for connection in opened:
            connection.close()
        runtime.close()


def steps_of(work: Callable[[], None], at: int, happens: Callable[[], None]) -> int:
    """Does the work; before its `at`-th line of ours `happens` is called. How many lines there were."""
    counted = 0

    def line(_: FrameType, what: str, __: object) -> Any:
        nonlocal counted
        if what == "line":
            counted += 1
            if counted == at:
                happens()
        return line

    def call(frame: FrameType, what: str, _: object) -> Any:
        return line if what == "call" and frame.f_code.co_filename.startswith(STEPS) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    except Killed:
        pass
    finally:
        sys.settrace(before)
    return counted


def kill() -> None:
    raise Killed
