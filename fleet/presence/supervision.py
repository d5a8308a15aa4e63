"""Supervision: devices of types of which so many messages a minute are expected, and who of them is late or silent."""

import asyncio
import time
from collections.abc import Iterable
from typing import Self

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select

from fleet.identity import Kind
from fleet.presence.model import Change, Condition, Expected
from fleet.presence.presence import Presence
from fleet.registry.database import FAILURES
from fleet.registry.model import Member, State
from fleet.registry.query.statement import DEVICES
from fleet.registry.schema import members
from fleet.registry.service import Registry
from fleet.registry.type_service import Types
from ingester.clock import Clock, steady
from ingester.periodic import Background, Every

_SECONDS = 5.0
_LOOKING_SHARE = 100
_LOOK_ANEW_SECONDS = 60.0
"""Whose type is which is looked up anew in the next round, where that takes no more than a hundredth of the time; after
a minute at the latest.
"""
_SLICE = 2000


class Supervision(Collector):
    """Looks every few seconds at the devices that are active and of whose type something is expected: from when that
    was found out in this run, as nobody could send before. An async context manager.
    """

    def __init__(
        self,
        registry: Registry,
        types: Types,
        presence: Presence,
        expected: Expected,
        *,
        clock: Clock | None = None,
        seconds: float = _SECONDS,
        background: Background | None = None,
    ) -> None:
        self._registry = registry
        self._types = types
        self._presence = presence
        self._expected = expected
        self._clock = clock or steady()
        self._rates: dict[str, tuple[float, int]] = {}
        """Messages a minute, and since when they are expected, by device."""
        self._heard: dict[str, tuple[int | None, int]] = {}
        """The time of the last message by the wall clock, and by `clock`, which nobody sets."""
        self._judged = self._clock()
        self._due = 0.0
        self._every = Every("supervision", seconds, self._supervise, failures=FAILURES, background=background)

    async def __aenter__(self) -> Self:
        self._registry.changed.append(self._forget)
        self._every.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.stop()

    def condition(self, device: str) -> Condition | None:
        """Whether it sends as is expected; None: nothing is expected of it."""
        return self._conditions.get(device, Condition.ON_TIME) if device in self._rates else None

    def rate(self, device: str) -> float | None:
        """How many messages a minute are expected of it."""
        found = self._rates.get(device)
        return found[0] if found is not None else None

    def _forget(self, member: Member) -> None:
        if member.kind is Kind.DEVICE and self._registry.find(member.kind, member.name) is None:
            self._rates.pop(member.name, None)

    @property
    def _conditions(self) -> dict[str, Condition]:
        return self._presence.conditions

    async def look_up(self) -> None:
        """Look up of whom what is expected."""
        rates = {kind.name: kind.messages_per_minute for kind in self._types.all() if kind.messages_per_minute}
        found: dict[str, tuple[float, int]] = {}
        if rates:
            statement = select(members.c.name, members.c.type).where(
                DEVICES, members.c.type.in_(list(rates)), members.c.state == State.ACTIVE.value
            )
            async with self._registry.database.reading() as connection:
                rows = (await connection.execute(statement)).all()
            now = self._clock()
            for start in range(0, len(rows), _SLICE):
                for name, kind in rows[start : start + _SLICE]:
                    known = self._rates.get(name)
                    found[name] = rates[kind] or 0, known[1] if known is not None else now
                await asyncio.sleep(0)
        self._rates = found
        self._heard = {name: heard for name, heard in self._heard.items() if name in found}
        for name in self._conditions.keys() - found.keys():
            del self._conditions[name]

    async def judge(self) -> None:
        """Judge all of them."""
        rates, now = list(self._rates.items()), self._clock()
        for start in range(0, len(rates), _SLICE):
            for device, (rate, since) in rates[start : start + _SLICE]:
                self._judge(device, rate, now, since)
            await asyncio.sleep(0)
        self._judged = now

    def collect(self) -> Iterable[Metric]:
        """Say what was found last."""
        family = GaugeMetricFamily(
            "fleetgate_devices_overdue", "Devices that send less than is expected of them.", labels=["condition"]
        )
        conditions = list(self._conditions.values())
        for condition in (Condition.LATE, Condition.SILENT):
            family.add_metric([condition.value], conditions.count(condition))
        yield family
        flapping = len(self._presence.flapping.devices)
        yield GaugeMetricFamily("fleetgate_devices_flapping", "Devices that connect again and again.", value=flapping)
        dropped = self._presence.dropped
        yield GaugeMetricFamily("fleetgate_presence_events_dropped", "Events of presence not kept.", value=dropped)

    def _judge(self, device: str, rate: float, now: int, since: int) -> None:
        last = self._presence.last_data(device)
        known = self._heard.get(device)
        if known is None or known[0] != last:
            # The wall clock may have been set: a message that was not there at the last look came since then.
            earliest = 0 if known is None else self._judged
            known = self._heard[device] = last, (last or 0) if earliest <= (last or now) <= now else now
        quiet = now - max(since, known[1])
        found, before = self._expected.condition(rate, quiet), self._conditions.get(device, Condition.ON_TIME)
        if found is before:
            return
        if found is Condition.ON_TIME:
            del self._conditions[device]
        else:
            self._conditions[device] = found
        details = {"messages_per_minute": rate, "last_data": last, "quiet_seconds": round(quiet / 1e6, 3)}
        self._presence.judged(device, Change(found.value), details)

    async def _supervise(self) -> None:
        started = time.monotonic()
        try:
            if started >= self._due:
                await self.look_up()
        finally:  # devices are judged by what was known before, where it can't be looked up
            if started >= self._due:
                took = time.monotonic() - started
                self._due = started + min(_LOOKING_SHARE * took, _LOOK_ANEW_SECONDS)
            await self.judge()
            self._presence.calm()
