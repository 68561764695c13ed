"""backups and drills by the service's own schedule; what belongs to an account's archive is nobody else's."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "backups",
        sa.Column("backup_id", pg.UUID(as_uuid=True), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("of", pg.UUID(as_uuid=True)),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="queued"),
        sa.Column("created_at", INSTANT, nullable=False, server_default=sa.func.clock_timestamp()),
        sa.Column("started_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.Column("verified_at", INSTANT),
        sa.Column("dump_id", sa.Text),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("error_code", sa.Text),
        sa.Column("report", pg.JSONB),
        sa.Column("due_at", INSTANT),
        sa.Column("rung_at", INSTANT),
        sa.Column("leased_until", INSTANT),
        sa.Column("lease_generation", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("backup_id", name="pk_backups"),
        sa.CheckConstraint(
            "kind IN ('dump','drill_sample','drill_whole','drill_dump','drill_account')", name="ck_backups_kind"
        ),
        sa.CheckConstraint("(kind IN ('drill_dump','drill_account')) = (of IS NOT NULL)", name="ck_backups_of"),
        sa.CheckConstraint("state IN ('queued','running','succeeded','failed','removed')", name="ck_backups_state"),
    )
    op.create_index("ix_backups_created_at", "backups", ["created_at", "backup_id"])
    op.create_index("ix_backups_due_at", "backups", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    op.create_index(
        "uq_backups_dump_id", "backups", ["dump_id"], unique=True, postgresql_where=sa.text("dump_id IS NOT NULL")
    )
    op.create_index(
        "uq_backups_scheduled",
        "backups",
        ["kind"],
        unique=True,
        postgresql_where=sa.text("asked_by = 'schedule' AND due_at IS NOT NULL"),
    )
    # A key bound to a user is granted nothing of these. Should it ever be, it gets his own rows, and of backups none.
    for table in ("archives", "restores", "restored_states"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} FOR SELECT USING (account_id IN (SELECT id FROM accounts))")
    op.execute("ALTER TABLE backups ENABLE ROW LEVEL SECURITY")
