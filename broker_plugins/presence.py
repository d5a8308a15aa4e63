"""Who is connected, and when a device was last there."""

from typing import Any
from urllib.parse import parse_qs

import structlog
from amqtt.session import Session

from broker_plugins.attached import Attached
from broker_plugins.auth import owner_of
from broker_plugins.engine.connection import Connection
from broker_plugins.engine.packets import V5, Connect
from broker_plugins.services import member_of
from fleet.identity import Kind

log = structlog.get_logger("fleetgate.mqtt")

_SOFTWARE = ("client", "client_version", "sdk", "sdk_version", "software", "version")
"""User properties of a CONNECT that say what the client is [MQTT 3.1.2.11.8]: their names are a custom."""
_QUERY = ("SDK", "Version", "Platform")
"""The same in the query that some SDKs make of the user name."""
_CHARACTERS = 128


class PresencePlugin(Attached):
    """Books connects and disconnects of those who were let in."""

    def opened(self, connection: Connection) -> None:
        """What our engine calls: a connection of a device or an application was let in."""
        principal = connection.admitted
        self.connected(principal.name, principal.owner)
        if self.services is not None and self.services.presence is not None and _is_device(principal.owner):
            self.services.presence.came(principal.name, about(connection))

    def ended(self, connection: Connection) -> None:
        """What our engine calls: it has ended."""
        principal = connection.admitted
        self.disconnected(principal.name)
        if self.services is not None and self.services.presence is not None and _is_device(principal.owner):
            details = {
                "reason": connection.ended_why,
                "client_id": principal.client_id,
                "messages_in": connection.messages_in,
                "messages_out": connection.messages_out,
            }
            self.services.presence.left(principal.name, details)

    def connected(self, name: str, owner: str) -> None:
        """A connection of this device or application was let in."""
        if self.services is not None:
            self.services.ledger.connected(name, self.services.clock())
            if _is_device(owner):
                self.services.registry.connected(name)

    def disconnected(self, name: str) -> None:
        """It has ended."""
        if self.services is not None:
            self.services.ledger.disconnected(name)

    async def on_broker_client_connected(self, *, client_id: str, client_session: Session) -> None:
        """A connection was let in."""
        if self.services is not None and (member := member_of(client_session)) is not None:
            self.connected(self.services.registry.account_of(member.kind, member.name), owner_of(member))
            log.debug("connected", device=member.name, client_id=client_id)

    async def on_broker_client_disconnected(self, *, client_id: str, client_session: Session) -> None:
        """A connection that was let in has ended."""
        if self.services is not None and (member := member_of(client_session)) is not None:
            self.disconnected(self.services.registry.account_of(member.kind, member.name))
            log.debug("disconnected", device=member.name, client_id=client_id)


def about(connection: Connection) -> dict[str, Any]:
    """What is known of a connection, as JSON values."""
    peer, packet = connection.peer, connection.connect
    found = {
        "client_id": connection.client_id,
        "address": peer.host,
        "port": peer.port,
        "listener": peer.listener,
        "protocol": "MQTT 5" if connection.version == V5 else "MQTT 3.1.1",
        "tls": peer.tls,
        "cipher": peer.cipher,
        "keep_alive": packet.keep_alive if packet is not None else 0,
    }
    software = _software(packet) if packet is not None else ""
    return {**found, "software": software} if software else found


def _software(packet: Connect) -> str:
    """What the client says that it is; empty: nothing."""
    said = dict(packet.properties.get("user_property", ()))
    parts = [str(said[name]) for name in _SOFTWARE if said.get(name)]
    query = (packet.username or "").partition("?")[2]
    if not parts and query:
        asked = parse_qs(query, max_num_fields=20, errors="replace")
        parts = [asked[name][0] for name in _QUERY if name in asked]
    text = " ".join(parts)[:_CHARACTERS]
    return "".join(character for character in text if character.isprintable())


def _is_device(owner: str) -> bool:
    return owner.partition(":")[0] == Kind.DEVICE
