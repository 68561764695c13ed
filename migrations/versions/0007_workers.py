"""what workers report of themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    now = sa.text("clock_timestamp()")
    started = sa.Column("started_at", sa.DateTime(timezone=True), server_default=now, nullable=False)
    op.add_column("worker_slots", started)
    op.add_column("worker_slots", sa.Column("canary_sent_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("worker_slots", sa.Column("canary_done_at", sa.DateTime(timezone=True), nullable=True))
