"""a window cannot hide an order that Allegro counts and we lack; as `tables.py` says it."""

from alembic import op

revision = "0019"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("""
        ALTER TABLE sync_windows ADD CONSTRAINT ck_sync_windows_missing_is_told
        CHECK (missing >= total_count - stored - set_aside) NOT VALID
    """)
    op.execute("ALTER TABLE sync_windows VALIDATE CONSTRAINT ck_sync_windows_missing_is_told")
