"""amqtt's Broker around our engine: its configuration, plugins, events and context, and none of its protocol."""

import asyncio
import logging
from contextlib import AsyncExitStack
from enum import Enum
from pathlib import Path
from typing import Any, Self, get_type_hints

import structlog
from amqtt.adapters import ReaderAdapter, StreamReaderAdapter, StreamWriterAdapter, WebSocketsWriter, WriterAdapter
from amqtt.broker import Broker as AmqttBroker
from amqtt.contexts import Action, BrokerConfig
from amqtt.errors import BrokerError, PluginError, PluginLoadError
from amqtt.events import BrokerEvents, Events
from amqtt.session import Session as AmqttSession
from amqtt.utils import import_string

from broker_plugins.adapters import WebSocketReader, serve_stream
from broker_plugins.dispatcher import Dispatcher
from broker_plugins.engine.engine import Engine
from broker_plugins.engine.limits import Limits
from broker_plugins.engine.listener import Listener
from broker_plugins.engine.message import Message
from broker_plugins.engine.packets import Subscription
from broker_plugins.engine.reasons import Reason
from broker_plugins.engine.session import Session
from broker_plugins.engine.topics import why_invalid
from broker_plugins.errors import BrokerStartError, PluginRefusedError
from broker_plugins.hooks import PluginHooks
from broker_plugins.plugin_session import PluginSession
from broker_plugins.services import Services
from broker_plugins.views import RetainedView, SessionsView, SubscriptionsView
from ingester.clock import steady
from ingester.store import TelemetryStore

log = structlog.get_logger("fleetgate.mqtt")

OURS = (
    "broker_plugins.auth.CertificateAuthPlugin",
    "broker_plugins.acl.TopicRightsPlugin",
    "broker_plugins.ingest.IngestPlugin",
    "broker_plugins.presence.PresencePlugin",
)
_REFUSED = ("amqtt.contrib.persistence", "amqtt.plugins.persistence")
_FAILED = 0x80
_DRAIN_SECONDS = 2.0
_AS_SUBSCRIBED = 2
"""amqtt's None for the QoS of a message: each subscriber gets it with the QoS of its subscription."""


class Broker(AmqttBroker):
    """Takes amqtt's arguments, and what the engine needs. An async context manager: while it is open the engine's state
    is; `start` and `shutdown` are amqtt's and decide whether it listens.

    `plugins` of the configuration are loaded besides ours, and can only narrow what ours permit. Raises
    PluginRefusedError for one that would keep sessions: the engine does.
    """

    def __init__(
        self,
        config: BrokerConfig | dict[str, Any] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        plugin_namespace: str | None = None,
        *,
        services: Services,
        store: TelemetryStore,
        path: Path,
        limits: Limits | None = None,
    ) -> None:
        try:
            super().__init__(_with_ours(config, services), loop, plugin_namespace)
        except (PluginError, PluginLoadError) as error:
            cause = error.__cause__ or error.__context__
            raise PluginRefusedError(f"mqtt.plugins: {': '.join(filter(None, (str(error), str(cause))))}") from error
        hooks = PluginHooks(self.plugins_manager.plugins, services)
        self._hooks = hooks
        self.engine = Engine(
            path,
            hooks,
            services.pipeline,
            store,
            services.ledger,
            services.streams,
            limits,
            services.clock,
            steady(services.elapsed()),
        )
        # What BrokerContext and plugins read and write: tests/contracts holds these names.
        self._sessions = SessionsView(self.engine)  # type: ignore[assignment]
        self._subscriptions = SubscriptionsView(self.engine)  # type: ignore[assignment]
        self._retained_messages = RetainedView(self.engine)  # type: ignore[assignment]
        # amqtt's manager loses what a hook raises.
        self.plugins_manager.fire_event = self._fire_event  # type: ignore[method-assign]
        self._listening = AsyncExitStack()
        self.listeners: list[Listener] = []
        """To be set before `start`."""

    @property
    def dispatcher(self) -> Dispatcher:
        """What plugins are told of events by."""
        return self._hooks.dispatcher

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.__aexit__()

    async def start(self) -> None:
        """Fire amqtt's events, and listen. Raises BrokerStartError."""
        amqtts = logging.getLogger("amqtt.broker")
        amqtts.addFilter(_is_unknown)
        try:
            await super().start()
        except BrokerError as error:
            cause = error.__context__ or error
            raise BrokerStartError(str(cause)) from error
        finally:
            amqtts.removeFilter(_is_unknown)

    async def _start_listeners(self) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._hooks.dispatcher)
            for listener in self.listeners:
                await stack.enter_async_context(listener)
            self._listening = stack.pop_all()

    async def shutdown(self) -> None:
        """Stop accepting, take nothing more, see what was taken into the store and acknowledged, close.

        amqtt's events come in amqtt's order.
        """
        await self.plugins_manager.fire_event(BrokerEvents.PRE_SHUTDOWN, wait=True)
        self.transitions.shutdown()
        try:
            for listener in self.listeners:
                await listener.stop_accepting()
            await self.engine.drain()
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self.engine.settled()
            except TimeoutError:
                log.error("not drained: what is not committed stays unacknowledged")
        finally:  # a second signal interrupts what is before
            await self.engine.close_all(Reason.SERVER_SHUTTING_DOWN)
            await self._listening.aclose()
        await self.plugins_manager.fire_event(BrokerEvents.POST_SHUTDOWN, wait=True)
        await self.plugins_manager.close()
        for task in (self._broadcast_task, self._session_monitor_task):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self.transitions.stopping_success()

    async def _broadcast_loop(self) -> None:
        """The engine delivers."""

    async def _session_monitor(self) -> None:
        """The engine's wheel expires sessions."""

    async def external_connected(self, reader: ReaderAdapter, writer: WriterAdapter, listener_name: str) -> None:
        """Serve a byte stream that somebody else accepted, until it ends. Without a client certificate the plugins of
        the configuration alone decide.
        """
        await serve_stream(self.engine, reader, writer, listener_name)

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """As external_connected, for asyncio's streams."""
        await self.external_connected(StreamReaderAdapter(reader), StreamWriterAdapter(writer), listener_name)

    async def ws_connected(self, websocket: Any, listener_name: str) -> None:
        """As external_connected, for a connection of the websockets library."""
        await self.external_connected(WebSocketReader(websocket), WebSocketsWriter(websocket), listener_name)

    async def internal_message_broadcast(self, topic: str, data: bytes, qos: int | None = None) -> None:
        """A message of the server's or a plugin's own."""
        await self.engine.broadcast(Message(topic, bytes(data), _AS_SUBSCRIBED if qos is None else qos))

    async def retain_message(
        self,
        source_session: AmqttSession | None,
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Retain a message, or with no data forget the topic's."""
        if topic_name:
            sender = (source_session.client_id or "") if source_session is not None else ""
            self.engine.retain(Message(topic_name, bytes(data or b""), qos or 0, retain=True, sender=sender))

    async def add_subscription(self, subscription: tuple[str, int], session: AmqttSession) -> int:
        """Subscribe a client to a filter it has the right to: the QoS granted, or 0x80."""
        topic_filter, qos = subscription
        found = self.engine.sessions.by_client_id.get(session.client_id or "")
        if found is None or why_invalid(topic_filter, self.engine.limits.levels) is not None:
            return _FAILED
        rights = self.engine.rights_of(found)
        if rights is None or not rights.may_subscribe(topic_filter):
            return _FAILED
        if self._hooks.checks_topics and not await self._hooks.agrees(
            found.outlet, found.client_id, topic_filter, Action.SUBSCRIBE.value
        ):
            return _FAILED
        self.engine.sessions.subscribe(found, Subscription(topic_filter, qos), 0)
        return qos

    def create_offline_session(self, client_id: str) -> tuple[Any, AmqttSession]:
        """Make a session that is kept for a client that is not connected."""
        owner = self._hooks.owner_of(client_id)
        session, _present = self.engine.sessions.open(
            client_id, owner, clean=False, expiry=self.engine.limits.session_seconds
        )
        self._end_unless_connected(session)
        return None, PluginSession(client_id, connected=False)

    def _end_unless_connected(self, session: Session) -> None:
        if session.outlet is None:
            self.engine.sessions.detach(session)

    async def _fire_event(self, event_name: Events, *, wait: bool = False, **values: Any) -> None:  # noqa: ARG002
        # amqtt's private name: where its manager keeps the hooks by event.
        for hook in self.plugins_manager._event_plugin_callbacks.get(event_name, ()):  # noqa: SLF001
            try:
                await hook(**values)
            except Exception:
                # Supervision point: a plugin's fault is logged and counted, and stops nobody.
                self._hooks.dispatcher.failures += 1
                log.exception("plugin failed", hook=getattr(hook, "__qualname__", repr(hook)), on=str(event_name))


def _is_unknown(record: logging.LogRecord) -> bool:
    """False for a log line about an address that can't be listened on: BrokerStartError says so, without traceback."""
    return record.exc_info is None or not isinstance(record.exc_info[1], OSError)


def _with_ours(config: BrokerConfig | dict[str, Any] | None, services: Services) -> dict[str, Any]:
    given = config if isinstance(config, dict) else {}
    for key in ("auth", "topic-check", "topic_check"):
        if given.get(key) or getattr(config, key, None):
            raise PluginRefusedError(
                f"{key}: plugins are listed in `plugins` by their dotted path, with their settings"
            )
    plugins = given.get("plugins") or {}
    if isinstance(config, BrokerConfig):
        plugins = config.plugins or {}
    if isinstance(plugins, list):
        plugins = {
            name: values
            for entry in plugins
            for name, values in (entry.items() if isinstance(entry, dict) else [(entry, {})])
        }
    for name in plugins:
        if name.startswith(_REFUSED):
            raise PluginRefusedError(f"plugin {name}: sessions and retained messages are kept by the engine already")
    listeners = given.get("listeners") or {"default": {"type": "external"}}
    ours = {name: {"services": services} for name in OURS}
    return {"listeners": listeners, "plugins": {**ours, **{name: _chosen(name, plugins[name]) for name in plugins}}}


def _chosen(name: str, given: Any) -> Any:
    """A plugin's settings with members of its enumerations, which amqtt wants as such, where they came as text."""
    try:
        kinds = get_type_hints(import_string(name).Config)
    except (ImportError, AttributeError, TypeError, NameError):  # amqtt says what is wrong
        return given
    if not isinstance(given, dict):
        return given
    found = dict(given)
    for key, kind in kinds.items():
        if isinstance(found.get(key), str) and isinstance(kind, type) and issubclass(kind, Enum):
            try:
                found[key] = kind(found[key])
            except ValueError as error:
                known = ", ".join(str(member.value) for member in kind)
                raise PluginRefusedError(f"mqtt.plugins: {name}: {key}: {error}; known are {known}") from None
    return found
