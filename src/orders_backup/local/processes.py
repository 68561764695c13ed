"""Processes of the embedded default: started, watched, started again, stopped. Knows not what they do.

A child dies with us: `setpriv --pdeathsig` makes Linux signal it when the thread that started it is gone, so start
children from the main thread. Each leads a session of its own: Ctrl-C in the terminal reaches only us.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orders_backup.errors import LocalServiceError

SILENT_AFTER = 30.0
"""Seconds after its last sign of life at which a process is taken for frozen."""

LOG_LIMIT = 20_000_000
"""Bytes; a longer log is moved to `.1` when its process starts."""

PORTS = range(20_000, 32_000)
"""Below Linux's ephemeral ports: no outgoing connection takes ours between a crash and the restart."""

STEADY_AFTER = 60.0
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Child:
    """One process and how to start it again. `stop_with` is also what it gets when we die. `pulse`: a file that it
    touches every few seconds while it is alive."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    stop_with: signal.Signals = signal.SIGTERM
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    delay: float = FIRST_DELAY
    start_again_at: float | None = None
    pulse: Path | None = None
    silent_after: float = SILENT_AFTER
    felt: tuple[int, float] | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        if self.pulse:
            self.pulse.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                dying_with_us(self.command, self.stop_with),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        self.started_at, self.start_again_at, self.felt = time.monotonic(), None, None

    def is_silent(self, now: float) -> bool:
        """Whether its pulse has stopped, or not begun for four times as long. Only changes of the file count: no wall
        clock does."""
        if self.pulse is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            touched = self.pulse.stat().st_mtime_ns
            if self.felt is None or self.felt[0] != touched:
                self.felt = (touched, now)
        if self.felt is None:
            return now - self.started_at > 4 * self.silent_after
        return now - self.felt[1] > self.silent_after

    def ask_to_stop(self) -> None:
        if self.process and self.is_running:
            self.process.send_signal(self.stop_with)

    def stop(self, *, within: float) -> bool:
        """Asks, waits, kills the whole group. False where it had to be killed."""
        self.ask_to_stop()
        return self.wait(within) or self.kill()

    def wait(self, seconds: float) -> bool:
        if self.process is None:
            return True
        try:
            self.process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> bool:
        if self.process and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return False

    def how_it_ended(self) -> str:
        """With its last words where it ended by itself; who is killed says nothing."""
        code = self.process.returncode if self.process else 0
        if code < 0:
            return f"{self.name} was ended by {signal.Signals(-code).name}"
        return f"{self.name} ended with code {code}" + (f": {words}" if (words := self.last_words()) else "")

    def last_words(self) -> str:
        """The last line of its log, at most 300 characters; empty where there is none."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(self.log.stat().st_size - 4096, 0))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            return lines[-1][-300:] if lines else ""
        return ""


def dying_with_us(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    if sys.platform != "linux" or shutil.which("setpriv") is None:
        return list(command)
    return ["setpriv", "--pdeathsig", death_signal.name.removeprefix("SIG"), *command]


def supervise(children: Sequence[Child], stop: threading.Event, say: Say, changed: Callable[[], None]) -> None:
    """Until `stop` is set: starts again what died or froze, at first after half a second, then ever more rarely."""
    while not stop.wait(0.2):
        for child in children:
            if revive(child, time.monotonic(), say):
                changed()


def revive(child: Child, now: float, say: Say) -> bool:
    """One look at one child. True where it was started again."""
    if child.is_running and child.is_silent(now):
        say(f"{child.name} gave no sign of life for {child.silent_after:g} s and was killed.")
        child.kill()
    if child.is_running:
        if now - child.started_at > STEADY_AFTER:
            child.delay = FIRST_DELAY
        return False
    if child.start_again_at is None:
        say(f"Starting again in {child.delay:g} s: {child.how_it_ended()}")
        child.start_again_at = now + child.delay
        child.delay = min(child.delay * 2, LONGEST_DELAY)
    if now < child.start_again_at:
        return False
    child.start()
    return True


def stop_together(children: Sequence[Child], *, within: float, hurry: threading.Event, say: Say) -> None:
    """Asks all at once; kills those that still run after `within` seconds, or when `hurry` is set."""
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + within
    while any(child.is_running for child in children) and time.monotonic() < deadline:
        if hurry.wait(0.05):
            break
    for child in children:
        if child.is_running:
            say(f"{child.name} did not stop in time and was killed.")
            child.kill()


def wait_until(ready: Callable[[], bool], child: Child, *, within: float, stop: threading.Event | None = None) -> None:
    """Returns when ready, or when `stop` is set. Raises LocalServiceError where the child ends or takes too long."""
    deadline = time.monotonic() + within
    while not ready():
        if not child.is_running:
            raise LocalServiceError(f"{child.how_it_ended()} (its log is {child.log})")
        if time.monotonic() > deadline:
            raise LocalServiceError(f"{child.name} was not ready within {within:.0f} s. Its log is {child.log}.")
        if stop and stop.is_set():
            return
        time.sleep(0.02)


@contextlib.contextmanager
def stop_requested() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Two events: the first SIGINT, SIGTERM or SIGHUP asks to stop, the second to hurry."""
    stop, hurry = threading.Event(), threading.Event()

    def note(_number: int, _frame: object) -> None:
        (hurry if stop.is_set() else stop).set()

    earlier = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop, hurry
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def end_leftovers(pids: Iterable[int], *, mark: str, with_signal: signal.Signals, within: float = 30.0) -> None:
    """Stops processes of an earlier run that died without stopping them. `mark` must stand in their command line,
    so a number that now belongs to someone else is left alone."""
    ours = [pid for pid in pids if mark in command_line(pid)]
    for pid in ours:
        _signal(pid, with_signal)
    deadline = time.monotonic() + within
    while (ours := [pid for pid in ours if mark in command_line(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in ours:
        _signal(pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    """Whether any process, whosever it is, has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def command_line(pid: int) -> str:
    """Empty where no such process lives, and for the moment in which one becomes another program."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return listed.stdout


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now. By chance of the machine's own: who seeds `random` alike in
    several processes would have all of them want the same one."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with contextlib.suppress(OSError):
            probe_port("127.0.0.1", port)
            return port
    raise LocalServiceError(f"No free port between {PORTS[0]} and {PORTS[-1]} on 127.0.0.1.")


def probe_port(host: str, port: int) -> None:
    """Raises OSError where a server could not listen there."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)


def accepts_connections(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
