"""Packets as operators see them live: kind and fields, never payloads, passwords or other people's secrets."""

from typing import Any

from broker_plugins.engine.packets import (
    Ack,
    Connack,
    Disconnect,
    Packet,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from ingester.tail import Tail, Watcher


class Packets(Watcher):
    """A bounded live view that ends when the server stops; sees packets, and none of what the tail shows."""

    def __init__(self, tail: Tail) -> None:
        super().__init__(None)
        self._tail = tail
        tail.add(self)

    def wants(self, device: str) -> bool:  # noqa: ARG002
        """Nothing of what the tail shows."""
        return False

    def leave(self) -> None:
        """The view is over."""
        self._tail.remove(self)


def view(direction: str, packet: Packet) -> dict[str, Any]:
    """One packet as an event."""
    event: dict[str, Any] = {"direction": direction, "packet": type(packet).__name__.upper()}
    match packet:
        case Publish():
            event |= {"topic": packet.topic, "qos": packet.qos, "retain": packet.retain, "dup": packet.dup}
            event |= {"packet_id": packet.packet_id, "bytes": len(packet.payload)}
        case Ack(kind, packet_id, reason):
            event |= {"packet": kind.name, "packet_id": packet_id, "reason": int(reason)}
        case Subscribe(packet_id, subscriptions):
            filters = [{"filter": entry.topic_filter, "qos": entry.qos} for entry in subscriptions]
            event |= {"packet_id": packet_id, "filters": filters}
        case Unsubscribe(packet_id, topic_filters):
            event |= {"packet_id": packet_id, "filters": [{"filter": entry} for entry in topic_filters]}
        case Suback(packet_id, reasons) | Unsuback(packet_id, reasons):
            event |= {"packet_id": packet_id, "reasons": [int(reason) for reason in reasons]}
        case Connack(session_present, reason):
            event |= {"session_present": session_present, "reason": int(reason)}
        case Disconnect(reason):
            event |= {"reason": int(reason)}
        case _:
            pass
    return event
