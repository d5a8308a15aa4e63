"""A delivery as the PUBLISH that its client gets: with what it takes, and no larger than it takes."""

from typing import TYPE_CHECKING

from broker_plugins.engine.message import Delivery
from broker_plugins.engine.packets import V5, Publish, encode
from broker_plugins.engine.properties import Properties

if TYPE_CHECKING:
    from broker_plugins.engine.connection import Connection


def deliver(connection: "Connection", delivery: Delivery, *, again: bool) -> bool:
    """Send one; `again` sets DUP. False when it is larger than the client takes [MQTT-3.1.2-24]."""
    message = delivery.message
    packet = Publish(
        message.topic,
        message.payload,
        delivery.qos,
        delivery.retain,
        again and delivery.qos > 0,
        delivery.packet_id,
    )
    if connection.version == V5:
        packet.properties = _properties(connection, delivery)
    data = encode(packet, connection.version)
    if connection.client_max_packet and len(data) > connection.client_max_packet:
        return False
    if connection.max_aliases_out:
        data = _aliased(connection, packet)
    connection.send(data)
    connection.messages_out += 1
    if connection.traced or connection.engine.observed:
        connection.engine.saw(connection, "out", packet)
    return True


def _properties(connection: "Connection", delivery: Delivery) -> Properties:
    message = delivery.message
    properties = dict(message.properties)
    if message.expires is not None:  # what is left of it [MQTT-3.3.2-6]
        properties["message_expiry_interval"] = max(0, (message.expires - connection.engine.steady()) // 1_000_000)
    if delivery.identifiers:
        properties["subscription_identifier"] = list(delivery.identifiers)
    return properties


def _aliased(connection: "Connection", packet: Publish) -> bytes:
    aliases = connection.aliases_out
    if aliases is None:
        aliases = connection.aliases_out = {}
    alias = aliases.get(packet.topic)
    if alias is not None:
        return encode(_with_alias(packet, "", alias), V5)
    if len(aliases) < connection.max_aliases_out:
        alias = aliases[packet.topic] = len(aliases) + 1
        data = encode(_with_alias(packet, packet.topic, alias), V5)
        if not connection.client_max_packet or len(data) <= connection.client_max_packet:
            return data
        del aliases[packet.topic]
    return encode(packet, V5)


def _with_alias(packet: Publish, topic: str, alias: int) -> Publish:
    properties = {**packet.properties, "topic_alias": alias}
    return Publish(topic, packet.payload, packet.qos, packet.retain, packet.dup, packet.packet_id, properties)
