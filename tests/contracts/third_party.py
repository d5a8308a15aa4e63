"""Plugins as somebody else would write them, one of each base class."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin
from amqtt.session import Session


class Way(StrEnum):
    """As in amqtt's plugin that asks over HTTP."""

    GET = "get"
    POST = "post"


class Asking(BasePlugin[Any]):
    """Has a choice in its settings."""

    @dataclass
    class Config:
        """How it asks."""

        way: Way = Way.GET


class Recorder(BasePlugin[Any]):
    """Writes down what it is told, in order."""

    seen: ClassVar[list[tuple[str, Any]]] = []
    retained_by: ClassVar[list[str]] = []

    async def on_broker_pre_start(self) -> None:
        self.seen.append(("pre_start", None))

    async def on_broker_post_start(self) -> None:
        self.seen.append(("post_start", None))

    async def on_broker_pre_shutdown(self) -> None:
        self.seen.append(("pre_shutdown", None))

    async def on_broker_post_shutdown(self) -> None:
        self.seen.append(("post_shutdown", None))

    async def on_broker_client_connected(self, *, client_id: str, client_session: Session) -> None:
        assert client_session.client_id == client_id
        self.seen.append(("connected", client_id))

    async def on_broker_client_disconnected(self, *, client_id: str, client_session: Session) -> None:
        self.seen.append(("disconnected", client_id))

    async def on_broker_client_subscribed(self, *, client_id: str, topic: str, qos: int) -> None:
        self.seen.append(("subscribed", (client_id, topic, qos)))

    async def on_broker_client_unsubscribed(self, *, client_id: str, topic: str) -> None:
        self.seen.append(("unsubscribed", (client_id, topic)))

    async def on_broker_message_received(self, *, client_id: str, message: Any) -> None:
        self.seen.append(("received", (client_id, message.topic, message.data, message.qos)))

    async def on_broker_message_broadcast(self, *, client_id: str, message: Any) -> None:
        self.seen.append(("broadcast", (client_id, message.topic)))

    async def on_broker_retained_message(self, *, client_id: str | None, retained_message: Any) -> None:
        if retained_message.source_session is not None:
            self.retained_by.append(retained_message.source_session.client_id)
        if client_id is not None:
            self.seen.append(("waits", (client_id, retained_message.topic)))
            return
        self.seen.append(("retained", (retained_message.topic, bytes(retained_message.data))))

    async def close(self) -> None:
        self.seen.append(("close", None))


class Packets(BasePlugin[Any]):
    """Writes down the packets of clients, in both directions."""

    seen: ClassVar[list[tuple[str, str, Any]]] = []

    async def on_mqtt_packet_received(self, *, packet: Any, session: Session | None = None) -> None:
        self.seen.append(("in", session.client_id, packet))

    async def on_mqtt_packet_sent(self, *, packet: Any, session: Session | None = None) -> None:
        self.seen.append(("out", session.client_id, packet))


class Failing(BasePlugin[Any]):
    """Every hook of it raises."""

    async def on_broker_pre_start(self) -> None:
        raise RuntimeError("pre_start fails")

    async def on_broker_client_connected(self, **_: Any) -> None:
        raise RuntimeError("connected fails")

    async def on_broker_message_received(self, **_: Any) -> None:
        raise RuntimeError("received fails")


class Names(BaseAuthPlugin):
    """Lets in those whose user name, or client id, it was given; remembers that on the session."""

    async def authenticate(self, *, session: Session) -> bool | None:
        if session.username == "nobody-knows":
            return None
        session.attributes["third.party"] = True
        return session.username in self.config.names or session.client_id in self.config.names

    @dataclass
    class Config:
        names: list[str] = field(default_factory=list)


class Raising(BaseAuthPlugin):
    """Fails."""

    async def authenticate(self, *, session: Session) -> bool | None:
        raise RuntimeError("auth fails")


class Narrow(BaseTopicPlugin):
    """Denies topics with a word in them, per action; sees the session that the auth plugin saw."""

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        if "fails" in (topic or ""):
            raise RuntimeError("topic check fails")
        return f"no-{action.value}" not in (topic or "")


class Everything(BaseTopicPlugin):
    """Says yes to everything."""

    async def topic_filtering(self, **_: Any) -> bool | None:
        return True
