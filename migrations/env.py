"""Runs migrations on the connection that `orders_backup.db.migrate` hands over."""

from alembic import context

from orders_backup import tables

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=tables.metadata,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
