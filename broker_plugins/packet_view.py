"""Packets and messages of the engine as amqtt's objects, for plugins that look at them."""

from typing import Any

from amqtt.broker import RetainedApplicationMessage
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket, ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.pingreq import PingReqPacket
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.pubcomp import PubcompPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.pubrec import PubrecPacket
from amqtt.mqtt.pubrel import PubrelPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsuback import UnsubackPacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket
from amqtt.session import IncomingApplicationMessage, Session

from broker_plugins.engine.message import Message
from broker_plugins.engine.packets import (
    V311,
    Ack,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    encode,
    frame,
)

_ACKS: dict[Kind, Any] = {
    Kind.PUBACK: PubackPacket,
    Kind.PUBREC: PubrecPacket,
    Kind.PUBREL: PubrelPacket,
    Kind.PUBCOMP: PubcompPacket,
}


def packet_of(packet: Packet) -> Any:
    """As one of amqtt's packets; those know 3.1.1 only, so properties are left out, and failures are 0x80."""
    made = _made(packet)
    header: MQTTFixedHeader = made.fixed_header
    if (found := frame(encode(packet, V311))) is not None:
        header.remaining_length = found[2] - found[1]
    return made


def _made(packet: Packet) -> Any:  # noqa: C901, PLR0911 - a table of packets
    match packet:
        case Publish():
            return _publish(packet)
        case Connect():
            return _connect(packet)
        case Ack(kind, packet_id):
            return _ACKS[kind].build(packet_id)
        case Subscribe(packet_id, subscriptions):
            return SubscribePacket.build([(entry.topic_filter, entry.qos) for entry in subscriptions], packet_id)
        case Suback(packet_id, reasons):
            return SubackPacket.build(packet_id, [min(reason, 0x80) for reason in reasons])
        case Unsubscribe(packet_id, topic_filters):
            return UnsubscribePacket.build(topic_filters, packet_id)
        case Unsuback(packet_id):
            return UnsubackPacket.build(packet_id)
        case Pingreq():
            return PingReqPacket()
        case Pingresp():
            return PingRespPacket.build()
        case Connack(session_present, reason):
            return ConnackPacket.build(session_present, reason)
        case Disconnect():
            return DisconnectPacket()
        case _:
            raise TypeError(f"amqtt has no {type(packet).__name__}")


def _publish(packet: Publish) -> PublishPacket:
    return PublishPacket.build(
        packet.topic, packet.payload, packet.packet_id or None, packet.dup, packet.qos, packet.retain
    )


def _connect(packet: Connect) -> ConnectPacket:
    """Without the password: loggers write down what they see, and auth plugins find it on the session."""
    header, will = ConnectVariableHeader(keep_alive=packet.keep_alive, proto_level=packet.version), packet.will
    header.clean_session_flag = packet.clean_start
    header.username_flag, header.password_flag = packet.username is not None, packet.password is not None
    payload = ConnectPayload(packet.client_id, username=packet.username)
    if will is not None:
        header.will_flag, header.will_qos, header.will_retain_flag = True, will.qos, will.retain
        payload.will_topic, payload.will_message = will.topic, will.payload
    return ConnectPacket(None, header, payload)


def message_of(packet: Publish) -> IncomingApplicationMessage:
    """A received PUBLISH as amqtt's message."""
    made = IncomingApplicationMessage(packet.packet_id or None, packet.topic, packet.qos, packet.payload, packet.retain)
    made.publish_packet = _publish(packet)
    return made


def retained_of(message: Message, source: Session | None, *, cleared: bool = False) -> RetainedApplicationMessage:
    """A retained message as amqtt's; `source` is the session of its publisher, None: the server's own."""
    return RetainedApplicationMessage(source, message.topic, b"" if cleared else message.payload, message.qos)
