"""Usage: how many messages and bytes a device sent, by day (UTC)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fleet.quota.model import DAY_US, Used
from fleet.registry.database import Database
from fleet.registry.schema import usage
from fleet.registry.write_behind import WriteBehind
from ingester.clock import Clock, now_us
from ingester.ledger import Ledger
from ingester.periodic import Background

_WRITE_SECONDS = 30.0
_SLICE = 2000
_KEEP_DAYS = 400


@dataclass(slots=True)
class _Day:
    """One device's day: what was counted before `messages_at` and `bytes_at` of the ledger, and what is written."""

    day: int
    messages: int = 0
    size: int = 0
    messages_at: int = 0
    bytes_at: int = 0
    written: int = 0
    before: tuple[int, int, int] | None = None
    """The day before it, as it ended: a clock that is set back goes on with that."""


class Usage:
    """An async context manager: writes down now and then what was used, and at the end.

    A crash forgets at most the last `write_seconds` of it.
    """

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        clock: Clock = now_us,
        write_seconds: float = _WRITE_SECONDS,
        background: Background | None = None,
        expires_by: Clock | None = None,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._clock = clock
        self._expires_by = expires_by or clock
        self._days: dict[str, _Day] = {}
        self._ended: list[tuple[str, int, int, int]] = []
        self._cleaned = -1
        self._written = WriteBehind("usage", self.write, write_seconds, background)

    async def __aenter__(self) -> Self:
        today = self._clock() // DAY_US
        async with self._database.reading() as connection:
            for row in await connection.execute(usage.select().where(usage.c.day == today)):
                self._days[row.device] = _Day(today, row.messages, row.bytes, written=row.messages)
        await self._written.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._written.__aexit__()

    def used(self, device: str) -> Used:
        """Messages and bytes for as long as the process runs."""
        account = self._ledger.accounts.get(device)
        return (account.received, account.received_bytes) if account is not None else (0, 0)

    def today(self, device: str) -> Used:
        """Messages and bytes since midnight (UTC)."""
        day, (messages, size) = self._clock() // DAY_US, self.used(device)
        known = self._days.get(device)
        if known is None:
            known = self._days[device] = _Day(day)
        if known.day != day:
            ended = (known.day, *_total(known, messages, size))
            self._ended.append((device, *ended))
            again = known.before if known.before is not None and known.before[0] == day else (day, 0, 0)
            known = self._days[device] = _Day(*again, messages_at=messages, bytes_at=size, before=ended)
        return _total(known, messages, size)

    async def of(self, device: str, days: int) -> list[tuple[int, int, int]]:
        """(day since 1970-01-01, messages, bytes) of a device, the latest first."""
        today, used = self._clock() // DAY_US, self.today(device)
        first = today - days + 1
        ended = {day: (messages, size) for name, day, messages, size in self._ended if name == device and day >= first}
        statement = usage.select().where(usage.c.device == device, usage.c.day >= first, usage.c.day < today)
        async with self._database.reading() as connection:
            written = {row.day: (row.messages, row.bytes) for row in await connection.execute(statement)}
        return [(day, *of_day) for day, of_day in sorted(({today: used} | written | ended).items(), reverse=True)]

    def forget(self, device: str) -> None:
        """A device is gone: who has its name next begins with nothing."""
        day, (messages, size) = self._clock() // DAY_US, self.used(device)
        self._days[device] = _Day(day, messages_at=messages, bytes_at=size)
        self._ended = [row for row in self._ended if row[0] != device]

    async def write(self) -> None:
        """Write down what was used since the last time, and once a day forget what is too old."""
        for start in range(0, len(self._ledger.opened), _SLICE):
            names = self._ledger.opened[start : start + _SLICE]
            await self._write([row for name in names if (row := self._news(name)) is not None])
            await asyncio.sleep(0)
        ended = set(self._ended)
        # a day that goes on, as the clock was set back, is not over
        await self._write(sorted(row for row in ended if self._days[row[0]].day != row[1]))
        self._ended = [row for row in self._ended if row not in ended]
        today = self._expires_by() // DAY_US
        if today != self._cleaned:
            async with self._database.transaction() as connection:
                await connection.execute(usage.delete().where(usage.c.day < today - _KEEP_DAYS))
            self._cleaned = today

    async def _write(self, rows: Sequence[tuple[str, int, int, int]]) -> None:
        if not rows:
            return
        async with self._database.transaction() as connection:
            values = [dict(zip(("device", "day", "messages", "bytes"), row, strict=True)) for row in rows]
            await connection.execute(self._database.upsert(usage), values)
        for name, day, messages, _size in rows:
            if self._days[name].day == day:
                self._days[name].written = messages

    def _news(self, name: str) -> tuple[str, int, int, int] | None:
        messages, size = self.today(name)
        known = self._days[name]
        return None if messages == known.written else (name, known.day, messages, size)


def _total(known: _Day, messages: int, size: int) -> Used:
    return known.messages + messages - known.messages_at, known.size + size - known.bytes_at
