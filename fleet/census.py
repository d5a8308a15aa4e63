"""Census: how many devices are in which state, how many certificates expire soon; counted now and then, in slices."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Self

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.identity import Kind
from fleet.registry import Certificate, CertificateStatus, Member, Registry, State
from ingester.clock import Clock, now_us
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate.fleet")

DAYS = (3, 14, 30)
"""Certificates that expire within so many days are counted, and told of."""
_DAY_US = 86_400_000_000
_COUNT_SECONDS = 60.0
_SLICE = 2000
_NAMED = 10


class Census(Collector):
    """Counts of the last time, as Prometheus families. An async context manager: counts while it is open."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock = now_us,
        count_seconds: float = _COUNT_SECONDS,
        background: Background | None = None,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._every = Every("census", count_seconds, self.count, later=True, background=background)
        self.states: dict[State, int] = {}
        self.expiring: dict[int, int] = {}
        """Active certificates of members that expire within so many days; the shorter ones are part of the longer."""

    async def __aenter__(self) -> Self:
        await self.count()
        self._every.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.stop()

    async def count(self) -> None:
        """Count, and tell of certificates that expire when they became more."""
        states: Counter[State] = Counter()
        expiring: dict[int, list[str]] = {days: [] for days in DAYS}
        now = self._clock()
        members, certificates = self._registry.all()
        for start in range(0, len(members), _SLICE):
            _count_states(members[start : start + _SLICE], states)
            await asyncio.sleep(0)
        for start in range(0, len(certificates), _SLICE):
            _find_expiring(certificates[start : start + _SLICE], now, expiring)
            await asyncio.sleep(0)
        before, self.expiring = self.expiring, {days: len(names) for days, names in expiring.items()}
        self.states = {state: states[state] for state in State}
        for days, names in expiring.items():
            if len(names) > before.get(days, 0):
                log.warning("certificates expire", days=days, count=len(names), first=heapq.nsmallest(_NAMED, names))

    def collect(self) -> Iterable[Metric]:
        """Say what was counted last."""
        devices = GaugeMetricFamily("fleetgate_devices", "Registered devices, by state.", labels=["state"])
        for state, count in self.states.items():
            devices.add_metric([state], count)
        yield devices
        expiring = GaugeMetricFamily(
            "fleetgate_certificates_expiring", "Active certificates that expire within so many days.", labels=["days"]
        )
        for days, count in self.expiring.items():
            expiring.add_metric([str(days)], count)
        yield expiring


def _count_states(members: Iterable[Member], states: Counter[State]) -> None:
    for member in members:
        if member.kind is Kind.DEVICE:
            states[member.state] += 1


def _find_expiring(certificates: Iterable[Certificate], now: int, expiring: dict[int, list[str]]) -> None:
    for entry in certificates:
        if entry.status is CertificateStatus.ACTIVE:
            for days, names in expiring.items():
                if entry.not_after < now + days * _DAY_US:
                    names.append(entry.name)
