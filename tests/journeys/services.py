"""Services of the machine itself, as an operator would run them: Debian's PostgreSQL 15, Redis and RabbitMQ."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orders_backup import local
from orders_backup.local import Server
from orders_backup.local.processes import Child

POSTGRES = Path("/usr/lib/postgresql/15/bin")
REDIS = Path("/usr/bin/redis-server")
RABBITMQ = Path("/usr/lib/rabbitmq/bin")


def require(program: Path) -> None:
    """Skips where the machine lacks the program, aloud; in CI it is a failure."""
    if program.exists():
        return
    sentence = f"{program} is not installed: this part of the tests did not run"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty database: 'embedded' from the wheel, 'debian' of PostgreSQL 15."""
    if kind == "debian":
        require(POSTGRES / "initdb")
    programs = POSTGRES if kind == "debian" else None
    with local.start_postgres(folder, programs=programs) as server:
        assert ("15." in server.program) == (kind == "debian")
        yield server.url


@contextmanager
def broker(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty broker: 'valkey' from the wheel, 'redis' or 'rabbitmq' of Debian."""
    if kind == "rabbitmq":
        with rabbitmq(folder) as node:
            yield node.url
        return
    if kind == "redis":
        require(REDIS)
    with local.start_broker(folder, program=REDIS if kind == "redis" else None) as server:
        yield server.url


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Server]:
    """A node of its own on loopback, with its own port mapper, so that no other RabbitMQ is disturbed."""
    require(RABBITMQ / "rabbitmq-server")
    port, distribution, mapper = (_free_port() for _ in range(3))
    folder.mkdir(parents=True, exist_ok=True)
    loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback,
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
    }
    child = Child("broker", [str(RABBITMQ / "rabbitmq-server")], folder / "output.log", environment)
    child.start()
    try:
        wait_until_open(port, child)
        yield Server("RabbitMQ", port, f"amqp://guest:guest@127.0.0.1:{port}//", child)
    finally:
        child.stop(within=60)
        epmd = shutil.which("epmd") or "/usr/bin/epmd"
        subprocess.run([epmd, "-port", str(mapper), "-kill"], check=False, capture_output=True)


def wait_until_open(port: int, child: Child) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert child.is_running, child.how_it_ended()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("The broker did not open its port")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
