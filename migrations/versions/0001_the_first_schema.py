"""the first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from orders_backup import tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "accounts",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("existing_account_id", sa.UUID(), nullable=True),
        sa.Column("seller_id", sa.Text(collation="C"), nullable=True),
        sa.Column("seller_login", sa.Text(), nullable=True),
        sa.Column("sync_interval_seconds", sa.Integer(), nullable=True),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("forgotten_generation", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("connected_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status <> 'active' OR seller_id IS NOT NULL", name=op.f("ck_accounts_active_has_seller")),
        sa.CheckConstraint(
            "status IN ('pending','active','denied','expired','reauthorization_required','disconnected')",
            name=op.f("ck_accounts_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
    )
    op.create_index("ix_accounts_user_id", "accounts", ["user_id"], unique=False)
    op.create_index(
        "uq_accounts_user_id_seller_id",
        "accounts",
        ["user_id", "seller_id"],
        unique=True,
        postgresql_where=sa.text("seller_id IS NOT NULL"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("user_id", sa.UUID(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "codec_dictionaries",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_codec_dictionaries")),
    )
    op.create_table(
        "order_changes",
        sa.Column("xid", tables.Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("order_id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kinds", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("xid", "seq", name=op.f("pk_order_changes")),
    )
    op.create_index("ix_order_changes_account_id_xid_seq", "order_changes", ["account_id", "xid", "seq"], unique=False)
    op.create_table(
        "order_events",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("order_id", sa.Text(collation="C"), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stored_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dictionary_id", sa.SmallInteger(), nullable=True),
        sa.Column("event_data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "event_id", name=op.f("pk_order_events")),
    )
    op.create_index("ix_order_events_account_id_order_id", "order_events", ["account_id", "order_id"], unique=False)
    op.create_table(
        "order_versions",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("order_id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("dictionary_id", sa.SmallInteger(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "order_id", "version", name=op.f("pk_order_versions")),
    )
    op.create_table(
        "orders",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("order_id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("fulfillment_status", sa.Text(), nullable=True),
        sa.Column("buyer_login", sa.Text(), nullable=True),
        sa.Column("marketplace", sa.Text(), nullable=True),
        sa.Column("ordered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("total", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("line_item_ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("gone_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("superseded_by", sa.Text(collation="C"), nullable=True),
        sa.Column("projection_lossy", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("order_data", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("account_id", "order_id", name=op.f("pk_orders")),
    )
    op.create_index("ix_orders_account_id_ordered_at", "orders", ["account_id", "ordered_at", "order_id"], unique=False)
    op.create_index("ix_orders_account_id_updated_at", "orders", ["account_id", "updated_at", "order_id"], unique=False)
    op.create_index("ix_orders_buyer_login", "orders", ["account_id", "buyer_login"], unique=False)
    op.create_index("ix_orders_line_item_ids", "orders", ["line_item_ids"], unique=False, postgresql_using="gin")
    op.create_table(
        "request_budget",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("full_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("silent_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_request_budget")),
    )
    op.create_table(
        "account_tokens",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("access_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("refresh_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("access_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("obtained_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("intent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("intent_first_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_account_tokens_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_account_tokens")),
    )
    op.create_index(
        "ix_account_tokens_due_at",
        "account_tokens",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "device_flows",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("device_code_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("user_code", sa.Text(), nullable=False),
        sa.Column("verification_uri", sa.Text(), nullable=False),
        sa.Column("verification_uri_complete", sa.Text(), nullable=False),
        sa.Column("interval_seconds", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("access_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("refresh_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("access_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_device_flows_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_device_flows")),
    )
    op.create_index(
        "ix_device_flows_due_at",
        "device_flows",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "owed_orders",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("order_id", sa.Text(collation="C"), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("owed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("moves_updated_at", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("line_item_ids", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_aside_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_owed_orders_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "order_id", name=op.f("pk_owed_orders")),
    )
    op.create_index("ix_owed_orders_account_id_due_at", "owed_orders", ["account_id", "due_at"], unique=False)
    op.create_table(
        "sync_history",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("range_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("range_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "requested_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("calls", sa.Integer(), server_default="0", nullable=False),
        sa.Column("events", sa.Integer(), server_default="0", nullable=False),
        sa.Column("listed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("inserted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("updated", sa.Integer(), server_default="0", nullable=False),
        sa.Column("unchanged", sa.Integer(), server_default="0", nullable=False),
        sa.Column("set_aside", sa.Integer(), server_default="0", nullable=False),
        sa.Column("gone", sa.Integer(), server_default="0", nullable=False),
        sa.Column("expected", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('backfill','incremental','full','reconcile')", name=op.f("ck_sync_history_kind")),
        sa.CheckConstraint("status IN ('queued','running','succeeded','failed')", name=op.f("ck_sync_history_status")),
        sa.CheckConstraint(
            "listed = inserted + updated + unchanged + set_aside + gone", name=op.f("ck_sync_history_conservation")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_sync_history_account_id_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_history")),
    )
    op.create_index(
        "ix_sync_history_account_id_requested_at", "sync_history", ["account_id", "requested_at"], unique=False
    )
    op.create_index(
        "ix_sync_history_open",
        "sync_history",
        ["account_id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "syncs",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("cursor", sa.Text(collation="C"), nullable=True),
        sa.Column("succeeded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lag_seconds", sa.Double(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('journal','listing')", name=op.f("ck_syncs_kind")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_syncs_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "kind", name=op.f("pk_syncs")),
    )
    op.create_index(
        "ix_syncs_due_at", "syncs", ["due_at"], unique=False, postgresql_where=sa.text("due_at IS NOT NULL")
    )
    op.create_table(
        "unreadable_orders",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_unreadable_orders_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "sha256", name=op.f("pk_unreadable_orders")),
    )
    op.create_table(
        "sync_windows",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("window_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_to", sa.DateTime(timezone=True), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("depth", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status", sa.Text(), server_default="open", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_offset", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total_count", sa.Integer(), nullable=True),
        sa.Column("listed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("found_missing", sa.Integer(), server_default="0", nullable=False),
        sa.Column("found_changed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stored", sa.Integer(), nullable=True),
        sa.Column("missing", sa.Integer(), nullable=True),
        sa.Column("superseded", sa.Integer(), nullable=True),
        sa.Column("set_aside", sa.Integer(), server_default="0", nullable=False),
        sa.Column("unlisted", sa.Integer(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.CheckConstraint("method IN ('ids','count')", name=op.f("ck_sync_windows_method")),
        sa.CheckConstraint(
            "status <> 'verified' OR (missing = 0 AND total_count = stored + set_aside)",
            name=op.f("ck_sync_windows_verified_is_proven"),
        ),
        sa.CheckConstraint(
            "status IN ('open','split','verified','unstable','beyond_reach')", name=op.f("ck_sync_windows_status")
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_sync_windows_account_id_accounts")),
        sa.ForeignKeyConstraint(["run_id"], ["sync_history.id"], name=op.f("fk_sync_windows_run_id_sync_history")),
        sa.PrimaryKeyConstraint("account_id", "run_id", "window_from", "window_to", name=op.f("pk_sync_windows")),
    )
    # Only the document goes out of line, so that "seen again, unchanged" rewrites a few hundred bytes.
    op.execute("ALTER TABLE orders SET (toast_tuple_target = 128, fillfactor = 85)")
    op.execute("ALTER TABLE orders ALTER COLUMN sha256 SET STORAGE PLAIN")
    for name in (
        "order_id",
        "status",
        "fulfillment_status",
        "buyer_login",
        "marketplace",
        "total",
        "currency",
        "superseded_by",
        "line_item_ids",
    ):
        op.execute(f"ALTER TABLE orders ALTER COLUMN {name} SET STORAGE MAIN")
    op.execute("ALTER TABLE syncs SET (fillfactor = 60)")
    op.execute("ALTER TABLE request_budget SET (fillfactor = 50)")
