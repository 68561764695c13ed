"""The whole database on one page. No query stands here; each table names the one module that writes it.

Units: every time is `timestamptz` in UTC; money is the decimal string Allegro sent; ids of Allegro are text
compared byte by byte. `account_id` comes first in every key that grows with the sellers' data.
"""

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Instant = sa.DateTime(timezone=True)
AllegroId = sa.Text(collation="C")


def _now(name: str) -> "sa.Column[Any]":
    return sa.Column(name, Instant, nullable=False, server_default=sa.func.clock_timestamp())


class Xid8(sa.types.UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


def _followed(name: str = "xid") -> "sa.Column[Any]":
    """The transaction that stored the row, so that the archive in object storage can follow the table without gaps;
    1 for what came from a restore, or before the table was followed."""
    return sa.Column(name, Xid8, nullable=False, server_default=sa.func.pg_current_xact_id())


def _account(*, primary_key: bool = False, checked: bool = True) -> "sa.Column[uuid.UUID]":
    """`checked=False` on the tables of millions of rows: accounts are never deleted, and a foreign key costs
    a look-up for every row stored."""
    keys = [sa.ForeignKey("accounts.id")] if checked else []
    return sa.Column("account_id", pg.UUID(as_uuid=True), *keys, nullable=False, primary_key=primary_key)


def _claimable() -> list["sa.Column[Any]"]:
    """The columns of work that can be claimed; `due.py` is their only reader and writer.

    `due_at` NULL: nothing to do. `rung_at`: when a worker was last told. `lease_generation` fences every write.
    """
    return [
        sa.Column("due_at", Instant),
        sa.Column("rung_at", Instant),
        sa.Column("leased_until", Instant),
        sa.Column("lease_generation", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
    ]


def _acknowledged() -> list["sa.Column[Any]"]:
    """When and why a person took note of what cannot be read; from then on it leaves no question open."""
    return [sa.Column("acknowledged_at", Instant), sa.Column("acknowledged_reason", sa.Text)]


def _due_index(table: str) -> sa.Index:
    return sa.Index(f"ix_{table}_due_at", "due_at", postgresql_where=sa.text("due_at IS NOT NULL"))


# Who: accounts/connect.py writes accounts and device_flows, accounts/pairs.py and tokens.py write account_tokens

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("user_id", pg.UUID(as_uuid=True), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("existing_account_id", pg.UUID(as_uuid=True)),
    sa.Column("seller_id", AllegroId),
    sa.Column("seller_login", sa.Text),
    sa.Column("sync_interval_seconds", sa.Integer),
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column(
        "extras", pg.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{shipments,invoices,returns,refunds}'")
    ),
    sa.Column("forgotten_generation", sa.BigInteger),
    _now("created_at"),
    sa.Column("connected_at", Instant),
    sa.CheckConstraint(
        "status IN ('pending','active','denied','expired','reauthorization_required','disconnected')",
        name="status",
    ),
    sa.CheckConstraint("status <> 'active' OR seller_id IS NOT NULL", name="active_has_seller"),
    sa.CheckConstraint("extras <@ ARRAY['shipments','invoices','returns','refunds']", name="extras"),
    sa.Index("ix_accounts_user_id", "user_id"),
    sa.Index(
        "uq_accounts_user_id_seller_id",
        "user_id",
        "seller_id",
        unique=True,
        postgresql_where=sa.text("seller_id IS NOT NULL"),
    ),
)
"""One connected seller of one user. `seller_id` is Allegro's numeric user id; set once, never changed.
`extras`: what is kept beside the orders.
`forgotten_generation`: of the tokens it had before it was disconnected, so that no generation ever comes twice."""

device_flows = sa.Table(
    "device_flows",
    metadata,
    _account(primary_key=True),
    sa.Column("device_code_sealed", sa.LargeBinary, nullable=False),
    sa.Column("user_code", sa.Text, nullable=False),
    sa.Column("verification_uri", sa.Text, nullable=False),
    sa.Column("verification_uri_complete", sa.Text, nullable=False),
    sa.Column("interval_seconds", sa.Double, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    _now("started_at"),
    sa.Column("access_sealed", sa.LargeBinary),
    sa.Column("refresh_sealed", sa.LargeBinary),
    sa.Column("access_expires_at", Instant),
    *_claimable(),
    _due_index("device_flows"),
)
"""A device authorization that waits for the seller (RFC 8628). Gone as soon as it ends. The sealed pair is here
from the moment Allegro gave it until /me has told whose it is."""

account_tokens = sa.Table(
    "account_tokens",
    metadata,
    _account(primary_key=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("access_sealed", sa.LargeBinary, nullable=False),
    sa.Column("refresh_sealed", sa.LargeBinary, nullable=False),
    sa.Column("access_expires_at", Instant, nullable=False),
    sa.Column("obtained_at", Instant, nullable=False),
    sa.Column("intent_at", Instant),
    sa.Column("intent_first_at", Instant),
    *_claimable(),
    _due_index("account_tokens"),
)
"""The sealed token pair. `intent_at`: a refresh was begun then and its outcome is not yet stored;
`intent_first_at`: the first of the calls that may have used up the refresh token. `due_at`: refresh then."""

# How level we are: sync/state.py writes syncs, sync_history and owed_orders, sync/evidence.py sync_windows,
# sync/discoveries.py discoveries and warnings_given

syncs = sa.Table(
    "syncs",
    metadata,
    _account(primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("cursor", AllegroId),
    sa.Column("succeeded_at", Instant),
    sa.Column("lag_seconds", sa.Double),
    sa.Column("event_rate", sa.Double),
    sa.Column("event_at", Instant),
    sa.Column("poll_seconds", sa.Double),
    *_claimable(),
    sa.CheckConstraint("kind IN ('journal','listing','sweep','extras')", name="kind"),
    _due_index("syncs"),
)
"""The standing jobs of an account: `journal` follows /order/events from `cursor` (an event id, exclusive),
`listing` works through windows of /order/checkout-forms, `sweep` looks hourly for what the journal kept silent about;
its `cursor` is the moment up to which `updatedAt` is swept; `extras` keeps what belongs to the orders, following our
own change feed from `cursor` (a position and the kinds that were followed). `lag_seconds`: newest event's occurredAt to
stored. How often the journal is polled follows from `event_rate` (events a second, of late) and `event_at` (when the
newest came); `poll_seconds`: the interval that was chosen last."""

sync_history = sa.Table(
    "sync_history",
    metadata,
    sa.Column("id", pg.UUID(as_uuid=True), primary_key=True),
    _account(),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("range_from", Instant),
    sa.Column("range_to", Instant),
    _now("requested_at"),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("events", sa.Integer, nullable=False, server_default="0"),
    *(
        sa.Column(name, sa.Integer, nullable=False, server_default="0")
        for name in ("listed", "inserted", "updated", "unchanged", "set_aside", "gone")
    ),
    sa.Column("expected", sa.Integer),
    sa.Column("error", sa.Text),
    sa.CheckConstraint("kind IN ('backfill','incremental','full','reconcile','sweep')", name="kind"),
    sa.CheckConstraint("status IN ('queued','running','succeeded','failed')", name="status"),
    sa.CheckConstraint("listed = inserted + updated + unchanged + set_aside + gone", name="conservation"),
    sa.Index("ix_sync_history_account_id_requested_at", "account_id", "requested_at"),
    sa.Index("ix_sync_history_open", "account_id", postgresql_where=sa.text("finished_at IS NULL")),
    sa.Index(
        "ix_sync_history_covering",
        "account_id",
        "requested_at",
        postgresql_where=sa.text("kind IN ('backfill', 'reconcile')"),
    ),
)
"""One run of a sync with its counts. `expected`: how many orders Allegro says there are, once known."""

sync_windows = sa.Table(
    "sync_windows",
    metadata,
    _account(primary_key=True),
    sa.Column("run_id", pg.UUID(as_uuid=True), sa.ForeignKey("sync_history.id"), primary_key=True),
    sa.Column("window_from", Instant, primary_key=True),
    sa.Column("window_to", Instant, primary_key=True),
    sa.Column("fulfillment", sa.Text, primary_key=True, server_default=""),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("depth", sa.Integer, nullable=False, server_default="0"),
    sa.Column("status", sa.Text, nullable=False, server_default="open"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("started_at", Instant),
    sa.Column("checked_at", Instant),
    sa.Column("next_offset", sa.Integer, nullable=False, server_default="0"),
    sa.Column("total_count", sa.Integer),
    sa.Column("listed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("fingerprint", sa.Numeric, nullable=False, server_default="0"),
    sa.Column("last_order_id", AllegroId),
    sa.Column("found_missing", sa.Integer, nullable=False, server_default="0"),
    sa.Column("found_changed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("stored", sa.Integer),
    sa.Column("missing", sa.Integer),
    sa.Column("superseded", sa.Integer),
    sa.Column("set_aside", sa.Integer, nullable=False, server_default="0"),
    sa.Column("unlisted", sa.Integer),
    sa.Column("page_size", sa.Integer, nullable=False, server_default="100"),
    sa.Column("note", sa.Text),
    sa.CheckConstraint("method IN ('ids','count')", name="method"),
    sa.CheckConstraint("status IN ('open','split','verified','unstable','beyond_reach')", name="status"),
    sa.CheckConstraint(
        "status <> 'verified' OR (missing = 0 AND total_count = stored + set_aside)", name="verified_is_proven"
    ),
    sa.CheckConstraint("status <> 'verified' OR method = 'count' OR listed = total_count", name="verified_was_listed"),
    sa.CheckConstraint("missing >= total_count - stored - set_aside", name="missing_is_told"),
    sa.Index(
        "ix_sync_windows_proven",
        "account_id",
        "checked_at",
        postgresql_where=sa.text("status = 'verified' AND fulfillment = ''"),
    ),
)
"""A half-open window of purchase time [from, to) and what was found in it. `total_count` is Allegro's, `stored`
ours of what Allegro lists; `set_aside`: rows without a usable id or purchase time; `unlisted`: ours that Allegro no
longer lists and that are therefore owed a reading; `depth`: how often a larger window was split to get this one;
`page_size`: orders asked for at once, fewer around one that spoils its page. `fulfillment`: only orders of these
fulfilment statuses, with commas between; empty: of any. `fingerprint`: the sum of the hashes of the ids listed so far;
`last_order_id`: with which the next page has to begin."""

owed_orders = sa.Table(
    "owed_orders",
    metadata,
    _account(primary_key=True),
    sa.Column("order_id", AllegroId, primary_key=True),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("owed_at", Instant, nullable=False),
    sa.Column("occurred_at", Instant),
    sa.Column("moves_updated_at", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("line_item_ids", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    sa.Column("due_at", Instant, nullable=False),
    sa.Column("set_aside_at", Instant),
    *_acknowledged(),
    sa.Index("ix_owed_orders_account_id_due_at", "account_id", "due_at"),
)
"""Orders that have to be read: an event, a sweep or a merge named them. A row leaves only in the transaction
that stores a reading requested after `owed_at`, or that records the order as gone. sync/set_aside.py writes those
that are set aside."""

discoveries = sa.Table(
    "discoveries",
    metadata,
    _account(primary_key=True),
    sa.Column("net", sa.Text, primary_key=True),
    sa.Column("what", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("orders", sa.Integer, nullable=False),
    sa.CheckConstraint("net IN ('overlap','updated_sweep','open_sweep','full','certificate')", name="net"),
    sa.CheckConstraint("what IN ('missing','changed','unlisted')", name="what"),
    sa.CheckConstraint("orders > 0", name="orders"),
)
"""How many orders each net caught on a day (UTC) that the journal had let through: `missing` here, `changed` since we
read them, or ours and `unlisted` at Allegro. Written in the transaction of the find."""

warnings_given = sa.Table(
    "warnings_given",
    metadata,
    _account(primary_key=True),
    sa.Column("code", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
)
"""A warning of an account that was logged on this day (UTC), so that each is logged once a day; gone when it no longer
holds."""
worker_slots = sa.Table(
    "worker_slots",
    metadata,
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("slots", sa.Integer, nullable=False),
    _now("seen_at"),
    _now("started_at"),
    sa.Column("canary_sent_at", Instant),
    sa.Column("canary_done_at", Instant),
)
"""A worker process as it reported last, and how many pieces of work it does at once, so that no more messages are sent
than all can soon take; roster.py writes it. Gone when it stops, or was silent for ten minutes."""

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("labels", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
)
"""What all processes counted since the beginning, for /metrics; counters.py writes it. `labels`: JSON."""

request_budget = sa.Table(
    "request_budget",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("full_at", Instant, nullable=False),
    sa.Column("silent_until", Instant),
    sa.Column("pace", sa.Double, nullable=False, server_default="1"),
    sa.Column("paced_at", Instant),
    sa.Column("own", pg.JSONB, nullable=False, server_default="{}"),
)
"""GCRA state per client id, route class and account; budget.py writes it, on the database's clock. `pace`: the share
of the rate in force at `paced_at`, lowered after a 429 and while answers are slow; `own`: per class of work the moment
(seconds since 1970) from which its own share gives it a request again."""

# What is kept: orders/archive.py writes all of these

codec_dictionaries = sa.Table(
    "codec_dictionaries",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    _now("created_at"),
)
"""Trained zstd dictionaries; rows that used one name it, so none is ever deleted. Holds no personal data."""

orders = sa.Table(
    "orders",
    metadata,
    _account(primary_key=True, checked=False),
    sa.Column("order_id", AllegroId, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("versions", sa.Integer, nullable=False),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("read_at", Instant, nullable=False),
    _now("stored_at"),
    sa.Column("status", sa.Text),
    sa.Column("fulfillment_status", sa.Text),
    sa.Column("buyer_login", sa.Text),
    sa.Column("marketplace", sa.Text),
    sa.Column("ordered_at", Instant),
    sa.Column("updated_at", Instant),
    sa.Column("total", sa.Text),
    sa.Column("currency", sa.Text),
    sa.Column("line_item_ids", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("gone_at", Instant),
    sa.Column("superseded_by", AllegroId),
    sa.Column("projection_lossy", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("order_data", pg.JSONB),
    sa.Column("words", pg.TSVECTOR, nullable=False, server_default=""),
    sa.Column("state_xid", Xid8),
    sa.Index("ix_orders_account_id_ordered_at", "account_id", "ordered_at", "order_id"),
    sa.Index("ix_orders_account_id_updated_at", "account_id", "updated_at", "order_id"),
    sa.Index("ix_orders_buyer_login", "account_id", "buyer_login"),
    sa.Index("ix_orders_line_item_ids", "line_item_ids", postgresql_using="gin"),
    sa.Index("ix_orders_words", "words", postgresql_using="gin"),
    sa.Index(
        "ix_orders_account_id_state_xid",
        *("account_id", "state_xid", "order_id"),
        postgresql_where=sa.text("state_xid IS NOT NULL"),
    ),
)
"""The head of every order. `version` and `sha256` name the newest of its `versions`; `read_at` is when the newest
reading's request was sent, changed or not; `order_data` is a projection for queries, rebuilt from the archive at will;
`projection_lossy` where JSONB could not hold it as it came. `words`: by which it is found, of every version and of what
belongs to it. `gone_at`: Allegro answered 404 since then;
`line_item_ids` link it to the form that took its place, because they survive a merge (Allegro's FAQ). `state_xid`: the
transaction that set or took back `gone_at` or `superseded_by` last."""

order_versions = sa.Table(
    "order_versions",
    metadata,
    _account(primary_key=True, checked=False),
    sa.Column("order_id", AllegroId, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("read_at", Instant, nullable=False),
    _now("stored_at"),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("dictionary_id", sa.SmallInteger),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("replaced_seen_at", Instant),
)
"""Every version, byte for byte: `body` is zstd of the wire bytes, `sha256` and `size` are of the bytes themselves.
`version` counts in the order of storing; `read_at` tells which moment it shows. `replaced_seen_at`: when the version
that this one replaced was seen last, so that a late reading from before that moment is not taken for what followed."""

unreadable_orders = sa.Table(
    "unreadable_orders",
    metadata,
    _account(primary_key=True),
    sa.Column("sha256", sa.LargeBinary, primary_key=True),
    sa.Column("read_at", Instant, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("last_read_at", Instant),
    sa.Column("readings", sa.Integer, nullable=False, server_default="1"),
    sa.Column("last_error", sa.Text),
    *_acknowledged(),
    _followed(),
    sa.Index("ix_unreadable_orders_account_id_xid", "account_id", "xid", "sha256"),
)
"""Bytes that arrived as an order and name no order id; kept as they came, uncompressed, each once. `read_at`: first;
`last_read_at`: last, where they came again, `readings` times in all. sync/set_aside.py writes the rest, and takes a
row out when a newer program understands it."""

order_changes = sa.Table(
    "order_changes",
    metadata,
    sa.Column("xid", Xid8, primary_key=True, server_default=sa.func.pg_current_xact_id()),
    sa.Column("seq", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _account(checked=False),
    sa.Column("order_id", AllegroId, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("kinds", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    _now("stored_at"),
    sa.Index("ix_order_changes_account_id_xid_seq", "account_id", "xid", "seq"),
    sa.Index("ix_order_changes_stored_at", "stored_at", postgresql_using="brin"),
)
"""The append-only journal. Its order is (xid, seq), and a reader asks for `(xid, seq) > cursor` with
`xid < pg_snapshot_xmin(pg_current_snapshot())`: below that horizon every transaction has ended, so nothing can still
appear. A cursor of `seq` alone would pass over rows, because numbers are taken before the commit and an older
transaction may take the higher one. `cause`: what made us read the order."""

order_events = sa.Table(
    "order_events",
    metadata,
    _account(primary_key=True, checked=False),
    sa.Column("event_id", AllegroId, primary_key=True),
    sa.Column("order_id", AllegroId),
    sa.Column("event_type", sa.Text),
    sa.Column("occurred_at", Instant),
    _now("stored_at"),
    sa.Column("processed_at", Instant),
    sa.Column("dictionary_id", sa.SmallInteger),
    sa.Column("event_data", sa.LargeBinary, nullable=False),
    _followed(),
    sa.Index("ix_order_events_account_id_order_id", "account_id", "order_id"),
    sa.Index("ix_order_events_account_id_xid", "account_id", "xid", "event_id"),
)
"""Allegro's journal as it came, each event once; `event_data` is zstd of its bytes.
`processed_at`: a reading of its order requested after the event was seen has been stored."""

# What belongs to orders: orders/extras.py writes the documents, sync/extras_state.py extra_kinds

order_extras = sa.Table(
    "order_extras",
    metadata,
    _account(primary_key=True, checked=False),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("document_id", AllegroId, primary_key=True),
    sa.Column("order_id", AllegroId),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("versions", sa.Integer, nullable=False),
    sa.Column("sha256", sa.LargeBinary),
    sa.Column("read_at", Instant),
    sa.Column("found", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("due_at", Instant),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    sa.CheckConstraint("kind IN ('shipments','invoices','returns','refunds')", name="kind"),
    sa.CheckConstraint("version = 0 OR (sha256 IS NOT NULL AND read_at IS NOT NULL)", name="read_has_bytes"),
    sa.Index("ix_order_extras_account_id_order_id", "account_id", "order_id"),
    sa.Index(
        "ix_order_extras_account_id_due_at", "account_id", "due_at", postgresql_where=sa.text("due_at IS NOT NULL")
    ),
)
"""The head of every document beside an order. Shipments and invoices are one document an order, under the order's id;
returns and refunds have ids of their own, and an `order_id` where they name one. `version` 0: to be read for the first
time; `due_at` NULL: not to be asked for one by one (again); `found`: there was something in it."""

order_extra_versions = sa.Table(
    "order_extra_versions",
    metadata,
    _account(primary_key=True, checked=False),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("document_id", AllegroId, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("read_at", Instant, nullable=False),
    _now("stored_at"),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("sha256", sa.LargeBinary, nullable=False),
    sa.Column("dictionary_id", sa.SmallInteger),
    sa.Column("body", sa.LargeBinary, nullable=False),
    _followed(),
    sa.Index("ix_order_extra_versions_account_id_xid", *("account_id", "xid", "kind", "document_id", "version")),
)
"""Every version of such a document, byte for byte, as in order_versions."""

extra_kinds = sa.Table(
    "extra_kinds",
    metadata,
    _account(primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("off_until", Instant),
    sa.Column("reason", sa.Text),
    sa.Column("span", sa.Text),
    sa.Column("since", Instant),
    sa.Column("until", Instant),
    sa.Column("next_offset", sa.Integer, nullable=False, server_default="0"),
    sa.Column("all_at", Instant),
    sa.Column("open_at", Instant),
    sa.Column("recent_at", Instant),
    sa.CheckConstraint("kind IN ('shipments','invoices','returns','refunds')", name="kind"),
    sa.CheckConstraint("span IN ('all','open','recent')", name="span"),
)
"""How far an account's extras of a kind are. `off_until`: not asked for until then, and why; `span` to `next_offset`:
the listing under way; `…_at`: up to when each span was last listed to its end."""

# Whom we tell: webhooks/endpoints.py and deliver.py write webhooks, webhooks/outbox.py and replay.py the rest

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("webhook_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("user_id", pg.UUID(as_uuid=True)),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("event_types", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("account_ids", pg.ARRAY(pg.UUID(as_uuid=True)), nullable=False, server_default="{}"),
    sa.Column("content", sa.Text, nullable=False, server_default="thin"),
    sa.Column("secret_sealed", sa.LargeBinary, nullable=False),
    sa.Column("old_secret_sealed", sa.LargeBinary),
    sa.Column("old_secret_until", Instant),
    sa.Column("status", sa.Text, nullable=False, server_default="active"),
    sa.Column("reason", sa.Text),
    sa.Column("cursor_xid", Xid8, nullable=False),
    sa.Column("cursor_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failing_since", Instant),
    sa.Column("silent_until", Instant),
    sa.Column("answer_seconds", sa.Double),
    sa.Column("last_delivered_at", Instant),
    _now("created_at"),
    *_claimable(),
    sa.CheckConstraint("content IN ('thin','full')", name="content"),
    sa.CheckConstraint("status IN ('active','paused','disabled')", name="status"),
    sa.CheckConstraint("(status = 'disabled') = (reason IS NOT NULL)", name="disabled_for_a_reason"),
    sa.CheckConstraint("(old_secret_sealed IS NULL) = (old_secret_until IS NULL)", name="old_secret_ends"),
    sa.Index("ix_webhooks_user_id", "user_id"),
    _due_index("webhooks"),
)
"""An endpoint that is told of changes; `user_id` NULL: of every user's. `cursor_…`: up to where the change feed was
turned into deliveries. Whoever holds the lease delivers everything of this endpoint, so that its order holds.
`failures`: attempts that failed one after the other; `failing_since`: the first of them; `silent_until`: nothing is
sent before; `answer_seconds`: how long answers take of late."""

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column(
        "webhook_id", pg.UUID(as_uuid=True), sa.ForeignKey("webhooks.webhook_id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("account_id", pg.UUID(as_uuid=True)),
    sa.Column("order_id", AllegroId),
    sa.Column("version", sa.Integer),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("kinds", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("occurred_at", Instant, nullable=False),
    _now("created_at"),
    sa.Column("status", sa.Text, nullable=False, server_default="pending"),
    sa.Column("due_at", Instant),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_status_code", sa.Integer),
    sa.Column("last_error", sa.Text),
    sa.Column("delivered_at", Instant),
    sa.CheckConstraint("status IN ('pending','delivered','failed')", name="status"),
    sa.CheckConstraint("status = 'pending' OR due_at IS NULL", name="ended_is_not_due"),
    sa.CheckConstraint("(status = 'delivered') <= (delivered_at IS NOT NULL)", name="delivered_at"),
    sa.Index(
        "ix_webhook_deliveries_due", "webhook_id", "due_at", "seq", postgresql_where=sa.text("due_at IS NOT NULL")
    ),
    sa.Index(
        "ix_webhook_deliveries_pending",
        *("webhook_id", "account_id", "order_id", "seq"),
        postgresql_where=sa.text("status = 'pending'"),
    ),
    sa.Index("ix_webhook_deliveries_created_at", "webhook_id", "created_at", "seq"),
)
"""A message to an endpoint: the change `seq` of the feed, or a test (`seq` below 0, no order). Pending and `due_at`
NULL: it waits for an earlier one of the same order. `attempts`: of all times; `tries`: of them since it was made or
replayed, which is where it stands on the schedule."""

webhook_attempts = sa.Table(
    "webhook_attempts",
    metadata,
    sa.Column("webhook_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("attempted_at", Instant, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("status_code", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("answer", sa.Text),
    sa.ForeignKeyConstraint(
        ["webhook_id", "seq"],
        ["webhook_deliveries.webhook_id", "webhook_deliveries.seq"],
        ondelete="CASCADE",
        name="fk_webhook_attempts_delivery",
    ),
)
"""One attempt of a delivery. `answer`: the first 2 KB of what the endpoint answered, of a failure whose message
carried no order."""

# What leaves the archive: exports/state.py writes it

exports = sa.Table(
    "exports",
    metadata,
    sa.Column("export_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("user_id", pg.UUID(as_uuid=True)),
    sa.Column("format", sa.Text, nullable=False),
    sa.Column("filter", pg.JSONB, nullable=False),
    sa.Column("status", sa.Text, nullable=False, server_default="queued"),
    sa.Column("stored_in", sa.Text),
    sa.Column("horizon", sa.BigInteger),
    sa.Column("orders_total", sa.BigInteger),
    sa.Column("orders_done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("busy_seconds", sa.Double, nullable=False, server_default="0"),
    sa.Column("parts", pg.JSONB, nullable=False, server_default="[]"),
    _now("created_at"),
    *(sa.Column(name, Instant) for name in ("started_at", "finished_at", "expires_at")),
    *_claimable(),
    sa.CheckConstraint("status IN ('queued','running','finished','failed','expired')", name="status"),
    sa.CheckConstraint("stored_in IN ('disk','s3')", name="stored_in"),
    sa.Index("ix_exports_created_at", "created_at", "export_id"),
    _due_index("exports"),
)
"""An export in the background. `user_id`: whose key asked, so whose orders go out; NULL: an unbound key. `horizon`: the
change feed up to this transaction is in it. `parts`: finished files with counts, SHA-256, and where they ended."""

# What lies in object storage: backups/state.py writes archives, backups/progress.py restores, and
# orders/restoring.py restored_states

archives = sa.Table(
    "archives",
    metadata,
    _account(primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("head", sa.Text),
    sa.Column("position", pg.JSONB, nullable=False, server_default="{}"),
    sa.Column("cursor_xid", Xid8, nullable=False, server_default=sa.text("'0'::xid8")),
    sa.Column("account_mark", sa.Text),
    sa.Column("made_at", Instant),
    sa.Column("versions", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("days_to", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("days_head", sa.Text),
    sa.Column("pending_key", sa.Text),
    sa.Column("pending", sa.LargeBinary),
    sa.Column("pending_values", pg.JSONB),
    *_claimable(),
    sa.CheckConstraint("days_to <= number", name="days_to"),
    sa.CheckConstraint("(pending IS NULL) = (pending_key IS NULL)", name="pending"),
    _due_index("archives"),
)
"""How far an account's archive in object storage is. `number`, `head`: the newest step and the SHA-256 of its
manifest; `position`: per stream the last row in it, `cursor_xid`: below which transaction all of them are;
`account_mark`: of the account as it stands in the newest step; `made_at`: when that was made; `versions`: in all steps.
`days_to`, `days_head`: the last step that lies in the file of a day, and the SHA-256 of that day's manifest. `pending`:
a manifest that is being put under `pending_key`, and `pending_values` of this row once it is there; whoever finds it
puts it again."""

restores = sa.Table(
    "restores",
    metadata,
    _account(primary_key=True, checked=False),
    sa.Column("source", sa.Text),
    sa.Column("records", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("versions", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("last_order_id", AllegroId),
    sa.Column("phase", sa.Text, nullable=False, server_default="bytes"),
    _now("started_at"),
    sa.Column("finished_at", Instant),
    sa.CheckConstraint("phase IN ('bytes','heads','login','finished')", name="phase"),
)
"""How far an account is that is brought back from its archive: `records` of the file `source` are here, then heads up
to `last_order_id`, then its login. `versions`: brought back so far."""

restored_states = sa.Table(
    "restored_states",
    metadata,
    _account(primary_key=True, checked=False),
    sa.Column("order_id", AllegroId, primary_key=True),
    sa.Column("gone_at", Instant),
    sa.Column("superseded_by", AllegroId),
)
"""What the archive says of orders whose heads are not made yet; gone when they are."""

# What is backed up and rehearsed: backups/ledger.py writes it

backups = sa.Table(
    "backups",
    metadata,
    sa.Column("backup_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("of", pg.UUID(as_uuid=True)),
    sa.Column("asked_by", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="queued"),
    _now("created_at"),
    *(sa.Column(name, Instant) for name in ("started_at", "finished_at", "verified_at")),
    sa.Column("dump_id", sa.Text),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("error_code", sa.Text),
    sa.Column("report", pg.JSONB),
    *_claimable(),
    sa.CheckConstraint("kind IN ('dump','drill_sample','drill_whole','drill_dump','drill_account')", name="kind"),
    sa.CheckConstraint("(kind IN ('drill_dump','drill_account')) = (of IS NOT NULL)", name="of"),
    sa.CheckConstraint("state IN ('queued','running','succeeded','failed','removed')", name="state"),
    sa.Index("ix_backups_created_at", "created_at", "backup_id"),
    sa.Index("uq_backups_dump_id", "dump_id", unique=True, postgresql_where=sa.text("dump_id IS NOT NULL")),
    sa.Index(
        "uq_backups_scheduled",
        "kind",
        unique=True,
        postgresql_where=sa.text("asked_by = 'schedule' AND due_at IS NOT NULL"),
    ),
    _due_index("backups"),
)
"""A backup of the database (`dump`) or a drill, asked for by the schedule, a key or a person. `of`: the dump's row, or
the account, that a drill rehearses. `dump_id`: its name in the bucket, noted before anything of it is there.
`verified_at`: when it was last read back, or rehearsed. `report`: what a drill found, without personal data."""

# What Allegro changes: drift.py writes it

schema_drift = sa.Table(
    "schema_drift",
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, primary_key=True),
    _now("first_seen"),
    _now("last_seen"),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sa.Column("example_account_id", pg.UUID(as_uuid=True)),
    sa.Column("example_order_id", AllegroId),
    sa.CheckConstraint(
        "kind IN ('new_field','vanished_field','unknown_value','other_type','repeated_field')", name="kind"
    ),
)
"""In what documents differ from the shape this program knows. `value`: the unknown value of an enumeration, else the
JSON type found; never what a field holds."""

# Who keeps the service running is told: alerts/state.py writes all of these

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("alert_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("account_id", pg.UUID(as_uuid=True)),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("fired_at", Instant, nullable=False),
    sa.Column("seen_at", Instant, nullable=False),
    *(sa.Column(name, Instant) for name in ("opened_at", "quiet_since", "recovered_at")),
    sa.Column("news", sa.Text),
    sa.Column("told_by", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("told_at", Instant),
    sa.Column("heard", sa.Text),
    sa.CheckConstraint("severity IN ('critical','error','warning')", name="severity"),
    sa.CheckConstraint("news IN ('opened','reminder','recovered')", name="news"),
    sa.CheckConstraint("heard IN ('opened','reminder','recovered')", name="heard"),
    sa.CheckConstraint("recovered_at IS NULL OR opened_at IS NOT NULL", name="opened_before_it_recovers"),
    sa.Index(
        "uq_alerts_rule_subject", "rule", "subject", unique=True, postgresql_where=sa.text("recovered_at IS NULL")
    ),
    sa.Index("ix_alerts_fired_at", "fired_at", "alert_id"),
    sa.Index("ix_alerts_recovered_at", "recovered_at", postgresql_where=sa.text("recovered_at IS NOT NULL")),
)
"""A rule that fired about a subject: an account, a webhook, a channel, a kind of work, or `installation`. `opened_at`:
since when it is an alert, after it fired long enough; `quiet_since`: it fires no more since then, and is over
(`recovered_at`) after a while. `news`: what is to be told now, `told_by`: the channels that took it; `heard`: what any
of them took last, `told_at`: when."""

alert_silences = sa.Table(
    "alert_silences",
    metadata,
    sa.Column("silence_id", pg.UUID(as_uuid=True), primary_key=True),
    sa.Column("rule", sa.Text),
    sa.Column("subject", sa.Text),
    sa.Column("until", Instant, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    _now("created_at"),
    sa.CheckConstraint("rule IS NOT NULL OR subject IS NOT NULL", name="of_something"),
    sa.Index("ix_alert_silences_until", "until"),
)
"""Nothing is told of this rule, this subject, or both together, `until` then."""

alert_channels = sa.Table(
    "alert_channels",
    metadata,
    sa.Column("channel", sa.Text, primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("tried_at", Instant, nullable=False),
    sa.Column("taken_at", Instant),
    sa.Column("error", sa.Text),
)
"""How sending by a channel went; `channel`: its place in ALERT_URLS and its kind (`2-slack`), never its address.
`failures`: one after the other."""

watches = sa.Table(
    "watches",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    _now("began_at"),
    sa.Column("ticked_at", Instant),
    sa.Column("looked_at", Instant),
    *_claimable(),
    sa.CheckConstraint("kind IN ('quick','thorough','hourly')", name="kind"),
    _due_index("watches"),
)
"""A round of looking whether something is wrong. `ticked_at`: the scheduler's sign of life; `looked_at`: the newest
round that ended."""

# Who may call: access.py writes it

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
    sa.Column("scopes", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("user_id", pg.UUID(as_uuid=True)),
    _now("created_at"),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
    sa.Column("last_used_at", Instant),
    sa.Column("spent_until", Instant),
    sa.Column("ends_at", Instant),
)
"""API keys, hashed. `user_id` NULL: the key sees every user. `spent_until`: when its allowance is whole again.
`ends_at`: when it was made to end, which its successor inherits; a rotation brings `expires_at` alone forward."""

# What callers did: idempotency.py and audit.py write it

idempotent_answers = sa.Table(
    "idempotent_answers",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("idempotency_key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    _now("created_at"),
    sa.Column("locked_until", Instant, nullable=False),
    sa.Column("answer_sealed", sa.LargeBinary),
    sa.Index("ix_idempotent_answers_created_at", "created_at"),
)
"""Requests that may be repeated, for a day. No answer: being worked on until `locked_until`, or left by a crash."""

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("seq", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    _now("at"),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("user_id", pg.UUID(as_uuid=True)),
    sa.Column("act", sa.Text, nullable=False),
    sa.Column("target", pg.JSONB, nullable=False),
    sa.Column("trace_id", sa.Text),
    sa.Column("status", sa.SmallInteger),
    sa.Index("ix_audit_log_user_id", "user_id", "seq"),
)
"""Every act that changes something. Written before the act; `status` after it: NULL means that a crash came between."""
