"""Connecting a seller by the device flow (RFC 8628), and what changes about an account afterwards.

The only writer of accounts and device_flows, but for the loss of a token. The pair Allegro gives is durable before
anything else is asked; whose it is, /me tells; only then does it become the account's.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Row

from orders_backup import budget, due
from orders_backup import db as database
from orders_backup.accounts import journal, pairs, recovery, spool, tokens
from orders_backup.accounts.recovery import RESTORING
from orders_backup.accounts.spool import SealedPair
from orders_backup.allegro import client, oauth
from orders_backup.budget import Bucket, Priority
from orders_backup.due import Lease
from orders_backup.errors import (
    AllegroError,
    AllegroLimitError,
    AllegroUnauthorizedError,
    BudgetExhaustedError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    TokenRefusedError,
)
from orders_backup.runtime import Runtime
from orders_backup.tables import accounts, device_flows

SLOW_DOWN = timedelta(seconds=5)
"""Added to the interval for good on `slow_down` (RFC 8628, 3.5)."""
RETRY = timedelta(seconds=10)
TRIES = 5
"""How often more a new access token is tried that Allegro refused: one odd answer must not cost the seller a code."""
FRESH: dict[str, Any] = {"reason": None, "existing_account_id": None}
"""What an earlier flow left behind is no longer true."""

log = structlog.get_logger()


def begin(
    runtime: Runtime,
    *,
    user_id: UUID,
    name: str,
    sync_interval_seconds: int | None = None,
    extras: Collection[str] | None = None,
) -> UUID:
    """A new account that waits for its seller. `extras`: what to keep beside the orders; None: all there is.

    Raises AllegroError where the device flow cannot be started.
    """
    _require_printable(name)
    account_id = uuid4()
    authorization = _authorize(runtime)
    with database.transaction(runtime.db) as tx:
        row: dict[str, Any] = {"id": account_id, "user_id": user_id, "name": name, "status": "pending"}
        if extras is not None:
            row["extras"] = sorted(set(extras))
        tx.execute(sa.insert(accounts).values(**row, sync_interval_seconds=sync_interval_seconds))
        _keep_flow(tx, runtime, account_id, authorization)
    log.info("connect_started", account_id=str(account_id))
    return account_id


def begin_again(runtime: Runtime, account_id: UUID) -> None:
    """A new device flow for an account; only the same seller will be accepted. Orders and cursor stay. Raises
    ConflictError where its orders are coming back."""
    with database.transaction(runtime.db) as tx:
        found = tx.execute(sa.select(accounts.c.id).where(accounts.c.id == account_id)).one_or_none()
        _require_whole(tx, account_id)
    if found is None:
        raise NotFoundError("There is no such account.")
    authorization = _authorize(runtime)
    with database.transaction(runtime.db) as tx:
        _require_whole(tx, account_id)
        never_connected = accounts.c.status.in_(("denied", "expired"))
        tx.execute(sa.update(accounts).values(FRESH).where(accounts.c.id == account_id))
        tx.execute(sa.update(accounts).values(status="pending").where(accounts.c.id == account_id, never_connected))
        _keep_flow(tx, runtime, account_id, authorization)
    log.info("reconnect_started", account_id=str(account_id))


def change(tx: Connection, account_id: UUID, given: Mapping[str, Any]) -> None:
    """Changes the name, `paused`, `extras` or `sync_interval_seconds`, whichever is given; None for the interval takes
    the service's own again. Raises InvalidRequestError for a name that cannot be one."""
    if given.get("name") is not None:
        _require_printable(given["name"])
    values = {
        name: given[name]
        for name in ("name", "paused", "sync_interval_seconds")
        if name in given and (given[name] is not None or name == "sync_interval_seconds")
    }
    if given.get("extras") is not None:
        values["extras"] = sorted(set(given["extras"]))
    if values:
        tx.execute(sa.update(accounts).values(values).where(accounts.c.id == account_id))


def _require_printable(name: str) -> None:
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise InvalidRequestError("The account's name must have 1 to 200 printable characters.")


def disconnect(tx: Connection, account_id: UUID) -> None:
    """Forgets the tokens and stops; orders, versions and history stay, and the seller may connect again. Raises
    ConflictError where its orders are coming back."""
    _require_whole(tx, account_id)
    pairs.forget(tx, account_id)
    tx.execute(sa.delete(device_flows).where(device_flows.c.account_id == account_id))
    values = FRESH | {"status": "disconnected"}
    tx.execute(sa.update(accounts).values(values).where(accounts.c.id == account_id))


def poll(runtime: Runtime, account_id: UUID) -> None:
    """One step of a waiting device flow: ask whether the seller agreed, and if so, who he is."""
    with database.transaction(runtime.db) as tx:
        lease = due.claim(tx, device_flows, {"account_id": account_id}, lease=runtime.settings.lease)
        if lease is not None:
            runtime.clock.set(lease.now)
        row = tx.execute(sa.select(device_flows).where(device_flows.c.account_id == account_id)).one_or_none()
    if lease is None or row is None:
        return
    try:
        pair = _pair(runtime, row, lease)
        if pair is not None:
            _introduce(runtime, lease, account_id, pair)
    except TokenRefusedError as refusal:
        _refused(runtime, lease, row, refusal)
    except AllegroLimitError as error:
        budget.silence(runtime.db, _client_bucket(runtime).key, seconds=error.retry_after)
        _again(runtime, lease, runtime.clock.now() + timedelta(seconds=error.retry_after or 65), error)
    except AllegroUnauthorizedError as error:
        if lease.failures < TRIES:
            _again(runtime, lease, runtime.clock.now() + RETRY, error)
        else:
            _end(runtime, lease, account_id, status="expired", reason="token_not_accepted")
    except BudgetExhaustedError as error:
        _again(runtime, lease, error.retry_at, error)
    except (AllegroError, ConflictError) as error:
        _again(runtime, lease, runtime.clock.now() + RETRY, error)


def _authorize(runtime: Runtime) -> oauth.Authorization:
    budget.take(runtime.db, [_client_bucket(runtime)], 1, priority=Priority.TOKEN)
    try:
        return oauth.authorize_device(runtime.oauth)
    except AllegroLimitError as error:
        budget.silence(runtime.db, _client_bucket(runtime).key, seconds=error.retry_after)
        raise


def _client_bucket(runtime: Runtime) -> Bucket:
    return Bucket(f"client:{runtime.oauth.client_id}", runtime.settings.rate_limit_client)


def _keep_flow(tx: Connection, runtime: Runtime, account_id: UUID, authorization: oauth.Authorization) -> None:
    now = database.clock(tx)
    expires_in = min(timedelta(seconds=authorization.expires_in), runtime.settings.device_flow_timeout)
    interval = max(authorization.interval, 60 / runtime.settings.rate_limit_auth)
    values = {
        "device_code_sealed": runtime.vault.seal(authorization.device_code, account_id, "device_code"),
        "user_code": authorization.user_code,
        "verification_uri": authorization.verification_uri,
        "verification_uri_complete": authorization.verification_uri_complete,
        "interval_seconds": interval,
        "expires_at": now + expires_in,
        "started_at": now,
        "access_sealed": None,
        "refresh_sealed": None,
        "access_expires_at": None,
        "due_at": now + timedelta(seconds=interval),
        "rung_at": None,
        "leased_until": None,
        "failures": 0,
        "last_error": None,
    }
    fenced = values | {"lease_generation": device_flows.c.lease_generation + 1}
    statement = insert(device_flows).values(account_id=account_id, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["account_id"], set_=fenced))


def _pair(runtime: Runtime, row: "Row[Any]", lease: Lease) -> SealedPair | None:
    """The pair of this flow: already in the row, in the spool, or asked for now. None: the flow is over or waits."""
    if row.access_sealed is not None:
        return SealedPair(row.access_sealed, row.refresh_sealed, row.access_expires_at)
    sealed = spool.find(journal.spool_folder(runtime), row.account_id, f"device-{row.user_code}")
    if sealed is None:
        if lease.now >= row.expires_at:
            _end(runtime, lease, row.account_id, status="expired", reason="not_confirmed_in_time")
            return None
        buckets = [_client_bucket(runtime), Bucket(f"account:{row.account_id}:auth", runtime.settings.rate_limit_auth)]
        budget.take(runtime.db, buckets, 1, priority=Priority.TOKEN)
        code = runtime.vault.open(row.device_code_sealed, row.account_id, "device_code")
        pair = oauth.redeem_device_code(runtime.oauth, code)
        sealed = pairs.seal(runtime, row.account_id, "device", pair, now=lease.now)
        try:
            spool.keep(journal.spool_folder(runtime), row.account_id, f"device-{row.user_code}", sealed)
        except OSError as error:  # what the disk cannot take, the database still can
            log.critical("token_spool_failed", account_id=str(row.account_id), exc_info=error)
    with database.transaction(runtime.db) as tx:
        due.fence(tx, lease, extend=runtime.settings.lease)
        values = {
            "access_sealed": sealed.access_sealed,
            "refresh_sealed": sealed.refresh_sealed,
            "access_expires_at": sealed.access_expires_at,
        }
        tx.execute(sa.update(device_flows).values(values).where(device_flows.c.account_id == row.account_id))
    spool.discard(journal.spool_folder(runtime), row.account_id, f"device-{row.user_code}")
    return sealed


def _introduce(runtime: Runtime, lease: Lease, account_id: UUID, sealed: SealedPair) -> None:
    """Whose tokens these are decides what becomes of them."""
    now = runtime.clock.now()
    pair = pairs.opened(runtime, account_id, "device", sealed, now=now)
    buckets = [_client_bucket(runtime), Bucket(f"account:{account_id}:default", runtime.settings.rate_limit_default)]
    budget.take(runtime.db, buckets, 1, priority=Priority.LIVE)
    seller_id, login = client.me(runtime.allegro, pair.access_token)
    journaled = recovery.highest(runtime, account_id, instead=int(now.timestamp()))
    adopted: tuple[int, SealedPair] | None = None
    with database.transaction(runtime.db) as tx:
        account = _locked(tx, account_id)
        due.fence(tx, lease, extend=runtime.settings.lease)
        _require_whole(tx, account_id)
        _serialize_user(tx, account.user_id)
        existing = _existing(tx, account, seller_id)
        if account.seller_id not in {None, seller_id}:
            _finish(tx, account, status="denied", reason="other_seller")
        elif existing is not None:
            _finish(tx, account, status="denied", reason="already_connected", existing_account_id=existing)
        else:
            generation = pairs.next_login(tx, account_id, known=journaled)
            adopted = generation, pairs.seal(runtime, account_id, generation, pair, now=now)
            pairs.adopt(tx, account_id, *adopted, now=now)
            seller = {"seller_id": seller_id, "seller_login": login, "connected_at": now}
            values = seller | FRESH | {"status": "active"}
            tx.execute(sa.update(accounts).values(values).where(accounts.c.id == account_id))
        tx.execute(sa.delete(device_flows).where(device_flows.c.account_id == account_id))
    if adopted is not None:
        tokens.keep(runtime, account_id, *adopted)
    log.info("connect_finished", account_id=str(account_id))


def _refused(runtime: Runtime, lease: Lease, row: "Row[Any]", refusal: TokenRefusedError) -> None:
    """What the authorization server's error codes mean; any code we do not know ends the flow, as Allegro documents."""
    interval = timedelta(seconds=row.interval_seconds)
    if refusal.error == "authorization_pending":
        _again(runtime, lease, runtime.clock.now() + interval, None)
    elif refusal.error == "slow_down":
        with database.transaction(runtime.db) as tx:
            longer = (interval + SLOW_DOWN).total_seconds()
            due.settle(tx, lease, due_at=runtime.clock.now() + interval + SLOW_DOWN, interval_seconds=longer)
    elif refusal.error == "access_denied":
        _end(runtime, lease, row.account_id, status="denied", reason="access_denied")
    else:
        _end(runtime, lease, row.account_id, status="expired", reason="code_not_accepted")


def _again(runtime: Runtime, lease: Lease, due_at: datetime, error: Exception | None) -> None:
    with database.transaction(runtime.db) as tx:
        failures = 0 if error is None else lease.failures + 1
        due.settle(tx, lease, due_at=due_at, failures=failures, last_error=str(error) if error else None)


def _end(runtime: Runtime, lease: Lease, account_id: UUID, *, status: str, reason: str) -> None:
    with database.transaction(runtime.db) as tx:
        account = _locked(tx, account_id)
        due.fence(tx, lease, extend=runtime.settings.lease)
        _finish(tx, account, status=status, reason=reason)
        tx.execute(sa.delete(device_flows).where(device_flows.c.account_id == account_id))
    log.info("connect_ended", account_id=str(account_id), status=status, reason=reason)


def _locked(tx: Connection, account_id: UUID) -> "Row[Any]":
    """The account first, then its flow, then its tokens: all who lock more than one of them do it in this order."""
    return tx.execute(sa.select(accounts).where(accounts.c.id == account_id).with_for_update(key_share=True)).one()


def _finish(tx: Connection, account: "Row[Any]", *, status: str, reason: str, **values: Any) -> None:
    """A flow that failed: an account that was never connected takes the status, any other keeps its own; of one whose
    orders are coming back nothing else is told."""
    if account.reason == RESTORING:
        return
    kept = status if account.status == "pending" else account.status
    tx.execute(sa.update(accounts).values(status=kept, reason=reason, **values).where(accounts.c.id == account.id))


def _require_whole(tx: Connection, account_id: UUID) -> None:
    """Raises ConflictError while the account's orders are coming back; who asks keeps it from beginning meanwhile."""
    query = sa.select(accounts.c.reason).where(accounts.c.id == account_id).with_for_update(key_share=True)
    if tx.execute(query).scalar_one_or_none() == RESTORING:
        raise ConflictError("The account's orders are coming back from its archive; try again when that is done.")


def _existing(tx: Connection, account: "Row[Any]", seller_id: str) -> UUID | None:
    same = (accounts.c.user_id == account.user_id) & (accounts.c.seller_id == seller_id)
    query = sa.select(accounts.c.id).where(same, accounts.c.id != account.id)
    return tx.execute(query).scalar_one_or_none()


def _serialize_user(tx: Connection, user_id: UUID) -> None:
    """Two flows of one user that end in the same moment: the second one sees the first one's account."""
    tx.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:user, 1))"), {"user": str(user_id)})
