"""Services of the machine itself, as an operator would run them: Debian's PostgreSQL 15, Redis and RabbitMQ."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kombu
import pytest
import redis

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


@dataclass
class Broker:
    """A broker that can be killed, started again with what it kept, and made to forget."""

    kind: str
    url: str
    kill: Callable[[], None]
    start: Callable[[], None]
    empty: Callable[[], None]
    reset: Callable[[], None]
    pid: Callable[[], int]


@contextmanager
def breakable(kind: str, folder: Path) -> Iterator[Broker]:
    """The same brokers, for tests that break them."""
    if kind == "rabbitmq":
        with _running_rabbitmq(folder) as node:
            yield Broker(kind, node.url, node.kill, node.start, node.empty, node.reset, lambda: pid_of_rabbitmq(folder))
        return
    if kind == "redis":
        require(REDIS)
    with local.start_broker(folder, program=REDIS if kind == "redis" else None) as server:

        def start() -> None:
            server.child.start()
            while not answers():
                time.sleep(0.02)

        def answers() -> bool:
            try:
                with redis.Redis.from_url(server.url, socket_timeout=1) as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        def empty() -> None:
            with redis.Redis.from_url(server.url) as client:
                client.flushall()

        def kill() -> None:
            server.child.kill()

        yield Broker(kind, server.url, kill, start, empty, empty, lambda: server.child.pid or 0)


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Server]:
    """A node of its own on loopback, with its own port mapper, so that no other RabbitMQ is disturbed."""
    with _running_rabbitmq(folder) as node:
        yield Server("RabbitMQ", node.port, node.url, node.child)


@contextmanager
def _running_rabbitmq(folder: Path) -> Iterator["RabbitMQ"]:
    require(RABBITMQ / "rabbitmq-server")
    folder.mkdir(parents=True, exist_ok=True)
    node = RabbitMQ(folder, *(_free_port() for _ in range(3)))
    try:
        node.start()
        yield node
    finally:
        node.stop()


class RabbitMQ:
    """One node: its processes, and what an operator may do to it."""

    def __init__(self, folder: Path, port: int, distribution: int, mapper: int) -> None:
        self.folder, self.port, self.mapper = folder, port, mapper
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
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
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        }
        self.child = Child("broker", [str(RABBITMQ / "rabbitmq-server")], folder / "output.log", environment)

    def start(self) -> None:
        self.child.start()
        wait_until_open(self.port, self.child)

    def kill(self) -> None:
        os.kill(pid_of_rabbitmq(self.folder), signal.SIGKILL)
        assert self.child.wait(20)

    def stop(self) -> None:
        self.child.stop(within=60)
        epmd = shutil.which("epmd") or "/usr/bin/epmd"
        subprocess.run([epmd, "-port", str(self.mapper), "-kill"], check=False, capture_output=True)

    def empty(self) -> None:
        """Purges the queue of all work and deletes it."""
        with kombu.Connection(self.url) as connection:  # type: ignore[attr-defined,no-untyped-call]
            channel = connection.channel()
            channel.queue_purge("orders-backup")
            channel.queue_delete("orders-backup")

    def reset(self) -> None:
        """The virtual host and all that is in it is gone, and made anew."""
        for words in (
            ["delete_vhost", "/"],
            ["add_vhost", "/"],
            ["set_permissions", "-p", "/", "guest", ".*", ".*", ".*"],
        ):
            self._control(*words)

    def _control(self, *words: str) -> None:
        environment = dict(self.child.environment)
        command = [str(RABBITMQ / "rabbitmqctl"), "--node", environment["RABBITMQ_NODENAME"], *words]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)


def pid_of_rabbitmq(folder: Path) -> int:
    """The Erlang node of a RabbitMQ that runs in `folder`."""
    return int((folder / "pid").read_text())


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
