"""PostgreSQL's programs that fit a server, found and run: pg_dump and pg_restore."""

import os
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from psycopg import pq
from sqlalchemy.engine import Connection, Engine

from orders_backup import programs
from orders_backup.backups import fit
from orders_backup.errors import BackupFailedError, ProgramMissingError, ProgramOutdatedError, SettingsError
from orders_backup.runtime import Runtime

NEEDED = ("pg_dump", "pg_restore")
READ_BYTES = 1024 * 1024
LINK = "keepalives_idle=10 keepalives_interval=5 keepalives_count=2 tcp_user_timeout=15000 connect_timeout=5"
"""Of a connection string: a link that nobody answers on is given up, as our own are."""
_OF_LINKS = {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
"""What may be left out of the environment: no program gets elsewhere by it."""


def find(runtime: Runtime, tx: Connection) -> Path:
    """The folder of the programs for the server of `tx`: of its own version, else the next newer; POSTGRES_BIN alone
    where that is set. Raises ProgramMissingError, ProgramOutdatedError."""
    wanted = int(tx.execute(sa.text("SELECT current_setting('server_version_num')::int / 10000")).scalar_one())
    chosen = runtime.settings.postgres_bin
    found = {folder: _major(folder) for folder in ([Path(chosen)] if chosen else programs.folders(NEEDED[0]))}
    usable = {folder: major for folder, major in found.items() if major}
    fitting = sorted((major, place) for place, major in enumerate(usable.values()) if major >= wanted)
    if fitting:
        return list(usable)[fitting[0][1]]
    if usable:
        newest = max(usable.values())
        raise ProgramOutdatedError(
            f"The server is PostgreSQL {wanted}, and pg_dump here is of {newest}: install PostgreSQL {wanted}'s client"
            " programs on the workers' machines, or set POSTGRES_BIN to their folder."
        )
    raise ProgramMissingError(
        f"There is no pg_dump and pg_restore {f'in POSTGRES_BIN, {chosen},' if chosen else 'here'} that runs: install"
        f" PostgreSQL {wanted}'s client programs on the workers' machines, or set POSTGRES_BIN to their folder."
    )


def _major(folder: Path) -> int:
    """Of both programs; 0 where one is missing or does not run."""
    found = [programs.version(folder / name).partition(".")[0] for name in NEEDED]
    return int(found[0]) if found[0] and found[0] == found[1] else 0


def environment(db: Engine) -> dict[str, str]:
    """Where PostgreSQL is, for its own programs, as the driver of this engine is told it: by DATABASE_URL and by the
    variables of libpq. The password is in no list of processes. Raises SettingsError for what they cannot be told."""
    variables = {one.keyword.decode(): (one.envvar or b"").decode() for one in pq.Conninfo.get_defaults()}
    given = {name: str(value) for name, value in db.dialect.create_connect_args(db.url)[1].items() if name in variables}
    if unknown := [name for name in given if not variables[name] and name not in _OF_LINKS]:
        raise SettingsError(
            f"pg_dump and pg_restore cannot be told {', '.join(unknown)}; leave it out of DATABASE_URL."
        )
    inherited = {name: value for name, value in os.environ.items() if name.startswith("PG") or name == "PATH"}
    told = inherited | {variables[name]: value for name, value in given.items() if variables[name]}
    if not told.get("PGDATABASE"):
        raise SettingsError("DATABASE_URL names no database.")
    return told


def dumped(db: Engine, programs: Path, snapshot: str) -> Generator[bytes]:
    """What pg_dump writes. Raises BackupFailedError where it fails, at whatever byte."""
    options = [
        "--format=custom",
        "--compress=0",
        "--no-owner",
        "--lock-wait-timeout=60s",
        f"--exclude-table={fit.MARK}",
    ]
    command = [str(programs / "pg_dump"), *options, f"--exclude-table={fit.MARK}"]
    command += [f"--snapshot={snapshot}", f"--dbname={LINK}"]
    with (
        tempfile.TemporaryFile() as said,  # a pipe that nobody reads would stop the program where it says much
        subprocess.Popen(  # noqa: S603 - our own words
            command, env=environment(db), stdout=subprocess.PIPE, stderr=said
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 – asked for above
        try:
            while chunk := process.stdout.read(READ_BYTES):
                yield chunk
        except BaseException:
            process.kill()
            raise
        failed = process.wait()
        if failed:
            raise BackupFailedError(f"pg_dump: {last_line(said, process)}")


def last_line(said: IO[bytes], process: "subprocess.Popen[bytes]") -> str:
    """What a program said last on stderr."""
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"it ended with {process.returncode}."
