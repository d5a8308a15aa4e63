"""amqtt's own broker with our plugins, fed by our TLS listener. The engine of ours will take its place."""

import asyncio
import ssl
import time
from typing import Self

import structlog
from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker

from broker_plugins.listener import TlsListener
from broker_plugins.services import Services

log = structlog.get_logger("fleetgate.mqtt")

_LISTENER = "default"
_PLUGINS = (
    "broker_plugins.auth.CertificateAuthPlugin",
    "broker_plugins.acl.TopicRightsPlugin",
    "broker_plugins.ingest.IngestPlugin",
    "broker_plugins.presence.PresencePlugin",
)
_DELIVER_SECONDS = 1.0
_DELIVER_POLL_SECONDS = 0.01


class EmbeddedBroker:
    """An async context manager: serves MQTT on `bind` while it is open. Leaving it stops accepting, takes nothing more
    from devices, hands over what the broker has acknowledged, and closes.
    """

    def __init__(
        self,
        services: Services,
        bind: tuple[str, int],
        context: ssl.SSLContext,
        *,
        handshake_seconds: float,
        max_connections: int,
    ) -> None:
        self._broker = Broker(
            {
                "listeners": {_LISTENER: {"type": "external"}},
                "plugins": {name: {"services": services} for name in _PLUGINS},
            }
        )
        self._listener = TlsListener(
            bind,
            context,
            self._connected,
            services.connects,
            services.refusals,
            handshake_seconds=handshake_seconds,
            max_connections=max_connections,
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._listener.address

    async def __aenter__(self) -> Self:
        await self._broker.start()
        try:
            await self._listener.__aenter__()
        except BaseException:
            await self._broker.shutdown()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.stop_accepting()
        self._listener.pause_reading()
        await self._delivered()
        await self._broker.shutdown()
        await self._listener.__aexit__()

    async def _delivered(self) -> None:
        """Wait until the broker has handed its plugins what it has read and acknowledged."""
        deadline = time.monotonic() + _DELIVER_SECONDS
        while any(session.delivered_message_queue.qsize() for session, _ in self._broker.sessions.values()):
            if time.monotonic() > deadline:
                log.warning("messages left in the broker", sessions=len(self._broker.sessions))
                return
            await asyncio.sleep(_DELIVER_POLL_SECONDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._broker.external_connected(StreamReaderAdapter(reader), StreamWriterAdapter(writer), _LISTENER)
