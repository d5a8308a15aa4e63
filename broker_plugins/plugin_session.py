"""What amqtt's plugins know a connection or a kept session as: a light stand-in for amqtt's Session."""

from collections import OrderedDict
from typing import Any

from amqtt.session import Session

from broker_plugins.engine.connection import Connection
from broker_plugins.engine.engine import Engine
from broker_plugins.engine.message import Message


class _State:
    """As far as plugins look at the state machine of a session."""

    __slots__ = ("state",)

    def __init__(self, state: str) -> None:
        self.state = state

    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self.state == "connected"

    def is_disconnected(self) -> bool:
        """Whether there is none."""
        return self.state == "disconnected"

    def connect(self) -> None:
        """Be connected."""
        self.state = "connected"

    def disconnect(self) -> None:
        """Be disconnected."""
        self.state = "disconnected"


class PluginSession(Session):
    """Has amqtt's attributes without its state machine and queues. One for the life of a connection."""

    def __init__(self, client_id: str, *, connected: bool) -> None:
        # amqtt's own constructor makes a state machine and two queues a session, which nobody here uses.
        self.transitions: Any = _State("connected" if connected else "disconnected")
        self.client_id = client_id
        self.remote_address = self.remote_port = None
        self.clean_session = None
        self.will_flag = False
        self.will_message = self.will_qos = self.will_retain = self.will_topic = None
        self.keep_alive = self.publish_retry_delay = self.parent = self._packet_id = 0
        self.broker_uri = self.username = self.password = self.cafile = self.capath = self.cadata = None
        self.last_connect_time = self.last_disconnect_time = self.ssl_object = None
        self.attributes = {}
        self.inflight_out = OrderedDict()
        self.inflight_in = OrderedDict()
        self.is_anonymous = False

    @property
    def retained_messages_count(self) -> int:
        """What amqtt calls for messages that wait for a client without a connection."""
        return 0

    def clear_queues(self) -> None:
        """There are none."""


def session_of(connection: Connection) -> PluginSession:
    """The stand-in of a connection, made when somebody asks for the first time."""
    found = connection.plugin_session
    if not isinstance(found, PluginSession):
        found = connection.plugin_session = _made(connection)
    return found


def publisher_of(engine: Engine, message: Message) -> PluginSession | None:
    """The session that a message came from, with a connection or not any more; None: it is the server's own."""
    if not message.sender:
        return None
    connection = engine.connections.get(message.sender)
    return PluginSession(message.sender, connected=False) if connection is None else session_of(connection)


def _made(connection: Connection) -> PluginSession:
    made, packet = PluginSession(connection.client_id, connected=True), connection.connect
    made.remote_address, made.remote_port = connection.peer.host, connection.peer.port
    if connection.transport is not None:
        made.ssl_object = connection.transport.get_extra_info("ssl_object")
    if packet is not None:
        made.client_id = connection.client_id or packet.client_id
        made.clean_session, made.keep_alive, made.username = packet.clean_start, packet.keep_alive, packet.username
        if packet.password is not None:
            made.password = packet.password.decode("utf-8", "replace")
        if packet.will is not None:
            made.will_flag = True
            made.will_topic, made.will_message = packet.will.topic, packet.will.payload
            made.will_qos, made.will_retain = packet.will.qos, packet.will.retain
    return made
