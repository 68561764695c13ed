"""four nets: sweeps, what each net caught, warnings given, windows of one fulfilment status."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COVERING = "kind IN ('backfill', 'reconcile')"
PROVEN = "status = 'verified' AND fulfillment = ''"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    _allow("syncs", "kind", "kind IN ('journal','listing','sweep')")
    _allow("sync_history", "kind", "kind IN ('backfill','incremental','full','reconcile','sweep')")
    _extend_windows()
    op.create_index(
        "ix_sync_history_covering", "sync_history", ["account_id", "requested_at"], postgresql_where=sa.text(COVERING)
    )
    op.create_table(
        "discoveries",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("net", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("orders", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "net IN ('overlap','updated_sweep','open_sweep','full','certificate')", name=op.f("ck_discoveries_net")
        ),
        sa.CheckConstraint("what IN ('missing','changed','unlisted')", name=op.f("ck_discoveries_what")),
        sa.CheckConstraint("orders > 0", name=op.f("ck_discoveries_orders")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_discoveries_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "net", "what", "day", name=op.f("pk_discoveries")),
    )
    op.create_table(
        "warnings_given",
        sa.Column("account_id", sa.UUID(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_warnings_given_account_id_accounts")),
        sa.PrimaryKeyConstraint("account_id", "code", "day", name=op.f("pk_warnings_given")),
    )


def _extend_windows() -> None:
    """New columns have constant defaults, so no row is rewritten; only the key is built anew."""
    op.add_column("sync_windows", sa.Column("fulfillment", sa.Text(), server_default="", nullable=False))
    op.add_column("sync_windows", sa.Column("fingerprint", sa.Numeric(), server_default="0", nullable=False))
    op.add_column("sync_windows", sa.Column("last_order_id", sa.Text(collation="C"), nullable=True))
    key = "account_id, run_id, window_from, window_to, fulfillment"
    change = f"DROP CONSTRAINT pk_sync_windows, ADD CONSTRAINT pk_sync_windows PRIMARY KEY ({key})"
    op.execute(f"ALTER TABLE sync_windows {change}")
    listed = "status <> 'verified' OR method = 'count' OR listed = total_count"
    op.create_check_constraint(op.f("ck_sync_windows_verified_was_listed"), "sync_windows", listed)
    op.create_index(
        "ix_sync_windows_proven", "sync_windows", ["account_id", "checked_at"], postgresql_where=sa.text(PROVEN)
    )


def _allow(table: str, column: str, condition: str) -> None:
    """A wider check in place of a narrower one."""
    name = op.f(f"ck_{table}_{column}")
    op.drop_constraint(name, table, type_="check")
    op.create_check_constraint(name, table, condition)
