"""Telemetry in PostgreSQL, behind the journal. Needs the extra `postgres`."""
