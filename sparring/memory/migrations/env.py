"""Alembic's entry: runs revisions on the connection that `database.upgrade` hands over."""

from alembic import context

from sparring.memory.schema import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
