"""The invariants of a story: those that hold after every step, and those that hold when all is quiet."""

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Row
from tests.faults import checks as archived
from tests.faults.checks import Evidence, Span
from tests.faults.watched import made_at

from orders_backup.sync import reconcile

from . import wires
from .reader import BYSTANDER
from .road import EVENTS, LIST, TOKEN, Call

ID_TELLS = timedelta(milliseconds=10)
"""An order's id tells the moment it was made to the millisecond, more or less."""

if TYPE_CHECKING:
    from .story import Story

LATEST_REUSE = 55.0
MINUTE = timedelta(seconds=60)
PERMITS_LAST = timedelta(seconds=3)
"""What was taken from the budget before a silence may still be sent for so long."""
BESIDE = frozenset(f"order.{kind}_changed" for kind in ("shipments", "invoices", "returns", "refunds"))
"""Kinds of change that tell of what belongs to an order, and of no new version of it."""


def always(story: "Story") -> str:
    """Between any two steps: heads are newest, the cursor never runs ahead, no generation of tokens comes twice.

    The account's status.
    """
    row = story.stage.rows(_ALWAYS, account=story.account_id)[0]
    trouble = story.stage.trouble
    trouble += [f"I4 the head of {order_id} is not its newest version" for order_id in row.heads or []]
    if row.ahead is not None:
        story.pinned = story.pinned or row.ahead
        if row.ahead != story.pinned:
            trouble.append(f"I3 the cursor {row.ahead} is ahead of what is stored")
    if wires.open_transactions() > story.stage.held:
        trouble.append("I9 a connection is idle in a transaction")
    _generations(story, row)
    return str(row.status)


_ALWAYS = """
    SELECT (SELECT array_agg(o.order_id) FROM orders o
              LEFT JOIN LATERAL (SELECT count(*) AS kept, bool_and(v.read_at <= o.read_at) AS is_newest,
                                        bool_or(v.version = o.version AND v.sha256 = o.sha256) AS is_there
                                   FROM order_versions v
                                  WHERE v.account_id = o.account_id AND v.order_id = o.order_id) AS v ON true
             WHERE (v.kept = o.versions AND v.is_newest AND v.is_there) IS NOT TRUE) AS heads,
           (SELECT s.cursor FROM syncs s
             WHERE s.cursor IS NOT NULL AND s.account_id = :account AND s.kind = 'journal'
               AND NOT EXISTS (SELECT FROM order_events e WHERE e.account_id = :account AND e.event_id = s.cursor)
           ) AS ahead,
           (SELECT status FROM accounts WHERE id = :account) AS status,
           (SELECT generation FROM account_tokens WHERE account_id = :account) AS generation,
           (SELECT md5(access_sealed) FROM account_tokens WHERE account_id = :account) AS pair
"""


def finally_(story: "Story", *, proven: bool) -> None:
    """When all is quiet. `proven`: a reconcile has run since anything happened."""
    found = story.stage.trouble
    if story.stage.engine.pool.checkedout() > story.stage.held:  # type: ignore[attr-defined]
        found.append("I9 a connection did not come back to the pool")
    story.reader.finishes()
    found += story.reader.gaps()
    found += _feed(story)
    found += _tokens(story)
    found += _rates(story)
    found += _silences(story)
    found += _honest(story)
    found += _founded(story)
    found += _counted(story)
    found += _archive(story, proven=proven)
    found += _catch(story)


def _archive(story: "Story", *, proven: bool) -> Iterator[str]:
    """Everything the kill campaign asks of its archive too: I1 to I4, conservation, leases, the certificate."""
    world, seller = story.stage.world, story.seller_id
    evidence = Evidence(
        accounts={seller: story.account_id},
        truth={(seller, form): truth for form, truth in world.truth(seller).items()},
        served_events={seller: world.served_events(seller)},
        tokens=[],
        lossy=[Span(at - ID_TELLS, at + ID_TELLS) for at in story.stage.disrupted],
    )
    with wires.quietly(story.stage.engine) as tx:
        tx.exec_driver_sql("DELETE FROM order_changes WHERE account_id = %s", (BYSTANDER,))
        kept = archived._archive(tx, evidence)
        if proven or not story.silent:
            yield from archived._lost(evidence, kept)
        yield from archived._doubled(tx, evidence, kept)
        yield from archived._skipped(tx, evidence)
        yield from archived._unfounded(kept)
        yield from archived._runs(tx)
        yield from archived._unsettled(tx)
        if proven:
            yield from archived._unproven(tx, evidence)


def _generations(story: "Story", row: "Row[Any]") -> None:
    generation, pair = story.told_tokens
    if row.generation is None:
        return
    if row.generation < generation or (row.generation == generation and row.pair != pair):
        story.stage.trouble.append(f"I6 generation {row.generation} was written over generation {generation}")
    story.told_tokens = (row.generation, row.pair)


def _feed(story: "Story") -> Iterator[str]:
    """Every version is announced once, as is every change of what belongs to an order, and nothing else is."""
    told, beside = Counter[tuple[str, int]](), Counter[tuple[str, str]]()
    for account_id, order_id, version, kinds in story.reader.seen.values():
        if account_id == BYSTANDER or kinds == ("order.superseded",):
            continue
        if BESIDE.issuperset(kinds):
            beside.update((order_id, kind) for kind in kinds)
        else:
            told[order_id, version] += 1
    stored = {(row.order_id, row.version) for row in story.stage.rows("SELECT order_id, version FROM order_versions")}
    if any(times > 1 for times in told.values()) or told.keys() != stored:
        wrong = {one for one, times in told.items() if times > 1} | (told.keys() ^ stored)
        yield f"I5 the feed and the versions differ: {sorted(wrong)[:3]}"
    for row in story.stage.rows(_BESIDE):
        times = beside[row.order_id, f"order.{row.kind}_changed"]
        if not row.least <= times <= row.most:
            yield f"I5 {row.kind} of {row.order_id} changed {row.least} to {row.most} times and the feed told {times}"


_BESIDE = """
    SELECT order_id, kind, versions - 1 + (versions = 1 AND found)::int AS least,
           versions - (versions = 1 AND NOT found)::int AS most
      FROM order_extras WHERE version > 0 AND kind IN ('invoices', 'shipments')
"""
"""The first document of a kind is news where there is something in it; each later one is."""


def _tokens(story: "Story") -> Iterator[str]:
    """I6: no refresh token is used when its grace is nearly over, and none is refused that Allegro did not end."""
    first: dict[object, float] = {}
    for use in story.stage.world.tokens:
        began = first.setdefault((use.seller_id, use.generation), use.at)
        if story.refused_by_allegro:
            continue
        if use.at - began > LATEST_REUSE:
            yield f"I6 generation {use.generation} was used again after {use.at - began:.1f} s"
        if use.outcome != "ok":
            yield f"I6 a refresh with generation {use.generation} was answered {use.outcome}"


def _rates(story: "Story") -> Iterator[str]:
    """I7: in no 60 seconds more than the limit, of all calls and of each class."""
    settings, calls = story.stage.settings, story.traffic.calls
    api = [call for call in calls if not call.path.startswith("/auth/")]
    classes: dict[str, tuple[list[Call], int]] = {
        "client": (api, settings.rate_limit_client),
        "orders": ([call for call in api if call.path == LIST], settings.rate_limit_orders),
        "events": ([call for call in api if call.path.startswith(EVENTS)], settings.rate_limit_events),
        "auth": ([call for call in calls if call.path == TOKEN], settings.rate_limit_auth),
    }
    for name, (some, limit) in classes.items():
        start = 0
        for end, call in enumerate(some):
            while some[start].at <= call.at - MINUTE:
                start += 1
            if end - start + 1 > limit:
                yield f"I7 more than {limit} calls of class {name} in a minute"
                break
    if story.stage.world.blocked_calls:
        yield "I7 calls were made although Allegro had blocked the client id"


def _silences(story: "Story") -> Iterator[str]:
    """I7: after a 429 nobody calls, unless who got it died or lost the database before he could tell."""
    for silence in story.traffic.silences:
        told_nobody = any(silence.at <= moment <= silence.at + timedelta(seconds=2) for moment in story.stage.disrupted)
        if silence.worker.dead or told_nobody:
            continue
        for call in story.traffic.calls:
            if silence.at + PERMITS_LAST < call.at < silence.until - timedelta(seconds=1) and call.path != TOKEN:
                yield f"I7 {call.path} was called {(call.at - silence.at).total_seconds():.1f} s after a 429"
                break


def _honest(story: "Story") -> Iterator[str]:
    """A certificate that calls itself complete is: whatever it covers is stored."""
    with wires.quietly(story.stage.engine) as tx:
        certificate = reconcile.certificate(tx, story.account_id)
    if not certificate.complete or certificate.covers_to is None or certificate.checked_at is None:
        return
    stored = {row.order_id for row in story.stage.rows("SELECT order_id FROM orders")}
    for order in story.stage.world._state.by_seller[story.seller_id]:
        if order.gone or order.id in stored or made_at(order.id) > certificate.covers_to:
            continue
        if (
            order.bought / 1000 < certificate.covers_to.timestamp()
            and not story.stage.world.truth(story.seller_id)[order.id].hidden
        ):
            yield f"certificate: it is complete, and {order.id} is not stored"


def _founded(story: "Story") -> Iterator[str]:
    """No window is proven with more orders than Allegro ever had in it."""
    query = "SELECT window_from, window_to, total_count FROM sync_windows WHERE status = 'verified' AND method = 'ids'"
    bought = [order.bought for order in story.stage.world._state.by_seller[story.seller_id]]
    for row in story.stage.rows(query):
        since, until = row.window_from.timestamp() * 1000, row.window_to.timestamp() * 1000
        ever = sum(since <= moment < until for moment in bought)
        if row.total_count > ever:
            yield f"windows: one is proven with {row.total_count} orders, and never held more than {ever}"


def _counted(story: "Story") -> Iterator[str]:
    """A run whose windows all were proven at the first try counted each of their rows once, whatever died meanwhile.
    Rows behind a page that failed are counted again, when it has been asked for again."""
    if story.weather.families - {"crash", "database", "freeze", "journal", "broker"} or story.scale.limit < 9_000:
        return
    query = """
        SELECT h.kind, h.listed, sum(w.listed) AS held FROM sync_history h JOIN sync_windows w ON w.run_id = h.id
         WHERE h.status = 'succeeded' GROUP BY h.id
        HAVING bool_and(w.status = 'verified' AND w.method = 'ids' AND w.attempts = 0 AND w.depth = 0)
           AND h.listed <> sum(w.listed)
    """
    for row in story.stage.rows(query):
        yield f"runs: a {row.kind} counted {row.listed} rows of windows that hold {row.held}"


def _catch(story: "Story") -> Iterator[str]:
    """The sweeps found nothing, where every event was told: the journal alone keeps the archive level."""
    if story.silent or "lists" in story.weather.families:
        return
    for row in story.stage.rows("SELECT sum(found_missing) AS missing FROM sync_windows HAVING sum(found_missing) > 0"):
        yield f"nets: a sweep found {row.missing} orders that events had named"


def waits_until(story: "Story") -> datetime | None:
    """Until when something waits by a decision that was made already: a back-off, a lease, a silence, an interval."""
    query = """
        SELECT max(moment) FROM (
            SELECT GREATEST(due_at, leased_until) AS moment FROM syncs
             WHERE kind = 'journal' OR failures > 0 OR leased_until IS NOT NULL
                OR EXISTS (SELECT FROM sync_history h WHERE h.finished_at IS NULL)
                OR NOT EXISTS (SELECT FROM sync_history h WHERE h.kind = 'backfill')
            UNION ALL SELECT GREATEST(due_at, leased_until) FROM device_flows
            UNION ALL SELECT due_at FROM account_tokens WHERE failures > 0 OR intent_at IS NOT NULL
            UNION ALL SELECT due_at FROM owed_orders WHERE set_aside_at IS NULL
            UNION ALL SELECT silent_until + interval '150 s' FROM request_budget WHERE silent_until IS NOT NULL
            UNION ALL SELECT full_at + interval '60 s' FROM request_budget
        ) AS waits
    """
    found: datetime | None = story.stage.one(query)
    return found


def unquiet(story: "Story", since: datetime) -> str:
    """What is still to be done; empty when the journal was read to its end after `since` and nothing is owed."""
    query = """
        SELECT concat_ws(', ',
            (SELECT 'the account is ' || status FROM accounts WHERE id = :account AND status <> 'active'),
            (SELECT count(*) || ' orders owed' FROM owed_orders WHERE set_aside_at IS NULL HAVING count(*) > 0),
            (SELECT count(*) || ' runs unfinished' FROM sync_history WHERE finished_at IS NULL HAVING count(*) > 0),
            (SELECT count(*) || ' jobs claimed' FROM syncs WHERE leased_until IS NOT NULL HAVING count(*) > 0),
            (SELECT count(*) || ' refreshes begun' FROM account_tokens WHERE intent_at IS NOT NULL HAVING count(*) > 0),
            (SELECT 'the journal is unread' WHERE NOT EXISTS (SELECT FROM syncs
              WHERE kind = 'journal' AND account_id = :account AND succeeded_at > :since)),
            (SELECT 'not backfilled' WHERE NOT EXISTS (SELECT FROM sync_history
              WHERE account_id = :account AND kind IN ('backfill', 'reconcile') AND status = 'succeeded')))
    """
    return str(story.stage.one(query, account=story.account_id, since=since))


def summary(found: list[str]) -> str:
    """The first few of each kind."""
    by_kind = itertools.groupby(sorted(found), key=lambda one: one.split()[0])
    return "\n".join("\n".join(list(some)[:3]) for _, some in by_kind)
