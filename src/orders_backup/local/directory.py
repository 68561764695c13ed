"""The data directory: its lock, the secrets made once, the note where the running service is. Starts nothing."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orders_backup import settings as configuration
from orders_backup import vault
from orders_backup.errors import LocalServiceError, SettingsError
from orders_backup.local.processes import Child
from orders_backup.settings import Settings

SECRETS, RUNNING, LOCK = "secrets.json", "running.json", "lock"
LOCK_LENGTH = 4000


def prepared(data_dir: Path) -> Path:
    """The directory as an absolute path, made where it is missing, closed to other users when we make it."""
    folder = data_dir.expanduser().resolve()
    if any(character in str(folder) for character in '"\\\n'):
        raise LocalServiceError(f"The data directory {folder} must not have quotes or backslashes in its name.")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "logs").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise LocalServiceError(f"The data directory {folder} cannot be used: {error.strerror}.") from None
    return folder


# Who runs here


@dataclass(frozen=True, slots=True)
class Holder:
    """The lock of the `up` that runs. The file says who and with which children, for the next one to read."""

    file: IO[str]
    service_url: str
    left_over: list[int]

    def record(self, children: Sequence[Child], *, keeping: Mapping[str, int] | None = None) -> None:
        """`keeping`: those of the run before us, until they are known to be gone."""
        pids = {**(keeping or {}), **{child.name: child.pid for child in children if child.pid}}
        _overwrite(self.file, {"pid": os.getpid(), "service_url": self.service_url, "children": pids})


@contextlib.contextmanager
def held(data_dir: Path, *, service_url: str) -> Iterator[Holder]:
    """Holds the directory for this process. Raises LocalServiceError that names the process which has it."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_locked(data_dir / LOCK, patience=1.0))
        except BlockingIOError:
            other = _parsed((data_dir / LOCK).read_text())
            raise LocalServiceError(
                f"The data directory {data_dir} is in use by process {other.get('pid', 'unknown')}"
                f" ({other.get('service_url', 'starting')}). Stop that one, or choose another --data-dir."
            ) from None
        except OSError as error:
            raise LocalServiceError(f"The data directory {data_dir} cannot be used: {error.strerror}.") from None
        file.seek(0)
        children = _parsed(file.read()).get("children", {})
        holder = Holder(file, service_url, [pid for pid in children.values() if isinstance(pid, int)])
        holder.record([], keeping=children)
        yield holder
        _overwrite(file, {})


@contextlib.contextmanager
def _locked(path: Path, *, patience: float = 0.0) -> Iterator[IO[str]]:
    """Raises BlockingIOError where another process holds it for longer than `patience` seconds."""
    deadline = time.monotonic() + patience
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
        yield file


def _overwrite(file: IO[str], content: dict[str, Any]) -> None:
    """In one write of always the same length: whoever reads meanwhile finds the old or the new."""
    file.seek(0)
    file.write(json.dumps(content).ljust(LOCK_LENGTH))
    file.flush()


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write_running(data_dir: Path, **values: str | int) -> None:
    """Where this run can be reached and which settings it was given; `settings.load` reads them, for other commands."""
    _write_atomically(data_dir / RUNNING, {**values, "pid": os.getpid()})


def forget_running(data_dir: Path) -> None:
    (data_dir / RUNNING).unlink(missing_ok=True)


def current_settings(data_dir: Path | None = None, **overrides: Any) -> Settings:
    """`settings.load`, except that the running.json which a crashed run left behind is removed first."""
    found = configuration.load(data_dir=data_dir, **overrides)
    try:
        if not (found.data_dir / RUNNING).exists():
            return found
        with _locked(found.data_dir / LOCK):
            forget_running(found.data_dir)
    except OSError:  # it runs, or the directory is another user's
        return found
    return configuration.load(data_dir=data_dir, **overrides)


# Secrets: made once, never made again


def secret(data_dir: Path, name: str, make: Callable[[], str]) -> str:
    """The secret of this name; made and safely on disk before it is returned, where there is none."""
    found = secrets_of(data_dir)
    if name not in found:
        found[name] = make()
        _write_atomically(data_dir / SECRETS, found)
    return found[name]


def secrets_of(data_dir: Path) -> dict[str, str]:
    """Raises LocalServiceError where the file is there and cannot be read: then nothing may replace it."""
    path = data_dir / SECRETS
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LocalServiceError(f"{path} cannot be read ({error}). Put it back from your copy.") from None
    if not isinstance(found, dict):
        raise LocalServiceError(f"{path} holds something else than secrets. Put it back from your copy.")
    return found


def encryption_keys(settings: Settings, data_dir: Path, *, say: Callable[[str], None]) -> str:
    """ENCRYPTION_KEYS as set, else the key of this directory, made at the first start.

    Raises SettingsError rather than make a new key for an existing database: its logins need the old one.
    """
    kept = secrets_of(data_dir).get("encryption_keys", "")
    chosen = settings.encryption_keys.get_secret_value() or kept
    if kept and kept not in chosen:
        say(f"ENCRYPTION_KEYS lacks the key in {data_dir / SECRETS}: logins sealed with that one cannot be opened.")
    if chosen:
        return chosen
    if (data_dir / "postgres").exists():
        raise SettingsError(
            f"{data_dir} holds a database but no encryption key. Set ENCRYPTION_KEYS as it was, or put"
            f" {SECRETS} back from your copy: without it no seller's login can be opened."
        )
    say(f"Made an encryption key in {data_dir / SECRETS}. Keep a copy: it opens the sellers' logins.")
    return secret(data_dir, "encryption_keys", vault.new_key)


def _write_atomically(path: Path, content: dict[str, Any]) -> None:
    """0600, complete or not there at all, even after a power cut."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
