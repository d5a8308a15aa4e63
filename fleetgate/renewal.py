"""Certificates of our own, made again while the program runs: before they end, and at once when a step of the clock
ended them.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.errors import FleetError
from ingester.clock import Clock, is_believed, moment, now_us
from ingester.periodic import Background, Every

log = structlog.get_logger("fleetgate")

LOOK_SECONDS = 2.0
"""A step of the clock is noticed within this time, and certificates are looked at."""
WARN = {"root": timedelta(days=180), "issuing": timedelta(days=90), "server": timedelta(days=20)}
"""Time before its end by which each should have been renewed: an operator has to look."""
_WARN_AGAIN_US = 86_400_000_000


class Renewal(Collector):
    """Renews root, issuing authority and server's certificate in time: `renew` renews what is due, `ends` gives the
    expiry of each. An async context manager; also the metric of these times.
    """

    def __init__(
        self,
        renew: Callable[[], Awaitable[Sequence[str]]],
        ends: Callable[[], Mapping[str, datetime]],
        *,
        clock: Clock = now_us,
        look_seconds: float = LOOK_SECONDS,
        background: Background | None = None,
    ) -> None:
        self._renew = renew
        self._ends = ends
        self._clock = clock
        self._warned: dict[str, int] = {}
        self._every = Every(
            "certificates",
            look_seconds,
            self._look,
            failures=(FleetError, OSError),
            background=background,
        )

    async def __aenter__(self) -> Self:
        await self._every.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._every.__aexit__(kind, error, trace)

    async def look(self) -> Sequence[str]:
        """Renew what is due. Returns the names of what was renewed. Raises FleetError, OSError."""
        made = await self._renew()
        self._warn()
        return made

    def collect(self) -> Iterable[Metric]:
        """The expiry of each certificate."""
        family = GaugeMetricFamily(
            "fleetgate_certificate_expires_timestamp_seconds",
            "Expiry of the gate's own certificates.",
            labels=["certificate"],
        )
        for name, end in self._ends().items():
            family.add_metric([name], end.timestamp())
        yield family

    async def _look(self) -> None:
        await self.look()

    def _warn(self) -> None:
        """Warn once a day of certificates that should have been renewed."""
        now = self._clock()
        if not is_believed(now):
            return
        for name, end in self._ends().items():
            again = self._warned.get(name)
            if end - moment(now) > WARN[name] or (again is not None and again <= now < again + _WARN_AGAIN_US):
                continue
            self._warned[name] = now
            log.warning("a certificate of the gate expires and is not renewed", certificate=name, ends=end.isoformat())
