"""who may see which rows, for PostgreSQL itself."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ROLE = "orders_backup_tenant"
USER = "nullif(current_setting('orders_backup.user_id', true), '')::uuid"

OF_A_USER = ("accounts", "audit_log", "exports")
OF_AN_ACCOUNT = (
    "account_tokens",
    "device_flows",
    "discoveries",
    "extra_kinds",
    "order_changes",
    "order_events",
    "order_extra_versions",
    "order_extras",
    "order_versions",
    "orders",
    "owed_orders",
    "sync_history",
    "sync_windows",
    "syncs",
    "unreadable_orders",
    "warnings_given",
)
OF_A_WEBHOOK = (
    *("webhook_id", "user_id", "url", "description", "event_types", "account_ids", "content", "old_secret_until"),
    *("status", "reason", "failing_since", "silent_until", "last_delivered_at", "created_at", "due_at", "failures"),
    "last_error",
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    # A role belongs to the whole cluster: another database of ours may have made it, or be making it.
    op.execute(f"""
        DO $$ BEGIN
          IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN CREATE ROLE {ROLE} NOLOGIN; END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END $$
    """)
    # An owner of the database who may neither make roles nor give them is told what to ask for (see db.migrate).
    op.execute(f"""
        DO $$ BEGIN
          IF NOT pg_has_role(current_user, '{ROLE}', 'MEMBER') THEN
            EXECUTE format('GRANT {ROLE} TO %I', current_user);
          END IF;
          EXECUTE format('GRANT USAGE ON SCHEMA %I TO {ROLE}', current_schema());
        END $$
    """)
    for table in OF_A_USER:
        _shown(table, f"user_id = {USER}")
    for table in OF_AN_ACCOUNT:
        _shown(table, "account_id IN (SELECT id FROM accounts)")
    _shown(
        "api_keys", f"user_id = {USER}", "id, name, scopes, user_id, created_at, expires_at, revoked_at, last_used_at"
    )
    _shown("webhooks", f"user_id = {USER}", ", ".join(OF_A_WEBHOOK))  # not the secrets
    for table in ("webhook_deliveries", "webhook_attempts"):
        _shown(table, "webhook_id IN (SELECT webhook_id FROM webhooks)")
    op.execute(f"GRANT SELECT ON codec_dictionaries TO {ROLE}")
    op.execute(f"GRANT SELECT (path, kind, value, first_seen, last_seen, seen) ON schema_drift TO {ROLE}")


def _shown(table: str, condition: str, columns: str = "") -> None:
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {table} FOR SELECT USING ({condition})")
    op.execute(f"GRANT SELECT {f'({columns})' if columns else ''} ON {table} TO {ROLE}")
