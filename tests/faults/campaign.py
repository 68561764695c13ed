"""One campaign from beginning to end, and when it is quiet enough to be judged."""

from datetime import UTC, datetime

from orders_backup import db as database
from orders_backup.sync import state

from . import nemesis, scale, scene
from .scene import Campaign


def run(campaign: Campaign) -> None:
    """Connects the sellers, kills in both phases while things happen, and waits until all is quiet and proven."""
    with scene.timed(campaign, "connect"):
        for _ in range(campaign.size.sellers):
            scene.connect_one(campaign)
        scene.wait_until_connected(campaign)
    with scene.living(campaign):
        with scene.timed(campaign, "backfill"):
            nemesis.kill_in(campaign, "backfill")
        with scene.merging(campaign), scene.timed(campaign, "refresh"):
            nemesis.kill_in(campaign, "refresh")
    with scene.timed(campaign, "quiet"):
        settle(campaign)


def settle(campaign: Campaign) -> None:
    """Nothing goes wrong and nothing happens any more: waits until every archive is level and proven."""
    campaign.world.clear_faults()
    scene.wake(campaign, campaign.sleeping)
    _reconcile(campaign)
    frozen_at = datetime.now(UTC)
    scene.wait(campaign, lambda: _unquiet(campaign, frozen_at), within=scale.QUIET_WITHIN)


def _unquiet(campaign: Campaign, since: datetime) -> str:
    """What is still to be done; empty when every journal was read to its end after `since` and nothing is owed."""
    query = """
        SELECT concat_ws(', ',
            (SELECT count(*) || ' accounts not active' FROM accounts WHERE status <> 'active' HAVING count(*) > 0),
            (SELECT count(*) || ' orders owed' FROM owed_orders HAVING count(*) > 0),
            (SELECT count(*) || ' runs unfinished' FROM sync_history WHERE finished_at IS NULL HAVING count(*) > 0),
            (SELECT count(*) || ' leases run out' FROM syncs WHERE leased_until < clock_timestamp()
             HAVING count(*) > 0),
            (SELECT count(*) || ' journals unread' FROM accounts a LEFT JOIN syncs s
                 ON s.account_id = a.id AND s.kind = 'journal' WHERE s.succeeded_at > :since IS NOT TRUE
             HAVING count(*) > 0),
            (SELECT count(*) || ' not backfilled' FROM accounts a
              WHERE NOT EXISTS (SELECT FROM sync_history h WHERE h.account_id = a.id AND h.kind = 'backfill'
                                                             AND h.status = 'succeeded')
             HAVING count(*) > 0))
    """
    return str(scene.one(campaign, query, since=since))


def _reconcile(campaign: Campaign) -> None:
    for account_id in campaign.accounts.values():
        with database.transaction(campaign.service.runtime.db) as tx:
            state.request(tx, account_id, "reconcile")
