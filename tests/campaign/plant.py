"""`make planted`: every planted bug in a copy of the source, and the campaign until it finds it."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .planted import BUGS, Bug
from .stage import OURS

ROOT = Path(__file__).parents[2]
WITHIN = 600.0


@dataclass(frozen=True, slots=True)
class Found:
    """What the campaign said of a bug; `seed` None: it survived."""

    bug: Bug
    seed: int | None
    check: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.campaign.plant")
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=2_000)
    options = parser.parse_args()
    chosen = [bug for bug in BUGS if options.only in bug.name]
    if rotten := [f"{bug.file}: {bug.name}" for bug in BUGS if not stands(bug)]:
        sys.exit("The source has changed under these planted bugs:\n" + "\n".join(rotten))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda bug: planted(bug, options.seeds), chosen))
    survived = [one for one in found if one.seed is None]
    print(f"{len(found) - len(survived)} of {len(found)} planted bugs were found")
    sys.exit(1 if survived else 0)


def stands(bug: Bug) -> bool:
    """Whether the text to be replaced stands in the source, once."""
    text = (ROOT / "src/orders_backup" / bug.file).read_text()
    return all(text.count(old) == 1 for old in (bug.old, bug.also[0]) if old)


def planted(bug: Bug, seeds: int) -> Found:
    """The campaign on a copy of the source with this bug in it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted") as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "migrations", copy / "migrations")
        target = copy / "src/orders_backup" / bug.file
        text = target.read_text().replace(bug.old, bug.new)
        target.write_text(text.replace(*bug.also) if bug.also[0] else text)
        seed, check = _campaign(copy / "src", seeds, bug)
    found = Found(bug, seed, check, time.monotonic() - began)
    told = "SURVIVED" if seed is None else f"seed {seed}"
    print(f"{bug.name:75} {told:10} {found.seconds:6.1f} s  {check}", flush=True)
    return found


def _campaign(source: Path, seeds: int, bug: Bug) -> tuple[int | None, str]:
    environment = {**os.environ, "PYTHONPATH": f"{source}:{ROOT}", "CAMPAIGN_SOURCE": str(source)}
    command = [
        sys.executable,
        "-m",
        "tests.campaign",
        "--seeds",
        str(seeds),
        "--processes",
        "1",
        "--until-failure",
        "--families",
        bug.weather,
        "--limit",
        str(bug.limit),
    ]
    try:
        ended = subprocess.run(
            [*command, "--part", "0"],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, "no seed found it in time"
    if ended.returncode:
        return None, "the campaign did not start: " + ended.stderr.strip().splitlines()[-1][:100]
    failed = json.loads(ended.stdout.splitlines()[-1])["failed"]
    found = [(seed, re.sub(r"\s+", " ", check)[:90]) for seed, check in failed if not check.startswith(OURS)]
    if not found:
        return None, f"no seed found it; {len(failed)} ended in a failure of the campaign itself"
    return found[0]


if __name__ == "__main__":
    main()
