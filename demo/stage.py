"""The demo's stage: the programs it starts and stops, how it speaks to them and waits. Public interfaces only."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

T = TypeVar("T")

PROGRAMS = Path(sys.executable).parent
PORTS = range(20_000, 32_000)
STOP_WITHIN = 30.0
OWN_SETTINGS = {
    "ALERT_URLS",
    "BACKUP_INTERVAL",
    "BROKER_URL",
    "CALLS_IN_FLIGHT",
    "DATABASE_URL",
    "DATA_DIR",
    "DEVICE_FLOW_TIMEOUT",
    "DRILL_DATABASE_URL",
    "DRILL_INTERVAL",
    "DRILL_WHOLE_INTERVAL",
    "ENCRYPTION_KEYS",
    "EVENTS_INTERVAL",
    "EVENTS_INTERVAL_LONGEST",
    "EVENTS_INTERVAL_SHORTEST",
    "EXPORT_RETENTION",
    "LEASE",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "POSTGRES_BIN",
    "SWEEP_INTERVAL",
    "SYNC_INTERVAL",
    "WEBHOOK_ALLOWED_HOSTS",
}
OWN_PREFIXES = ("ALLEGRO_", "AWS_", "RATE_LIMIT_", "S3_")
"""Settings of a real installation, which a demo must not touch."""


class StoryError(Exception):
    """The demo cannot go on; the text says what did not happen."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP."""


@dataclass(slots=True)
class Web:
    """One HTTP interface: JSON in, JSON out. Safe among threads."""

    client: httpx.Client

    @classmethod
    def at(cls, url: str, **headers: str) -> Self:
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        return cls(httpx.Client(base_url=url, headers=headers, timeout=30, limits=limits, trust_env=False))

    def get(self, path: str, **parameters: Any) -> Any:
        return self._answer("GET", path, params=parameters).json()

    def post(self, path: str, **body: Any) -> Any:
        return self._answer("POST", path, json=body).json()

    def octets(self, path: str, **parameters: Any) -> bytes:
        """The exact bytes behind an address."""
        return self._answer("GET", path, params=parameters, headers={"Accept": "application/octet-stream"}).content

    def status(self, path: str) -> int:
        """The status of an answer, whatever it is; 0 where there was none."""
        try:
            return self.client.get(path).status_code
        except httpx.HTTPError:
            return 0

    def _answer(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            answer = self.client.request(method, path, **given)
        except httpx.HTTPError as error:
            raise StoryError(f"{method} {self.client.base_url}{path}: no answer ({type(error).__name__}).") from None
        if not answer.is_success:
            raise StoryError(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer


@dataclass(slots=True)
class Program:
    """A program of ours and where it writes what it says."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path


@dataclass(slots=True)
class Stage:
    """Everything that runs for the demo. `folder`: data, logs, and the directory the programs run in."""

    folder: Path
    programs: list[Program] = field(default_factory=list)

    def start(self, name: str, *arguments: object, **settings: str) -> Program:
        """Starts a console script of ours. No setting of a real installation reaches it, neither by the environment
        nor by an `.env` in the current directory."""
        log = self.folder / f"{name}.log"
        command = [*_dying_with_us(), str(PROGRAMS / name), *map(str, arguments)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=environment(**settings),
                start_new_session=True,
            )
        self.programs.append(Program(name, process, log))
        return self.programs[-1]

    def ask(self, name: str, *arguments: object, **settings: str) -> str:
        """Runs a console script of ours to its end; what it printed."""
        command = [str(PROGRAMS / name), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, env=environment(**settings)
        )
        if done.returncode:
            raise StoryError(f"{name} {arguments[0]} ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    def until(self, question: Callable[[], T | None], what: str, *, within: float = 60.0, every: float = 0.1) -> T:
        """The first answer that is something. Raises StoryError when the time is over or a program has ended."""
        deadline = time.monotonic() + within
        while not (found := question()):
            for program in self.programs:
                if (code := program.process.poll()) is not None:
                    raise StoryError(f"{program.name} ended with code {code} while we waited: {what}.")
            if time.monotonic() > deadline:
                raise StoryError(f"This did not happen within {within:.0f} s: {what}.")
            time.sleep(every)
        return found

    def stop(self) -> None:
        """SIGTERM to all, the last started first; who does not end in time is killed with his children."""
        deadline = time.monotonic() + STOP_WITHIN
        for program in reversed(self.programs):
            with suppress(ProcessLookupError):
                program.process.terminate()
            try:
                program.process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(program.process.pid, signal.SIGKILL)
                program.process.wait()
        self.programs.clear()

    def last_words(self, lines: int = 12) -> Iterator[tuple[str, str]]:
        """The end of every log there is."""
        for log in sorted([*self.folder.glob("*.log"), *self.folder.glob("logs/*.log")]):
            found = log.read_text(errors="replace").splitlines()[-lines:]
            if found:
                yield log.name, "\n".join(found)


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without the settings of a real installation, and with these."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in OWN_SETTINGS and not name.startswith(OWN_PREFIXES)
    }
    return {**kept, **settings}


def free_port(*preferred: int) -> int:
    """The first of these on which nobody listens, else any such port below the system's own range."""
    for port in (*preferred, *random.sample(PORTS, 200)):
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise StoryError("No free port was found on 127.0.0.1.")


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise Interrupted once; while we stop, further ones are ignored."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: object) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted

    for number in signals:
        signal.signal(number, interrupt)
    yield


def _dying_with_us() -> list[str]:
    """Linux ends the program when this process is killed without a chance to stop it."""
    if sys.platform != "linux" or shutil.which("setpriv") is None:
        return []
    return ["setpriv", "--pdeathsig", "TERM"]
