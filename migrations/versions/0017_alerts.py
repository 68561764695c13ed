"""alerts, silences, how channels are, and the rounds in which somebody looks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
NOW = sa.func.clock_timestamp()
ROLE = "orders_backup_tenant"
SHOWN = {
    "alerts": "account_id IN (SELECT id FROM accounts)",
    "alert_silences": "subject IN (SELECT CAST(id AS text) FROM accounts)",
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "alerts",
        sa.Column("alert_id", pg.UUID(as_uuid=True), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("rule", "subject")),
        sa.Column("account_id", pg.UUID(as_uuid=True)),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("severity", "detail")),
        *(sa.Column(name, INSTANT, nullable=False) for name in ("fired_at", "seen_at")),
        *(sa.Column(name, INSTANT) for name in ("opened_at", "quiet_since", "recovered_at")),
        sa.Column("news", sa.Text),
        sa.Column("told_by", pg.ARRAY(sa.Text), nullable=False, server_default="{}"),
        sa.Column("told_at", INSTANT),
        sa.Column("heard", sa.Text),
        sa.PrimaryKeyConstraint("alert_id", name="pk_alerts"),
        sa.CheckConstraint("severity IN ('critical','error','warning')", name="ck_alerts_severity"),
        sa.CheckConstraint("news IN ('opened','reminder','recovered')", name="ck_alerts_news"),
        sa.CheckConstraint("heard IN ('opened','reminder','recovered')", name="ck_alerts_heard"),
        sa.CheckConstraint("recovered_at IS NULL OR opened_at IS NOT NULL", name="ck_alerts_opened_before_it_recovers"),
    )
    open_ones, over = sa.text("recovered_at IS NULL"), sa.text("recovered_at IS NOT NULL")
    op.create_index("uq_alerts_rule_subject", "alerts", ["rule", "subject"], unique=True, postgresql_where=open_ones)
    op.create_index("ix_alerts_fired_at", "alerts", ["fired_at", "alert_id"])
    op.create_index("ix_alerts_recovered_at", "alerts", ["recovered_at"], postgresql_where=over)
    op.create_table(
        "alert_silences",
        sa.Column("silence_id", pg.UUID(as_uuid=True), nullable=False),
        sa.Column("rule", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("until", INSTANT, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", INSTANT, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("silence_id", name="pk_alert_silences"),
        sa.CheckConstraint("rule IS NOT NULL OR subject IS NOT NULL", name="ck_alert_silences_of_something"),
    )
    op.create_index("ix_alert_silences_until", "alert_silences", ["until"])
    op.create_table(
        "alert_channels",
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("tried_at", INSTANT, nullable=False),
        sa.Column("taken_at", INSTANT),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("channel", name="pk_alert_channels"),
    )
    op.create_table(
        "watches",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("began_at", INSTANT, nullable=False, server_default=NOW),
        sa.Column("ticked_at", INSTANT),
        sa.Column("looked_at", INSTANT),
        *(sa.Column(name, INSTANT) for name in ("due_at", "rung_at", "leased_until")),
        sa.Column("lease_generation", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("kind", name="pk_watches"),
        sa.CheckConstraint("kind IN ('quick','thorough','hourly')", name="ck_watches_kind"),
    )
    op.create_index("ix_watches_due_at", "watches", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    for table, condition in SHOWN.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} FOR SELECT USING ({condition})")
        op.execute(f"GRANT SELECT ON {table} TO {ROLE}")
