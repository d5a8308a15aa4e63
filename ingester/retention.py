"""Deletes telemetry that is older than it should be, slice by slice between commits."""

import asyncio
from typing import Self

import structlog

from ingester.clock import Clock, steady
from ingester.errors import StoreUnavailable
from ingester.periodic import Background, Every
from ingester.store import TelemetryStore

log = structlog.get_logger("fleetgate.store")

_DAY_US = 86_400_000_000
_SLICE_ROWS = 200
_PAUSE_SECONDS = 0.05
"""Between slices: ingest goes first."""


class Retention:
    """Every `interval_seconds`, deletes what was received more than `keep_days` ago; 0 keeps all. A context manager.

    Of what is in quarantine, the newest `quarantine_bytes` are kept; 0: any number.
    """

    def __init__(
        self,
        store: TelemetryStore,
        keep_days: float,
        interval_seconds: float = 600,
        clock: Clock | None = None,
        quarantine_bytes: int = 0,
        background: Background | None = None,
    ) -> None:
        self._store = store
        self._keep_us = int(keep_days * _DAY_US)
        self._quarantine_bytes = quarantine_bytes
        self._clock = clock or steady()  # a wall clock set ahead must not delete everything
        self._every = Every(
            "retention", interval_seconds, self._expire, failures=(StoreUnavailable,), background=background
        )

    async def __aenter__(self) -> Self:
        if self._keep_us or self._quarantine_bytes:
            self._every.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.stop()

    async def expire(self) -> int:
        """Delete all that is too old now, and what is too much in quarantine. Returns how many rows went."""
        cutoff = self._clock() - self._keep_us
        total = 0
        while self._keep_us and (gone := await self._store.expire(cutoff, _SLICE_ROWS)):
            total += gone
            await asyncio.sleep(_PAUSE_SECONDS)
        while self._quarantine_bytes and (
            gone := await self._store.trim_quarantine(self._quarantine_bytes, _SLICE_ROWS)
        ):
            total += gone
            await asyncio.sleep(_PAUSE_SECONDS)
        return total

    async def _expire(self) -> None:
        if gone := await self.expire():
            log.info("expired", rows=gone)
