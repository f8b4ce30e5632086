"""The history of the tables, for Alembic. `HEAD` is its newest revision (a test holds the two together)."""

HEAD = "0002"
