"""The composition root: which parts the program is made of, in which order they start, and that they stop in reverse.

Stopping: the listeners stop accepting and take nothing more, what was taken is committed and acknowledged, files are
closed. Each step has a deadline of its own; together they stay below five seconds.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker_plugins.embedded import EmbeddedBroker
from broker_plugins.refusals import Refusals
from broker_plugins.services import Services
from broker_plugins.tls import server_context
from fleet.files import write_private
from fleet.state import StateFolder
from fleetgate.addresses import format_address, is_loopback, parse_bind
from fleetgate.core import Core, open_core
from fleetgate.errors import SettingsError
from fleetgate.http.api import create_api
from fleetgate.http.server import HttpServer
from fleetgate.logs import IngestLogFile
from fleetgate.settings import Settings, SourceSettings
from ingester.retention import Retention
from ingester.source_mqtt import MqttSource, SourceConfig

log = structlog.get_logger("fleetgate")


@dataclass(frozen=True)
class Addresses:
    """Where the program listens. None: it does not."""

    mqtts: tuple[str, int] | None
    http: tuple[str, int] | None

    def by_scheme(self) -> dict[str, str]:
        """As in server.json and the ready line, mqtts first."""
        found = {"mqtts": self.mqtts, "http": self.http}
        return {scheme: format_address(address) for scheme, address in found.items() if address is not None}


@asynccontextmanager
async def serving(
    settings: Settings, state: StateFolder, *, mqtt: bool = True, sources: Sequence[SourceConfig] = ()
) -> AsyncIterator[tuple[Core, Addresses]]:
    """Serve HTTP, MQTT when asked for, and read from `sources` and those in the settings, for the time of the block."""
    http_bind = parse_bind(settings.http.bind)
    if not is_loopback(http_bind[0]) and not settings.http.allow_plain:
        raise SettingsError(
            f"http.bind {settings.http.bind}: not a loopback address, and HTTP here is not encrypted;"
            " set http.allow_plain = true to listen all the same"
        )
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(open_core(settings, state))
        await stack.enter_async_context(Retention(core.store, settings.store.keep_days))
        http = await stack.enter_async_context(HttpServer(create_api(core), bind=http_bind, closing=core.tail.close))
        for config in (*sources, *map(_source, settings.source)):
            core.sources.append(await stack.enter_async_context(MqttSource(config, core.pipeline, core.ledger)))
        broker = await stack.enter_async_context(_broker(core)) if mqtt else None
        addresses = Addresses(broker.address if broker else None, http.address)
        about = {"pid": os.getpid(), **addresses.by_scheme()}
        write_private(state.server_file, json.dumps(about).encode() + b"\n")
        stack.callback(state.server_file.unlink, missing_ok=True)
        log.info("serving", **about)
        yield core, addresses
        log.info("stopping")


async def run(
    settings: Settings,
    state: StateFolder,
    ready: Callable[[Addresses], None],
    log_file: IngestLogFile | None,
    *,
    mqtt: bool = True,
    sources: Sequence[SourceConfig] = (),
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called when everything listens. A second signal does not wait."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    this = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and this is not None:
            this.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if log_file is not None:
        loop.add_signal_handler(signal.SIGHUP, log_file.reopen)
    with contextlib.suppress(asyncio.CancelledError):
        async with serving(settings, state, mqtt=mqtt, sources=sources) as (_core, addresses):
            ready(addresses)
            await stop.wait()
    log.info("stopped")


def _broker(core: Core) -> EmbeddedBroker:
    settings = core.settings
    pki = core.state.pki
    context = server_context(pki / "server.pem", pki / "server-key.pem", _client_cas(settings, pki / "ca.pem"))
    services = Services(core.registry, core.pipeline, core.ledger, core.connects, Refusals(core.tail), core.rules)
    return EmbeddedBroker(
        services,
        parse_bind(settings.mqtt.bind),
        context,
        handshake_seconds=settings.mqtt.handshake_seconds,
        max_connections=settings.mqtt.max_connections,
    )


def _client_cas(settings: Settings, own: Path) -> list[Path]:
    if not settings.tls.client_ca:
        return [own]
    other = Path(settings.tls.client_ca)
    if not other.is_file():
        raise SettingsError(f"tls.client_ca: no file {other}")
    return [own, other]


def _source(source: SourceSettings) -> SourceConfig:
    def path(text: str) -> Path | None:
        return Path(text) if text else None

    return SourceConfig(
        source.url,
        tuple(source.topics),
        tuple(source.map),
        source.client_id,
        source.version,
        path(source.ca),
        path(source.certificate),
        path(source.key),
        source.password.get_secret_value() or None,
    )
