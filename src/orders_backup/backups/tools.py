"""PostgreSQL's programs that fit a server, found and run: pg_dump and pg_restore."""

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orders_backup import programs
from orders_backup.errors import BackupFailedError, ProgramMissingError, ProgramOutdatedError
from orders_backup.runtime import Runtime

NEEDED = ("pg_dump", "pg_restore")
READ_BYTES = 1024 * 1024
LINK = "keepalives_idle=10 keepalives_interval=5 keepalives_count=2 tcp_user_timeout=15000 connect_timeout=5"
"""Of a connection string: a link that nobody answers on is given up, as our own are."""


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


def environment(url: str) -> dict[str, str]:
    """Where PostgreSQL is, for its own programs; the password is in no list of processes."""
    parsed = sa.make_url(url)
    told = {
        "PGHOST": parsed.host,
        "PGPORT": parsed.port,
        "PGUSER": parsed.username,
        "PGPASSWORD": parsed.password,
        "PGDATABASE": parsed.database,
        **{f"PG{name.upper()}": value for name, value in parsed.query.items() if name.startswith("ssl")},
    }
    return {"PATH": os.environ.get("PATH", ""), **{name: str(value) for name, value in told.items() if value}}


def dumped(url: str, programs: Path, snapshot: str) -> Generator[bytes]:
    """What pg_dump writes. Raises BackupFailedError where it fails, at whatever byte."""
    options = ["--format=custom", "--compress=0", "--no-owner", "--lock-wait-timeout=60s", f"--snapshot={snapshot}"]
    command = [str(programs / "pg_dump"), *options, f"--dbname={LINK}"]
    with subprocess.Popen(  # noqa: S603 - our own words
        command, env=environment(url), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None  # noqa: S101 – asked for above
        try:
            while chunk := process.stdout.read(READ_BYTES):
                yield chunk
        except BaseException:
            process.kill()
            raise
        failed = process.wait()
        if failed:
            raise BackupFailedError(f"pg_dump: {last_line(process)}")


def last_line(process: "subprocess.Popen[bytes]") -> str:
    """What a program said last on stderr."""
    said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
    return said.splitlines()[-1][:300] if said else f"it ended with {process.returncode}."
