"""the end a key was made with, which its rotation does not bring forward."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("api_keys", sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE api_keys SET ends_at = expires_at")
