"""what the archive in object storage follows, how far it is, and accounts that are brought back from it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

from orders_backup.tables import Xid8

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

FOLLOWED = {
    "order_events": ["event_id"],
    "order_extra_versions": ["kind", "document_id", "version"],
    "unreadable_orders": ["sha256"],
}
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("SET LOCAL statement_timeout = 0")
    for table, key in FOLLOWED.items():
        # A constant default is not written into the rows that are there, so no table is rewritten. What was stored
        # before this program followed it counts as stored by transaction 1, which comes before every real one.
        op.execute(f"ALTER TABLE {table} ADD COLUMN xid xid8 NOT NULL DEFAULT '1'::xid8")
        op.execute(f"ALTER TABLE {table} ALTER COLUMN xid SET DEFAULT pg_current_xact_id()")
        op.create_index(f"ix_{table}_account_id_xid", table, ["account_id", "xid", *key])
    op.add_column("orders", sa.Column("state_xid", Xid8, nullable=True))
    op.execute("UPDATE orders SET state_xid = '1' WHERE gone_at IS NOT NULL OR superseded_by IS NOT NULL")
    op.create_index(
        "ix_orders_account_id_state_xid",
        "orders",
        ["account_id", "state_xid", "order_id"],
        postgresql_where=sa.text("state_xid IS NOT NULL"),
    )
    op.create_table(
        "archives",
        sa.Column("account_id", pg.UUID(as_uuid=True), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("head", sa.Text),
        sa.Column("position", pg.JSONB, nullable=False, server_default="{}"),
        sa.Column("cursor_xid", Xid8, nullable=False, server_default=sa.text("'0'::xid8")),
        sa.Column("account_mark", sa.Text),
        sa.Column("made_at", INSTANT),
        sa.Column("versions", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("days_to", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("days_head", sa.Text),
        sa.Column("pending_key", sa.Text),
        sa.Column("pending", sa.LargeBinary),
        sa.Column("pending_values", pg.JSONB),
        *_claimable(),
        sa.PrimaryKeyConstraint("account_id", name="pk_archives"),
        sa.CheckConstraint("days_to <= number", name="ck_archives_days_to"),
        sa.CheckConstraint("(pending IS NULL) = (pending_key IS NULL)", name="ck_archives_pending"),
    )
    op.create_index("ix_archives_due_at", "archives", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    op.create_table(
        "restores",
        sa.Column("account_id", pg.UUID(as_uuid=True), nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("records", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("versions", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("last_order_id", sa.Text(collation="C")),
        sa.Column("phase", sa.Text, nullable=False, server_default="bytes"),
        sa.Column("started_at", INSTANT, nullable=False, server_default=sa.func.clock_timestamp()),
        sa.Column("finished_at", INSTANT),
        sa.PrimaryKeyConstraint("account_id", name="pk_restores"),
        sa.CheckConstraint("phase IN ('bytes','heads','login','finished')", name="ck_restores_phase"),
    )
    op.create_table(
        "restored_states",
        sa.Column("account_id", pg.UUID(as_uuid=True), nullable=False),
        sa.Column("order_id", sa.Text(collation="C"), nullable=False),
        sa.Column("gone_at", INSTANT),
        sa.Column("superseded_by", sa.Text(collation="C")),
        sa.PrimaryKeyConstraint("account_id", "order_id", name="pk_restored_states"),
    )


def _claimable() -> list["sa.Column[object]"]:
    return [
        sa.Column("due_at", INSTANT),
        sa.Column("rung_at", INSTANT),
        sa.Column("leased_until", INSTANT),
        sa.Column("lease_generation", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
    ]
