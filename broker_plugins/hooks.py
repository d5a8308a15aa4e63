"""The engine's questions, answered by the plugins: ours first, then every other that is loaded has to agree."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

import structlog
from amqtt.contexts import Action
from amqtt.events import BrokerEvents, MQTTEvents
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin
from amqtt.session import Session

from broker_plugins.acl import TopicRightsPlugin
from broker_plugins.attached import Attached
from broker_plugins.auth import CertificateAuthPlugin, owner_of, owner_of_device
from broker_plugins.dispatcher import Dispatcher, Hook
from broker_plugins.engine.connection import Connection
from broker_plugins.engine.errors import Denied
from broker_plugins.engine.hooks import Candidate, Meter, Principal, Rights
from broker_plugins.packet_view import message_of, packet_of, retained_of
from broker_plugins.plugin_session import PluginSession, publisher_of, session_of
from broker_plugins.presence import PresencePlugin
from broker_plugins.requests import Requests
from broker_plugins.services import Services
from fleet.identity import Kind

log = structlog.get_logger("fleetgate.mqtt")

_PLAIN = "user:"
_ANONYMOUS = "anonymous:"
_ACTIONS = {"publish": Action.PUBLISH, "subscribe": Action.SUBSCRIBE, "receive": Action.RECEIVE}
_EVENTS = {str(event).removeprefix("broker_"): event for event in BrokerEvents} | {
    str(event).removeprefix("mqtt_"): event for event in MQTTEvents
}


class _Anything:
    """Rights where plugins alone decide."""

    def may_publish(self, topic: str) -> bool:  # noqa: ARG002
        """Whatever the plugins say."""
        return True

    def may_retain(self, topic: str) -> bool:  # noqa: ARG002
        """Whatever the plugins say."""
        return True

    def may_receive(self, topic: str) -> bool:  # noqa: ARG002
        """Whatever the plugins say."""
        return True

    def may_subscribe(self, requested: str) -> bool:  # noqa: ARG002
        """Whatever the plugins say."""
        return True


_ANYTHING = _Anything()


class PluginHooks:
    """Hooks of the engine over the loaded plugins.

    A connection with a certificate is judged by our plugins, and narrowed by all others. One without is judged by the
    others alone; when there is none that says yes, it is refused.
    """

    def __init__(self, plugins: Sequence[BasePlugin[Any]], services: Services) -> None:
        self._services = services
        self._requests = Requests(services)
        others = [plugin for plugin in plugins if not isinstance(plugin, Attached)]
        self._auth = [plugin for plugin in others if isinstance(plugin, BaseAuthPlugin)]
        self._topics = [plugin for plugin in others if isinstance(plugin, BaseTopicPlugin)]
        self._certificates = _only(plugins, CertificateAuthPlugin)
        self._rights = _only(plugins, TopicRightsPlugin)
        self._presence = _only(plugins, PresencePlugin)
        self.checks_topics = bool(self._topics)
        self.dispatcher = Dispatcher({name: hooks for name in _EVENTS if (hooks := _hooks(others, _EVENTS[name]))})

    def sees(self, event: str) -> bool:
        """See Hooks."""
        return event in {"client_connected", "client_disconnected"} or self.dispatcher.sees(event)

    async def admit(self, candidate: Candidate) -> Principal:
        """See Hooks."""
        if candidate.peer.certificate is not None:
            if self._certificates is None:
                raise Denied("failed", "no plugin judges certificates")
            principal: Principal = await self._certificates.admit(candidate)
            if self._auth:
                await self._agree(candidate, principal.client_id, principal.name)
            return principal
        if not self._auth:
            raise Denied("plugin", "no plugin lets anybody in without a certificate")
        client_id = candidate.connect.client_id or f"anonymous-{secrets.token_hex(8)}"
        session = await self._agree(candidate, client_id, client_id, alone=True)
        # Who gave a name and a password is known by the name; others are known by nothing but their client id.
        owner = f"{_PLAIN}{session.username}" if session.username else f"{_ANONYMOUS}{client_id}"
        device = self._services.registry.find(Kind.DEVICE, client_id)
        return Principal(owner, client_id if device is None else f"plain/{client_id}", _ANYTHING, client_id)

    def still(self, owner: str) -> Rights | None:
        """See Hooks."""
        if owner.startswith((_PLAIN, _ANONYMOUS)):
            return _ANYTHING
        return None if self._rights is None else self._rights.still(owner)

    def rejudge(self, candidate: Candidate) -> Rights | None:
        """See Hooks."""
        if candidate.peer.certificate is None:
            return _ANYTHING
        try:
            return None if self._certificates is None else self._certificates.rejudge(candidate)
        except Denied:
            return None

    def renew(self, candidate: Candidate, principal: Principal) -> Rights | None:
        """See Hooks."""
        if candidate.peer.certificate is None:
            return _ANYTHING
        return None if self._rights is None else self._rights.renew(candidate, principal)

    def meter(self, principal: Principal) -> Meter | None:
        """See Hooks."""
        quotas = self._services.quotas
        if quotas is None or principal.owner != owner_of_device(principal.name):
            return None
        return quotas.meter(principal.name)

    def serves(self, topic: str) -> bool:
        """See Hooks."""
        return self._requests.serves(topic)

    async def serve(
        self, candidate: Candidate, principal: Principal, topic: str, payload: bytes
    ) -> tuple[str, bytes] | None:
        """See Hooks."""
        return await self._requests.serve(candidate, principal, topic, payload)

    def owner_of(self, client_id: str) -> str:
        """See Hooks: the device of that name, else the application whose name it begins with, else nobody's."""
        find, name = self._services.registry.find, client_id.partition("/")[0]
        member = find(Kind.DEVICE, client_id) or find(Kind.APPLICATION, name)
        return f"{_ANONYMOUS}{client_id}" if member is None else owner_of(member)

    async def agrees(self, client: Any, client_id: str, topic: str, action: str) -> bool:
        """See Hooks."""
        session = session_of(client) if isinstance(client, Connection) else PluginSession(client_id, connected=False)
        for plugin in self._topics:
            try:
                # None denies, as it does in amqtt.
                if not await plugin.topic_filtering(session=session, topic=topic, action=_ACTIONS[action]):
                    return False
            except Exception:
                # Supervision point: a plugin's fault must not become an open door, nor end the broker.
                log.exception("topic plugin failed", plugin=type(plugin).__name__)
                return False
        return True

    def arrived(self) -> None:
        """See Hooks."""
        self._services.connects.arrived()

    def accepted(self) -> None:
        """See Hooks."""
        self._services.connects.accepted()

    def refused(self, what: str, name: str, why: str, detail: str, topic: str = "", peer: str = "") -> None:
        """See Hooks."""
        if what == "connect":
            self._services.connects.refused(why)
        elif what == "connection":
            self._services.connects.closed(why)
        self._services.refusals.refused(what, name, why, detail, topic=topic, peer=peer)

    def fire(self, event: str, **values: Any) -> None:
        """See Hooks."""
        connection = values.get("client")
        if event == "client_connected" and self._presence is not None and connection is not None:
            self._presence.opened(connection)
        if event == "client_disconnected" and self._presence is not None and connection is not None:
            self._presence.ended(connection)
        if event == "client_disconnected" and connection is not None and connection.plugin_session is not None:
            session_of(connection).transitions.disconnect()
        if self.dispatcher.sees(event):
            self.dispatcher.fire(event, **_arguments(event, values))

    async def _agree(self, candidate: Candidate, client_id: str, name: str, *, alone: bool = False) -> Session:
        session = session_of(candidate.client)
        session.client_id = client_id
        answers = []
        for plugin in self._auth:
            try:
                answers.append(await plugin.authenticate(session=session))
            except Exception as error:
                # Supervision point: as above.
                log.exception("auth plugin failed", plugin=type(plugin).__name__)
                raise Denied("failed", f"{type(plugin).__name__} failed", name=name) from error
        given = [answer for answer in answers if answer is not None]
        if not all(given) or (alone and not given):
            # As other brokers answer a wrong password: 0x87, and 5 in 3.1.1. The answer gives a guesser nothing else.
            raise Denied("plugin", "the plugins do not let it in", name=name)
        return session


def _arguments(event: str, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of amqtt's hook of the same name."""
    client = values.get("client")
    if event == "retained_message":
        message = values["message"]
        source = publisher_of(values["engine"], message)
        retained = retained_of(message, source, cleared=values["cleared"])
        return {"client_id": values.get("client_id"), "retained_message": retained}
    if event in {"packet_received", "packet_sent"}:
        return {"packet": packet_of(values["packet"]), "session": session_of(client) if client is not None else None}
    if not isinstance(client, Connection):
        raise TypeError(f"{event} is a connection's")
    found: dict[str, Any] = {"client_id": client.client_id}
    if event in {"client_connected", "client_disconnected"}:
        found["client_session"] = session_of(client)
    elif event in {"message_received", "message_broadcast"}:
        found["message"] = message_of(values["packet"])
    else:
        found |= {name: values[name] for name in ("topic", "qos") if name in values}
    return found


def _hooks(plugins: Sequence[BasePlugin[Any]], event: str) -> list[Hook]:
    found = (getattr(plugin, f"on_{event}", None) for plugin in plugins)
    return [hook for hook in found if asyncio.iscoroutinefunction(hook)]


def _only(plugins: Sequence[BasePlugin[Any]], kind: type[Any]) -> Any:
    return next((plugin for plugin in plugins if isinstance(plugin, kind)), None)
