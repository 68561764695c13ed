"""when a version was seen last."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("order_versions", sa.Column("replaced_seen_at", sa.DateTime(timezone=True), nullable=True))
