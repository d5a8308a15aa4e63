"""Alembic migrations of fleet.db."""
