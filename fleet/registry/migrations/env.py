"""Alembic's entry: runs in the connection and the transaction that `fleet.registry.schema.migrate` opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
