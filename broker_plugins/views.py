"""The engine's state in the shapes that amqtt's BrokerContext and plugins read and write."""

from collections.abc import Iterator, MutableMapping
from typing import Any

from amqtt.broker import RetainedApplicationMessage
from amqtt.session import Session as AmqttSession

from broker_plugins.engine.engine import Engine
from broker_plugins.engine.message import Message
from broker_plugins.packet_view import retained_of
from broker_plugins.plugin_session import PluginSession, publisher_of, session_of


class SessionsView(MutableMapping[str, tuple[AmqttSession, Any]]):
    """Client id -> (session as plugins know it, None: there are no protocol handlers here)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getitem__(self, client_id: str) -> tuple[AmqttSession, Any]:
        connection = self._engine.connections.get(client_id)
        if connection is not None:
            return session_of(connection), None
        if client_id not in self._engine.sessions.by_client_id:
            raise KeyError(client_id)
        return PluginSession(client_id, connected=False), None

    def __setitem__(self, client_id: str, value: tuple[AmqttSession, Any]) -> None:
        """Amqtt's context puts in what create_offline_session made: it is here already."""

    def __delitem__(self, client_id: str) -> None:
        self._engine.sessions.close(self._engine.sessions.by_client_id[client_id])

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._engine.sessions.by_client_id))

    def __len__(self) -> int:
        return len(self._engine.sessions.by_client_id)

    def clear(self) -> None:
        """Amqtt clears at every start: what is durable stays."""


class SubscriptionsView(MutableMapping[str, list[tuple[AmqttSession, int]]]):
    """Topic filter -> [(session, QoS)], put together when somebody looks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _all(self) -> dict[str, list[tuple[AmqttSession, int]]]:
        found: dict[str, list[tuple[AmqttSession, int]]] = {}
        sessions = SessionsView(self._engine)
        for client_id, session in self._engine.sessions.by_client_id.items():
            for topic_filter, granted in session.subscriptions.items():
                found.setdefault(topic_filter, []).append((sessions[client_id][0], granted.options.qos))
        return found

    def __getitem__(self, topic_filter: str) -> list[tuple[AmqttSession, int]]:
        return self._all()[topic_filter]

    def __setitem__(self, topic_filter: str, value: list[tuple[AmqttSession, int]]) -> None:
        raise TypeError("subscriptions are added with BrokerContext.add_subscription")

    def __delitem__(self, topic_filter: str) -> None:
        for session in list(self._engine.sessions.by_client_id.values()):
            self._engine.sessions.unsubscribe(session, topic_filter)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def clear(self) -> None:
        """As in SessionsView."""


class RetainedView(MutableMapping[str, RetainedApplicationMessage]):
    """Topic -> retained message."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getitem__(self, topic: str) -> RetainedApplicationMessage:
        message = self._engine.retained.by_topic[topic]
        return retained_of(message, publisher_of(self._engine, message))

    def __setitem__(self, topic: str, value: RetainedApplicationMessage) -> None:
        sender = (value.source_session.client_id or "") if value.source_session is not None else ""
        self._engine.retain(Message(topic, bytes(value.data), value.qos or 0, retain=True, sender=sender))

    def __delitem__(self, topic: str) -> None:
        if topic not in self._engine.retained.by_topic:
            raise KeyError(topic)
        self._engine.clear_retained(topic)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._engine.retained.by_topic))

    def __len__(self) -> int:
        return len(self._engine.retained)

    def clear(self) -> None:
        """As in SessionsView."""
