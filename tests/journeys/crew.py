"""Workers and schedulers as real processes on a real broker, looked after as `orders-backup up` does."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from orders_backup import db as databases
from orders_backup import local
from orders_backup.local import processes
from orders_backup.local.processes import Child
from orders_backup.settings import Settings


@dataclass
class Crew:
    """The processes by name: `worker`, `worker-2`, …, `scheduler`, and so on."""

    settings: Settings
    db: sa.Engine
    children: dict[str, Child]
    said: list[str] = field(default_factory=list)

    def until(self, holds: Callable[[], object], what: str, *, within: float = 60.0) -> float:
        """Waits, starting again who died or froze meanwhile; how long it took."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < within, f"not within {within} s: {what}\n{self.said}\n{self.logs()}"
            for child in self.children.values():
                if child.process is not None:
                    processes.revive(child, time.monotonic(), self.said.append)
            time.sleep(0.1)
        return time.monotonic() - began

    def start(self, *names: str) -> None:
        for name in names:
            self.children[name].start()

    def signal(self, name: str, number: signal.Signals) -> int:
        pid = self.children[name].pid
        assert pid is not None
        os.kill(pid, number)
        return pid

    def logs(self) -> str:
        return "\n".join(one.log.read_text()[-2000:] for one in self.children.values() if one.log.exists())

    def rows(self, query: str, **values: object) -> list[Any]:
        with databases.transaction(self.db) as tx:
            return list(tx.execute(sa.text(query), values))

    def change(self, statement: str, **values: object) -> None:
        with databases.transaction(self.db) as tx:
            tx.execute(sa.text(statement), values)

    # Work that needs nothing of Allegro: the sync of a paused account is claimed, and put to sleep

    def owes(self, accounts: int) -> None:
        """So many accounts' syncs are due now."""
        self.change("DELETE FROM syncs")
        self.change("DELETE FROM accounts")
        rows = [{"id": uuid4(), "seller": str(number)} for number in range(accounts)]
        with databases.transaction(self.db) as tx:
            account = """INSERT INTO accounts (id, user_id, name, status, seller_id, paused)
                         VALUES (:id, :id, 'a', 'active', :seller, true)"""
            tx.execute(sa.text(account), rows)
            sync = "INSERT INTO syncs (account_id, kind, due_at) VALUES (:id, 'journal', clock_timestamp())"
            tx.execute(sa.text(sync), rows)

    def undone(self) -> int:
        return int(self.rows("SELECT count(*) FROM syncs WHERE due_at IS NOT NULL")[0][0])

    def unrung(self) -> int:
        return int(self.rows("SELECT count(*) FROM syncs WHERE due_at IS NOT NULL AND rung_at IS NULL")[0][0])

    def runs(self) -> list[int]:
        """How often each was claimed."""
        return [row[0] for row in self.rows("SELECT lease_generation FROM syncs")]

    def does_all(self, *, within: float = 60.0) -> float:
        return self.until(lambda: not self.undone(), "everything that is due has run", within=within)

    def heard(self) -> int:
        """How many workers have heard a canary within the last 15 seconds."""
        query = "SELECT count(*) FROM worker_slots WHERE canary_done_at > clock_timestamp() - interval '15 s'"
        return int(self.rows(query)[0][0])


@contextmanager
def on_board(settings: Settings, *, workers: int = 1, schedulers: int = 1) -> Iterator[Crew]:
    """None of them started yet; all of them ended."""
    folder = settings.data_dir
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    made = local.application_children(settings, "127.0.0.1", 0, workers)[1:]
    children = {child.name: child for child in made}
    for number in range(2, schedulers + 1):
        children[f"scheduler-{number}"] = _another(children["scheduler"], f"scheduler-{number}", folder)
    with ExitStack() as stack:
        db = databases.connect(settings.database_url, pool_size=4)
        stack.callback(db.dispose)
        for child in children.values():
            stack.callback(child.kill)
        yield Crew(settings, db, children)


def _another(child: Child, name: str, folder: Path) -> Child:
    pulse = folder / "logs" / f"{name}.pulse"
    command = [str(pulse) if word == str(child.pulse) else word for word in child.command]
    return Child(name, command, folder / "logs" / f"{name}.log", child.environment, pulse=pulse)
