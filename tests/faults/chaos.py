"""The campaign of all faults: rounds from a plan, recovery after each, a look at the invariants now and then."""

import json
import sys
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from orders_backup import db as database
from orders_backup.errors import DatabaseUnavailableError, OrdersBackupError
from orders_backup.sync import state

from . import campaign as campaigns
from . import checks, databases, illnesses, plan, scale, scene, strikes, whims
from .checks import Span
from .cluster import SCHEDULERS, WORKERS, Cluster
from .plan import Fault, Kind
from .scale import Extent
from .scene import Campaign


class Injected(NamedTuple):
    """A fault that was done. `recovered`: seconds from its end until all journals were followed to their end again;
    `together`: how many were done at the same time."""

    fault: Fault
    span: Span
    hits: int
    recovered: float
    together: int


@dataclass(slots=True)
class Chaos(Campaign):
    """What the campaign works with and what it remembers. `found`: broken promises seen on the way."""

    cluster: Cluster = field(kw_only=True)
    extent: Extent = field(kw_only=True)
    injected: list[Injected] = field(default_factory=list)
    taken_over: list[float] = field(default_factory=list)
    silences: list[tuple[float, float]] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)

    @property
    def awake(self) -> list[str]:
        return [seller_id for seller_id in self.accounts if seller_id not in self.sleeping]

    @property
    def hit(self) -> list[Injected]:
        """Those that found somebody to hit; only they count."""
        return [one for one in self.injected if one.hits]

    def expire_tokens(self, sellers: int = 1) -> None:
        """Some access tokens end before their time, so that somebody asks for new ones."""
        for seller_id in self.draw.sample(self.awake, min(sellers, len(self.awake))):
            self.world.expires_access_tokens(seller_id)

    def ask_for(self, kind: str) -> None:
        """Somebody wants a full sync or a reconcile of some account."""
        account_id = self.accounts[self.draw.choice(self.awake)]
        with suppress(OrdersBackupError), database.transaction(self.cluster.runtime.db) as tx:
            state.request(tx, account_id, kind)

    def recover(self, since: datetime, *, within: float) -> float:
        """Seconds until every account's journal was followed to its end by a sync that ended after `since`, and the API
        finds itself ready."""
        behind, waited = "not asked yet", 0.0
        while behind:
            with suppress(DatabaseUnavailableError):
                behind = str(scene.one(self, _BEHIND, since=since)) or ("" if self.cluster.api_answers() else "API")
            self.cluster.need_all()
            waited = (datetime.now(UTC) - since).total_seconds()
            if waited > within * scale.PATIENCE:
                raise AssertionError(f"I10 not recovered after {waited:.0f} s: {behind}")
            time.sleep(0.1)
        if waited > within:
            self.found.append(f"I10 recovered only after {waited:.1f} s, at fault {len(self.injected) + 1}")
        return waited


_BEHIND = """
    SELECT coalesce(string_agg(a.name || ' ' || coalesce(s.succeeded_at::text, 'never'), ', '), '')
      FROM accounts a LEFT JOIN syncs s ON s.account_id = a.id AND s.kind = 'journal'
     WHERE a.status = 'active' AND NOT a.paused AND s.succeeded_at > :since IS NOT TRUE
"""


def kinds(extent: Extent, cluster: Cluster) -> list[Kind]:
    """What can be done here: no disk is filled where none could be mounted, few kinds in the slice."""
    found = [*strikes.KINDS, *databases.KINDS, *illnesses.KINDS, *whims.KINDS]
    if len(cluster.volumes) == 2:
        found += databases.ON_VOLUMES
    else:
        sys.stderr.write("NOT INJECTED: full disks, because this machine does not let us mount a tmpfs\n")
    if extent.is_slice and not extent.only:
        return [kind for kind in found if kind.name in scale.IN_THE_SLICE]
    return [kind for kind in found if extent.only in f"{kind.group}: {kind.name}"]


def run(chaos: Chaos) -> None:
    """Connects the sellers, deals faults while things happen, heals, waits until all is quiet."""
    with scene.timed(chaos, "connect"):
        for _ in range(chaos.size.sellers):
            scene.connect_one(chaos)
        scene.wait_until_connected(chaos)
        scene.wake(chaos, list(chaos.sleeping))
    chaos.before = chaos.cluster.resources()
    with scene.timed(chaos, "faults"), scene.living(chaos):
        _deal(chaos)
    with scene.timed(chaos, "quiet"):
        campaigns.settle(chaos)
        chaos.after = chaos.cluster.resources()
        chaos.cluster.need_all()
        for name in (*SCHEDULERS, *WORKERS):
            chaos.cluster.stop(name)


def _deal(chaos: Chaos) -> None:
    began = time.monotonic()
    together = (0, 0, 1) if chaos.extent.is_slice else scale.TOGETHER
    rounds = plan.rounds(kinds(chaos.extent, chaos.cluster), chaos.extent.seed, together=together)
    for turn, faults in enumerate(rounds, start=1):
        try:
            _round(chaos, faults)
        except BaseException as error:
            planned = " + ".join(map(str, faults))
            error.add_note(f"Seed {chaos.extent.seed}, round {turn}: {planned}\n{_standing(chaos)}")
            raise
        if len(chaos.hit) >= chaos.extent.faults or time.monotonic() - began > 60 * chaos.extent.minutes:
            return
        if turn % scale.CHECK_EVERY == 0:
            _look(chaos, turn)
        if turn % scale.NEWCOMER_EVERY == 0:
            _newcomer(chaos)


def _round(chaos: Chaos, faults: tuple[Fault, ...]) -> None:
    """All faults of a round begin, last, and end; then everybody recovers."""
    if chaos.draw.random() < scale.EXPIRE_TOKENS:
        chaos.expire_tokens(2)
    began = datetime.now(UTC)
    with ExitStack() as stack:
        hits = [stack.enter_context(fault.kind.do(chaos, fault)) for fault in faults]
        time.sleep(max(fault.seconds for fault in faults))
        counted = [count() for count in hits]
    ended = datetime.now(UTC)
    recovered = chaos.recover(ended, within=max(fault.kind.within for fault in faults))
    loses = any(fault.kind.loses for fault in faults)
    for fault, hit in zip(faults, counted, strict=True):
        chaos.injected.append(Injected(fault, Span(began, ended, loses=loses), hit, recovered, len(faults)))
        missed = "" if hit else ", hit nobody"
        took = (ended - began).total_seconds()
        sys.stdout.write(f"{len(chaos.hit):4}  {fault}{missed}; took {took:.1f} s, recovered in {recovered:.1f} s\n")
    sys.stdout.flush()
    time.sleep(chaos.draw.uniform(*scale.BETWEEN))


def _look(chaos: Chaos, turn: int) -> None:
    """What must hold at any moment. What is broken is told once, and the campaign goes on."""
    known = {one.partition(" (seen after")[0] for one in chaos.found}
    with database.transaction(chaos.cluster.runtime.db) as tx:
        seen = [*checks.at_any_moment(tx), *checks.limits(chaos.world, chaos.silences)]
    new = [f"{one} (seen after round {turn} of seed {chaos.extent.seed})" for one in seen if one not in known]
    chaos.found += new
    sys.stdout.writelines(f"BROKEN: {one}\n" for one in new)


def _newcomer(chaos: Chaos) -> None:
    """A seller more, whose history is listed during what follows; and somebody wants a proof."""
    scene.connect_one(chaos)
    scene.wait_until_connected(chaos)
    scene.wake(chaos, list(chaos.sleeping))
    chaos.ask_for("reconcile")


def _standing(chaos: Chaos) -> str:
    with suppress(DatabaseUnavailableError):
        return scene.standing(chaos)
    return "the database is away"


# The report


def report(chaos: Chaos) -> dict[str, Any]:
    """Everything that belongs into the tally, as JSON."""
    by_kind: dict[str, list[Injected]] = defaultdict(list)
    for one in chaos.injected:
        by_kind[one.fault.kind.name].append(one)
    lost_leases = sum("sync_lease_lost" in line for line in chaos.cluster.logs())
    return {
        "seed": chaos.extent.seed,
        "broker": chaos.extent.broker,
        "faults": len(chaos.hit),
        "hit_nobody": len(chaos.injected) - len(chaos.hit),
        "kinds": {name: _tally(some) for name, some in sorted(by_kind.items())},
        "recovery": _spread([one.recovered for one in chaos.hit]),
        "sellers": len(chaos.accounts),
        "calls": sum(chaos.world.counts.values()),
        "worst_minute": chaos.world.worst_window(60),
        "limit": scale.CLIENT_LIMIT,
        "refreshes": sum(chaos.world.uses().values()),
        "refreshed_again_in_grace": sum(count - 1 for count in chaos.world.uses().values()),
        "latest_reuse_after": round(chaos.world.latest_reuse(), 1),
        "frozen_workers_replaced_within": [round(seconds, 1) for seconds in chaos.taken_over],
        "ended_by_themselves": [words[-200:] for words in chaos.cluster.died_alone],
        "late_writers_refused": lost_leases,
        "resources_before": chaos.before,
        "resources_after": chaos.after,
        "seconds": {name: round(seconds) for name, seconds in chaos.took.items()},
    }


def _tally(some: list[Injected]) -> dict[str, float]:
    hit = [one.recovered for one in some if one.hits]
    return {"faults": len(hit), "hit_nobody": len(some) - len(hit), **_spread(hit)}


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {name: round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1) for name, share in at.items()}


def table(told: dict[str, Any]) -> list[str]:
    """The tally for people."""
    lines = [f"{'fault':38} {'n':>4} {'missed':>6} {'p50 s':>7} {'p95 s':>7} {'max s':>7}"]
    for name, one in told["kinds"].items():
        spread = " ".join(f"{one.get(share, ''):>7}" for share in ("p50", "p95", "max"))
        lines.append(f"{name:38} {one['faults']:>4} {one['hit_nobody'] or '':>6} {spread}")
    every = " ".join(f"{told['recovery'].get(share, ''):>7}" for share in ("p50", "p95", "max"))
    lines.append(f"{'all':38} {told['faults']:>4} {told['hit_nobody'] or '':>6} {every}")
    rest = {name: value for name, value in told.items() if name not in {"kinds", "recovery"}}
    return [*lines, json.dumps(rest, ensure_ascii=False)]
