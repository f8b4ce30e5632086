"""Run by Alembic, on the connection of `tasks.storage.database`, which holds the lock and the transaction."""

from __future__ import annotations

from alembic import context

from schemas.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    compare_type=True,
)
context.run_migrations()
