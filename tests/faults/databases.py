"""Faults of PostgreSQL and of the disks."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from . import scale, strikes
from .cluster import SCHEDULERS, WORKERS, until
from .plan import Fault, Hits, Kind
from .toxics import Cut

if TYPE_CHECKING:
    from .chaos import Chaos


@contextmanager
def _restarted_at_once(chaos: "Chaos", _: Fault) -> Iterator[Hits]:
    """What `pg_ctl restart -m immediate` does: no checkpoint, and the log is replayed."""
    chaos.cluster.children["postgres"].process.send_signal(signal.SIGQUIT)  # type: ignore[union-attr]
    yield strikes.once
    chaos.cluster.restart("postgres")


@contextmanager
def _backends_terminated(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    hit = 0
    for _ in range(1 + fault.seed % 4):
        hit += _terminate(chaos, 1 + fault.seed % 5)
        time.sleep(0.2)
    yield lambda: hit


@contextmanager
def _backend_frozen(chaos: "Chaos", _: Fault) -> Iterator[Hits]:
    with _admin(chaos) as admin:
        query = f"SELECT pid FROM pg_stat_activity WHERE {_OURS} ORDER BY state = 'active' DESC, random() LIMIT 2"
        pids: list[int] = [row[0] for row in admin.execute(query)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield lambda: len(pids)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _connections_exhausted(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    """Somebody else takes every connection that there is."""
    taken: list[psycopg.Connection[Any]] = []
    refused = 0
    for _ in range(2 + fault.seed % 3):
        with contextlib.suppress(psycopg.OperationalError):
            while len(taken) < 200:
                taken.append(psycopg.connect(chaos.cluster.settings.database_url, application_name="greedy"))
        refused += 1
        with contextlib.suppress(psycopg.OperationalError):
            taken[0].execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS}")
            taken[0].commit()
        time.sleep(0.1)
    yield lambda: refused
    for one in taken:
        one.close()


@contextmanager
def _commit_lost(chaos: "Chaos", fault: Fault, *, answered: bool) -> Iterator[Hits]:
    with contextlib.ExitStack() as stack:
        links = chaos.cluster.links_of(fault.victim, "postgres")
        cuts = [stack.enter_context(link.under(Cut(b"COMMIT", answered=answered, times=3))) for link in links]
        until(lambda: any(cut.hits for cut in cuts), scale.MOMENT_WITHIN)
        yield lambda: sum(cut.hits for cut in cuts)


@contextmanager
def _commit_answer_lost(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    with _commit_lost(chaos, fault, answered=True) as hits:
        yield hits


@contextmanager
def _commit_never_arrived(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    with _commit_lost(chaos, fault, answered=False) as hits:
        yield hits


# Disks


@contextmanager
def _database_disk_full(chaos: "Chaos", fault: Fault) -> Iterator[Hits]:
    """PostgreSQL can neither extend a table nor, in half of the cases, write its log: then it ends itself."""
    before = chaos.cluster.log("postgres").count(_NO_SPACE)
    chaos.cluster.volumes["data"].fill()
    if fault.seed % 2:
        with contextlib.suppress(psycopg.Error), _admin(chaos) as admin:
            for _ in range(8):
                admin.execute("SELECT pg_switch_wal(), pg_logical_emit_message(true, 'campaign', repeat('x', 9000))")
    yield lambda: chaos.cluster.log("postgres").count(_NO_SPACE) - before
    chaos.cluster.volumes["data"].free()
    chaos.cluster.wait_for_postgres()


@contextmanager
def _spool_full(chaos: "Chaos", _: Fault) -> Iterator[Hits]:
    """A new pair of tokens finds no room on the disk."""
    chaos.cluster.volumes["spool"].fill()
    before = len(chaos.world.tokens)
    chaos.expire_tokens(3)
    yield lambda: len(chaos.world.tokens) - before
    chaos.cluster.volumes["spool"].free()


_OURS = "application_name LIKE 'orders-backup%' AND backend_type = 'client backend'"
_NO_SPACE = "No space left on device"


@contextmanager
def _admin(chaos: "Chaos") -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    url = chaos.cluster.settings.database_url
    with psycopg.connect(url, autocommit=True, application_name="campaign", connect_timeout=10) as connection:
        yield connection


def _terminate(chaos: "Chaos", count: int) -> int:
    with _admin(chaos) as admin:
        query = f"""SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE {_OURS}
                    ORDER BY state = 'idle', random() LIMIT {count}) AS victims"""
        return len(admin.execute(query).fetchall())


KINDS = [
    Kind("kill PostgreSQL", "database", strikes.killed, ["postgres"], (0.1, 4), 3, scale.RESTARTED_WITHIN, loses=True),
    Kind(
        "restart PostgreSQL",
        "database",
        _restarted_at_once,
        seconds=(0.1, 4),
        weight=2,
        within=scale.RESTARTED_WITHIN,
        loses=True,
    ),
    Kind("terminate backends", "database", _backends_terminated, seconds=(0.1, 0.5), weight=4, loses=True),
    Kind("freeze backends", "database", _backend_frozen, seconds=(2, 8), weight=3, loses=True),
    Kind("exhaust connections", "database", _connections_exhausted, seconds=(1, 6), weight=2, loses=True),
    Kind("lose COMMIT's answer", "database", _commit_answer_lost, [*WORKERS, *SCHEDULERS], weight=5, loses=True),
    Kind("lose COMMIT", "database", _commit_never_arrived, [*WORKERS, *SCHEDULERS], weight=3, loses=True),
]

ON_VOLUMES = [
    Kind(
        "fill disk of PostgreSQL",
        "database",
        _database_disk_full,
        seconds=(2, 6),
        weight=2,
        within=scale.RESTARTED_WITHIN,
        loses=True,
    ),
    Kind("fill disk of spool", "database", _spool_full, seconds=(2, 6), weight=2, loses=True),
]
