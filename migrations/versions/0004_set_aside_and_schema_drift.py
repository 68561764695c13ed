"""what is set aside can be acknowledged; changes of Allegro's schema are noted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in ("owed_orders", "unreadable_orders"):
        op.add_column(table, sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True))
        op.add_column(table, sa.Column("acknowledged_reason", sa.Text(), nullable=True))
    op.add_column("unreadable_orders", sa.Column("last_read_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("unreadable_orders", sa.Column("readings", sa.Integer(), server_default="1", nullable=False))
    op.add_column("unreadable_orders", sa.Column("last_error", sa.Text(), nullable=True))
    op.add_column("sync_windows", sa.Column("page_size", sa.Integer(), server_default="100", nullable=False))
    op.create_table(
        "schema_drift",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column(
            "first_seen", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("last_seen", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("example_account_id", sa.UUID(), nullable=True),
        sa.Column("example_order_id", sa.Text(collation="C"), nullable=True),
        sa.CheckConstraint(
            "kind IN ('new_field','vanished_field','unknown_value','other_type','repeated_field')",
            name=op.f("ck_schema_drift_kind"),
        ),
        sa.PrimaryKeyConstraint("path", "kind", "value", name=op.f("pk_schema_drift")),
    )
