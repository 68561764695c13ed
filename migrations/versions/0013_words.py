"""the words by which orders are found."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("orders", sa.Column("words", pg.TSVECTOR, nullable=False, server_default=""))
    op.create_index("ix_orders_words", "orders", ["words"], postgresql_using="gin")
