"""How a plugin finds the services: given by our program, or opened for a stock broker from a state folder.

Plugins of one stock broker share one set of services, which lives as long as that broker.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from amqtt.plugins.base import BasePlugin

from broker_plugins.connections import Connects
from broker_plugins.refusals import Refusals
from broker_plugins.services import Services
from fleet.errors import FleetError
from fleet.identity import Rules, Source
from fleet.policy.decisions import Decisions
from fleet.policy.service import Policies
from fleet.registry import Groups, Registry, Types
from fleet.state import StateFolder, StateLock
from ingester.decode import Limits
from ingester.errors import IngestError
from ingester.ingest_log import IngestLog
from ingester.ledger import Ledger
from ingester.pipeline import Pipeline
from ingester.sqlite import SqliteStore
from ingester.tail import Tail

log = structlog.get_logger("fleetgate.mqtt")


@dataclass
class AttachedConfig:
    """Configuration that all plugins of this package share."""

    state: str = "./var"
    """In a stock broker: the state folder that `fleetgate init` made."""
    identity_source: str = "san_uri"
    """In a stock broker: as the setting identity.source."""
    trust_domain: str = "fleetgate.local"
    """In a stock broker: as the setting identity.trust_domain."""
    services: Any = None
    """In our program: the services, which are then not opened from `state`."""


class Attached(BasePlugin[Any]):
    """A plugin with services. Without them (not started, or the state can't be opened) every hook means no."""

    Config = AttachedConfig  # type: ignore[assignment]  # amqtt declares a class of its own here

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        given = self.config.services
        self.services: Services | None = given if isinstance(given, Services) else None
        self._shared: SharedServices | None = None

    async def on_broker_pre_start(self) -> None:
        """Open the services in a stock broker. amqtt would lose an exception; a broker without services denies all."""
        if self.services is not None:
            return
        self._shared = SharedServices.of_broker(self.context)
        try:
            self.services = await self._shared.open(self.config)
        except (FleetError, IngestError, ValueError) as error:
            log.error("not started, everybody will be refused", error=str(error))

    async def close(self) -> None:
        """Let go of services opened here; the last plugin's close drains and closes them."""
        if self._shared is not None:
            self.services = None
            await self._shared.release()


class SharedServices:
    """One set of services for all plugins of one stock broker."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._users = 0
        self._stack = AsyncExitStack()
        self._services: Services | None = None

    @classmethod
    def of_broker(cls, context: Any) -> "SharedServices":
        """Find or make the set that belongs to this plugin context's broker."""
        # The broker is the only thing that the contexts of its plugins have in common: tests/contracts.
        broker = context._broker_instance  # noqa: SLF001
        found = getattr(broker, "fleetgate_services", None)
        if found is None:
            found = broker.fleetgate_services = cls()
        return found if isinstance(found, cls) else cls()

    async def open(self, config: AttachedConfig) -> Services:
        """Open the state folder, by the first plugin's configuration."""
        async with self._lock:
            self._users += 1
            if self._services is None:
                async with AsyncExitStack() as stack:
                    self._services = await _open(stack, config)
                    self._stack = stack.pop_all()
            return self._services

    async def release(self) -> None:
        """One plugin is done."""
        async with self._lock:
            self._users -= 1
            if self._users <= 0:
                self._services = None
                await self._stack.aclose()


async def _open(stack: AsyncExitStack, config: AttachedConfig) -> Services:
    state = StateFolder(Path(config.state))
    stack.enter_context(StateLock(state))
    registry = await stack.enter_async_context(Registry(state.fleet_db))
    store = await stack.enter_async_context(SqliteStore(state.telemetry))
    ledger = Ledger()
    tail = Tail(Limits())
    pipeline = await stack.enter_async_context(Pipeline(store, ledger, taps=[IngestLog().committed]))
    rules = Rules(Source(config.identity_source), config.trust_domain)
    policies, decisions = await _policies(stack, registry)
    return Services(registry, policies, decisions, pipeline, ledger, Connects(ledger), Refusals(tail), rules)


async def _policies(stack: AsyncExitStack, registry: Registry) -> tuple[Policies, Decisions]:
    """Policies of a registry where nothing else needs types and groups."""
    groups = await stack.enter_async_context(Groups(registry))
    types = await stack.enter_async_context(Types(registry.database))
    decisions = await stack.enter_async_context(Decisions(registry.database))
    return await stack.enter_async_context(Policies(registry, groups, types, decisions)), decisions
