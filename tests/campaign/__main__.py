"""`make faults`: seeds in two processes; `--seed` plays one and prints its trace."""

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from sqlalchemy.engine import Engine

import orders_backup as product

from . import story as stories
from . import wires
from .hand import in_hand
from .stage import OURS, watched_files

HELD = "everything held"


def main() -> None:
    options = _options()
    if options.part is not None:
        sys.exit(_part(options))
    sys.exit(_all(options) if options.seed is None else _one(options.seed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.campaign")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--until-failure", action="store_true")
    parser.add_argument("--families", default="", help="the weather of every seed, instead of what it would draw")
    parser.add_argument("--rush", action="store_true", help="many orders and a low limit in every seed")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--processor", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


@contextlib.contextmanager
def database() -> Iterator[Engine]:
    """A database on a PostgreSQL of its own.

    Two campaigns on one server would see each other: a transaction that is open anywhere holds the feed back.
    """
    with wires.server() as url, wires.fresh(url, wires.make_template(url)) as engine:
        yield engine


def _one(seed: int) -> int:
    with in_hand(), watched_files(), database() as engine:
        trouble, trace = tried(engine, seed)
    print("\n".join(trace))
    print("\n".join(trouble) or HELD)
    return 1 if trouble else 0


def tried(
    engine: Engine, seed: int, families: frozenset[str] | None = None, **fixed: Any
) -> tuple[list[str], list[str]]:
    """What one seed found broken, and its trace; an exception of the campaign itself is trouble too."""
    holder: list[stories.Story] = []
    try:
        story = stories.play(engine, seed, holder, families=families, **fixed)
    except Exception:  # noqa: BLE001 – the entry point of a seed: what it is, the trace tells
        trace = holder[0].stage.trace if holder else []
        return [f"{OURS} {traceback.format_exc(limit=-4, chain=False)}"], trace
    return story.stage.trouble, [*story.stage.trace, f"statements {story.stage.digest.hexdigest()}"]


def _all(options: argparse.Namespace) -> int:
    began = time.monotonic()
    base = [sys.executable, "-m", "tests.campaign", "--seeds", str(options.seeds), "--first", str(options.first)]
    base += ["--processes", str(options.processes), *(["--until-failure"] if options.until_failure else [])]
    parts = [
        subprocess.Popen([*base, "--part", str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(options.processes)
    ]
    figures = [json.loads(part.communicate()[0].splitlines()[-1]) for part in parts]
    played, cpu = sum(one["played"] for one in figures), sum(one["cpu"] for one in figures)
    failed = sorted({seed: found for one in figures for seed, found in one["failed"]}.items())
    seconds = time.monotonic() - began
    print(
        f"{played} seeds in {seconds:.1f} s: {played / seconds:.1f} a second, {cpu / max(played, 1):.3f} CPU-s a seed"
    )
    print(f"steps {sum(one['steps'] for one in figures)}, faults {sum(one['faults'] for one in figures)}")
    for seed, found in failed:
        print(f"seed {seed}: {found}\n    again: make faults SEED={seed}")
    return 1 if failed else 0


def _part(options: argparse.Namespace) -> int:
    """Every so many-th seed, in a database of its own; the last line tells the figures."""
    source = os.environ.get("CAMPAIGN_SOURCE")
    if source and not str(product.__file__).startswith(source):
        raise SystemExit(f"The product is not that of {source}.")
    failed, played, steps, faults = [], 0, 0, 0
    families = frozenset(options.families.split(",")) if options.families else None
    fixed = stories.RUSH if options.rush else {}
    began = time.process_time()
    _settles_down(options.part, options.processor)
    with in_hand(), watched_files(), database() as engine:
        for seed in range(options.first + options.part, options.first + options.seeds, options.processes):
            trouble, trace = tried(engine, seed, families, **fixed)
            played += 1
            steps += len(trace)
            faults += sum(" goes on" in line or " crashes" in line or " (" in line for line in trace)
            if trouble:
                broken = [one for one in trouble if not one.startswith(OURS)]
                failed.append((seed, (broken or trouble)[0][:600]))
                if options.until_failure and broken:
                    break
    figures = {"played": played, "failed": failed, "cpu": time.process_time() - began, "steps": steps, "faults": faults}
    print(json.dumps(figures))
    return 0


def _settles_down(part: int, processor: int | None) -> None:
    """On one processor with its PostgreSQL, for the two never work at the same time; and what was imported stays."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[part % len(processors)] if processor is None else processor})
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


if __name__ == "__main__":
    main()
