"""what belongs to orders: shipments, invoices, returns, refunds."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KINDS = "'shipments','invoices','returns','refunds'"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column(
        "accounts",
        sa.Column(
            "extras",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{shipments,invoices,returns,refunds}'"),
            nullable=False,
        ),
    )
    op.create_check_constraint(op.f("ck_accounts_extras"), "accounts", f"extras <@ ARRAY[{KINDS}]")
    op.drop_constraint(op.f("ck_syncs_kind"), "syncs", type_="check")
    op.create_check_constraint(op.f("ck_syncs_kind"), "syncs", "kind IN ('journal','listing','sweep','extras')")
    op.create_table(
        "order_extras",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("document_id", sa.Text(collation="C"), nullable=False),
        sa.Column("order_id", sa.Text(collation="C"), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=True),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("found", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint(f"kind IN ({KINDS})", name=op.f("ck_order_extras_kind")),
        sa.CheckConstraint(
            "version = 0 OR (sha256 IS NOT NULL AND read_at IS NOT NULL)", name=op.f("ck_order_extras_read_has_bytes")
        ),
        sa.PrimaryKeyConstraint("account_id", "kind", "document_id", name=op.f("pk_order_extras")),
    )
    op.create_index("ix_order_extras_account_id_order_id", "order_extras", ["account_id", "order_id"])
    op.create_index(
        "ix_order_extras_account_id_due_at",
        "order_extras",
        ["account_id", "due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "order_extra_versions",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("document_id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("dictionary_id", sa.SmallInteger(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "kind", "document_id", "version", name=op.f("pk_order_extra_versions")),
    )
    op.create_table(
        "extra_kinds",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("off_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("span", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_offset", sa.Integer(), server_default="0", nullable=False),
        sa.Column("all_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("open_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("recent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(f"kind IN ({KINDS})", name=op.f("ck_extra_kinds_kind")),
        sa.CheckConstraint("span IN ('all','open','recent')", name=op.f("ck_extra_kinds_span")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_extra_kinds_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "kind", name=op.f("pk_extra_kinds")),
    )
