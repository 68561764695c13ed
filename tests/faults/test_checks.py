"""The checkers proven: each damage done to a finished archive is reported, and no damage is no report."""

import dataclasses
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from allegro_simulator.oauth import Refreshed

from . import checks, scale
from .checks import Evidence, Span

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(scale.chosen().kills > scale.SLICE.kills, reason="the short campaign proves the checkers"),
]

_CHANGED = "(SELECT account_id, order_id FROM orders WHERE versions > 1 AND gone_at IS NULL LIMIT 1)"
_ANY = "(SELECT account_id, order_id FROM orders WHERE gone_at IS NULL AND versions = 1 LIMIT 1)"
_KEY = "(account_id, order_id)"

DAMAGES = {
    "a version is deleted": ("I4", f"DELETE FROM order_versions WHERE {_KEY} IN {_ANY}"),
    "the first of two versions is deleted": (
        "I4",
        f"DELETE FROM order_versions WHERE {_KEY} IN {_CHANGED} AND version = 1",
    ),
    "an order is deleted with all that belongs to it": (
        "I1",
        f"""WITH one AS {_ANY}, head AS (DELETE FROM orders WHERE {_KEY} IN (TABLE one))
            DELETE FROM order_versions WHERE {_KEY} IN (TABLE one)""",
    ),
    "a version is stored twice": (
        "I2",
        f"""INSERT INTO order_versions
            SELECT account_id, order_id, version + 1, read_at + interval '1 ms', stored_at, size, sha256,
                   dictionary_id, body
              FROM order_versions WHERE {_KEY} IN {_ANY}""",
    ),
    "a byte of a body is changed": (
        "I4",
        f"""UPDATE order_versions SET body = set_byte(body, length(body) - 9, get_byte(body, length(body) - 9) # 1)
            WHERE {_KEY} IN {_ANY}""",
    ),
    "a hash is changed": (
        "I2",
        f"UPDATE order_versions SET sha256 = set_byte(sha256, 0, get_byte(sha256, 0) # 1) WHERE {_KEY} IN {_ANY}",
    ),
    "an older version is taken for the newest": (
        "I1",
        f"""UPDATE orders o SET version = 1, sha256 = v.sha256 FROM order_versions v
             WHERE (o.account_id, o.order_id) IN {_CHANGED} AND v.account_id = o.account_id
               AND v.order_id = o.order_id AND v.version = 1""",
    ),
    "two versions changed places in time": (
        "I2",
        f"UPDATE order_versions SET read_at = read_at + interval '1 day' WHERE {_KEY} IN {_CHANGED} AND version = 1",
    ),
    "the projection says something else": (
        "I4",
        f"""UPDATE orders SET order_data = order_data || '{{"status": "LOST"}}' WHERE {_KEY} IN {_ANY}""",
    ),
    "an order is taken for gone": ("I1", f"UPDATE orders SET gone_at = now() WHERE {_KEY} IN {_ANY}"),
    "a stranger's order is stored": (
        "I1",
        f"UPDATE orders SET order_id = '00000000-0000-1000-8000-000000000000' WHERE {_KEY} IN {_ANY}",
    ),
    "an event is deleted": ("I3", "DELETE FROM order_events WHERE event_id = (SELECT max(event_id) FROM order_events)"),
    "an event was never followed": (
        "I3",
        "UPDATE order_events SET processed_at = NULL WHERE event_id = (SELECT max(event_id) FROM order_events)",
    ),
    "a creation is told twice": (
        "I2",
        f"""INSERT INTO order_changes (account_id, order_id, version, kinds, cause)
            SELECT account_id, order_id, 1, '{{order.created}}', 'test' FROM {_ANY} AS one""",
    ),
    "a creation is not told": ("I2", f"DELETE FROM order_changes WHERE {_KEY} IN {_ANY}"),
    "a seller has to connect again": (
        "I6",
        "UPDATE accounts SET status = 'reauthorization_required' WHERE id = (SELECT min(id::text)::uuid FROM accounts)",
    ),
    "a run counted one too many": (
        "runs",
        "UPDATE sync_history SET listed = listed + 1, inserted = inserted + 1 WHERE kind = 'backfill'",
    ),
    "a run was left behind": ("runs", "UPDATE sync_history SET finished_at = NULL WHERE kind = 'backfill'"),
    "a claim was never given back": ("leases", "UPDATE syncs SET leased_until = clock_timestamp() - interval '1 min'"),
    "an order is still owed": (
        "certificate",
        f"""INSERT INTO owed_orders (account_id, order_id, cause, owed_at, due_at)
            SELECT account_id, order_id, 'test', now(), now() FROM {_ANY} AS one""",
    ),
}


@pytest.mark.parametrize(("invariant", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_archive_is_found_out(
    tx: Connection, evidence: Evidence, known: set[str], invariant: str, damage: str
) -> None:
    assert tx.execute(sa.text(damage)).rowcount > 0

    assert any(one.startswith(invariant) for one in set(checks.violations(tx, evidence)) - known)


@pytest.mark.parametrize("name", ["a version is stored twice", "a seller has to connect again"])
def test_the_look_between_faults_finds_it_too(tx: Connection, name: str) -> None:
    invariant, damage = DAMAGES[name]
    assert not list(checks.at_any_moment(tx))
    tx.execute(sa.text(damage))

    assert any(one.startswith(invariant) for one in checks.at_any_moment(tx))


def test_a_refused_refresh_is_found_out(tx: Connection, evidence: Evidence) -> None:
    refused = Refreshed(0.0, next(iter(evidence.accounts)), 1, in_grace=False, outcome="invalid_grant")

    found = checks.violations(tx, dataclasses.replace(evidence, tokens=[*evidence.tokens, refused]))

    assert any("invalid_grant" in one for one in found)


def test_a_refresh_at_the_end_of_the_grace_is_found_out(tx: Connection, evidence: Evidence) -> None:
    first = evidence.tokens[0]
    late = first._replace(at=first.at + scale.LATEST_REUSE + 1, in_grace=True)

    found = checks.violations(tx, dataclasses.replace(evidence, tokens=[*evidence.tokens, late]))

    assert any("was used again" in one for one in found)


def test_a_served_event_that_is_not_stored_is_found_out(tx: Connection, evidence: Evidence) -> None:
    seller = next(iter(evidence.accounts))
    served = evidence.served_events | {seller: {*evidence.served_events[seller], "1"}}

    found = checks.violations(tx, dataclasses.replace(evidence, served_events=served))

    assert any(one.startswith(f"I3 event 1 of {seller}") for one in found)


def test_a_lost_order_is_excused_only_by_a_kill_during_its_short_life(tx: Connection, evidence: Evidence) -> None:
    stored = tx.execute(sa.text("SELECT order_id FROM orders")).scalars().all()
    merged = [key for key, true in evidence.truth.items() if true.gone and true.served and key[1] in stored]
    tx.execute(sa.text("DELETE FROM orders WHERE order_id = :order"), {"order": merged[0][1]})
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    never = dataclasses.replace(evidence, lossy=[Span(long_ago, long_ago)])

    assert any(f"{merged[0]} is gone but was served" in one for one in checks.violations(tx, never))
