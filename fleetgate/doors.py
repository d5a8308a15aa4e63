"""The doors of devices: MQTT over TLS, WebSocket and loopback, and their API over HTTPS."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from broker_plugins.engine.admission import Admission
from broker_plugins.engine.arrivals import Arrival
from broker_plugins.engine.connection import Connection
from broker_plugins.engine.listener import Listener
from broker_plugins.engine.websocket import WebSocketProtocol
from broker_plugins.errors import BrokerStartError
from fleetgate.addresses import is_loopback, parse_bind
from fleetgate.core import Core
from fleetgate.errors import SettingsError
from fleetgate.http.device_api import CertificateProtocol, create_device_api
from fleetgate.http.server import HttpServer

_DEVICE_REQUESTS = 1000
"""Connections of devices to their API at a time: it is for what they ask once in a while."""


@asynccontextmanager
async def serving_mqtt(core: Core) -> AsyncIterator[dict[str, tuple[str, int]]]:
    """Serve MQTT on all listeners of the settings; gives their addresses by scheme."""
    mqtt, broker = core.settings.mqtt, core.broker
    admission, tls = _admission(core), core.tls.context

    def connection(arrival: Arrival) -> Connection:
        return Connection(broker.engine, arrival)

    def websocket(arrival: Arrival) -> WebSocketProtocol:
        return WebSocketProtocol(connection(arrival), tuple(mqtt.wss_origins), mqtt.max_packet_bytes)

    broker.listeners = [_listener(core, "mqtts", mqtt.bind, admission, connection, tls)]
    if mqtt.wss_bind:
        broker.listeners.append(_listener(core, "wss", mqtt.wss_bind, admission, websocket, tls))
    if mqtt.plain_bind:
        if not is_loopback(parse_bind(mqtt.plain_bind)[0]):
            raise SettingsError(f"mqtt.plain_bind {mqtt.plain_bind}: MQTT without TLS is for loopback only")
        broker.listeners.append(_listener(core, "mqtt", mqtt.plain_bind, admission, connection, lambda: None))
    try:
        await broker.start()
    except BrokerStartError as error:
        raise SettingsError(f"MQTT: {error}") from error
    try:
        yield {found.scheme: found.address for found in broker.listeners}
    finally:
        await broker.shutdown()


@asynccontextmanager
async def serving_devices(core: Core) -> AsyncIterator[tuple[str, int]]:
    """Serve the devices' API over HTTPS; gives its address."""
    async with HttpServer(create_device_api(core), protocol=CertificateProtocol, most=_DEVICE_REQUESTS) as server:

        def request(arrival: Arrival) -> CertificateProtocol:
            made: CertificateProtocol = server.connection()
            return made.serve(arrival, core.settings.mqtt.connect_seconds)

        bind = core.settings.http.https_bind
        async with _listener(core, "https", bind, _admission(core), request, core.tls.context) as listener:
            yield listener.address


def _admission(core: Core) -> Admission:
    mqtt = core.settings.mqtt
    return Admission(mqtt.connect_rate, mqtt.connect_burst, mqtt.max_per_address, mqtt.max_connections)


def _listener(
    core: Core,
    scheme: str,
    bind: str,
    admission: Admission,
    protocol: Callable[[Arrival], asyncio.Protocol],
    context: Callable[[], ssl.SSLContext | None],
) -> Listener:
    return Listener(
        scheme,
        parse_bind(bind),
        core.broker.engine.hooks,
        admission,
        protocol=protocol,
        context=context,
        handshake_seconds=core.settings.mqtt.handshake_seconds,
    )
