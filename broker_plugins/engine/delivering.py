"""A delivery as the PUBLISH that its client gets: with what it takes, and no larger than it takes."""

from typing import TYPE_CHECKING

from broker_plugins.engine.message import Delivery
from broker_plugins.engine.packets import V5, Publish, encode
from broker_plugins.engine.properties import Properties
from broker_plugins.engine.topics import seconds_left

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
    data = connection.encoded(packet)
    if data is None:
        return False
    if connection.max_aliases_out:
        data = _aliased(connection, packet, data)
    connection.send(data)
    connection.messages_out += 1
    if connection.traced or connection.engine.observed:
        connection.engine.saw(connection, "out", packet)
    return True


def _properties(connection: "Connection", delivery: Delivery) -> Properties:
    message = delivery.message
    properties = dict(message.properties)
    if message.expires is not None:
        properties["message_expiry_interval"] = seconds_left(message.expires, connection.engine.steady())
    if delivery.identifiers:
        properties["subscription_identifier"] = list(delivery.identifiers)
    return properties


def _aliased(connection: "Connection", packet: Publish, plain: bytes) -> bytes:
    """The packet by its topic's alias, or with a new one; `plain`, as it is, where the client would not take that."""
    aliases, most = connection.aliases_out, connection.client_max_packet
    if aliases is None:
        aliases = connection.aliases_out = {}
    alias = aliases.get(packet.topic)
    if alias is None and len(aliases) >= connection.max_aliases_out:
        return plain
    topic = packet.topic if alias is None else ""
    number = alias or len(aliases) + 1
    data = encode(_with_alias(packet, topic, number), V5)
    if most and len(data) > most:
        return plain
    aliases[packet.topic] = number
    return data


def _with_alias(packet: Publish, topic: str, alias: int) -> Publish:
    properties = {**packet.properties, "topic_alias": alias}
    return Publish(topic, packet.payload, packet.qos, packet.retain, packet.dup, packet.packet_id, properties)
