"""Alembic's entry into this store's migrations."""

from services.runtime.migrations import run

run()
