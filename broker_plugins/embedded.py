"""amqtt's own broker with our plugins, fed by our TLS listener. The engine of ours will take its place."""

import asyncio
import ssl
import time
from functools import partial
from typing import Self

import structlog
from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker

from broker_plugins.ending import EndingReader
from broker_plugins.listener import TlsListener
from broker_plugins.services import CONNECTION, Services

log = structlog.get_logger("fleetgate.mqtt")

_LISTENER = "default"
_PLUGINS = (
    "broker_plugins.auth.CertificateAuthPlugin",
    "broker_plugins.acl.TopicRightsPlugin",
    "broker_plugins.ingest.IngestPlugin",
    "broker_plugins.presence.PresencePlugin",
)
_DELIVER_SECONDS = 1.0
_DELIVER_POLL_SECONDS = 0.002


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
        try:
            await self._listener.stop_accepting()
            self._listener.pause_reading()
            await self._handed_on()
            await self._broker.shutdown()
        finally:  # a second signal interrupts what is before
            await self._listener.__aexit__()

    async def _handed_on(self, reader: StreamReaderAdapter | None = None) -> None:
        """Wait until the broker has handed its plugins what it acknowledged: on one connection, or on all."""
        deadline = time.monotonic() + _DELIVER_SECONDS
        await asyncio.sleep(0)  # what was read last is on its way to the session now
        while any(
            session.delivered_message_queue.qsize() or session.inflight_in
            for session, handler in self._broker.sessions.values()
            if reader is None or handler.reader is reader
        ):
            if time.monotonic() > deadline:
                log.warning("messages left in the broker", sessions=len(self._broker.sessions))
                return
            await asyncio.sleep(_DELIVER_POLL_SECONDS)

    async def _connected(self, reader: EndingReader, writer: asyncio.StreamWriter) -> None:
        CONNECTION.set(writer.get_extra_info("ssl_object"))
        stream = StreamReaderAdapter(reader)
        reader.handed_on = partial(self._handed_on, stream)
        await self._broker.external_connected(stream, StreamWriterAdapter(writer), _LISTENER)
