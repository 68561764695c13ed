"""One incremental sync after a tenth of the orders has changed: calls, and whether everything arrived."""

import random
import time
from collections.abc import Sequence
from math import ceil
from uuid import UUID

from bench import scene as scenes
from bench import truth
from bench.figures import Bound, Outcome
from bench.scene import Scene

from orders_backup import db as database
from orders_backup.allegro import client
from orders_backup.sync import state

CALLS = 1.5
SHARE_THAT_MOVES = 0.08
"""Of all orders: those that change so that `updatedAt` moves."""
SHARE_THAT_SHIPS = 0.02
"""Of all orders: those of which only the fulfilment changes, which leaves `updatedAt` as it was."""
AMONG_NEWEST = 1.5
"""The shipped ones are drawn from the newest orders, this many times as many."""
LAST_MONTHS = 0.5
"""The others are drawn from the orders of the last half of the year."""
UNCOMMON = "RETURNED"
"""No order of the last two weeks has this status, so that it is a change to each of them."""
VERBS = ("modifies_address", "surcharges", "cancels", "pays", "fills_in")


def measure(scene: Scene, account_id: UUID) -> Outcome:
    """The account must be level with Allegro before."""
    journal = len(scene.told("events", seller_id=scene.seller_id))
    changed = _change(scene)
    events = len(scene.told("events", seller_id=scene.seller_id)) - journal
    before = scene.calls()
    with scenes.service(scene) as (worker, _):
        with database.transaction(scene.runtime.db) as tx:
            run_id = state.request(tx, account_id, "incremental")
        began, cpu = time.monotonic(), scenes.cpu_seconds(scene.postgres.child.pid)
        scenes.wait(lambda: _is_done(scene, run_id), worker)
        wall, cpu = time.monotonic() - began, scenes.cpu_seconds(scene.postgres.child.pid) - cpu
        client_cpu = scenes.cpu_seconds(worker.pid)
    made = {path: count - before.get(path, 0) for path, count in scene.calls().items()}
    run = scene.rows("SELECT * FROM sync_history WHERE id = :id", id=run_id)[0]
    least = ceil(events / client.EVENTS_LIMIT) + ceil(changed / client.LIST_LIMIT)
    bounds = {
        "calls": Bound(sum(made.values()), CALLS * least),
        "orders_differing_from_truth": Bound(truth.differing(scene, account_id), 0),
        "orders_still_owed": Bound(len(scene.rows("SELECT FROM owed_orders")), 0),
        "changes_missed": Bound(abs(changed - run.updated), 0),
    }
    figures: dict[str, object] = {
        "changed_orders": changed,
        "events": events,
        "calls_least": least,
        "calls_by_path": {path: count for path, count in made.items() if count},
        "run": {name: getattr(run, name) for name in ("calls", "events", "listed", "inserted", "updated", "unchanged")},
        "client_cpu_s_with_start": client_cpu,
        "postgres_cpu_s": cpu,
        "wall_s_with_start": wall,
    }
    return Outcome("changes", scene.orders, bounds, figures)


def _change(scene: Scene) -> int:
    """Changes distinct orders, each once, and says how many."""
    draw = random.Random(1)
    ids: list[str] = scene.told("orders", seller_id=scene.seller_id)
    ships = int(scene.orders * SHARE_THAT_SHIPS)
    shipped = draw.sample(ids[-int(ships * AMONG_NEWEST) :], ships)
    for order_id in shipped:
        assert scene.tell("ships", form=order_id, status=UNCOMMON)
    recent = list(set(ids[-int(len(ids) * LAST_MONTHS) :]) - set(shipped))
    recent.sort()
    draw.shuffle(recent)
    return len(shipped) + _move(scene, recent, int(scene.orders * SHARE_THAT_MOVES), draw)


def _move(scene: Scene, order_ids: Sequence[str], wanted: int, draw: random.Random) -> int:
    """Whatever its state allows happens to one order after another, until enough have changed."""
    moved = 0
    for order_id in order_ids:
        verbs = draw.sample(VERBS, len(VERBS))
        moved += any(scene.tell(verb, form=order_id) for verb in verbs)
        if moved == wanted:
            break
    return moved


def _is_done(scene: Scene, run_id: UUID) -> bool:
    run = scene.rows("SELECT status, error FROM sync_history WHERE id = :id", id=run_id)[0]
    assert run.status != "failed", run.error
    return bool(run.status == "succeeded")
