"""Run by Alembic. The connection comes from `tasks.database`, which also holds the lock and the transaction."""

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
