"""The parts of the program without its sockets: what the API and the commands work on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector

from broker_plugins.connections import Connects
from fleet.authority import Authority
from fleet.identity import Rules
from fleet.registry import Registry
from fleet.state import StateFolder, StateLock
from fleetgate.settings import Settings
from ingester.decode import Limits
from ingester.device_series import DeviceSeries
from ingester.ingest_log import IngestLog
from ingester.ledger import Ledger
from ingester.metrics import Exposition, IngestCollector
from ingester.pipeline import Bounds, Pipeline
from ingester.source_mqtt import MqttSource
from ingester.sqlite import SqliteStore
from ingester.tail import Tail


@dataclass(frozen=True)
class Core:
    """Everything but the sockets: what the API and the commands work on."""

    settings: Settings
    state: StateFolder
    authority: Authority
    rules: Rules
    registry: Registry
    store: SqliteStore
    ledger: Ledger
    pipeline: Pipeline
    tail: Tail
    connects: Connects
    limits: Limits
    metrics: CollectorRegistry
    exposition: Exposition
    sources: list[MqttSource]

    def not_ready(self) -> str | None:
        """Why nothing should be sent here now; None when all is well."""
        failing = self.pipeline.failing
        return None if failing is None else f"the store can't write: {failing}"


@asynccontextmanager
async def open_core(settings: Settings, state: StateFolder) -> AsyncIterator[Core]:
    """Take ownership of a state folder and open what is in it; it is made when it is missing."""
    async with AsyncExitStack() as stack:
        stack.enter_context(StateLock(state))
        authority = await asyncio.to_thread(make_authority, settings, state)
        registry = await stack.enter_async_context(Registry(state.fleet_db))
        store = await stack.enter_async_context(SqliteStore(state.telemetry))
        limits = Limits(settings.ingest.max_payload_bytes, settings.ingest.max_depth)
        ledger, tail = Ledger(), Tail(limits)
        pipeline = await stack.enter_async_context(
            Pipeline(
                store, ledger, bounds=_bounds(settings), limits=limits, taps=[IngestLog().committed, tail.committed]
            )
        )
        connects = Connects(ledger)
        series = DeviceSeries(ledger, settings.metrics.max_devices, int(settings.metrics.stale_after * 1e6))
        sources: list[MqttSource] = []
        metrics = CollectorRegistry()
        metrics.register(IngestCollector(ledger, pipeline, store, series, sources))
        metrics.register(connects)
        ProcessCollector(registry=metrics)
        yield Core(
            settings,
            state,
            authority,
            Rules(settings.identity.source, settings.identity.trust_domain),
            registry,
            store,
            ledger,
            pipeline,
            tail,
            connects,
            limits,
            metrics,
            Exposition(metrics, series),
            sources,
        )


def make_authority(settings: Settings, state: StateFolder) -> Authority:
    """Open or make the certificate authority, and the server's certificate."""
    authority = Authority(
        state.pki, settings.identity.trust_domain, settings.authority.device_days, settings.identity.source
    )
    authority.ensure_server(settings.tls.names)
    return authority


def _bounds(settings: Settings) -> Bounds:
    ingest = settings.ingest
    return Bounds(
        ingest.batch_rows, ingest.batch_bytes, ingest.batch_age_ms / 1000, ingest.queue_messages, ingest.queue_bytes
    )
