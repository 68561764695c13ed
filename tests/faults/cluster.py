"""The service as a cluster: two workers, two schedulers, the API; every one of their links through a proxy."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import sqlalchemy as sa
from pydantic import SecretStr
from tests.journeys import services
from tests.storage import Bucket

from orders_backup import db as database
from orders_backup import local, vault
from orders_backup import runtime as runtimes
from orders_backup.local import Server, processes
from orders_backup.local.processes import Child
from orders_backup.settings import Settings

from . import scale
from .proxy import Link, Links
from .service import PLENTY, Service

WORKERS = ("worker-1", "worker-2")
SCHEDULERS = ("scheduler-1", "scheduler-2")
API = "api"
LINKED = {
    **dict.fromkeys(WORKERS, ("postgres", "broker", "bucket", "allegro", "auth")),
    **dict.fromkeys(SCHEDULERS, ("postgres", "broker")),
    API: ("postgres", "broker", "bucket"),
}
"""Which process speaks to whom."""
POSTGRES = {"max_connections": "70", "max_wal_size": "96MB", "min_wal_size": "32MB"}


@dataclass(slots=True)
class Volume:
    """A small file system of its own, that can be filled to the last byte."""

    folder: Path

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    @property
    def _filler(self) -> Path:
        return self.folder / ".filler"


@dataclass(slots=True)
class Cluster(Service):
    """The processes by name, the links by `process→target`, the volumes by what lies on them (none where the machine
    forbids mounting)."""

    api_url: str = ""
    links: dict[str, Link] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)

    def links_of(self, process: str, target: str) -> list[Link]:
        """`everyone`: all processes that have a link to this target."""
        return [
            link
            for name, link in self.links.items()
            if name.endswith(f"→{target}") and (process == "everyone" or name.startswith(process))
        ]

    def need_all(self) -> None:
        """Starts again who ended by himself, as a supervisor does; the report tells of it."""
        for name, child in self.children.items():
            if not child.is_running:
                self.died_alone.append(child.how_it_ended())
                self.restart(name)

    def freeze(self, name: str) -> int:
        """SIGSTOP; the process's id, to be thawed whatever becomes of it."""
        child = self.children[name]
        assert child.pid is not None
        child.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        return child.pid

    def thaw(self, name: str) -> None:
        self.children[name].process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]

    def api_answers(self) -> bool:
        try:
            return httpx.get(f"{self.api_url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def logs(self) -> Iterator[str]:
        for name in self.children:
            yield from self.log(name).splitlines()

    def resources(self) -> dict[str, int]:
        """What must not grow: bytes of memory, descriptors, threads, connections, files."""
        found: dict[str, int] = {}
        for name in (*WORKERS, *SCHEDULERS):
            process = psutil.Process(self.children[name].pid)
            found[f"{name} MB"] = process.memory_info().rss >> 20
            found[f"{name} descriptors"] = process.num_fds()
            found[f"{name} threads"] = process.num_threads()
        with database.transaction(self.runtime.db) as tx:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orders-backup'"
            found["connections"] = tx.execute(sa.text(query)).scalar_one()
        found["files in the spool"] = sum(1 for _ in (self.settings.data_dir / "spool").glob("*"))
        return found


@contextmanager
def running(folder: Path, allegro_url: str, links: Links, *, broker: str) -> Iterator[Cluster]:
    """Everything started; everything ended, by its process id, whatever happens."""
    with ExitStack() as stack:
        volumes = {
            name: Volume(place)
            for name, place, size in (("data", folder / "database", "1g"), ("spool", folder / "spool", "128k"))
            if stack.enter_context(_mounted(place, size))
        }
        postgres = stack.enter_context(local.start_postgres(folder / "database", options=POSTGRES))
        server = stack.enter_context(_broker(broker, folder / "broker"))
        bucket = _bucket(folder / "objects" / "bucket")
        stack.callback(bucket.stop)
        bucket.start()
        settings = bucket.settings(_settings(folder, postgres.url, server.url, allegro_url))
        local.migrate(settings)
        runtime = runtimes.build(settings)
        runtime.db.dispose()
        runtime = dataclasses.replace(runtime, db=database.connect(postgres.url, application_name="campaign"))
        stack.callback(runtime.close)
        cluster = Cluster(settings, runtime, {"postgres": postgres.child, "broker": server.child})
        cluster.volumes.update(volumes)
        (folder / "logs").mkdir()
        allegro = _port_of(allegro_url)
        upstreams = {"postgres": postgres.port, "broker": server.port, "bucket": bucket.port}
        upstreams |= {"allegro": allegro, "auth": allegro}
        for name in LINKED:
            child = _child(cluster, name, links, upstreams)
            stack.callback(child.stop, within=15)
            child.start()
        yield cluster


def _child(cluster: Cluster, name: str, links: Links, upstreams: dict[str, int]) -> Child:
    """A process that reaches everything by links of its own."""
    made = {target: links.add(f"{name}→{target}", upstreams[target]) for target in LINKED[name]}
    cluster.links.update({link.name: link for link in made.values()})
    hosts = {"allegro_api_url": "allegro", "allegro_auth_url": "auth", "s3_endpoint_url": "bucket"}
    own = cluster.settings.model_copy(
        update={
            "database_url": _through(cluster.settings.database_url, made["postgres"]),
            "broker_url": _through(cluster.settings.broker_url, made["broker"]),
            **{url: f"http://127.0.0.1:{made[target].port}" for url, target in hosts.items() if target in made},
        }
    )
    port = processes.free_port()
    api, worker, scheduler = local.application_children(own, "127.0.0.1", port, 1)
    child = api if name == API else worker if name in WORKERS else scheduler
    if name == API:
        cluster.api_url = f"http://127.0.0.1:{port}"
    child.name, child.log = name, child.log.with_name(f"{name}.log")
    cluster.children[name] = child
    return child


def _bucket(folder: Path) -> Bucket:
    folder.mkdir(parents=True)
    return Bucket(folder, processes.free_port())


def _through(url: str, link: Link) -> str:
    return url.replace(f":{link.upstream}/", f":{link.port}/")


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@contextmanager
def _broker(kind: str, folder: Path) -> Iterator[Server]:
    if kind == "rabbitmq":
        with services.rabbitmq(folder) as server:
            yield server
        return
    with local.start_broker(folder, program=services.REDIS if kind == "redis" else None) as server:
        yield server


@contextmanager
def _mounted(place: Path, size: str) -> Iterator[bool]:
    """False where this machine does not let us mount: then no disk is filled, and the tally says so."""
    place.mkdir(parents=True, mode=0o755)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(place)]
    is_mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)


def _settings(folder: Path, database_url: str, broker_url: str, allegro_url: str) -> Settings:
    return Settings(
        data_dir=folder,
        database_url=database_url,
        broker_url=broker_url,
        allegro_api_url=allegro_url,
        allegro_auth_url=allegro_url,
        allegro_client_id="simulator",
        allegro_client_secret=SecretStr("simulator-secret"),
        encryption_keys=SecretStr(vault.new_key()),
        events_interval=timedelta(seconds=scale.POLL_EVERY),
        sync_interval=timedelta(seconds=scale.FULL_EVERY),
        lease=timedelta(seconds=scale.CLUSTER_LEASE),
        rate_limit_client=scale.CLIENT_LIMIT,
        rate_limit_default=PLENTY,
        rate_limit_orders=PLENTY,
        rate_limit_events=PLENTY,
        rate_limit_auth=PLENTY,
    )


def until(holds: object, within: float) -> bool:
    """Whether it held before so many seconds had passed."""
    deadline = time.monotonic() + within
    while not holds():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
