"""Presence: who is connected, by the ledger of this run, and when a device was seen last, by former runs too."""

import asyncio
from collections.abc import Iterable
from typing import Self

from fleet.identity import Kind
from fleet.registry.model import Member
from fleet.registry.schema import seen
from fleet.registry.service import Registry
from fleet.registry.write_behind import WriteBehind
from ingester.ledger import Ledger

_WRITE_SECONDS = 30.0
_SLICE = 2000


class Presence:
    """Live facts of devices. An async context manager: writes down now and then who was seen, and at the end.

    A crash forgets at most the last `write_seconds` of it.
    """

    def __init__(self, registry: Registry, ledger: Ledger, write_seconds: float = _WRITE_SECONDS) -> None:
        self._registry = registry
        self._ledger = ledger
        self._before: dict[str, int] = {}
        """As it is written down."""
        self._written = WriteBehind("presence", self.write, write_seconds)

    async def __aenter__(self) -> Self:
        async with self._registry.database.reading() as connection:
            self._before = {row.device: row.last_seen for row in await connection.execute(seen.select())}
        self._registry.database.live = self
        self._registry.changed.append(self._forget)
        await self._written.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._written.__aexit__()

    def connected(self, device: str) -> bool:
        """Whether it has a connection."""
        account = self._ledger.accounts.get(device)
        return account is not None and account.connections > 0

    def last_seen(self, device: str) -> int | None:
        """Microseconds since 1970-01-01 UTC of its last message or connect; None: never."""
        account = self._ledger.accounts.get(device)
        if account is not None and account.last_seen:
            return account.last_seen
        return self._before.get(device)

    def names(self) -> Iterable[str]:
        """Who has or had a connection."""
        return self._ledger.accounts.keys() | self._before.keys()

    async def write(self) -> None:
        """Write down who was seen since the last time."""
        statement = self._registry.database.upsert(seen)
        for start in range(0, len(self._ledger.opened), _SLICE):
            names = self._ledger.opened[start : start + _SLICE]
            if any(self._news(name) is not None for name in names):
                async with self._registry.database.transaction() as connection:
                    news = {name: at for name in names if (at := self._news(name)) is not None}
                    if news:
                        await connection.execute(
                            statement, [{"device": name, "last_seen": at} for name, at in news.items()]
                        )
                self._before |= news
            await asyncio.sleep(0)

    def _news(self, name: str) -> int | None:
        at = self._ledger.accounts[name].last_seen
        if not at or at == self._before.get(name) or self._registry.find(Kind.DEVICE, name) is None:
            return None
        return at

    def _forget(self, member: Member) -> None:
        if self._registry.find(member.kind, member.name) is None:
            self._before.pop(member.name, None)
