"""the pace of calls: what was learned of limits, who works, and how often journals are polled."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("request_budget", sa.Column("pace", sa.Double(), server_default="1", nullable=False))
    op.add_column("request_budget", sa.Column("paced_at", sa.DateTime(timezone=True), nullable=True))
    own = sa.Column("own", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False)
    op.add_column("request_budget", own)
    op.add_column("syncs", sa.Column("event_rate", sa.Double(), nullable=True))
    op.add_column("syncs", sa.Column("event_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("syncs", sa.Column("poll_seconds", sa.Double(), nullable=True))
    now = sa.text("clock_timestamp()")
    op.create_table(
        "worker_slots",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("worker", name=op.f("pk_worker_slots")),
    )
