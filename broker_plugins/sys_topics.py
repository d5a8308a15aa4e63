"""$SYS: what the broker says of itself, from the ledger, to those whose filters name it."""

from typing import Self

from broker_plugins.engine.engine import Engine
from broker_plugins.engine.message import Message
from ingester.clock import Clock, now_us
from ingester.periodic import Background, Every

_ROOT = "$SYS/broker/"


class SysTopics:
    """Publishes $SYS messages every so many seconds (0: never). An async context manager.

    They are retained in memory only: after a restart they are stale before they are read.
    """

    def __init__(
        self,
        engine: Engine,
        version: str,
        interval_seconds: float,
        clock: Clock = now_us,
        background: Background | None = None,
    ) -> None:
        self._engine = engine
        self._version = version
        self._interval = interval_seconds
        self._clock = clock
        self._started = clock()
        self._every = Every("sys_topics", interval_seconds, self._publish, background=background)

    async def __aenter__(self) -> Self:
        if self._interval:
            self._every.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.stop()

    def values(self) -> dict[str, str]:
        """Topic below $SYS/broker/ -> value, at this instant."""
        engine, totals = self._engine, self._engine.ledger.totals
        return {
            "version": f"fleetgate {self._version}",
            "uptime": str((self._clock() - self._started) // 1_000_000),
            "clients/connected": str(len(engine.connections)),
            "clients/total": str(len(engine.sessions.by_client_id)),
            "messages/received": str(totals.received),
            "messages/stored": str(totals.stored),
            "messages/duplicate": str(totals.duplicate),
            "messages/quarantined": str(totals.quarantined),
            "messages/rejected": str(totals.rejected),
            "messages/dropped": str(totals.dropped),
            "messages/routed": str(totals.routed),
            "messages/inflight": str(totals.in_flight),
            "messages/sent": str(engine.sessions.deliveries.sent),
            "messages/retained/count": str(len(engine.retained)),
            "subscriptions/count": str(len(engine.sessions.router)),
            "load/bytes/received": str(totals.received_bytes),
        }

    async def _publish(self) -> None:
        for name, value in self.values().items():
            message = Message(_ROOT + name, value.encode(), 1, retain=True)
            self._engine.retained.keep(message)
            await self._engine.broadcast(Message(message.topic, message.payload, 1))
