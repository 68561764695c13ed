"""`make planted`: every planted bug in a copy of the source, and the campaign until it finds it.

A finding counts where the same seed, played the same way on the source as it is, breaks nothing.
"""

import argparse
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .planted import BUGS, NAMED, Bug
from .stage import OURS

ROOT = Path(__file__).parents[2]
WITHIN = 600.0
"""Seconds for each bug."""
ROTTEN = re.compile(r"crash without a name.*\b(TypeError|NameError|AttributeError|ImportError|SyntaxError)\b")
"""A planted bug that does not run is no bug found."""
AT_LEAST = 15
"""So many bugs have to be found, and each of those that are named."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the campaign said of a bug; `seed` None: it survived. `unsound`: seeds that fail on the source as it is."""

    bug: Bug
    seed: int | None
    check: str
    seconds: float
    unsound: tuple[int, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.campaign.plant")
    parser.add_argument("--only", default="", help="a part of a bug's name")
    parser.add_argument("--within", type=float, default=WITHIN, help="seconds for each bug")
    options = parser.parse_args()
    chosen = sorted((bug for bug in BUGS if options.only in bug.name), key=lambda bug: not bug.named)
    if rotten := [f"{bug.file}: {bug.name}" for bug in BUGS if not stands(bug)]:
        sys.exit("The source has changed under these planted bugs:\n" + "\n".join(rotten))
    processors: queue.Queue[int] = queue.Queue()
    for one in sorted(os.sched_getaffinity(0)):
        processors.put(one)
    with ThreadPoolExecutor(processors.qsize()) as pool:
        found = list(pool.map(lambda bug: _on_a_processor(processors, bug, options.within), chosen))
    sys.exit(0 if verdict(found, whole=len(chosen) == len(BUGS)) else 1)


def verdict(found: list[Found], *, whole: bool) -> bool:
    """Whether enough was found, and everything that is named; `whole`: all bugs were tried."""
    caught = [one for one in found if one.seed is not None]
    missed = (
        sorted(NAMED - {one.bug.named for one in caught}) if whole else [one.bug.name for one in found if not one.seed]
    )
    unsound = sorted({seed for one in found for seed in one.unsound})
    print(f"{len(caught)} of {len(found)} planted bugs were found; named and missed: {', '.join(missed) or 'none'}")
    if unsound:
        print(f"On the source as it is these seeds fail, each in its bug's weather: {unsound}")
    return not missed and not unsound and (len(caught) >= AT_LEAST or not whole)


def stands(bug: Bug) -> bool:
    """Whether the text to be replaced stands in the source, once."""
    return all((ROOT / "src/orders_backup" / file).read_text().count(old) == 1 for file, old, _ in bug.edits)


def _on_a_processor(processors: "queue.Queue[int]", bug: Bug, within: float) -> Found:
    processor = processors.get()
    try:
        return planted(bug, within, processor)
    finally:
        processors.put(processor)


def planted(bug: Bug, within: float, processor: int) -> Found:
    """The campaign on a copy of the source with this bug in it, and each seed it names on the source as it is."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "migrations", copy / "migrations")
        for file, old, new in bug.edits:
            target = copy / "src/orders_backup" / file
            target.write_text(target.read_text().replace(old, new))
        seed, check, unsound = _hunted(copy / "src", bug, began + within, processor)
    found = Found(bug, seed, check, time.monotonic() - began, unsound)
    told = "SURVIVED" if seed is None else f"seed {seed}"
    name = f"{bug.name} [{bug.named}]" if bug.named else bug.name
    print(f"{name:95} {told:10} {found.seconds:6.1f} s  {check[:90]}", flush=True)
    return found


def _hunted(source: Path, bug: Bug, until: float, processor: int) -> tuple[int | None, str, tuple[int, ...]]:
    """The first seed that breaks a promise with the bug in the source, and none without it."""
    first, unsound = 1, list[int]()
    while (left := until - time.monotonic()) > 0:
        seed, check = _played(source, bug, processor, first=first, seeds=10_000, within=left)
        if seed is None:
            return None, check, tuple(unsound)
        clean, why = _played(ROOT / "src", bug, processor, first=seed, seeds=1, within=WITHIN)
        if clean is None and not why:
            return seed, check, tuple(unsound)
        unsound.append(seed)
        first = seed + 1
    return None, "no seed found it in time", tuple(unsound)


def _played(source: Path, bug: Bug, processor: int, *, first: int, seeds: int, within: float) -> tuple[int | None, str]:
    """The first seed that broke a promise, and which; else None, and what went wrong, if anything did."""
    environment = {**os.environ, "PYTHONPATH": f"{source}:{ROOT}", "CAMPAIGN_SOURCE": str(source)}
    command = [sys.executable, "-m", "tests.campaign", "--part", "0", "--processes", "1", "--until-failure"]
    command += [
        "--processor",
        str(processor),
        "--first",
        str(first),
        "--seeds",
        str(seeds),
        "--families",
        bug.weather,
        *(["--rush"] if bug.is_rush else []),
    ]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        played = subprocess.Popen(
            command,
            env=environment,
            cwd=ROOT,
            stdout=said,
            stderr=complained,
        )
        try:
            code = played.wait(within)
        except subprocess.TimeoutExpired:
            played.terminate()
            played.wait(60)
            return None, "no seed found it in time"
        said.seek(0)
        complained.seek(0)
        if code:
            return None, "the campaign did not start: " + complained.read().strip().splitlines()[-1][:100]
        failed = json.loads(said.read().splitlines()[-1])["failed"]
    broken = [(seed, re.sub(r"\s+", " ", check)) for seed, check in failed if not check.startswith(OURS)]
    if rotten := [check for _, check in broken if ROTTEN.search(check)]:
        return None, f"the bug does not fit the source any more: {rotten[0]}"
    if broken:
        return broken[0]
    return None, f"{len(failed)} seeds ended in a failure of the campaign itself" if failed else ""


if __name__ == "__main__":
    main()
