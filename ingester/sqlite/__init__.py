"""Telemetry in one SQLite file: an append-only journal, one row for a device's share of a batch."""

from ingester.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
