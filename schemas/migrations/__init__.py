"""The history of the tables, for Alembic. `HEAD` is the newest revision; a test checks that."""

HEAD = "0009"
