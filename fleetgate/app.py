"""The composition root: which parts the program is made of, in which order they start, and that they stop in reverse.

Stopping: the listeners stop accepting and take nothing more, what was taken is committed and acknowledged, files are
closed. Each step has a deadline of its own; together they stay below five seconds.
"""

import asyncio
import contextlib
import gc
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from broker_plugins.sys_topics import SysTopics
from fleet.files import write_private
from fleet.state import StateFolder
from fleetgate import __version__
from fleetgate.addresses import format_address, is_loopback, parse_bind
from fleetgate.core import Core, open_core, seals
from fleetgate.doors import serving_devices, serving_mqtt
from fleetgate.errors import SettingsError
from fleetgate.history import available
from fleetgate.http.api import create_api
from fleetgate.http.server import HttpServer
from fleetgate.logs import IngestLogFile
from fleetgate.renewal import Renewal
from fleetgate.settings import Settings, SourceSettings
from fleetgate.watchdog import Watchdog
from ingester.clock import Clock, clock_problem, is_believed, now_us
from ingester.retention import Retention
from ingester.source_mqtt import MqttSource, SourceConfig

log = structlog.get_logger("fleetgate")

_CLOCK_SECONDS = 1.0
"""A clock that is not believed is looked at again after this time."""


@dataclass(frozen=True)
class Addresses:
    """Where the program listens, by scheme: mqtts first."""

    found: dict[str, tuple[str, int]]

    def by_scheme(self) -> dict[str, str]:
        """As in server.json and the ready line."""
        return {scheme: format_address(address) for scheme, address in self.found.items()}


@asynccontextmanager
async def serving(
    settings: Settings,
    state: StateFolder,
    *,
    mqtt: bool = True,
    sources: Sequence[SourceConfig] = (),
    clock: Clock = now_us,
) -> AsyncIterator[tuple[Core, Addresses]]:
    """Serve HTTP, MQTT when asked for, and read from `sources` and those in the settings, for the time of the block."""
    http_bind = parse_bind(settings.http.bind)
    if not is_loopback(http_bind[0]) and not settings.http.allow_plain:
        raise SettingsError(
            f"http.bind {settings.http.bind}: not a loopback address, and HTTP here is not encrypted;"
            " set http.allow_plain = true to listen all the same"
        )
    async with AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        stack.callback(loop.set_exception_handler, loop.get_exception_handler())
        loop.set_exception_handler(_on_loop_error)
        core = await stack.enter_async_context(open_core(settings, state, clock))
        core.metrics.register(stack.enter_context(Watchdog()))
        renewal = Renewal(core.tls.renew, lambda: core.authority.ends, clock=clock, background=core.background)
        core.metrics.register(await stack.enter_async_context(renewal))
        kept = settings.store
        await stack.enter_async_context(
            Retention(
                core.store,
                kept.keep_days,
                clock=core.clocks.expires_by,
                quarantine_bytes=kept.quarantine_bytes,
                background=core.background,
            )
        )
        if core.mover is not None:
            core.mover.start()
        if seals(settings):
            core.sealer.start()
        if available():
            core.datasets.start()
        core.devices.start()
        core.lifecycle.start()
        api = HttpServer(create_api(core), bind=http_bind, closing=core.tail.close, proxies=settings.http.proxies)
        http = await stack.enter_async_context(api)
        for config in (*sources, *map(_source, settings.source)):
            source = MqttSource(
                config,
                core.pipeline,
                core.ledger,
                core.streams.streams,
                core.clocks.wall,
                background=core.background,
                seen=core.seen,
            )
            core.sources.append(await stack.enter_async_context(source))
        found = await stack.enter_async_context(serving_mqtt(core)) if mqtt else {}
        if settings.http.https_bind:
            found = {**found, "https": await stack.enter_async_context(serving_devices(core))}
        await stack.enter_async_context(
            SysTopics(
                core.broker.engine,
                __version__,
                settings.mqtt.sys_seconds,
                core.clocks.elapsed,
                core.background,
            )
        )
        mqtts = {"mqtts": found.pop("mqtts")} if "mqtts" in found else {}
        at = {"http": http.address} if http.address is not None else {}
        addresses = Addresses({**mqtts, **at, **found})
        about = {"pid": os.getpid(), **addresses.by_scheme()}
        write_private(state.server_file, json.dumps(about).encode() + b"\n")
        stack.callback(state.server_file.unlink, missing_ok=True)
        gc.freeze()  # looking for garbage among 100,000 devices takes 130 ms
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
    clock: Clock = now_us,
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called when everything listens. A second signal does not wait.

    Nothing is opened before the clock is believed.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    this = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and this is not None:
            this.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        if not await _clock_is_set(clock, stop):
            return
        async with serving(settings, state, mqtt=mqtt, sources=sources, clock=clock) as (core, addresses):

            def on_hangup() -> None:
                if log_file is not None:
                    log_file.reopen()
                core.tls.try_reload()

            loop.add_signal_handler(signal.SIGHUP, on_hangup)
            ready(addresses)
            await stop.wait()
    log.info("stopped")


async def _clock_is_set(clock: Clock, stop: asyncio.Event) -> bool:
    """Wait until the clock is believed: certificates and messages would be of a wrong time. False: it is to stop."""
    if not is_believed(clock()):
        log.error("waiting for the clock to be set: nothing is served until then", problem=clock_problem(clock()))
        while not stop.is_set() and not is_believed(clock()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _CLOCK_SECONDS)
        log.info("the clock is set" if is_believed(clock()) else "stopped before the clock was set")
    return not stop.is_set()


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handshakes that fail are counted and logged by the listener: here only what nobody expects."""
    if context.get("message") != "SSL handshake failed":
        loop.default_exception_handler(context)


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
        source.retained,
    )
