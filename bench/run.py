"""`python -m bench.run`: the benches of orders (webhooks, feed and whale have their own), one line of JSON each.
Exit code 1 where a bound is broken.

BENCH_ORDERS says how many orders the seller has, ARCHIVE_ORDERS how many there are for exports and pages. The bounds on
calls are for 10,000 and more: below that the handful of calls that do not grow with the orders weighs too much.
"""

import os
import sys

from bench import backfill, changes, exports, filling, pages, simulator, storage
from bench import scene as scenes
from bench.figures import Outcome


def main() -> int:
    """In the order in which one bench leaves behind what the next one needs."""
    orders = int(os.environ.get("BENCH_ORDERS", "50000"))
    broken = 0
    with scenes.built(orders) as scene:
        broken += _told(simulator.measure(scene))
        account_id, outcome = backfill.measure(scene)
        broken += _told(outcome)
        broken += _told(storage.measure(scene))
        broken += _told(changes.measure(scene, account_id))
        crowd = filling.fill(scene, account_id)
        broken += _told(exports.measure(scene, crowd.orders))
        broken += sum(_told(outcome) for outcome in pages.measure(scene, crowd, rounds=100, sorts=["-ordered_at"]))
    return 1 if broken else 0


def _told(outcome: Outcome) -> bool:
    """True where a bound is broken that decides."""
    print(outcome.line(), flush=True)
    return not outcome.ok and not outcome.is_informative


if __name__ == "__main__":
    sys.exit(main())
